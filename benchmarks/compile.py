"""What compilers make of the decoder on devices that are not here: memory, bytes and collectives.

    python -m benchmarks.compile             # TPU v5e and v6e; needs libtpu
    python -m benchmarks.compile --cuda      # an H100; needs jax-cuda13-plugin and -pjrt

Neither needs a device, and the project installs neither. The shape is that of Llama-3.2-1B in
bfloat16 (of training, that of Lab-1.8M), each program on four devices, as a mesh (data, tensor).
Bytes moved are those of one device, read from the compiled program (`benchmarks.traffic`), beside
the compiler's own estimate where it has one; of decoding for one step, with its part of what a call
of many steps moves once. Nothing runs: these are bounds on paper.
"""

import argparse
import dataclasses
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import of_this_version
from benchmarks.decoder import LLAMA_1B
from benchmarks.traffic import Program
from models import arithmetic, language_model, params, settings, triton
from models.decoding import STEPS, Options, decode, idle_rows, prefill
from models.modeling import Config
from models.train import Recipe, learning_rate, muon, next_token_loss, updates

TPUS = {"TPU v5e": "v5e:2x2", "TPU v6e": "v6e:2x2"}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""The makers' figures (NVIDIA H100 SXM data sheet, CUDA programming guide), as XLA is told them."""
MESHES = ((4, 1), (2, 2), (1, 4))
ROWS, GROUPS, PREFIX, CACHE = 256, 1, 64, 512
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def placed(mesh: Mesh, config: Config, dtype, *, int8: bool = False):
    """The network without its numbers, where `models.load` puts it."""
    graph, state = params.abstract(config, dtype, int8=int8)
    places = params.shardings(config, mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def put(keys, leaf):
        value = leaf.get_value()
        place = places.get(".".join(map(str, keys)), whole)
        shape = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=place)
        return leaf.replace(shape)

    flat = [(keys, put(keys, leaf)) for keys, leaf in nnx.to_flat_state(state)]
    return graph, nnx.from_flat_state(flat)


def array(mesh: Mesh, shape, dtype, *axes) -> jax.ShapeDtypeStruct:
    place = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def decoding(mesh: Mesh, config: Config, *, int8: bool = False, kernel: bool = False):
    """As `Generation` calls it: rows over `data` where the groups divide, heads over `tensor`."""
    graph, state = placed(mesh, config, jnp.bfloat16, int8=int8)
    data, tensor = (mesh.shape[name] for name in ("data", "tensor"))
    groups = max(GROUPS, data)
    heads = "tensor" if config.kv_heads % tensor == 0 else None

    def caches(rows, size):
        shapes = (config.head_size, size), (size, config.head_size)
        return [
            tuple(
                array(mesh, (rows, config.kv_heads, *shape), jnp.bfloat16, "data", heads)
                for shape in shapes
            )
            for _ in range(config.layers)
        ]

    def same(values):
        return {
            name: array(mesh, np.shape(value), np.asarray(value).dtype)
            for name, value in values.items()
        }

    ints = np.zeros(groups, np.int32)
    about = {
        "prefix_lengths": ints,
        "first": ints,
        "question": ints.astype(np.uint32),
        "limit": ints,
        "queue": np.zeros((groups, ROWS), np.uint32),
        "filled": ints,
        "more": ints.astype(bool),
    }
    control = {
        "ended": np.zeros(ROWS, bool),
        "write": np.int32(0),
        "room": np.int32(16),
        "prompts": np.bool_(False),
        "temperature": np.float32(1),
        "seed": np.uint32(0),
    }
    own_attention = triton.over(mesh, PartitionSpec("data", heads)) if kernel else None
    function = partial(decode, graph, Options(stop=(1,)), CACHE, own_attention)
    rows = same(idle_rows(ROWS, groups, False))
    values = (state, caches(groups, PREFIX), caches(ROWS, CACHE), rows, same(about), same(control))
    needed = size_of(state) + size_of(values[1:3])
    return jax.jit(function, donate_argnums=(2, 3)), values, needed


def programs(mesh: Mesh, config: Config = LLAMA_1B):
    """(name, jitted function, arguments, bytes that it cannot do without on one device)."""
    yield "decode", *decoding(mesh, config)
    yield "decode, int8 weights", *decoding(mesh, config, int8=True)
    if mesh.devices.flat[0].platform != "tpu":
        yield "decode, attention by a kernel", *decoding(mesh, config, kernel=True)
    graph, state = placed(mesh, config, jnp.bfloat16)
    packed = [array(mesh, (2048,), jnp.int32)] * 3
    yield "prefill", jax.jit(partial(prefill, graph)), (state, *packed), size_of(state)
    judge = dataclasses.replace(config, labels=1, tied=False)
    graph, state = placed(mesh, judge, jnp.bfloat16)
    read = (array(mesh, (4, 2048), jnp.int32, "data"), array(mesh, (4,), jnp.int32, "data"))
    function = partial(language_model._rewards, graph)
    yield "scoring", jax.jit(function), (state, *read), size_of(state)
    small = settings.read(Path("models/lab/Lab-1.8M/recipe.toml"), Recipe)
    graph, state = placed(mesh, small.config, jnp.float32)
    optimiser = muon(learning_rate(small))
    moments = jax.eval_shape(optimiser.init, state)
    shape = (small.batch, arithmetic.LONGEST)
    batch = array(mesh, shape, jnp.int32, "data"), array(mesh, shape, bool, "data")
    update = updates(next_token_loss, graph, optimiser)
    yield "training", update, (state, moments, *batch), 2 * size_of((state, moments))


def size_of(tree) -> int:
    """Bytes on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        if leaf.sharding is not None
        else leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def compiled(function, arguments, needed: int, *, loops: bool) -> dict[str, Any]:
    with jax.default_matmul_precision("highest"):
        found = function.lower(*arguments).compile()
    # the CUDA plugin counts no bytes without a device
    memory, cost = found.memory_analysis(), found.cost_analysis() or {}
    text = found.as_text()
    collectives = {
        name: count
        for name in COLLECTIVES
        if (count := len(re.findall(rf" {name}(?:-start)?\(", text)))
    }
    program = Program(text)
    moved = float(program.bytes_moved(program.entry, loops=not loops))
    if loops:
        moved = program.bytes_moved(program.loop()) + moved / STEPS
    counted = {"gigabytes_moved": round(moved / 1e9, 3)}
    if loops:
        counted["share_of_memory_limit"] = round(needed / moved, 3)
    if "bytes accessed" in cost:
        counted["gigabytes_by_the_compilers_estimate"] = round(cost["bytes accessed"] / 1e9, 3)
        counted["gigaflops"] = round(cost.get("flops", 0.0) / 1e9, 1)
    return {
        "arguments_gigabytes": round(memory.argument_size_in_bytes / 1e9, 3),
        "temporaries_gigabytes": round(memory.temp_size_in_bytes / 1e9, 3),
        "gigabytes_needed": round(needed / 1e9, 3),
        **counted,
        "collectives": collectives,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cuda", action="store_true", help="an H100 in place of TPUs")
    parser.add_argument("--layers", type=int, default=LLAMA_1B.layers)
    parser.add_argument("--out", type=Path, default=of_this_version())
    arguments = parser.parse_args()
    config = dataclasses.replace(LLAMA_1B, layers=arguments.layers)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no cloud who we are
    if arguments.cuda:
        target = {"target_config": H100, "topology": "1x1x4"}
        devices = {"H100": topologies.get_topology_desc("h100", "cuda", **target).devices}
    else:
        devices = {
            name: topologies.get_topology_desc(topology, "tpu").devices
            for name, topology in TPUS.items()
        }
    found: dict[str, Any] = {"model": "shape of Llama-3.2-1B", "jax": jax.__version__}
    for name, there in devices.items():
        for data, tensor in MESHES:
            mesh = Mesh(np.array(there).reshape(data, tensor), ("data", "tensor"))
            for program, *call in programs(mesh, config):
                where = f"{name}, {data} x {tensor}: {program}"
                try:
                    found[where] = compiled(*call, loops=program.startswith("decode"))
                except Exception as error:
                    found[where] = {"failed": str(error).split("\n")[0][:300]}
                print(where, json.dumps(found[where]), flush=True)
    file = "compiled_cuda.json" if arguments.cuda else "compiled_tpu.json"
    (arguments.out / file).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
