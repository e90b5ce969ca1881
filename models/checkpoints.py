"""Checkpoints on disk: which network they describe, and their tensors by name.

A checkpoint is a folder in the Hugging Face layout (`config.json` and safetensors, one file or an
index of many) or a GGUF file. Nothing is unpickled and no code of a checkpoint runs.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import InputError
from models.modeling import Config, llama3_factors

if TYPE_CHECKING:
    from models.params import Tensor

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
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


class GGUF(Checkpoint):
    """A GGUF file (llama.cpp), dequantised.

    Its converter writes the rows of Llama's queries and keys in the order of interleaved rotary
    positions; they go back to halves here. Other architectures keep their rows.
    """

    def __init__(self, file: Path):
        import gguf

        self.source = str(file)
        try:
            self._reader = gguf.GGUFReader(file)
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
        if kind not in _ARCHITECTURES:
            raise CheckpointError(
                f"{self.source}: architecture {kind!r} is not one of {', '.join(_ARCHITECTURES)}"
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

    for name, only in (("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False)):
        if field(name, only) != only:
            raise CheckpointError(f"{path}: {name} = {fields[name]!r} is not supported")
    if kind != "qwen2" and field("attention_bias", False):
        raise CheckpointError(f"{path}: attention_bias = true is not supported for {kind}")

    heads, hidden = field("num_attention_heads"), field("hidden_size")
    head_size = field("head_dim", hidden // heads)
    # transformers 5 writes one dictionary; before, the base and the scaling stood apart
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = rope.get("rope_theta", field("rope_theta", 10_000.0))
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    factors = None
    if rope_type == "llama3":
        try:
            factors = llama3_factors(
                head_size,
                theta,
                *(
                    rope[name]
                    for name in (
                        "factor",
                        "low_freq_factor",
                        "high_freq_factor",
                        "original_max_position_embeddings",
                    )
                ),
            )
        except KeyError as error:
            raise CheckpointError(f"{path}: rope scaling llama3 has no {error}") from None
    elif rope_type != "default":
        raise CheckpointError(f"{path}: rope scaling {rope_type!r} is not supported")

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
        layers=field("num_hidden_layers"),
        heads=heads,
        kv_heads=field("num_key_value_heads", heads),
        head_size=head_size,
        intermediate=field("intermediate_size"),
        max_positions=field("max_position_embeddings", 2048),
        rope_theta=float(theta),
        rope_factors=factors,
        norm_epsilon=field("rms_norm_eps", 1e-6),
        tied=field("tie_word_embeddings", False),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        labels=labels,
    )
