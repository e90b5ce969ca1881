import gc
import os
import pathlib
from importlib.metadata import version

# Compiling is most of the time of these tests: float64 ones use XLA's older emitters, which take
# half of it, where there are some (a later XLA ends the process at the flag); float32 ones (make
# test-float32) have the emitters that users have
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        if version("jaxlib").startswith("0.10.") and os.environ.get("JAX_ENABLE_X64") != "0"
        else ""
    )
)

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64") != "0")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

common = dict(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("mechlab", max_examples=30, **common)
settings.register_profile("thorough", max_examples=600, **common)
settings.load_profile("mechlab")

SELF = pathlib.Path("/proc/self")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs before there is no room for more: a process of Linux may map 65,530
    parts of memory, each program has some, and the compiler ends the process where there are no
    more; and two processes of such tests are to do with 8 GB."""
    yield
    if SELF.exists():
        resident = int((SELF / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if (SELF / "maps").read_bytes().count(b"\n") > 20_000 or resident > 3e9:
            jax.clear_caches()
            gc.collect()
