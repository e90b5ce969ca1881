"""Gradients, extreme rationalities, and both float widths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import batches
from hypothesis import given

from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    Market,
    Offers,
    PayPerCompute,
    SecondPriceAuction,
    Users,
    better_response,
    compare,
    data,
    extremal_equilibria,
    grid_deviations,
    potential,
    pure_equilibria,
    social_optimum,
    sweep,
)
from mechlab.core import quality
from mechlab.mechanisms.logit import log_mean_exp

RULES = {
    "pay_per_compute": lambda: PayPerCompute(),
    "fixed_price": lambda: FixedPrice(0.0011),
    "second_price": lambda: SecondPriceAuction(),
    "second_price_reported": lambda: SecondPriceAuction("reported"),
    "first_price": lambda: FirstPriceAuction(),
}
BETAS = np.array([1e-6, 0.5, 200.0, 3000.0, 1e5])


@jax.jit
def scaled_outcome(rule, values):
    """What a rule makes of βq, βp, βc [..., N], βv0 and log β [...], times β."""
    q, p, c, outside, log_beta = values
    beta = jnp.exp(log_beta)
    none = jnp.zeros_like(q)
    offers = Offers(
        quality=q / beta[..., None],
        reported_quality=q / beta[..., None],
        price=p / beta[..., None],
        cost=c / beta[..., None],
        accuracy=none,
        tokens=none,
        compute=none + 1.0,
    )
    out = rule(offers, Users(rationality=beta, outside_value=outside / beta))
    return (
        beta * out.welfare,
        beta * out.user_cost,
        beta[..., None] * out.provider_utility,
        beta * out.user_value,
        beta * out.consumer_surplus,
    )


@jax.jit
def slopes(rule, values, way, weights, eps):
    """[B] along a way and by weights of the results: forwards, backwards, and by differences."""
    outcome = functools.partial(scaled_outcome, rule)

    def weighed(results):
        return sum(
            jnp.sum((w * x).reshape(x.shape[0], -1), axis=-1) for w, x in zip(weights, results)
        )

    forwards = jax.jvp(outcome, (values,), (way,))[1]
    (back,) = jax.vjp(outcome, values)[1](weights)
    backwards = sum(jnp.sum((w * x).reshape(x.shape[0], -1), axis=-1) for w, x in zip(way, back))
    ends = [
        outcome(jax.tree.map(lambda x, w, size=size: x + size * w, values, way))
        for size in (eps, -eps)
    ]
    return weighed(forwards), backwards, (weighed(ends[0]) - weighed(ends[1])) / (2 * eps)


@pytest.mark.float64
@pytest.mark.parametrize("name", RULES)
def test_gradients_are_those_of_finite_differences(name):
    """In the scaled variables βq, βp, βc, βv0 and log β, away from ties, for each result."""
    rng = np.random.default_rng(5)
    # offered values a few 1/β apart, so that no share underflows and no auction is near a tie
    batch = len(BETAS)
    quality = np.tile(np.array([3.1, 1.2, 0.3, 2.2]) + 4, (batch, 1))
    price = np.tile(rng.uniform(0.5, 1.0, 4), (batch, 1))
    values = (quality, price, 0.6 * price, np.full(batch, 0.2), np.log(BETAS))
    rule = RULES[name]()
    if name == "fixed_price":
        rule = FixedPrice(0.7 / BETAS)
    results = jax.eval_shape(scaled_outcome, rule, values)
    for at, _ in enumerate(results):
        way = tuple(rng.standard_normal(x.shape) for x in values)
        weights = tuple(
            rng.standard_normal(x.shape) if i == at else np.zeros(x.shape)
            for i, x in enumerate(results)
        )
        forwards, backwards, difference = slopes(rule, values, way, weights, 1e-5)
        np.testing.assert_allclose(forwards, difference, atol=1e-7, rtol=1e-6)
        np.testing.assert_allclose(backwards, difference, atol=1e-7, rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("width", [jnp.float64, jnp.float32])
def test_no_rationality_or_outside_value_breaks_the_numbers(width):
    betas, outsides = np.array([[0.0], [1e-6], [1.0], [1e3], [1e6]]), np.array([-1.0, 0.0, 1.0])
    named = data.published()
    market = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(width), named.market)
    crowd = jax.tree.map(lambda x: x.astype(width), Users.create(betas, outsides))
    run = better_response(market, crowd, key=jax.random.key(0), history=True)
    ends = extremal_equilibria(market, crowd)
    best = social_optimum(market, crowd)
    for solved in (run, ends, best):
        assert bool(jnp.all(solved.converged))
    finite = [run, ends, best, potential(market, crowd, PayPerCompute(), run.profile)]
    for rule in [make() for make in RULES.values()]:

        def outcome(quality, price, cost, crowd, rule=rule):
            changed = market.replace(quality=quality, price=price, cost=cost)
            return rule(rule.offers(changed, run.profile), crowd)

        out = outcome(market.quality, market.price, market.cost, crowd)
        assert float(jnp.max(jnp.sum(out.shares, axis=-1))) <= 1 + 1e-6
        total = jax.jit(
            jax.grad(
                lambda *at: jnp.sum(outcome(*at).consumer_surplus + outcome(*at).welfare),
                argnums=(0, 1, 2, 3),
            )
        )
        slopes = total(market.quality, market.price, market.cost, crowd)
        finite += [out, slopes, grid_deviations(market, crowd, rule, run.profile)]
    for x in jax.tree.leaves(finite):
        x = np.asarray(x)
        assert x.dtype.kind in "biu" or np.all(np.isfinite(x))
    for beta in betas.ravel():
        for outside in outsides:
            found = pure_equilibria(named.market, Users.create(beta, outside))
            assert np.all(np.isfinite(found.welfare)) and len(found.profiles) >= 1


def test_dynamics_do_not_stall_where_utilities_underflow():
    """At β = 1e5 a weak provider's utility is 0 in floats, and it still finds its best level."""
    named = data.published("AIME", "reasoning_effort")
    crowd = Users.create(1e5)
    run = better_response(named.market, crowd, key=jax.random.key(0))
    out = PayPerCompute()(named.market.at(run.profile, "price"), crowd)
    assert float(jnp.min(out.provider_utility)) == 0.0
    np.testing.assert_array_equal(run.profile, extremal_equilibria(named.market, crowd).smallest)


@pytest.mark.float64
@pytest.mark.parametrize("beta", [0.0, 1e-9, 1e-4, 1.0, 30.0, 1e4])
def test_log_mean_exp_matches_extended_precision(beta):
    x = np.array([0.3, -0.2, 0.05, 0.9])
    z = np.longdouble(beta) * (x - x.max())
    exact = x.max() + np.log(np.mean(np.exp(z))) / np.longdouble(beta or 1)
    if beta * np.ptp(x) < 1e-3:  # extended precision cancels here; three cumulants do not
        d = x - x.mean()
        exact = x.mean() + beta * np.mean(d**2) / 2 + beta**2 * np.mean(d**3) / 6
    found = log_mean_exp(jnp.array(x), jnp.array(beta))
    np.testing.assert_allclose(found, float(exact), rtol=1e-11)
    slope = jax.grad(log_mean_exp, argnums=1)(jnp.array(x), jnp.array(beta))
    assert np.isfinite(slope)
    if beta <= 1e-9:
        np.testing.assert_allclose(slope, np.var(x) / 2, rtol=1e-6)


@jax.jit
def paid_per_compute(offers, crowd):
    return PayPerCompute()(offers, crowd)


@pytest.mark.slow
@pytest.mark.float64
@given(batches())
def test_jit_batched_and_plain_calls_agree(batch):
    market, crowd = batch
    offers = market.at(np.zeros(market.price.shape[:-1], int), "price")
    together = PayPerCompute()(offers, crowd)
    for i in (0, 1, 31):
        one, who = jax.tree.map(lambda x, i=i: np.asarray(x)[i], (offers, crowd))
        for found in (
            PayPerCompute()(one, who),
            paid_per_compute(one, who),
            jax.tree.map(lambda x, i=i: x[i], PayPerCompute()(one, crowd)),  # many kinds of users
        ):
            np.testing.assert_allclose(together.welfare[i], found.welfare, rtol=1e-12)
            np.testing.assert_allclose(together.shares[i], found.shares, rtol=1e-12)


@pytest.mark.float64
@pytest.mark.parametrize("kappa", [-900.0, -3.0, -1e-13, 0.0, 1e-9, 0.5, 6.0, 900.0])
def test_exponential_quality_is_stable_and_increasing(kappa):
    a = jnp.linspace(0, 1, 11)
    f = quality.exponential(kappa)(a)
    assert float(f[0]) == 0 and np.isclose(float(f[-1]), 1) and bool(jnp.all(jnp.diff(f) >= 0))
    if 0.1 < abs(kappa) < 10:
        np.testing.assert_allclose(f, np.expm1(kappa * a) / np.expm1(kappa), rtol=1e-12)
    if abs(kappa) < 1e-8:
        np.testing.assert_allclose(f, a, rtol=1e-8)
    slope = jax.grad(lambda k: quality.exponential(k)(0.3))(kappa)
    assert np.isfinite(slope)
    if abs(kappa) < 1e-8:
        np.testing.assert_allclose(slope, 0.3 * (0.3 - 1) / 2, rtol=1e-6)


def test_power_quality_weighs_the_last_points_most():
    np.testing.assert_allclose(quality.power()(jnp.array(0.5)), 0.5**3.5)
    np.testing.assert_allclose(quality.quality(jnp.array(0.5), 0.01, 0.1), 0.01 * 0.55)


@pytest.mark.parametrize("method", ["majority_voting", "best_of_n"])
def test_float32_finds_the_equilibria_of_float64(method):
    named = data.published("GSM8K", method)
    betas = np.logspace(1, 5, 30)
    crowd = Users.create(betas)
    exact = better_response(named.market, crowd, key=jax.random.key(0))
    narrow = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(jnp.float32), (named.market, crowd)
    )
    fast = better_response(*narrow, key=jax.random.key(0))
    assert np.mean(np.all(exact.profile == fast.profile, axis=-1)) >= 0.95


@pytest.mark.slow
def test_a_market_of_huge_outside_value_has_numbers_everywhere():
    named = data.published()
    constants = dataclasses.replace(named.constants, outside_value=1.0)
    rich = dataclasses.replace(named, constants=constants)
    result = compare(rich, [1e6])
    row = result.pay_per_compute[0]
    assert result.auction["winner"] is None and result.auction["welfare"] == 0
    assert row["price_of_anarchy"] is None and row["welfare"] == 0 and row["accuracy"] > 0
    assert sweep(rich, [1e6]).points[0]["inefficiency"] is None


def test_market_fields_do_not_depend_on_masked_levels():
    full = Market.from_arrays([[0.01, 0.02]], [[0.001, 0.002]], [[0.001, 0.001]])
    ragged = Market.from_arrays(
        [[0.01, np.nan]], [[0.001, np.nan]], [[0.001, -5]], available=[[True, False]]
    )
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(ragged))
    crowd = Users.create(100.0)
    run = better_response(ragged, crowd, key=jax.random.key(0))
    assert int(run.profile[0]) == 0 and int(full.best_surplus_profile()[0]) == 1
