"""The equilibrium in continuous compute against a dense search, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from mechlab import (
    ContinuousCompute,
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    NotSolved,
    PayPerCompute,
    Published,
    Tariff,
    UserMixture,
    Users,
    continuous_equilibrium,
    search,
)

POINTS = 4096


def drawn(count, seed=0, **options):
    return jax.tree.map(
        lambda x: x.astype(float) if x.dtype != bool else x,
        Published(**options).markets(count, seed=seed),
    )


def dense_search(market, crowd):
    """log2 compute [N] where sweeps over dense grids end, from the least weights; NumPy alone."""
    zs, values, profits = [], [], []
    for i in range(market.providers):
        there = np.asarray(market.available[i])
        knots = np.log2(np.asarray(market.compute[i])[there])
        z = np.linspace(knots[0], knots[-1], POINTS)
        q, p, c = (
            PchipInterpolator(knots, np.asarray(x[i])[there])(z)
            for x in (market.quality, market.price, market.cost)
        )
        zs.append(z)
        values.append(float(crowd.rationality) * (q - p - float(crowd.outside_value)))
        profits.append(p - c)
    at = [int(np.argmin(v)) for v in values]
    for _ in range(500):
        before = list(at)
        for i, (value, profit) in enumerate(zip(values, profits, strict=True)):
            rivals = np.logaddexp.reduce(
                [0.0, *(values[j][at[j]] for j in range(len(at)) if j != i)]
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                utility = np.where(profit > 0, np.log(profit), -np.inf)
            at[i] = int(np.argmax(utility - np.logaddexp(0.0, rivals - value)))
        if at == before:
            break
    return np.array([z[i] for z, i in zip(zs, at, strict=True)]), [z[1] - z[0] for z in zs]


def near_the_dense_search(count, seed, providers):
    market, crowd = drawn(count, seed, providers=providers)
    found = continuous_equilibrium(market, crowd)
    assert bool(jnp.all(found.converged)) and float(found.unique.mean()) > 0.95
    for m in np.flatnonzero(np.asarray(found.unique)):
        one, who = jax.tree.map(lambda x, m=m: x[m], (market, crowd))
        z, step = dense_search(one, who)
        # a flat top may be off by more points than one: what counts is that nothing is gained
        away = np.abs(np.log2(np.asarray(found.compute[m])) - z) / np.array(step)
        assert np.all(away <= 4), (m, away)
    nobody_gains(market, crowd, PayPerCompute(), found)


def nobody_gains(market, crowd, rule, found):
    level = jnp.zeros(found.compute.shape, int)
    better = search(market, crowd, rule, level, space=ContinuousCompute(), offers=found.offers)
    # a kink is where halving ends: there a gain is of first order
    assert float(jnp.max(better.gain / found.welfare[:, None])) <= 1e-9


@pytest.mark.slow
@pytest.mark.float64
def test_it_is_where_a_dense_search_ends():
    near_the_dense_search(40, 1, 4)


@pytest.mark.full
@pytest.mark.parametrize("providers", [2, 9])
def test_it_is_where_a_dense_search_ends_in_two_thousand_markets(providers):
    near_the_dense_search(1000, 2, providers)


def shifted(market, crowd, way, size):
    """Market and users moved by relative steps."""
    moved = {
        name: getattr(market, name) * (1 + size * way[name])
        for name in ("quality", "price", "cost")
    }
    return market.replace(**moved), crowd.replace(
        rationality=crowd.rationality * (1 + size * way["rationality"])
    )


def derivatives_are_those_of_differences(count, seed):
    market, crowd = drawn(count, seed, providers=5)
    rng = np.random.default_rng(seed)
    way = {
        name: jnp.asarray(rng.uniform(-1, 1, getattr(market, name).shape))
        for name in ("quality", "price", "cost")
    }
    way["rationality"] = jnp.asarray(rng.uniform(-1, 1, count))

    def of(size):
        found = continuous_equilibrium(*shifted(market, crowd, way, size))
        return {"compute": found.compute, "welfare": found.welfare, "cost": found.user_cost}

    _, forward = jax.jvp(of, (jnp.zeros(()),), (jnp.ones(()),))
    step = 1e-6
    ends = [of(i * step) for i in (-2, -1, 1, 2)]
    held = [continuous_equilibrium(*shifted(market, crowd, way, i * step)).held for i in (-2, 0, 2)]
    steady = np.all(np.asarray((held[0] == held[1]) & (held[1] == held[2])), axis=-1)
    assert steady.mean() > 0.9
    for name, slope in forward.items():
        near, far = ends[2][name] - ends[1][name], ends[3][name] - ends[0][name]
        difference = (8 * near - far) / (12 * step)
        scale = np.max(np.abs(difference), initial=1e-9, axis=tuple(range(1, difference.ndim)))
        off = np.abs(slope - difference) / scale.reshape(-1, *[1] * (difference.ndim - 1))
        assert np.all(np.asarray(off)[steady] <= 1e-5), (name, float(np.max(off[steady])))

    def mean(size):
        return jnp.mean(of(size)["welfare"])

    np.testing.assert_allclose(
        jax.grad(mean)(0.0), jnp.mean(forward["welfare"]), rtol=1e-9, atol=1e-15
    )


@pytest.mark.full
@pytest.mark.float64
def test_derivatives_are_those_of_differences():
    derivatives_are_those_of_differences(32, 3)


@pytest.mark.full
def test_derivatives_are_those_of_differences_in_five_hundred_markets():
    derivatives_are_those_of_differences(500, 4)


@pytest.mark.full
@pytest.mark.float64
def test_second_derivatives_are_those_of_first_ones():
    market, crowd = drawn(1, 5, providers=3)

    def welfare(x):
        price = market.price.at[0].mul(1 + x[:, None])
        return continuous_equilibrium(market.replace(price=price), crowd).welfare[0]

    slope = jax.grad(welfare)
    x, way, step = jnp.zeros(3), jnp.array([1.0, -0.5, 0.3]), 1e-5
    product = jax.jvp(slope, (x,), (way,))[1]
    difference = (slope(x + step * way) - slope(x - step * way)) / (2 * step)
    np.testing.assert_allclose(product, difference, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(product, jax.grad(lambda x: slope(x) @ way)(x), rtol=1e-8)


@pytest.mark.full
@pytest.mark.float64
def test_a_provider_at_its_last_level_stays_and_the_others_answer():
    market, _ = drawn(1, 6, providers=3)
    crowd = Users.create(10.0)  # users hardly mind: everybody spends all it can
    found = continuous_equilibrium(market, crowd)
    assert bool(found.held.all())

    def cost(size):
        return continuous_equilibrium(market.replace(price=market.price * (1 + size)), crowd)

    slope = jax.jvp(lambda s: cost(s).user_cost, (0.0,), (1.0,))[1]
    ends = [cost(s).user_cost for s in (1e-6, 0.0, -1e-6)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 1e-6, rtol=1e-5)
    np.testing.assert_allclose(slope, (ends[1] - ends[2]) / 1e-6, rtol=1e-5)


@pytest.mark.full
@pytest.mark.float64
@pytest.mark.parametrize(
    "rule", [FixedPrice(0.002), Tariff(0.0002, 0.8, 4e-7)], ids=["fixed", "tariff"]
)
def test_nobody_gains_under_any_posted_price(rule):
    market, crowd = drawn(24, 7, providers=4)
    found = continuous_equilibrium(market, crowd, rule)
    sound = found.converged
    assert float(sound.mean()) > 0.5
    kept = jax.tree.map(lambda x: x[np.asarray(sound)], (market, crowd, found))
    nobody_gains(*kept[:2], rule, kept[2])


@pytest.mark.full
def test_one_answer_jitted_vmapped_and_alone():
    market, crowd = drawn(6, 8, providers=3)
    whole = continuous_equilibrium(market, crowd)
    for found in (
        jax.jit(continuous_equilibrium)(market, crowd),
        jax.vmap(continuous_equilibrium)(market, crowd),
    ):
        np.testing.assert_allclose(found.compute, whole.compute, rtol=1e-9)
    one = continuous_equilibrium(*jax.tree.map(lambda x: x[4], (market, crowd)))
    np.testing.assert_allclose(one.compute, whole.compute[4], rtol=1e-9)


@pytest.mark.slow
def test_tokens_are_an_axis_too():
    market, crowd = drawn(8, 9, providers=3)
    found = continuous_equilibrium(market, crowd, axis="tokens")
    np.testing.assert_allclose(found.offers.tokens, found.compute)
    assert bool(found.converged.all())


@pytest.mark.slow
def test_what_it_is_not_for_is_told():
    market, crowd = drawn(1)
    with pytest.raises(InputError, match="FirstPriceAuction"):
        continuous_equilibrium(market, crowd, FirstPriceAuction())
    with pytest.raises(InputError, match="one type of users"):
        continuous_equilibrium(market, UserMixture.create([1.0], [1.0]))
    with pytest.raises(InputError, match="axis"):
        continuous_equilibrium(market, crowd, axis="effort")
    level = market.replace(tokens=market.tokens.at[..., 1].set(market.tokens[..., 0]))
    with pytest.raises(InputError, match="tokens has to be above 0 and ascending"):
        continuous_equilibrium(level, crowd, axis="tokens")
    free = Market.from_arrays([[0.5, 0.6]], [[0.1, 0.2]], [[0.1, 0.2]])
    with pytest.raises(NotSolved, match="no level with a profit"):
        continuous_equilibrium(free, Users.create(1.0), FixedPrice(0.0), throw=True)
