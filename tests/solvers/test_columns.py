"""Solvers give one market what they give it in a batch, in both float widths, against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import batches, one_by_one
from hypothesis import given

from mechlab import (
    Market,
    PayPerCompute,
    Users,
    better_response,
    equilibrium,
    extremal_equilibria,
    pure_equilibria,
    social_optimum,
)
from mechlab.populations import Published


def small(values, profits, beta, outside, width):
    """A market with these offered values and unit profits, at cost 0.001."""
    values, profits = np.array(values), np.array(profits)
    price = 0.001 + profits
    market = Market.from_arrays(values + price, price, np.full(values.shape, 0.001))
    one = market, Users.create(beta, outside)
    return one, jax.tree.map(lambda x: x if x.dtype == bool else x.astype(width), one)


@pytest.mark.float64
@pytest.mark.parametrize("width", [jnp.float32, jnp.float64])
def test_the_certificate_sees_equilibria_far_below_the_best_offer(width):
    one, cast = small([[0.008, 0.006]] * 2, [[0.0001, 0.0003]] * 2, 1e5, 0.0, width)
    assert len(pure_equilibria(*one).profiles) == 2
    ends = extremal_equilibria(*cast)
    assert bool(ends.converged) and not bool(ends.unique)
    np.testing.assert_array_equal([ends.smallest, ends.largest], [[1, 1], [0, 0]])


@pytest.mark.float64
@pytest.mark.parametrize("width", [jnp.float32, jnp.float64])
def test_the_planner_may_move_everybody_far_down(width):
    values = [
        [0.0024, -0.00047, -0.00099],
        [0.00256, 0.00053, 0.00221],
        [-0.00089, -0.00153, 0.00123],
    ]
    surplus = [
        [0.00242, 0.00019, 0.00030],
        [0.00307, 0.00195, 0.00388],
        [-0.00041, -0.00068, 0.00333],
    ]
    profits = np.maximum(np.array(surplus) - np.array(values), 1e-5)
    (market, crowd), cast = small(values, profits, 1e6, -0.01, width)
    exact = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
    np.testing.assert_allclose(social_optimum(*cast).welfare, exact, rtol=1e-4)


@pytest.mark.slow
@given(batches(betas=(0.0, 30.0, 300.0, 2000.0, 2e4, 1e6), losses=True))
def test_the_equilibrium_is_one_and_unique_only_where_it_is(batch):
    for market, crowd, found in one_by_one(*batch, equilibrium(*batch)):
        if found.converged:
            assert oracles.slack(market, crowd, tuple(found.profile)) <= 1e-7
        if found.unique:
            assert len({round(w, 15) for w in pure_equilibria(market, crowd).welfare}) == 1
            for end in (found.smallest, found.largest):
                assert oracles.slack(market, crowd, tuple(end)) <= 1e-7


@pytest.mark.full
def test_a_batch_is_its_markets_one_by_one():
    market, crowd = Published(providers=4).markets(300, seed=5)
    for solve in (equilibrium, extremal_equilibria, better_response, social_optimum):
        together = solve(market, crowd)
        jitted = jax.jit(solve)(market, crowd)
        for j in range(0, 300, 37):
            alone = solve(*jax.tree.map(lambda x, j=j: x[j], (market, crowd)))
            for name in ("profile", "smallest", "largest", "unique", "status"):
                if getattr(alone, name, None) is not None:
                    expected = getattr(alone, name)
                    np.testing.assert_array_equal(getattr(together, name)[j], expected)
                    np.testing.assert_array_equal(getattr(jitted, name)[j], expected)


@pytest.mark.slow
def test_batch_axes_broadcast():
    market, _ = Published(providers=3).markets(4, seed=1)
    crowd = Users.create(np.logspace(1, 5, 5)[:, None])
    found = equilibrium(market, crowd)
    assert found.profile.shape == (5, 4, 3) and found.unique.shape == (5, 4)
    one = equilibrium(jax.tree.map(lambda x: x[2], market), jax.tree.map(lambda x: x[3, 0], crowd))
    np.testing.assert_array_equal(found.profile[3, 2], one.profile)


def test_a_rule_that_only_posts_prices_is_solved_like_its_market():
    market, crowd = Published(providers=3).markets(64, seed=2)
    np.testing.assert_array_equal(
        equilibrium(market, crowd, PayPerCompute()).profile, equilibrium(market, crowd).profile
    )
