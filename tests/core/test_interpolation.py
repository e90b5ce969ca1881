"""The monotone cubic is SciPy's, whatever the number of knots that are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from mechlab.core.interpolation import monotone_cubic

KNOTS = 7


@pytest.mark.float64
@given(
    st.integers(0, 2**32 - 1), st.integers(2, KNOTS), st.sampled_from(["any", "round", "rising"])
)
def test_values_and_slopes_are_those_of_scipy(seed, count, kind):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.uniform(0.1, 2, KNOTS))
    y = rng.normal(size=KNOTS)
    y = {"any": y, "round": np.round(y), "rising": np.cumsum(np.abs(y))}[kind]
    curve = monotone_cubic(jnp.array(x), jnp.array(y), jnp.arange(KNOTS) < count)
    theirs = PchipInterpolator(x[:count], y[:count])
    at = rng.uniform(x[0], x[count - 1], 40)
    np.testing.assert_allclose(curve(jnp.array(at)), theirs(at), atol=1e-11)
    slopes = jax.vmap(jax.grad(curve))(jnp.array(at))
    np.testing.assert_allclose(slopes, theirs.derivative()(at), atol=1e-8)


def test_beyond_the_knots_and_for_one_knot_it_is_constant():
    x, y = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.3, 0.5, 0.4])
    curve = monotone_cubic(x, y)
    np.testing.assert_allclose(curve(jnp.array([0.0, 9.0])), [0.3, 0.4])
    for lone in (monotone_cubic(x, y, jnp.arange(3) < 1), monotone_cubic(x[:1], y[:1])):
        np.testing.assert_allclose(lone(jnp.array([0.0, 1.0, 3.0])), 0.3)


@pytest.mark.float64
def test_many_curves_at_once_are_each_their_own():
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.uniform(0.1, 1, (5, 3, 2)), axis=0), rng.normal(size=(5, 3, 2))
    at = rng.uniform(0, 3, (4, 3, 2))
    found = monotone_cubic(jnp.array(x), jnp.array(y))(jnp.array(at))
    for i, j in np.ndindex(3, 2):
        theirs = PchipInterpolator(x[:, i, j], y[:, i, j])
        inside = np.clip(at[:, i, j], x[0, i, j], x[-1, i, j])
        np.testing.assert_allclose(found[:, i, j], theirs(inside), atol=1e-12)
