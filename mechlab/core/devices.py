"""The cores of this machine as devices of JAX."""

import contextlib
import os

import jax


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
