"""Checkpoints on disk: which network they describe, and their tensors by name.

A checkpoint is a folder in the Hugging Face layout (`config.json` and safetensors, one file or an
index of many) or a GGUF file. Nothing is unpickled and no code of a checkpoint runs.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import InputError
from models.modeling import Config, llama3_factors, yarn_factors

if TYPE_CHECKING:
    from models.params import Tensor

_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text")
_GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_INDEX = "model.safetensors.index.json"


class CheckpointError(InputError):
    """A checkpoint that cannot be read, is of another network, or does not match its config."""


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None


class Checkpoint:
    """Named tensors on disk: `shapes` first, numbers when asked for."""

    source: str
    shapes: Mapping[str, tuple[int, ...]]

    def name(self, tensor: "Tensor") -> str:
        return tensor.hf

    def read(self, name: str, tensor: "Tensor") -> np.ndarray:
        raise NotImplementedError


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, there or not: one, or those that its index names."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.exists():
        return [single]
    if index.exists():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    return []


class Safetensors(Checkpoint):
    """`model.safetensors`, or the files that `model.safetensors.index.json` names."""

    def __init__(self, folder: Path):
        import safetensors

        self.source = str(folder)
        files = tensor_files(folder)
        if not files:
            raise CheckpointError(
                f"{folder} holds no model.safetensors and no model.safetensors.index.json"
                " (other formats, pickled ones among them, are not read)"
            )
        self._files, self.shapes = {}, {}
        for file in files:
            try:
                opened = safetensors.safe_open(file, framework="flax")
                names = list(opened.keys())
            except FileNotFoundError:
                raise CheckpointError(
                    f"{folder / _INDEX} names {file.name}, which is not there"
                ) from None
            except safetensors.SafetensorError as error:
                raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from None
            for name in names:
                self._files[name] = opened
                self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    def read(self, name, tensor):
        return self._files[name].get_tensor(name)


def _reader(file: Path):
    """gguf's reader, over plain views of the file: each slice of a memory map is made a map of its
    own, which took four fifths of the time of reading a vocabulary."""
    import gguf

    class Reader(gguf.GGUFReader):
        @property
        def data(self):
            return self._bytes

        @data.setter
        def data(self, mapped):
            self._bytes = np.asarray(mapped)

    return Reader(file)


class GGUF(Checkpoint):
    """A GGUF file (llama.cpp), dequantised.

    Its converter writes the rows of Llama's queries and keys in the order of interleaved rotary
    positions; they go back to halves here. Other architectures keep their rows.
    """

    def __init__(self, file: Path):
        self.source = str(file)
        try:
            self._reader = _reader(file)
        except (ValueError, IndexError, OSError) as error:
            raise CheckpointError(f"{file} is not a whole GGUF file: {error}") from None
        self.fields = {name: field.contents() for name, field in self._reader.fields.items()}
        parts = self.fields.get("split.count", 1)
        if parts > 1:
            part = self.fields.get("split.no", 0) + 1
            raise CheckpointError(
                f"{file} is part {part} of {parts}; merge them first (llama-gguf-split --merge)"
            )
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def name(self, tensor):
        return tensor.gguf

    def read(self, name, tensor):
        array = self.numbers(name)
        if self.fields["general.architecture"] == "llama" and name.split(".")[-2] in (
            "attn_q",
            "attn_k",
        ):
            pairs = self.config.head_size // 2
            array = array.reshape(-1, pairs, 2, array.shape[-1]).swapaxes(1, 2)
        return array.reshape(tensor.shape)

    def numbers(self, name: str) -> np.ndarray:
        import gguf

        tensor = self._tensors[name]
        return gguf.dequantize(tensor.data, tensor.tensor_type)

    @functools.cached_property
    def config(self) -> Config:
        """The network's sizes, from the file's metadata."""
        kind = self.fields.get("general.architecture")
        if kind not in _GGUF_ARCHITECTURES:
            raise CheckpointError(
                f"{self.source}: architecture {kind!r} is not one of"
                f" {', '.join(_GGUF_ARCHITECTURES)}"
            )

        def field(name, default=None):
            value = self.fields.get(f"{kind}.{name}", default)
            if value is None:
                raise CheckpointError(f"{self.source} has no {kind}.{name} in its metadata")
            return value

        scaling = self.fields.get(f"{kind}.rope.scaling.type", "none")
        if scaling not in ("none", "linear") or (
            scaling == "linear" and field("rope.scaling.factor") != 1.0
        ):
            raise CheckpointError(f"{self.source}: rotary scaling {scaling!r} is not supported")
        heads, hidden = field("attention.head_count"), field("embedding_length")
        head_size = field("attention.key_length", hidden // heads)
        factors = None
        if "rope_freqs.weight" in self.shapes:
            factors = tuple(self.numbers("rope_freqs.weight").astype(float).tolist())
        return Config(
            vocabulary=self.shapes.get("token_embd.weight", (field("vocab_size", 0),))[0],
            hidden=hidden,
            layers=field("block_count"),
            heads=heads,
            kv_heads=field("attention.head_count_kv", heads),
            head_size=head_size,
            intermediate=field("feed_forward_length"),
            max_positions=field("context_length"),
            rope_theta=field("rope.freq_base", 10_000.0),
            rope_factors=factors,
            norm_epsilon=field("attention.layer_norm_rms_epsilon"),
            tied="output.weight" not in self.shapes,
            qkv_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
        )


def config_of(folder: Path) -> Config:
    """The network's sizes, from a `config.json` in the Hugging Face layout.

    Raises:
        CheckpointError: an architecture, activation, bias or rotary scaling that the decoder has
            not, or a field that is missing.
    """
    path = folder / "config.json"
    fields = read_json(path)
    kind = fields.get("model_type")
    if kind not in _ARCHITECTURES:
        raise CheckpointError(f"{path}: model_type {kind!r} is not {', '.join(_ARCHITECTURES)}")

    def field(name, default=None):
        value = fields.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{path} has no {name}")
        return value

    gemma = kind == "gemma3_text"
    activation = "gelu_pytorch_tanh" if gemma else "silu"
    for name, only in (
        ("hidden_activation" if gemma else "hidden_act", activation),
        ("mlp_bias", False),
        ("attn_logit_softcapping", None),
        ("final_logit_softcapping", None),
        ("decoder_sparse_step", 1),
        ("mlp_only_layers", []),
        ("use_bidirectional_attention", False),
    ):
        if (value := fields.get(name, only)) != only and value is not None:
            raise CheckpointError(f"{path}: {name} = {value!r} is not supported")
    if kind != "qwen2" and field("attention_bias", False):
        raise CheckpointError(f"{path}: attention_bias = true is not supported for {kind}")

    heads, hidden = field("num_attention_heads"), field("hidden_size")
    layers = field("num_hidden_layers")
    head_size = field("head_dim", 256 if gemma else hidden // heads)
    rope, local_theta = _rope(fields, gemma)
    theta = float(rope.get("rope_theta", field("rope_theta", 1e6 if gemma else 10_000.0)))
    factors, rope_scale = _rescaled(path, rope, head_size, theta, field)
    experts = {}
    if kind == "qwen3_moe":
        experts = {
            "experts": field("num_experts"),
            "experts_per_token": field("num_experts_per_tok"),
            "normalize_experts": field("norm_topk_prob", False),
        }
    variant = {}
    if gemma:
        variant = {
            "local_rope_theta": local_theta,
            "gelu": True,
            "post_norms": True,
            "norms_less_one": True,
            "embedding_scale": hidden**0.5,
            "query_scale": field("query_pre_attn_scalar", 256) ** -0.5,
        }

    names = fields.get("architectures") or [""]
    labels = 0
    if names[0].endswith("ForSequenceClassification"):
        labels = len(fields.get("id2label") or {}) or fields.get("num_labels", 1)
        if labels not in (1, field("vocab_size")):
            raise CheckpointError(
                f"{path}: a reward model has one label, or one a token; this has {labels}"
            )
    return Config(
        vocabulary=field("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=field("num_key_value_heads", heads),
        head_size=head_size,
        intermediate=field("moe_intermediate_size" if experts else "intermediate_size"),
        max_positions=field("max_position_embeddings", 2048),
        rope_theta=theta,
        rope_factors=factors,
        rope_scale=rope_scale,
        windows=_windows(path, fields, kind, layers),
        norm_epsilon=field("rms_norm_eps", 1e-6),
        tied=field("tie_word_embeddings", gemma),
        qkv_bias=kind == "qwen2",
        qk_norm=kind in ("qwen3", "qwen3_moe") or gemma,
        labels=labels,
        **experts,
        **variant,
    )


def _rope(fields: Mapping[str, Any], gemma: bool) -> tuple[Mapping[str, Any], float | None]:
    """The rotary positions of a config, and the base of layers with a window where it differs.

    transformers 5 writes one dictionary, of Gemma 3 one a kind of layer; before, the base and the
    scaling stood apart.
    """
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if "full_attention" in rope:
        return rope["full_attention"], float(rope["sliding_attention"]["rope_theta"])
    return rope, float(fields.get("rope_local_base_freq", 10_000.0)) if gemma else None


def _rescaled(
    path: Path, rope: Mapping[str, Any], head_size: int, theta: float, field
) -> tuple[tuple[float, ...] | None, float]:
    """Divisors of the rotary frequencies, and the scale of what is rotated."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None, 1.0
    try:
        if kind == "linear":
            return (float(rope["factor"]),) * (head_size // 2), 1.0
        if kind == "llama3":
            needed = ("factor", "low_freq_factor", "high_freq_factor")
            numbers = [rope[name] for name in (*needed, "original_max_position_embeddings")]
            return llama3_factors(head_size, theta, *numbers), 1.0
        if kind == "yarn":
            context = rope.get("original_max_position_embeddings") or field(
                "max_position_embeddings"
            )
            options = {
                name: rope[name]
                for name in ("beta_fast", "beta_slow", "truncate")
                if rope.get(name) is not None
            }
            return (
                yarn_factors(head_size, theta, rope["factor"], context, **options),
                _yarn_scale(rope),
            )
    except KeyError as error:
        raise CheckpointError(f"{path}: rope scaling {kind} has no {error}") from None
    raise CheckpointError(f"{path}: rope scaling {kind!r} is not supported")


def _yarn_scale(rope: Mapping[str, Any]) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)


def _windows(
    path: Path, fields: Mapping[str, Any], kind: str, layers: int
) -> tuple[int | None, ...] | None:
    """How far each layer sees, None where all see all."""
    window = fields.get("sliding_window")
    if kind == "llama" or window is None:
        return None
    if fields.get("layer_types"):
        kinds = fields["layer_types"]
        if len(kinds) != layers or set(kinds) - {"sliding_attention", "full_attention"}:
            raise CheckpointError(f"{path}: layer_types {kinds!r} is not supported")
        sliding = [name == "sliding_attention" for name in kinds]
    elif kind == "gemma3_text":
        pattern = fields.get("sliding_window_pattern", 6)
        sliding = [bool((layer + 1) % pattern) for layer in range(layers)]
    elif kind == "mistral":
        sliding = [True] * layers
    else:  # Qwen's have a field that says whether it counts, and from which layer on
        first = fields.get("max_window_layers", 28)
        sliding = [
            bool(fields.get("use_sliding_window", False)) and layer >= first
            for layer in range(layers)
        ]
    return tuple(window if slides else None for slides in sliding) if any(sliding) else None
