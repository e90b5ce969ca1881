"""The cores of this machine as devices of JAX."""

import contextlib
import os

import jax


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere nobody is kept from some of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_all_cores() -> None:
    """Let each core be a device, over which batches are spread; to be called before JAX computes.

    Once JAX has started its devices they stay as they are.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())
