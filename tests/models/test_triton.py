"""The kernel for NVIDIA GPUs: by Pallas' interpreter it is the array code, and it is lowered."""

import contextlib
import dataclasses
import functools

import hf_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from mechlab.core.errors import InputError
from models import load, triton
from models.decoding import Programs, attend_cached

KERNEL = functools.partial(triton.attend_own, interpret=True)
attended = jax.jit(attend_cached, static_argnames=("window", "own_attention"))


def step(slots, dtype, window):
    """Arguments of `attend_cached`: rows that have from no token of their own to a full cache."""
    draw = np.random.default_rng(0)
    rows, heads, queries, size, groups, longest = 6, 2, 3, 16, 2, 7

    def normal(*shape):
        return jnp.asarray(draw.normal(size=shape), dtype)

    new = (rows, 1, heads, size)
    arrays = normal(rows, 1, heads * queries, size), normal(*new), normal(*new)
    return arrays, dict(
        prefix=(normal(groups, heads, size, longest), normal(groups, heads, longest, size)),
        cache=(normal(rows, heads, size, slots), normal(rows, heads, slots, size)),
        prefix_lengths=jnp.array([7, 3]),
        lengths=jnp.array([0, 1, 20, slots - 1, 7, 30]),
        slot=jnp.int32(9),
        window=window,
    )


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("slots", [64, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 1e-6), (jnp.bfloat16, 8e-3)])
def test_the_kernel_is_the_array_code(slots, window, dtype, most):
    arrays, state = step(slots, dtype, window)
    found, same = attended(*arrays, **state, own_attention=KERNEL)
    plain, cache = attended(*arrays, **state)
    np.testing.assert_allclose(*(x.astype(jnp.float32) for x in (found, plain)), atol=most)
    jax.tree.map(np.testing.assert_array_equal, cache, same)


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((2, 1), PartitionSpec("data", "tensor")),
        ((1, 2), PartitionSpec("data", "tensor")),
        ((2, 1), PartitionSpec(None, None)),
    ],
)
def test_on_a_mesh_each_device_has_its_rows_and_heads(shape, place):
    arrays, state = step(64, jnp.float32, None)
    plain, _ = attended(*arrays, **state)
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(shape), ("data", "tensor"))
    own = triton.over(mesh, place, interpret=True)
    found, _ = attended(*arrays, **state, own_attention=own)
    np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.slow
def test_samples_are_those_of_the_array_code(tmp_path, monkeypatch):
    reference.write(tmp_path, reference.CONFIGS["qwen2.5"])
    lm = load(tmp_path, dtype=jnp.float32)
    options = dict(max_tokens=70, batch=4, stop=(3, 50))
    plain = lm.generate([[5, 6, 7, 8], [9, 10]], 4, **options)
    monkeypatch.setattr(triton, "over", functools.partial(triton.over, interpret=True))
    lm = dataclasses.replace(lm, attention="triton", programs=Programs())
    for a, b in zip(plain, lm.generate([[5, 6, 7, 8], [9, 10]], 4, **options), strict=True):
        assert [x.token_ids for x in a] == [x.token_ids for x in b]


def test_heads_without_tiles_are_refused():
    shapes = (2, 2, 4, 80), (2, 2, 80, 256), (2, 2, 256, 80)
    arrays = [jnp.zeros(shape) for shape in shapes]
    with pytest.raises(InputError, match="have 80; leave it out"):
        triton.attend_own(*arrays, jnp.zeros(2, int), 0)


def described_gpu():
    """A GPU by its description, without which newer JAX lowers no kernel."""
    if jax.__version_info__ < (0, 12):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, platform="gpu")
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    )


# newer JAX has another backend for Pallas on GPUs, on which this kernel was not tried
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_it_is_lowered_for_a_gpu_that_is_not_here():
    shapes = (2, 2, 4, 64), (2, 2, 64, 256), (2, 2, 256, 64)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    whole = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2,), ())]
    with described_gpu():
        lowered = jax.export.export(
            jax.jit(triton.attend_own),
            platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )(*arrays, *whole)
    assert "__gpu$xla.gpu.triton" in lowered.mlir_module()


@pytest.mark.parametrize(
    ("name", "says"), [("triton", "needs an NVIDIA GPU"), ("flash", "'flash'")]
)
def test_it_is_refused_where_there_is_no_gpu(tmp_path, name, says):
    reference.write(tmp_path, reference.CONFIGS["qwen2.5"])
    with pytest.raises(InputError, match=says):
        load(tmp_path, attention=name)
