"""Nested logit, against pyblp, against logit, and against its own shares."""

import blp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import (
    InputError,
    Market,
    NestedLogit,
    PayPerCompute,
    UserMixture,
    Users,
    demand,
    evaluate,
)
from mechlab.data import published

pytestmark = pytest.mark.float64

NESTS = ("a", "a", "b", "b", "b")


def market_of(seed, n=5):
    rng = np.random.default_rng(seed)
    quality, price = rng.uniform(0, 0.01, (n, 2)), rng.uniform(1e-4, 0.004, (n, 2))
    return Market.from_arrays(quality, np.sort(price, axis=1), 0.8 * np.sort(price, axis=1))


PROFILE = np.zeros(5, int)


@pytest.mark.parametrize("owners", [None, [[0, 3], [1], [2, 4]]])
def test_pyblp_says_the_same(owners):
    rng = np.random.default_rng(2)
    for seed in range(3):
        market, beta = market_of(seed), float(rng.uniform(100, 600))
        dissimilarity = float(rng.uniform(0.4, 0.95))
        rule, users = NestedLogit(NESTS, dissimilarity), Users.create(beta)
        found = demand.at_profile(market, users, PROFILE, rule, owners=owners)
        blp.agrees(found, market, beta, owners, NESTS, dissimilarity)


@pytest.mark.parametrize("noise", ["error", "taste"])
def test_without_likeness_it_is_logit(noise):
    market, users = market_of(7), Users.create(500.0, 0.001, noise)
    offers = market.at(PROFILE)
    nested, plain = NestedLogit(NESTS, 1.0)(offers, users), PayPerCompute()(offers, users)
    for name in ("shares", "welfare", "user_value", "user_cost", "net_welfare", "provider_utility"):
        np.testing.assert_allclose(
            getattr(nested, name), getattr(plain, name), rtol=1e-10, err_msg=name
        )
    a = demand.at_profile(market, users, PROFILE, NestedLogit(NESTS, 1.0))
    b = demand.at_profile(market, users, PROFILE)
    np.testing.assert_allclose(a.elasticities, b.elasticities, rtol=1e-10)


def test_shares_elasticities_and_values_follow_from_each_other():
    market, rule = market_of(8), NestedLogit(NESTS, 0.4)
    users = Users.create(500.0, 0.001, "taste")
    price = market.price[:, 0]

    def at(price):
        return rule(market.at(PROFILE).replace(price=price), users)

    found = demand.at_profile(market, users, PROFILE, rule)
    jacobian = jax.jacfwd(lambda p: jnp.log(at(p).shares))(price) * price
    np.testing.assert_allclose(found.elasticities, jacobian, rtol=1e-9)
    np.testing.assert_allclose(np.sum(found.diversion, axis=-1), 1.0, rtol=1e-10)
    # what users hold falls by their shares (Williams, Daly and Zachary)
    slope = jax.grad(lambda p: at(p).user_value)(price)
    np.testing.assert_allclose(slope, -found.shares, rtol=1e-9)


def test_simulated_users_hold_what_it_says():
    """Two hosts of one model that are nearly one to users add nearly nothing to each other."""
    one = Market.from_arrays([[0.006]], [[0.001]], [[0.0008]])
    two = Market.from_arrays([[0.006]] * 2, [[0.001]] * 2, [[0.0008]] * 2)
    users = Users.create(800.0, 0.004, "taste")
    alone = NestedLogit(("m",), 0.5)(one.at([0]), users)
    close = NestedLogit(("m", "m"), 1e-3)(two.at([0, 0]), users)
    apart = NestedLogit(("m", "n"), 1e-3)(two.at([0, 0]), users)
    np.testing.assert_allclose(close.user_value, alone.user_value, atol=2e-6)
    assert apart.user_value > close.user_value + 1e-4
    np.testing.assert_allclose(np.sum(close.shares), alone.shares[0], rtol=2e-3)


def test_equilibria_batches_types_and_far_rationalities():
    market = market_of(9)
    rule = NestedLogit(NESTS, 0.3)
    users = Users.create(np.array([100.0, 1000.0, 1e6]))
    found = evaluate(market, users, rule)
    assert np.all(np.asarray(found.converged)) and np.all(np.isfinite(found.welfare))
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], users)
        gains = mechlab.grid_deviations(market, one, rule, found.profile[i])
        assert float(gains.regret) <= 1e-8 * float(found.welfare[i])
    mixed = UserMixture.create([0.5, 0.5], [100.0, 1000.0])
    out = rule(market.at(PROFILE), mixed)
    each = [rule(market.at(PROFILE), Users.create(b)).shares for b in (100.0, 1000.0)]
    np.testing.assert_allclose(out.shares, (each[0] + each[1]) / 2, rtol=1e-12)
    some = demand.at_profile(market, mixed, PROFILE, rule).elasticities

    def log_shares(price):
        return jnp.log(rule(market.at(PROFILE).replace(price=price), mixed).shares)

    price = market.price[:, 0]
    np.testing.assert_allclose(some, jax.jacfwd(log_shares)(price) * price, rtol=1e-9)


@pytest.mark.slow
def test_it_keeps_the_contract():
    assert (
        mechlab.check_rule(NestedLogit(NESTS, 0.6), market=market_of(10), users=Users.create(500.0))
        == ()
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: NestedLogit(NESTS, 0.0), "dissimilarity = 0.0; give a number above 0"),
        (lambda: NestedLogit(NESTS, 1.5), "dissimilarity = 1.5; give a number above 0"),
        (lambda: NestedLogit("abc"), "nests: give the nest of every provider"),
        (lambda: NestedLogit(()), "nests: give the nest of every provider"),
        (
            lambda: NestedLogit(NESTS)(published().market.truthful(), Users.create(1.0)),
            "nests: 5 given for 9 providers",
        ),
    ],
)
def test_nests_that_do_not_fit_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
