"""The cores of this machine as devices of JAX."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AXIS = "markets"
"""The axis of meshes over which markets are spread."""


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere nobody is kept from some of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_devices() -> list[jax.Device]:
    """The local devices over which a call outside jit may be spread.

    All; one alone where a script has set a mesh, whose arrays go with no other.
    """
    return jax.local_devices()[: 1 if jax.sharding.get_abstract_mesh().axis_names else None]


def markets_mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """Devices as a mesh over which markets are spread."""
    return jax.sharding.Mesh(np.array(devices), (AXIS,))


def over_devices(
    work: Callable[..., Any],
    mesh: jax.sharding.Mesh | None,
    data: Any,
    *shared: Any,
    whole: bool = False,
) -> Any:
    """work(data, *shared) on every device of a mesh, each with its part of the data.

    Args:
        work: pure; of leaves that start with the axis that is spread, to such leaves.
        mesh: with an axis `markets`; the ambient one where None.
        data: leaves [D·m, …] for D devices; m of each come to a device.
        shared: pytrees that every device has whole.
        whole: every device has all of the data, and all return the same.
    """
    spec, all_ = jax.sharding.PartitionSpec(AXIS), jax.sharding.PartitionSpec()
    spread = all_ if whole else spec
    return jax.shard_map(
        work,
        mesh=mesh,
        in_specs=(spread, *(all_ for _ in shared)),
        out_specs=spread,
        check_vma=False,
        axis_names={AXIS},
    )(data, *shared)


def on_all_devices(tree: Any) -> Any:
    """A pytree whose arrays are whole on every device of the ambient mesh, where its axes are
    explicit (`jax.set_mesh(jax.make_mesh(…))`); as it is elsewhere.

    Under explicit axes an array's sharding is part of its type, and slices, means and differences
    of arrays that are sharded differently are type errors.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return tree
    whole = jax.sharding.PartitionSpec()
    return jax.tree.map(
        lambda x: jax.sharding.reshard(x, whole) if isinstance(x, jax.Array) else x, tree
    )


def on_no_mesh(tree: Any) -> Any:
    """A pytree whose arrays were spread over devices, as arrays that go with all others."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def use_all_cores() -> None:
    """Let each core be a device, and programs use its widest registers.

    To be called before JAX computes: once it has started its devices they stay as they are. What
    the environment variable XLA_FLAGS says of registers is left as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_prefer_vector_width" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())
