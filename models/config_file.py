"""Which network a `config.json` describes.

Every key is used, harmless or refused: an unknown key may change the mathematics. Absent keys have
the defaults of transformers 5 (`PreTrainedConfig` and its subclasses), and where two keys say the
same thing, the one that transformers follows wins.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechlab.core.errors import InputError
from models.modeling import Config, llama3_factors, yarn_factors

_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text")
_MAX_POSITIONS = {"llama": 2048, "mistral": 131_072, "gemma3_text": 131_072}
"""Default of `max_position_embeddings`; 32,768 for Qwen."""
_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "qwen3_moe": 4, "gemma3_text": 4}
"""Default of `num_key_value_heads`; as many as heads for Llama, and where the value is null."""
_WINDOW = 4096
"""Default of `sliding_window` for every family that has windows."""

_USED = """
    model_type architectures id2label num_labels vocab_size hidden_size num_hidden_layers
    num_attention_heads num_key_value_heads head_dim intermediate_size max_position_embeddings
    original_max_position_embeddings rope_parameters rope_scaling rope_theta rms_norm_eps
    tie_word_embeddings eos_token_id layer_types sliding_window
""".split()
_USED_BY = {
    "qwen2": ("use_sliding_window", "max_window_layers"),
    "qwen3": ("use_sliding_window", "max_window_layers"),
    "qwen3_moe": (
        *("use_sliding_window", "max_window_layers", "norm_topk_prob", "num_experts_per_tok"),
        *("num_experts", "num_local_experts", "moe_intermediate_size"),
    ),
    "gemma3_text": ("rope_local_base_freq", "query_pre_attn_scalar", "sliding_window_pattern"),
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "decoder_sparse_step": (1,),
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "mlp_only_layers": ([],),
    "partial_rotary_factor": (1.0,),
    "use_bidirectional_attention": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
}
"""Keys with the values that the decoder has; null is absent."""
_HARMLESS = frozenset(
    # Whence, of what type and for which library
    """
    _name_or_path name_or_path _commit_hash transformers_version torch_dtype dtype auto_map
    tokenizer_class is_llama_config transformers.js_config unsloth_version unsloth_fixed
    torchscript use_bfloat16 model_max_length max_sequence_length seq_length
    """
    # Training
    """
    initializer_range attention_dropout hidden_dropout classifier_dropout pretraining_tp
    router_aux_loss_coef output_router_logits problem_type label2id finetuning_task
    task_specific_params embd_pdrop resid_pdrop
    """
    # How it is computed, and what is returned
    """
    use_cache output_attentions output_hidden_states return_dict use_return_dict
    chunk_size_feed_forward attn_implementation _attn_implementation experts_implementation
    _attn_implementation_autoset _experts_implementation tie_last_hidden_states is_decoder
    cross_attention_hidden_size cache_implementation
    """
    # Names of tokens and defaults of transformers' own generation, which is not used
    """
    bos_token_id pad_token_id sep_token_id decoder_start_token_id unk_token_id prefix
    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups
    num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p typical_p
    """.split()
)
_ROPE_USED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}
_ROPE_HARMLESS = ("finetuned", "original_max_position_embeddings")


class CheckpointError(InputError):
    """A checkpoint that cannot be read, is of another network, or does not match its config."""


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; CheckpointError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {_said(content)}; it must hold a JSON object")
    return content


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Keys:
    """Keys of a JSON object, each read with its type; null counts as absent.

    Args:
        where: the file, and the object's key in it, for messages.
    """

    def __init__(self, where: str, values: Any):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where} must be an object, not {_said(values)}")
        self.where, self.raw = where, values
        self.given = {name: value for name, value in values.items() if value is not None}

    def refuse(self, name: str, remedy: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {name} = {_said(self.raw.get(name))}; {remedy}")

    def _value(self, name: str, default: Any) -> Any:
        value = self.given.get(name, default)
        if value is None:
            raise CheckpointError(f"{self.where} has no {name}")
        return value

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise self.refuse(name, f"it must be a whole number, at least {least}")
        return value

    def number(self, name: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite number above zero; zero too where it is allowed."""
        value = self._value(name, default)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not (0 <= value < math.inf) or not (value or zero):
            raise self.refuse(name, f"it must be a number {'from' if zero else 'above'} 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "it must be true or false")
        return value

    def check(self, used: set[str], harmless: frozenset[str], only: Mapping[str, Any]) -> None:
        """CheckpointError for a value that the decoder has not, and for unknown keys."""
        for name, values in only.items():
            if name in self.given and self.given[name] not in values:
                raise CheckpointError(
                    f"{self.where}: {name} = {self.given[name]!r} is not supported"
                )
        unknown = sorted(self.given.keys() - used - harmless - only.keys())
        if unknown:
            raise CheckpointError(
                f"{self.where}: {', '.join(unknown)}: not known, and may change what the network"
                " computes; remove what does not"
            )


def config_of(folder: Path) -> Config:
    """The network's sizes, from a `config.json` in the Hugging Face layout.

    Raises:
        CheckpointError: an architecture, activation, bias, rotary scaling or other key that the
            decoder has not; a key that is missing, or of another type.
    """
    path = folder / "config.json"
    keys = _Keys(str(path), read_json(path))
    kind = keys.given.get("model_type")
    if kind not in _ARCHITECTURES:
        raise CheckpointError(f"{path}: model_type {kind!r} is not {', '.join(_ARCHITECTURES)}")
    gemma, experts = kind == "gemma3_text", kind == "qwen3_moe"
    only, harmless = dict(_ONLY), _HARMLESS
    if gemma:  # which has a key of its own for the activation, and leaves the common one
        del only["hidden_act"]
        only["hidden_activation"] = ("gelu_pytorch_tanh",)
        harmless |= {"hidden_act", "_sliding_window_pattern"}
    if kind == "qwen2":  # its queries, keys and values always have one
        only["attention_bias"] = (True, False)
    keys.check({*_USED, *_USED_BY.get(kind, ())}, harmless, only)

    heads, hidden = keys.whole("num_attention_heads"), keys.whole("hidden_size")
    layers = keys.whole("num_hidden_layers")
    head_size = keys.whole(
        "head_dim", {"gemma3_text": 256, "qwen3": 128}.get(kind, hidden // heads)
    )
    kv_heads = heads if "num_key_value_heads" in keys.raw else _KV_HEADS.get(kind, heads)
    kv_heads = keys.whole("num_key_value_heads", kv_heads)
    if heads % kv_heads:
        raise keys.refuse("num_key_value_heads", f"it must divide the {heads} heads")
    if head_size % 2:
        raise CheckpointError(f"{path}: head_dim = {head_size}; rotary positions need an even one")
    mixture: dict[str, Any] = {}
    if experts:
        mixture = {
            "experts": _experts(keys),
            "experts_per_token": keys.whole("num_experts_per_tok", 8),
            "normalize_experts": keys.flag("norm_topk_prob", False),
        }
        if mixture["experts_per_token"] > mixture["experts"]:
            raise keys.refuse("num_experts_per_tok", f"there are {mixture['experts']} experts")
    variant: dict[str, Any] = {}
    if gemma:
        variant = {
            "gelu": True,
            "post_norms": True,
            "norms_less_one": True,
            "embedding_scale": hidden**0.5,
            "query_scale": keys.number("query_pre_attn_scalar", 256) ** -0.5,
        }
    return Config(
        vocabulary=keys.whole("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate=keys.whole("moe_intermediate_size" if experts else "intermediate_size"),
        windows=_windows(keys, kind, layers),
        norm_epsilon=keys.number("rms_norm_eps", 1e-6, zero=True),
        tied=keys.flag("tie_word_embeddings", gemma),
        qkv_bias=kind == "qwen2",
        qk_norm=kind in ("qwen3", "qwen3_moe") or gemma,
        labels=_labels(keys),
        **_rope(keys, kind, head_size),
        **mixture,
        **variant,
    )


def _experts(keys: _Keys) -> int:
    """transformers 5 writes `num_local_experts`, the published checkpoints `num_experts`."""
    names = [name for name in ("num_local_experts", "num_experts") if name in keys.given]
    counts = {keys.whole(name) for name in names} or {128}
    if len(counts) > 1:
        raise keys.refuse("num_experts", f"num_local_experts is {keys.whole('num_local_experts')}")
    return counts.pop()


def _labels(keys: _Keys) -> int:
    names = keys.given.get("architectures", ["ForCausalLM"])
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise keys.refuse("architectures", "it must be a list of one name")
    if names[0].endswith("ForCausalLM"):
        return 0
    if not names[0].endswith("ForSequenceClassification"):
        raise keys.refuse(
            "architectures", "only ForCausalLM and ForSequenceClassification are read"
        )
    if "id2label" in keys.given:
        labels = len(_Keys(f"{keys.where}: id2label", keys.given["id2label"]).raw)
    else:
        labels = keys.whole("num_labels", 1)
    if labels not in (1, keys.whole("vocab_size")):
        raise CheckpointError(
            f"{keys.where}: a reward model has one label, or one a token; this has {labels}"
        )
    return labels


# ------------------------------------------------------------------------------ rotary positions


def _rope(keys: _Keys, kind: str, head_size: int) -> dict[str, Any]:
    """The fields of `Config` that are about positions."""
    most = keys.whole("max_position_embeddings", _MAX_POSITIONS.get(kind, 32_768))
    if kind == "gemma3_text":
        return {"max_positions": most} | _rope_by_layer(keys, head_size, most)
    # The older key wins, with all that it holds
    name = "rope_scaling" if keys.given.get("rope_scaling") else "rope_parameters"
    values = keys.given.get(name, {})
    rope = _rope_keys(keys, name, values)
    theta = rope.number("rope_theta", keys.number("rope_theta", 10_000.0))
    # Of two places the top level wins
    original = keys.given.get("original_max_position_embeddings")
    if original is not None:
        original = keys.number("original_max_position_embeddings")
    factors, scale, longest = _rescaled(rope, head_size, theta, most, original)
    return {
        "max_positions": max(most, longest),
        "rope_theta": theta,
        "rope_factors": factors,
        "rope_scale": scale,
    }


def _rope_by_layer(keys: _Keys, head_size: int, most: int) -> dict[str, Any]:
    """Gemma 3: positions of layers that see all, and of those with a window."""
    kinds = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
    both = _Keys(f"{keys.where}: rope_parameters", keys.given.get("rope_parameters", {}))
    both.check(set(kinds), frozenset(), {})
    found = {}
    for name, default in (("full_attention", 1e6), ("sliding_attention", 10_000.0)):
        where, values = f"rope_parameters.{name}", both.given.get(name, {})
        if name == "full_attention" and keys.given.get("rope_scaling"):
            where = "rope_scaling"
            values = {**values, **_Keys(f"{keys.where}: {where}", keys.given[where]).raw}
        rope = _rope_keys(keys, where, values)
        theta = rope.number("rope_theta", keys.number(kinds[name], default))
        factors, scale, _ = _rescaled(rope, head_size, theta, most, None)
        if scale != 1.0:
            raise CheckpointError(
                f"{rope.where}: rope scaling yarn is not supported for gemma3_text"
            )
        found[name] = theta, factors
    (theta, factors), (local, local_factors) = found.values()
    return {
        "rope_theta": theta,
        "rope_factors": factors,
        "local_rope_theta": local,
        "local_rope_factors": local_factors,
    }


def _rope_keys(keys: _Keys, name: str, values: Any) -> _Keys:
    """A rotary section, with the keys that its kind uses and no others."""
    rope = _Keys(f"{keys.where}: {name}", values)
    kind = _rope_kind(rope)
    if kind not in _ROPE_USED:
        raise CheckpointError(f"{rope.where}: rope scaling {kind!r} is not supported")
    used = {"rope_type", "type", "rope_theta", *_ROPE_USED[kind]}
    rope.check(used, frozenset(_ROPE_HARMLESS), {"partial_rotary_factor": (1.0,)})
    return rope


def _rope_kind(rope: _Keys) -> Any:
    kind = rope.given.get("rope_type", rope.given.get("type", "default"))
    return kind if isinstance(kind, str) else json.dumps(kind)


def _rescaled(
    rope: _Keys, head_size: int, theta: float, most: int, original: float | None
) -> tuple[tuple[float, ...] | None, float, int]:
    """Divisors of the rotary frequencies, the scale of what is rotated, and the longest context.

    Args:
        most: `max_position_embeddings`.
        original: what the top level says about the context before the scaling.
    """
    kind = _rope_kind(rope)
    missing = [name for name in _ROPE_USED[kind][:3] if name not in rope.raw]
    if kind == "yarn":
        missing = [name for name in missing if name == "factor"]
    if missing:
        raise CheckpointError(f"{rope.where}: rope scaling {kind} has no {missing[0]!r}")
    if kind == "default":
        return None, 1.0, most
    if kind == "linear":
        return (rope.number("factor"),) * (head_size // 2), 1.0, most
    original = original or rope.number("original_max_position_embeddings", most)
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if not low < high:
            raise rope.refuse("high_freq_factor", f"it must be above low_freq_factor, {low:g}")
        factor = rope.number("factor")
        return llama3_factors(head_size, theta, factor, low, high, original), 1.0, most
    factor = rope.number("factor", most / original)
    if theta == 1:
        raise rope.refuse("rope_theta", "it must not be 1 with yarn")
    factors = yarn_factors(
        head_size,
        theta,
        factor,
        original,
        # transformers takes 0 for absent here, and null for false in `truncate`
        beta_fast=rope.number("beta_fast", 32.0, zero=True) or 32.0,
        beta_slow=rope.number("beta_slow", 1.0, zero=True) or 1.0,
        truncate=rope.raw.get("truncate", True) is not None and rope.flag("truncate", True),
    )
    return factors, _yarn_scale(rope, factor), int(factor * original)


def _yarn_scale(rope: _Keys, factor: float) -> float:
    if "attention_factor" in rope.given:
        return rope.number("attention_factor")

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    weights = [rope.number(name, 0.0, zero=True) for name in ("mscale", "mscale_all_dim")]
    return scale(weights[0]) / scale(weights[1]) if all(weights) else scale(1.0)


# --------------------------------------------------------------------------------------- windows


def _windows(keys: _Keys, kind: str, layers: int) -> tuple[int | None, ...] | None:
    """How many tokens each layer sees; None where all see all."""
    counts = kind in ("mistral", "gemma3_text") or (
        kind.startswith("qwen") and keys.flag("use_sliding_window", False)
    )
    window = None
    if counts and keys.raw.get("sliding_window", _WINDOW) is not None:
        window = keys.whole("sliding_window", _WINDOW)
    if kind == "llama" and "sliding_window" in keys.given:
        raise keys.refuse("sliding_window", "Llama has no windows; remove it")
    sliding = _sliding(keys, kind, layers, window)
    if any(sliding) and window is None:
        raise keys.refuse(
            "layer_types", "it names windows, and the other keys say that none counts"
        )
    return tuple(window if slides else None for slides in sliding) if any(sliding) else None


def _sliding(keys: _Keys, kind: str, layers: int, window: int | None) -> list[bool]:
    """Which layers have a window."""
    if "layer_types" in keys.given:
        kinds = keys.given["layer_types"]
        known = ("sliding_attention", "full_attention")
        whole = isinstance(kinds, list) and len(kinds) == layers
        if not whole or any(name not in known for name in kinds):
            raise keys.refuse("layer_types", f"it must name {' or '.join(known)} for each layer")
        sliding = [name == "sliding_attention" for name in kinds]
        # its layers are all alike in transformers, whatever the list says
        if kind == "qwen3_moe" and sliding != [window is not None] * layers:
            raise keys.refuse(
                "layer_types", "use_sliding_window decides for all layers of Qwen3-MoE"
            )
        return sliding
    if kind == "gemma3_text":
        pattern = keys.whole("sliding_window_pattern", 6)
        return [bool((layer + 1) % pattern) for layer in range(layers)]
    if window is None:
        return [False] * layers
    # Qwen2 and Qwen3 have windows from a layer on, Mistral and Qwen3-MoE in all layers
    first = keys.whole("max_window_layers", 28, least=0) if kind in ("qwen2", "qwen3") else 0
    return [layer >= first for layer in range(layers)]
