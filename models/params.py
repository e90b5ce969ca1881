"""Parameters: one table from the names of a tensor to its place, shape and sharding."""

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

from models.checkpoints import Checkpoint
from models.config_file import CheckpointError
from models.modeling import Config, Decoder


class Row(NamedTuple):
    path: str
    """In the network; {} is the layer."""
    hf: str
    """In safetensors; {e} is the expert, of which the network holds all of a layer in one tensor."""
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
    Row("layers.{}.mlp_norm.scale", f"{_L}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", "D", (None,), lambda c: not c.post_norms),
    Row("layers.{}.after_attention.scale", f"{_L}.post_attention_layernorm.weight", None, "D", (None,), lambda c: c.post_norms),
    Row("layers.{}.mlp_norm.scale", f"{_L}.pre_feedforward_layernorm.weight", None, "D", (None,), lambda c: c.post_norms),
    Row("layers.{}.after_mlp.scale", f"{_L}.post_feedforward_layernorm.weight", None, "D", (None,), lambda c: c.post_norms),
    Row("layers.{}.mlp.gate.kernel", f"{_L}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", "F D", ("tensor", None), lambda c: not c.experts),
    Row("layers.{}.mlp.up.kernel", f"{_L}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", "F D", ("tensor", None), lambda c: not c.experts),
    Row("layers.{}.mlp.down.kernel", f"{_L}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", "D F", (None, "tensor"), lambda c: not c.experts),
    Row("layers.{}.mlp.router.kernel", f"{_L}.mlp.gate.weight", None, "X D", (None, None), lambda c: bool(c.experts)),
    Row("layers.{}.mlp.gate", f"{_L}.mlp.experts.{{e}}.gate_proj.weight", None, "F D", (None, None), lambda c: bool(c.experts)),
    Row("layers.{}.mlp.up", f"{_L}.mlp.experts.{{e}}.up_proj.weight", None, "F D", (None, None), lambda c: bool(c.experts)),
    Row("layers.{}.mlp.down", f"{_L}.mlp.experts.{{e}}.down_proj.weight", None, "D F", (None, None), lambda c: bool(c.experts)),
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
        "X": config.experts,
        "labels": config.labels,
    }


class Tensor(NamedTuple):
    """A row of the table in one network: names and shape filled in."""

    path: str
    hf: str
    gguf: str | None
    shape: tuple[int, ...]
    sharding: tuple[str | None, ...]
    experts: int
    """How many tensors of the checkpoint make one of the network, along a new first axis; 0: one is
    one."""

    @property
    def transposed(self) -> bool:
        """The network holds kernels as [inputs, outputs]."""
        return len(self.shape) == 2 and not self.path.endswith(".embedding")

    def names(self, name: str) -> list[str]:
        """Names in a checkpoint, by the one of the table."""
        experts = range(self.experts) if self.experts else [0]
        return [name.replace("{e}", str(expert)) for expert in experts]


def tensors(config: Config) -> list[Tensor]:
    """Every tensor of a network, in the order of the table."""
    sizes, rows = _sizes(config), []
    for row in TABLE:
        if not row.present(config):
            continue
        shape = tuple(sizes[name] for name in row.shape.split())
        for layer in range(config.layers) if "{}" in row.path else [0]:
            path, hf = row.path.format(layer), row.hf.format(layer, e="{e}")
            gguf = row.gguf and row.gguf.format(layer)
            experts = config.experts if "{e}" in hf else 0
            rows.append(Tensor(path, hf, gguf, shape, row.sharding, experts))
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
        if "{e}" in row.hf:
            axes.insert(0, None)
        for layer in range(config.layers) if "{}" in row.path else [0]:
            placed[row.path.format(layer)] = NamedSharding(mesh, PartitionSpec(*axes))
    return placed


def abstract(config: Config, dtype, *, int8: bool = False) -> tuple[nnx.GraphDef, nnx.State]:
    """The network without its numbers."""
    network = nnx.eval_shape(lambda: Decoder(config, dtype=dtype, int8=int8, rngs=nnx.Rngs(0)))
    return nnx.split(network)


def int8(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights as int8 times a float32 scale an output; `axis` is the one of inputs.

    The largest weight of an output is ±127 and the others are rounded to the nearest.
    """
    array = array.astype(np.float32)
    scale = np.abs(array).max(axis, keepdims=True) / 127
    rounded = np.rint(array / np.where(scale > 0, scale, 1)).astype(np.int8)
    return rounded, scale.squeeze(axis)


def _scale_path(path: str) -> str:
    """Where the scales of a tensor lie that is held as int8."""
    parent, _, name = path.rpartition(".")
    return f"{parent}.scale" if name in ("kernel", "embedding") else f"{path}_scale"


def _path(keys: tuple) -> str:
    return ".".join(str(key) for key in keys)


def load_parameters(
    config: Config,
    checkpoint: Checkpoint,
    *,
    dtype=jnp.float32,
    quantized: bool = False,
    mesh: Mesh | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
    """Reads a checkpoint's tensors into the network, each straight to its devices.

    With `quantized` the weights of its matrices are held as `int8`.

    Raises:
        CheckpointError: with every missing, extra and mis-shaped tensor.
    """
    wanted = {
        name: tensor for tensor in tensors(config) for name in tensor.names(checkpoint.name(tensor))
    }
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

    graph, state = abstract(config, dtype, int8=quantized)
    types = {_path(keys): leaf.dtype for keys, leaf in nnx.to_flat_state(state)}
    places = shardings(config, mesh) if mesh is not None else {}
    values = {}
    for tensor in tensors(config):
        names = tensor.names(checkpoint.name(tensor))
        arrays = [np.asarray(checkpoint.read(name, tensor)) for name in names]
        if config.norms_less_one and tensor.path.endswith(".scale"):
            arrays = [array.astype(np.float32) + 1 for array in arrays]
        for array, name in zip(arrays, names, strict=True):
            if not np.isfinite(array).all():
                raise CheckpointError(f"{checkpoint.source}: {name} holds NaN or infinite numbers")
        arrays = [array.T if tensor.transposed else array for array in arrays]
        value, place = np.stack(arrays) if tensor.experts else arrays[0], places.get(tensor.path)
        if types[tensor.path] == jnp.int8:
            axis = -1 if tensor.path.endswith(".embedding") else -2
            value, scale = int8(value, axis)
            values[_scale_path(tensor.path)] = jax.device_put(scale, _without(place, axis))
        values[tensor.path] = jax.device_put(value.astype(types[tensor.path]), place)
    filled = nnx.from_flat_state(
        {keys: leaf.replace(values[_path(keys)]) for keys, leaf in nnx.to_flat_state(state)}
    )
    return graph, filled


def _without(place: NamedSharding | None, axis: int) -> NamedSharding | None:
    """Where what lacks an axis of a matrix lies, beside the matrix."""
    if place is None:
        return None
    axes = list(place.spec)
    del axes[axis]
    return NamedSharding(place.mesh, PartitionSpec(*axes))


def _few(names: list[str], shown: int = 12) -> str:
    left = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {left} more" if left > 0 else "")


def _to_json(config: Config, dtype, special: Mapping[str, int]) -> dict[str, Any]:
    """A `config.json` that transformers reads."""
    plain = Config(0, 0, 0, 0, 0, 0, 0)
    for name in ("windows", "rope_scale", "experts", "post_norms", "gelu"):
        if getattr(config, name) != getattr(plain, name):
            raise CheckpointError(f"a network with {name} cannot be saved")
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
        names = ["reward"] if config.labels == 1 else map(str, range(config.labels))
        fields["id2label"] = {str(index): name for index, name in enumerate(names)}
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
    if any(array.dtype == jnp.int8 for array in arrays.values()):
        raise CheckpointError("a network with weights of int8 cannot be saved")
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
