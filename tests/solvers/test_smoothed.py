"""The smoothed equilibrium against enumeration, finite differences and pure equilibria."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import markets, users
from hypothesis import given, settings
from hypothesis import strategies as st

from mechlab import (
    FixedPrice,
    InputError,
    Market,
    UserMixture,
    Users,
    better_response,
    data,
    smoothed_equilibrium,
)


def expected(market, crowd, mixture, payoff):
    """Σ over all profiles of their probability × payoff(profile)."""
    total = 0.0
    for profile in oracles.profiles(market):
        chance = np.prod([mixture[i, k] for i, k in enumerate(profile)])
        total = total + chance * np.asarray(payoff(market, crowd, profile))
    return total


@pytest.mark.float64
@settings(max_examples=25)
@given(markets(max_providers=3, losses=True), users(), st.sampled_from([0.0, 300.0, 3e4]))
def test_expectations_are_those_over_all_profiles(market, crowd, precision):
    found = smoothed_equilibrium(market, crowd, precision, nodes=512)
    assert bool(found.converged)
    mixture = np.asarray(found.mixture)
    np.testing.assert_allclose(mixture.sum(1), 1.0, rtol=1e-12)
    assert np.all(mixture[~np.asarray(market.available)] == 0)
    np.testing.assert_allclose(
        found.welfare, expected(market, crowd, mixture, oracles.welfare), rtol=1e-8, atol=1e-14
    )
    np.testing.assert_allclose(
        found.provider_utility, expected(market, crowd, mixture, oracles.utilities),
        rtol=1e-8, atol=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose(
        found.welfare, found.user_value + found.provider_utility.sum(), rtol=1e-12, atol=1e-15
    )
    # every level's probability is the logit of its expected utility against the others' mixing
    for i, lengths in enumerate(np.asarray(market.available).sum(1)):
        rows = []
        for k in range(lengths):
            sure = mixture.copy()
            sure[i] = np.eye(mixture.shape[1])[k]
            rows.append(expected(market, crowd, sure, oracles.utilities)[i])
        weight = np.exp(precision * (np.array(rows) - max(rows)))
        np.testing.assert_allclose(mixture[i, :lengths], weight / weight.sum(), atol=1e-7)


@pytest.mark.float64
@pytest.mark.parametrize("beta", [200.0, 1000.0])
def test_it_approaches_the_unique_pure_equilibrium(beta):
    market, crowd = data.published().market, Users.create(beta)
    profile = better_response(market, crowd, key=jax.random.key(0)).profile
    found = smoothed_equilibrium(market, crowd, 3e8)
    chance = jnp.take_along_axis(found.mixture, profile[:, None], axis=1)
    assert bool(found.converged) and bool(jnp.all(chance > 0.99))
    even = smoothed_equilibrium(market, crowd, 0.0)
    np.testing.assert_allclose(even.mixture, 1 / 6, rtol=1e-12)


@pytest.mark.slow
def test_implicit_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(3)
    quality = rng.uniform(0.002, 0.01, (3, 3))
    price = np.sort(rng.uniform(1e-4, 0.004, (3, 3)), axis=1)

    def outcome(x):
        market = Market.from_arrays(quality, price, price / 1.25)
        market = market.replace(
            quality=market.quality * x[0], price=market.price.at[1, 2].multiply(x[1]),
            cost=market.cost.at[0].multiply(x[2]),
        )  # fmt: skip
        crowd = Users(rationality=800.0 * x[3], outside_value=0.001 * x[4])
        found = smoothed_equilibrium(market, crowd, 20000.0 * x[5], nodes=256)
        return jnp.stack([found.welfare, found.user_cost, found.provider_utility[1]])

    at, step = jnp.ones(6), 1e-5
    for slopes in (jax.jacrev(outcome)(at), jax.jacfwd(outcome)(at)):
        for i in range(6):
            ahead, behind = outcome(at.at[i].add(step)), outcome(at.at[i].add(-step))
            np.testing.assert_allclose(
                slopes[:, i], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-10
            )


@pytest.mark.slow
def test_gradients_take_batches_and_memory_does_not_grow_with_precision():
    market = data.published().market

    def total(factor, precision):
        scaled = market.replace(price=market.price * factor)
        return smoothed_equilibrium(
            scaled, Users.create([100.0, 1000.0]), precision, nodes=256
        ).welfare

    slopes = jax.jacrev(total)(1.0, 1e5)
    compiled = jax.jit(lambda x: smoothed_equilibrium(market, Users.create(1000.0), x).welfare)
    alone = smoothed_equilibrium(market, Users.create(1000.0), 1e5).welfare
    np.testing.assert_allclose(compiled(1e5), alone, rtol=1e-12)
    each = (total(1.0 + 1e-6, 1e5) - total(1.0 - 1e-6, 1e5)) / 2e-6
    np.testing.assert_allclose(slopes, each, rtol=1e-4)

    def bytes_of(precision):
        lowered = jax.jit(jax.jacrev(total), static_argnums=1).lower(1.0, precision)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(1e3) == bytes_of(1e7)


@pytest.mark.float64
def test_posted_rules_and_bad_input():
    market, crowd = data.published().market, Users.create(300.0)
    flat = smoothed_equilibrium(market, crowd, 1e5, FixedPrice(0.001), nodes=256)
    assert bool(flat.converged)
    np.testing.assert_allclose(flat.user_cost, 0.001 * flat.shares.sum(), rtol=1e-12)
    coarse = smoothed_equilibrium(market, crowd, 1e5, nodes=16)
    assert not bool(coarse.converged)
    with pytest.raises(InputError, match="precision = -1"):
        smoothed_equilibrium(market, crowd, -1.0)
    with pytest.raises(InputError, match="nodes"):
        smoothed_equilibrium(market, crowd, 1.0, nodes=2)
    with pytest.raises(InputError, match="one type"):
        smoothed_equilibrium(market, UserMixture.create([1, 1], [1.0, 2.0]), 1.0)


def test_many_profiles_need_no_enumeration():
    """10^30 profiles; expected shares and no trade sum to one."""
    rng = np.random.default_rng(0)
    price = np.sort(rng.uniform(1e-5, 0.004, (30, 10)), axis=1)
    market = Market.from_arrays(rng.uniform(0, 0.01, (30, 10)), price, price / 1.3)
    found = smoothed_equilibrium(market, Users.create(500.0, 0.002), 1e5)
    assert bool(found.converged) and 0 < float(found.shares.sum()) < 1
