"""The social optimum against brute force over all profiles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import markets, users
from hypothesis import given

from mechlab import FixedPrice, Market, Users, data, efficiency, social_optimum


@pytest.mark.float64
@given(markets(losses=True), users())
def test_optimum_is_the_best_of_all_profiles(market, crowd):
    best = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
    found = social_optimum(market, crowd)
    assert bool(found.converged)
    np.testing.assert_allclose(found.welfare, best, rtol=1e-10, atol=1e-16)
    profile = tuple(map(int, found.profile))
    np.testing.assert_allclose(
        oracles.welfare(market, crowd, profile), best, rtol=1e-10, atol=1e-16
    )


@pytest.mark.float64
@pytest.mark.parametrize("seed", range(10))
def test_optimum_is_exact_where_every_surplus_is_negative(seed):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0.005, 0.02, (3, 3))
    market = Market.from_arrays(rng.uniform(0, 0.004, (3, 3)), cost * 1.2, cost)
    for beta in (0.0, 10.0, 400.0):
        crowd = Users.create(beta)
        best = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
        np.testing.assert_allclose(social_optimum(market, crowd).welfare, best, rtol=1e-10)


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
