"""The social optimum against brute force over all profiles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import batches, one_by_one
from hypothesis import given

from mechlab import FixedPrice, Market, Users, data, efficiency, social_optimum


@pytest.mark.float64
@given(batches(losses=True))
def test_optimum_is_the_best_of_all_profiles(batch):
    found = social_optimum(*batch)
    assert np.all(found.converged)
    for market, crowd, welfare, profile in one_by_one(*batch, found.welfare, found.profile):
        best = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
        np.testing.assert_allclose(welfare, best, rtol=1e-10, atol=1e-16)
        reached = oracles.welfare(market, crowd, tuple(profile))
        np.testing.assert_allclose(reached, best, rtol=1e-10, atol=1e-16)


@pytest.mark.float64
def test_optimum_is_exact_where_every_surplus_is_negative():
    rng = np.random.default_rng(0)
    cost = rng.uniform(0.005, 0.02, (30, 3, 3))
    batch = (
        Market.from_arrays(rng.uniform(0, 0.004, (30, 3, 3)), cost * 1.2, cost),
        Users.create(np.tile([0.0, 10.0, 400.0], 10)),
    )
    for market, crowd, welfare in one_by_one(*batch, social_optimum(*batch).welfare):
        best = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
        np.testing.assert_allclose(welfare, best, rtol=1e-10)


def test_optimum_of_a_fixed_price_market_uses_its_price():
    named, crowd = data.published(), Users.create(1000.0)
    market = named.market
    flat = market.replace(price=jnp.full_like(market.price, 0.002))
    expected = social_optimum(flat, crowd)
    found = social_optimum(market, crowd, FixedPrice(0.002))
    np.testing.assert_array_equal(found.profile, expected.profile)
    np.testing.assert_allclose(found.welfare, expected.welfare, rtol=1e-12)


@pytest.mark.float64
def test_welfare_at_the_optimum_has_the_derivative_of_finite_differences():
    named, crowd = data.published(), Users.create(500.0)

    def optimal(scale):
        market = named.market.replace(quality=named.market.quality * scale)
        return social_optimum(market, crowd).welfare

    h = 1e-6
    difference = (optimal(1 + h) - optimal(1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(optimal)(1.0), difference, rtol=1e-6)


def test_efficiency_flags_ratios_that_mean_nothing():
    lost = efficiency(jnp.array([2.0, 1.0, -1.0]), jnp.array([1.0, 0.0, -2.0]))
    np.testing.assert_array_equal(lost.valid, [True, False, False])
    np.testing.assert_allclose(lost.ratio, [2.0, 1.0, 1.0])
    np.testing.assert_allclose(lost.inefficiency, [1.0, 0.0, 0.0])
    np.testing.assert_allclose(lost.gap, [1.0, 1.0, 1.0])
