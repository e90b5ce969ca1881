"""The smoothed equilibrium against enumeration, finite differences and pure equilibria."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import batches, one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st

from mechlab import (
    FixedPrice,
    InputError,
    Market,
    NotSolved,
    SecondPriceAuction,
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
@settings(max_examples=12)
@given(batches(providers=(1, 2, 3), losses=True), st.sampled_from([0.0, 300.0, 3e4]))
def test_expectations_are_those_over_all_profiles(batch, precision):
    together = smoothed_equilibrium(*batch, precision=precision)
    assert np.all(together.converged)
    for market, crowd, found in one_by_one(*batch, together):
        mixture = found.mixture
        np.testing.assert_allclose(mixture.sum(1), 1.0, rtol=1e-12)
        assert np.all(mixture[~market.available] == 0)
        np.testing.assert_allclose(
            found.welfare, expected(market, crowd, mixture, oracles.welfare), rtol=1e-8, atol=1e-14
        )
        np.testing.assert_allclose(
            found.provider_utility,
            expected(market, crowd, mixture, oracles.utilities),
            rtol=1e-8,
            atol=1e-14,
        )
        np.testing.assert_allclose(
            found.welfare, found.user_value + found.provider_utility.sum(), rtol=1e-12, atol=1e-15
        )
        # every level's probability is the logit of its expected utility against the others' mixing
        for i, lengths in enumerate(market.available.sum(1)):
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
    found = smoothed_equilibrium(market, crowd, precision=3e8)
    chance = jnp.take_along_axis(found.mixture, profile[:, None], axis=1)
    assert bool(found.converged) and bool(jnp.all(chance > 0.99))
    even = smoothed_equilibrium(market, crowd, precision=0.0)
    np.testing.assert_allclose(even.mixture, 1 / 6, rtol=1e-12)


@pytest.mark.full
def test_implicit_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(3)
    quality = rng.uniform(0.002, 0.01, (3, 3))
    price = np.sort(rng.uniform(1e-4, 0.004, (3, 3)), axis=1)

    def outcome(x):
        market = Market.from_arrays(quality, price, price / 1.25)
        market = market.replace(
            quality=market.quality * x[0],
            price=market.price.at[1, 2].multiply(x[1]),
            cost=market.cost.at[0].multiply(x[2]),
        )
        crowd = Users(rationality=800.0 * x[3], outside_value=0.001 * x[4])
        found = smoothed_equilibrium(market, crowd, precision=20000.0 * x[5])
        return jnp.stack([found.welfare, found.user_cost, found.provider_utility[1]])

    at, step = jnp.ones(6), 1e-5
    for slopes in (jax.jacrev(outcome)(at), jax.jacfwd(outcome)(at)):
        for i in range(6):
            ahead, behind = outcome(at.at[i].add(step)), outcome(at.at[i].add(-step))
            np.testing.assert_allclose(
                slopes[:, i], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-10
            )


@pytest.mark.full
def test_gradients_take_batches_and_memory_does_not_grow_with_precision():
    market = data.published().market

    def total(factor, precision):
        scaled = market.replace(price=market.price * factor)
        return smoothed_equilibrium(
            scaled, Users.create([100.0, 1000.0]), precision=precision
        ).welfare

    slopes = jax.jacrev(total)(1.0, 1e5)
    compiled = jax.jit(
        lambda x: smoothed_equilibrium(market, Users.create(1000.0), precision=x).welfare
    )
    alone = smoothed_equilibrium(market, Users.create(1000.0), precision=1e5).welfare
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
    flat = smoothed_equilibrium(market, crowd, precision=1e5, rule=FixedPrice(0.001))
    assert bool(flat.converged)
    np.testing.assert_allclose(flat.user_cost, 0.001 * flat.shares.sum(), rtol=1e-12)
    with pytest.raises(InputError, match="precision = -1"):
        smoothed_equilibrium(market, crowd, precision=-1.0)
    with pytest.raises(InputError, match="posted prices"):
        smoothed_equilibrium(market, crowd, precision=1.0, rule=SecondPriceAuction())


def test_many_profiles_need_no_enumeration():
    """10^30 profiles; expected shares and no trade sum to one."""
    rng = np.random.default_rng(0)
    price = np.sort(rng.uniform(1e-5, 0.004, (30, 10)), axis=1)
    market = Market.from_arrays(rng.uniform(0, 0.01, (30, 10)), price, price / 1.3)
    found = smoothed_equilibrium(market, Users.create(500.0, 0.002), precision=1e5)
    assert bool(found.converged) and 0 < float(found.shares.sum()) < 1


@functools.partial(jax.jit, static_argnames="steps")
def branch(value, profit, beta, outside, precision, steps=4000):
    """Utilities and mixture [N, K] of one game by enumeration, λ followed in small steps; and the
    furthest that a probability moved in one of them."""
    n, k = value.shape
    profiles = jnp.array(list(itertools.product(range(k), repeat=n)))
    options = jnp.take_along_axis(value.T, profiles, axis=0)
    options = jnp.concatenate([options, jnp.full((len(profiles), 1), outside)], axis=1)
    utility = jax.nn.softmax(beta * options, axis=1)[:, :-1]
    utility = utility * jnp.take_along_axis(profit.T, profiles, axis=0)
    played = jax.nn.one_hot(profiles, k)

    def expected(mixture):
        chance = jnp.sum(played * mixture, axis=-1)
        rows = []
        for i in range(n):
            others = jnp.prod(jnp.delete(chance, i, axis=1), axis=1)
            rows.append(jnp.sum(played[:, i] * (others * utility[:, i])[:, None], axis=0))
        return jnp.stack(rows)

    def step(state, rate):
        start, furthest = state

        def gap(flat):
            mixture = jax.nn.softmax(rate * flat.reshape(n, k), axis=-1)
            return flat - expected(mixture).ravel()

        flat = start.ravel()
        for _ in range(3):
            flat = flat - jnp.linalg.solve(jax.jacfwd(gap)(flat), gap(flat))
        after = flat.reshape(n, k)
        move = jax.nn.softmax(rate * after) - jax.nn.softmax(rate * start)
        return (after, jnp.maximum(furthest, jnp.max(jnp.abs(move)))), None

    rates = precision * jnp.sinh(8 * jnp.linspace(0.0, 1.0, steps + 1)) / jnp.sinh(8.0)
    start = expected(jnp.full((n, k), 1 / k)), jnp.zeros(())
    (utility, furthest), _ = jax.lax.scan(step, start, rates)
    return utility, jax.nn.softmax(precision * utility, axis=-1), furthest


def round_games(count, n, k, betas, seed=0):
    """Values, profits, v0 and β in round numbers, where branches come close to each other."""
    rng = np.random.default_rng(seed)
    value = np.round(rng.uniform(0, 0.003, (count, n, k)), 4)
    profit = np.round(rng.uniform(0.0002, 0.001, (count, n, k)), 5)
    outside = np.round(rng.uniform(-0.003, 0.001, count), 3)
    return value, profit, rng.choice(betas, count), outside


@pytest.mark.slow
@pytest.mark.float64
@pytest.mark.parametrize(
    ("count", "n", "k", "precision", "betas"),
    [
        (40, 2, 2, 3e4, [1e3]),
        pytest.param(20, 3, 3, 1e6, [1e3, 1e5, 1e6], marks=pytest.mark.slow),
        pytest.param(600, 2, 2, 3e4, [1e3], marks=pytest.mark.full),
        pytest.param(600, 2, 3, 1e5, [1e2, 1e3, 1e4], marks=pytest.mark.full),
        pytest.param(600, 3, 3, 1e6, [1e3, 1e5, 1e6], marks=pytest.mark.full),
        pytest.param(600, 3, 2, 1e6, [10.0, 1e4, 1e6], marks=pytest.mark.full),
    ],
)
def test_the_branch_is_the_one_that_small_steps_follow(count, n, k, precision, betas):
    value, profit, beta, outside = round_games(count, n, k, betas)
    utility, mixture, furthest = jax.vmap(lambda *game: branch(*game, precision))(
        value, profit, beta, outside
    )
    assert float(furthest.max()) < 0.05
    market = Market.from_arrays(value + profit, profit, np.zeros_like(profit))
    found = smoothed_equilibrium(
        market, Users.create(beta, outside), precision=precision, throw=True
    )
    np.testing.assert_allclose(found.mixture, mixture, atol=1e-8)
    np.testing.assert_allclose(found.level_utility, utility, rtol=1e-8, atol=1e-13)


@pytest.mark.float64
def test_a_steep_branch_is_not_left_for_another_equilibrium():
    profit = np.array([[0.001, 0.00036], [0.001, 0.00048]])
    value = np.array([[0, 0.0025], [0, 0.0019]])
    market = Market.from_arrays(value + profit, profit, np.zeros((2, 2)))
    found = smoothed_equilibrium(
        market, Users.create(1000.0, -0.003), precision=30_000.0, throw=True
    )
    np.testing.assert_allclose(found.mixture[0], [0.9788, 0.0212], atol=1e-4)


@pytest.mark.float64
def test_a_branch_that_splits_is_not_called_converged():
    """Two providers who are alike: from some precision on, one of them gives way."""
    profit = np.array([[0.001, 0.0004]] * 2)
    market = Market.from_arrays(np.array([[0, 0.0022]] * 2) + profit, profit, np.zeros((2, 2)))
    crowd = Users.create(1000.0, -0.003)
    assert bool(smoothed_equilibrium(market, crowd, precision=1000.0).converged)
    late = smoothed_equilibrium(market, crowd, precision=1e7)
    if not bool(late.converged):
        with pytest.raises(NotSolved):
            smoothed_equilibrium(market, crowd, precision=1e7, throw=True)
    else:  # both may also settle for good on the same level
        assert float(late.mixture.max(-1).min()) > 0.99


@pytest.mark.full
@pytest.mark.float64
def test_eager_jitted_vmapped_and_differentiated_are_one_answer():
    value, profit, beta, outside = round_games(6, 2, 3, [1e2, 1e4, 1e6], seed=1)
    market = Market.from_arrays(value + profit, profit, np.zeros_like(profit))

    def welfare(factor, market, beta, outside):
        scaled = market.replace(price=market.price * factor)
        return smoothed_equilibrium(
            scaled, Users(rationality=beta, outside_value=outside), precision=2e4
        ).welfare

    beta, outside = jnp.asarray(beta), jnp.asarray(outside)
    arguments = market, beta, outside
    whole = welfare(1.0, *arguments)
    one_by_one = [
        welfare(1.0, jax.tree.map(lambda x, i=i: x[i], market), beta[i], outside[i])
        for i in range(6)
    ]
    each = jax.vmap(lambda *game: welfare(1.0, *game))(*arguments)
    for other in (jax.jit(welfare)(1.0, *arguments), each, jnp.stack(one_by_one)):
        np.testing.assert_allclose(other, whole, rtol=1e-12)
    slopes = jax.jacfwd(welfare)(1.0, *arguments)
    for other in (
        jax.jacrev(welfare)(1.0, *arguments),
        jax.jit(jax.jacrev(welfare))(1.0, *arguments),
        jax.vmap(lambda *game: jax.grad(welfare)(1.0, *game))(*arguments),
    ):
        np.testing.assert_allclose(other, slopes, rtol=1e-9, atol=1e-18)

    def by_enumeration(factor):
        price = profit * factor
        utility, mixture, _ = jax.vmap(lambda *game: branch(*game, 2e4, steps=1000))(
            value + profit - price, price, beta, outside
        )
        share = utility / price
        return jnp.sum(mixture * share * (value + profit), axis=(-1, -2))

    step = 1e-5
    ends = [by_enumeration(1 + i * step) for i in (-2, -1, 1, 2)]
    difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
    np.testing.assert_allclose(slopes, difference, rtol=1e-5, atol=1e-12)
    second, step = jax.jacfwd(jax.jacfwd(welfare))(1.0, *arguments), 1e-4
    ends = [jax.jacfwd(welfare)(1 + i * step, *arguments) for i in (-2, -1, 1, 2)]
    difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
    np.testing.assert_allclose(second, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@pytest.mark.float64
def test_several_types_of_users_are_those_of_enumeration():
    market = jax.tree.map(lambda x: np.asarray(x)[[0, 3], :3], data.published().market)
    crowd = UserMixture.create([0.3, 0.7], [200.0, 3000.0], [0.0, 0.001], [1.5, 0.8])
    found = smoothed_equilibrium(market, crowd, precision=2e4, throw=True)
    mixture = np.asarray(found.mixture)
    host, types = jax.tree.map(np.asarray, (market, crowd))

    def of(payoff):
        total = 0.0
        for t in range(2):
            worth = host.replace(quality=host.quality * types.value_scale[t])
            one = Users(rationality=types.rationality[t], outside_value=types.outside_value[t])
            total = total + types.weight[t] * expected(worth, one, mixture, payoff)
        return total

    np.testing.assert_allclose(found.welfare, of(oracles.welfare), rtol=1e-8)
    np.testing.assert_allclose(found.provider_utility, of(oracles.utilities), rtol=1e-8)
    np.testing.assert_allclose(
        found.welfare, found.user_value + found.provider_utility.sum(), rtol=1e-12
    )
    logit = np.exp(2e4 * (np.asarray(found.level_utility)))
    np.testing.assert_allclose(mixture, logit / logit.sum(1, keepdims=True), atol=1e-9)
    twice = UserMixture.create([0.5, 0.5], [300.0, 300.0])
    same = smoothed_equilibrium(market, Users.create(300.0), precision=2e4)
    np.testing.assert_allclose(
        smoothed_equilibrium(market, twice, precision=2e4).mixture, same.mixture, rtol=1e-9
    )
