"""Checkpoints on disk: which network they describe, and their tensors by name.

A checkpoint is a folder in the Hugging Face layout (`config.json` and safetensors, one file or an
index of many) or a GGUF file. Nothing is unpickled and no code of a checkpoint runs.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.config_file import CheckpointError, config_of, read_json
from models.modeling import Config

if TYPE_CHECKING:
    from models.params import Tensor

_GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_INDEX = "model.safetensors.index.json"
_DTYPES = ("F64", "F32", "F16", "BF16")


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
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(x, str) for x in names.values()):
            raise CheckpointError(f"{index} has no weight_map from tensors to files")
        return [folder / name for name in sorted(set(names.values()))]
    return []


class Safetensors(Checkpoint):
    """`model.safetensors`, or the files that `model.safetensors.index.json` names."""

    def __init__(self, folder: Path):
        import safetensors

        self.source, self._folder = str(folder), folder
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
                part = opened.get_slice(name)
                self.shapes[name] = tuple(part.get_shape())
                if part.get_dtype() not in _DTYPES:
                    raise CheckpointError(
                        f"{file}: {name} is of {part.get_dtype()}; use a checkpoint of"
                        f" {', '.join(_DTYPES)}"
                    )

    @functools.cached_property
    def config(self) -> Config:
        """The network that `config.json` describes.

        With its own output matrix where the file holds one that differs from the embedding, as
        transformers 5 has it: the numbers say more than `tie_word_embeddings`.
        """
        config = config_of(self._folder)
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        if config.tied and not config.labels and {embedding, head} <= self.shapes.keys():
            same = np.array_equal(
                *(self._files[name].get_tensor(name) for name in (embedding, head))
            )
            config = dataclasses.replace(config, tied=same)
        return config

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
