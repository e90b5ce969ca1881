"""Checkpoints: one table from the names of a tensor to its place, shape and sharding.

A checkpoint is a folder in the Hugging Face layout (`config.json` and safetensors, one file or an
index of many) or a GGUF file. Nothing is unpickled and no code of a checkpoint runs.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mechlab.errors import InputError
from models.modeling import Config, Decoder, llama3_factors


class CheckpointError(InputError):
    """A checkpoint that cannot be read, is of another architecture, or does not match its config."""


class Row(NamedTuple):
    path: str
    """In the network; {} is the layer."""
    hf: str
    """In safetensors."""
    gguf: str | None
    """In a GGUF file."""
    shape: str
    """Sizes in the checkpoint, by the names of `_sizes`; a matrix there is [outputs, inputs]."""
    sharding: tuple[str | None, ...]
    """Axes of the mesh, in the order of `shape`."""
    present: Callable[[Config], bool] = lambda config: True


def _attention(name: str, gguf: str, size: str) -> list[Row]:
    hf, place = f"model.layers.{{}}.self_attn.{name}_proj", f"layers.{{}}.attention.{name}"
    return [
        Row(f"{place}.kernel", f"{hf}.weight", f"{gguf}.weight", f"{size} D", ("tensor", None)),
        Row(f"{place}.bias", f"{hf}.bias", f"{gguf}.bias", size, ("tensor",), lambda c: c.qkv_bias),
    ]


# fmt: off
_L = "model.layers.{}"
TABLE: tuple[Row, ...] = (
    Row("embed.embedding", "model.embed_tokens.weight", "token_embd.weight", "V D", ("tensor", None)),
    Row("layers.{}.attention_norm.scale", f"{_L}.input_layernorm.weight", "blk.{}.attn_norm.weight", "D", (None,)),
    *_attention("q", "blk.{}.attn_q", "H*E"),
    *_attention("k", "blk.{}.attn_k", "K*E"),
    *_attention("v", "blk.{}.attn_v", "K*E"),
    Row("layers.{}.attention.q_norm.scale", f"{_L}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", "E", (None,), lambda c: c.qk_norm),
    Row("layers.{}.attention.k_norm.scale", f"{_L}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", "E", (None,), lambda c: c.qk_norm),
    Row("layers.{}.attention.o.kernel", f"{_L}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", "D H*E", (None, "tensor")),
    Row("layers.{}.mlp_norm.scale", f"{_L}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", "D", (None,)),
    Row("layers.{}.mlp.gate.kernel", f"{_L}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", "F D", ("tensor", None)),
    Row("layers.{}.mlp.up.kernel", f"{_L}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", "F D", ("tensor", None)),
    Row("layers.{}.mlp.down.kernel", f"{_L}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", "D F", (None, "tensor")),
    Row("norm.scale", "model.norm.weight", "output_norm.weight", "D", (None,)),
    Row("head.kernel", "lm_head.weight", "output.weight", "V D", ("tensor", None), lambda c: not c.tied and not c.labels),
    Row("head.kernel", "score.weight", None, "labels D", (None, None), lambda c: bool(c.labels)),
)
# fmt: on
_UNUSED = ("lm_head.weight", "output.weight", "rope_freqs.weight")
"""Tensors that a checkpoint may hold and a network leaves: a tied or unused output matrix, and
the rotary divisors, which the config has."""


def _sizes(config: Config) -> dict[str, int]:
    return {
        "V": config.vocabulary,
        "D": config.hidden,
        "E": config.head_size,
        "H*E": config.heads * config.head_size,
        "K*E": config.kv_heads * config.head_size,
        "F": config.intermediate,
        "labels": config.labels,
    }


class Tensor(NamedTuple):
    """A row of the table in one network: names and shape filled in."""

    path: str
    hf: str
    gguf: str | None
    shape: tuple[int, ...]
    sharding: tuple[str | None, ...]

    @property
    def transposed(self) -> bool:
        """The network holds kernels as [inputs, outputs]."""
        return self.path.endswith(".kernel")


def tensors(config: Config) -> list[Tensor]:
    """Every tensor of a network, in the order of the table."""
    sizes, rows = _sizes(config), []
    for row in TABLE:
        if not row.present(config):
            continue
        shape = tuple(sizes[name] for name in row.shape.split())
        for layer in range(config.layers) if "{}" in row.path else [0]:
            names = (name and name.format(layer) for name in row[:3])
            rows.append(Tensor(*names, shape, row.sharding))
    return rows


def shardings(config: Config, mesh: Mesh) -> dict[str, NamedSharding]:
    """Where each parameter lies on a mesh with the axes `data` and `tensor`, by path.

    What does not divide by the axis (few key-value heads on many devices) is held whole by each.
    """
    placed, sizes = {}, _sizes(config) | {"H*E": config.heads, "K*E": config.kv_heads}
    for row in TABLE:
        if not row.present(config):
            continue
        axes = [
            axis if axis and sizes[name] % mesh.shape[axis] == 0 else None
            for axis, name in zip(row.sharding, row.shape.split(), strict=True)
        ]
        if row.path.endswith(".kernel"):
            axes.reverse()
        for layer in range(config.layers) if "{}" in row.path else [0]:
            placed[row.path.format(layer)] = NamedSharding(mesh, PartitionSpec(*axes))
    return placed


def abstract(config: Config, dtype) -> tuple[nnx.GraphDef, nnx.State]:
    """The network without its numbers."""
    network = nnx.eval_shape(lambda: Decoder(config, dtype=dtype, rngs=nnx.Rngs(0)))
    return nnx.split(network)


def _path(keys: tuple) -> str:
    return ".".join(str(key) for key in keys)


def load_parameters(
    config: Config,
    checkpoint: "Checkpoint",
    *,
    dtype=jnp.float32,
    mesh: Mesh | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
    """Reads a checkpoint's tensors into the network, each straight to its devices.

    Raises:
        CheckpointError: with every missing, extra and mis-shaped tensor.
    """
    wanted = {checkpoint.name(tensor): tensor for tensor in tensors(config)}
    found = checkpoint.shapes
    missing = [name for name in wanted if name not in found]
    extra = [
        name
        for name in found
        if name not in wanted and name not in _UNUSED and not name.endswith("rotary_emb.inv_freq")
    ]
    shaped = [
        f"{name}: {list(found[name])} in the checkpoint, {list(tensor.shape)} by its config"
        for name, tensor in wanted.items()
        if name in found and tuple(found[name]) != tensor.shape
    ]
    if missing or extra or shaped:
        parts = [
            f"{len(names)} {what}: {_few(names)}"
            for what, names in (("missing", missing), ("extra", extra), ("mis-shaped", shaped))
            if names
        ]
        raise CheckpointError(f"{checkpoint.source} does not match its config; " + "; ".join(parts))

    graph, state = abstract(config, dtype)
    places = shardings(config, mesh) if mesh is not None else {}
    values = {}
    for name, tensor in wanted.items():
        value = np.asarray(checkpoint.read(name, tensor)).astype(dtype)
        value = value.T if tensor.transposed else value
        values[tensor.path] = jax.device_put(value, places.get(tensor.path))
    filled = nnx.from_flat_state(
        {keys: leaf.replace(values[_path(keys)]) for keys, leaf in nnx.to_flat_state(state)}
    )
    return graph, filled


def _few(names: list[str], shown: int = 12) -> str:
    left = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {left} more" if left > 0 else "")


# ------------------------------------------------------------------------------------ checkpoints


class Checkpoint:
    """Named tensors on disk: `shapes` first, numbers when asked for."""

    source: str
    shapes: Mapping[str, tuple[int, ...]]

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        raise NotImplementedError


class Safetensors(Checkpoint):
    """`model.safetensors`, or the files that `model.safetensors.index.json` names."""

    def __init__(self, folder: Path):
        import safetensors

        self.source = str(folder)
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if single.exists():
            files = [single]
        elif index.exists():
            files = [folder / name for name in sorted(set(_json(index)["weight_map"].values()))]
        else:
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
                raise CheckpointError(f"{index} names {file.name}, which is not there") from None
            except safetensors.SafetensorError as error:
                raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from None
            for name in names:
                self._files[name] = opened
                self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    def read(self, name, tensor):
        return self._files[name].get_tensor(name)


def complete(folder: Path) -> bool:
    """Whether a folder holds a config and all files of its tensors."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if not (folder / files[0]).exists() and index.exists():
        files = sorted(set(_json(index)["weight_map"].values()))
    return all((folder / name).exists() for name in ("config.json", *files))


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
            pairs = self.config().head_size // 2
            array = array.reshape(-1, pairs, 2, array.shape[-1]).swapaxes(1, 2)
        return array.reshape(tensor.shape)

    def numbers(self, name: str) -> np.ndarray:
        import gguf

        tensor = self._tensors[name]
        return gguf.dequantize(tensor.data, tensor.tensor_type)

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


# ---------------------------------------------------------------------------------------- configs

_ARCHITECTURES = ("llama", "qwen2", "qwen3")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None


def config_of(folder: Path) -> Config:
    """The network's sizes, from a `config.json` in the Hugging Face layout.

    Raises:
        CheckpointError: an architecture, activation, bias or rotary scaling that the decoder has
            not, or a field that is missing.
    """
    path = folder / "config.json"
    fields = _json(path)
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
        if labels != 1:
            raise CheckpointError(f"{path}: a reward model has one label, this has {labels}")
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


def _to_json(config: Config, dtype, special: Mapping[str, int]) -> dict[str, Any]:
    """A `config.json` that transformers reads."""
    kind = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    head = "ForSequenceClassification" if config.labels else "ForCausalLM"
    if config.rope_factors is not None:
        raise CheckpointError("a network with rescaled rotary positions cannot be saved")
    fields = {
        "architectures": [kind.capitalize() + head],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "dtype": jnp.dtype(dtype).name,
        **special,
    }
    if config.labels:
        fields["id2label"] = {"0": "reward"}
    return fields


def save(
    folder: str | os.PathLike,
    config: Config,
    state: nnx.State,
    *,
    dtype=jnp.bfloat16,
    special: Mapping[str, int] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors` in the Hugging Face layout.

    Args:
        special: ids for the config, such as `eos_token_id`.
    """
    from safetensors.flax import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {_path(keys): leaf.get_value() for keys, leaf in nnx.to_flat_state(state)}
    named = {
        tensor.hf: jnp.asarray(
            arrays[tensor.path].T if tensor.transposed else arrays[tensor.path], dtype
        )
        for tensor in tensors(config)
    }
    text = json.dumps(_to_json(config, dtype, special or {}), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    temporary = folder / "model.safetensors.partial"
    save_file(named, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")
