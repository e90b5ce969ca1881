"""Nested logit, against pyblp, against logit, and against its own shares."""

import dataclasses
import itertools

import blp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import honest_bids

import mechlab
from mechlab import (
    InputError,
    Market,
    Mechanism,
    NestedLogit,
    PayPerCompute,
    UserMixture,
    Users,
    demand,
    evaluate,
)
from mechlab.data import published
from mechlab.mechanisms.capabilities import PostedPrices

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
        found = demand.at_profile(market, users, rule, PROFILE, owners=owners)
        blp.agrees(found, market, beta, owners, NESTS, dissimilarity)


@pytest.mark.parametrize("noise", ["error", "taste"])
def test_without_likeness_it_is_logit(noise):
    market, users = market_of(7), Users.create(500.0, 0.001, noise)
    offers = market.at(PROFILE, "price")
    nested, plain = NestedLogit(NESTS, 1.0)(offers, users), PayPerCompute()(offers, users)
    for name in ("shares", "welfare", "user_value", "user_cost", "net_welfare", "provider_utility"):
        np.testing.assert_allclose(
            getattr(nested, name), getattr(plain, name), rtol=1e-10, err_msg=name
        )
    a = demand.at_profile(market, users, NestedLogit(NESTS, 1.0), PROFILE)
    b = demand.at_profile(market, users, PayPerCompute(), PROFILE)
    np.testing.assert_allclose(a.elasticities, b.elasticities, rtol=1e-10)


def test_shares_elasticities_and_values_follow_from_each_other():
    market, rule = market_of(8), NestedLogit(NESTS, 0.4)
    users = Users.create(500.0, 0.001, "taste")
    price = market.price[:, 0]

    def at(price):
        return rule(market.at(PROFILE, "price").replace(price=price), users)

    found = demand.at_profile(market, users, rule, PROFILE)
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
    alone = NestedLogit(("m",), 0.5)(one.at([0], "price"), users)
    close = NestedLogit(("m", "m"), 1e-3)(two.at([0, 0], "price"), users)
    apart = NestedLogit(("m", "n"), 1e-3)(two.at([0, 0], "price"), users)
    np.testing.assert_allclose(close.user_value, alone.user_value, atol=2e-6)
    assert apart.user_value > close.user_value + 1e-4
    np.testing.assert_allclose(np.sum(close.shares), alone.shares[0], rtol=2e-3)


def game_of(seed):
    """A game of round numbers with up to three nests; from seed 40 on, of equals, who may end in
    one equilibrium or another."""
    rng = np.random.default_rng(seed)
    n, k = 4, 3
    quality, cost = rng.integers(0, 9, (n, k)) / 1000, rng.integers(0, 4, (n, k)) / 1000
    price = cost + rng.integers(0 if seed % 4 == 0 else 1, 5, (n, k)) / 1000
    nests = ((0, 0, 1, 1), (0, 1, 0, 0), (0, 1, 2, 1), (0, 0, 0, 0))[seed // 2 % 4]
    beta, rho = float(10 ** rng.uniform(1, 5)), float(rng.choice([0.05, 0.3, 0.7, 1.0]))
    if seed >= 40:
        profit = np.sort(rng.uniform(1e-4, 2e-3, k))[::-1]
        value = np.sort(rng.uniform(0, 5, k)) / beta
        price, cost = (np.tile(x, (n, 1)) for x in (profit + 1e-3, np.full(k, 1e-3)))
        quality = value + price
    market = Market.from_arrays(quality, price, cost)
    users = Users.create(beta, rng.choice([0.0, 0.002, -0.001]))
    return market, users, NestedLogit(nests, rho)


def log_utilities_by_hand(market, users, rule, profile, provider):
    """[K] log U at each level of a provider, −inf without a profit."""
    beta, rho = float(users.rationality), float(rule.dissimilarity)
    quality, price, cost = (np.asarray(x) for x in (market.quality, market.price, market.cost))
    found = []
    for level in range(market.levels):
        at = [*profile[:provider], level, *profile[provider + 1 :]]
        values = [float(quality[i, k] - price[i, k]) for i, k in enumerate(at)]
        inclusive = {
            nest: np.logaddexp.reduce(
                [beta * v / rho for v, own in zip(values, rule.nests) if own == nest]
            )
            for nest in set(rule.nests)
        }
        everything = np.logaddexp.reduce(
            [beta * float(users.outside_value), *(rho * x for x in inclusive.values())]
        )
        own = inclusive[rule.nests[provider]]
        log_share = beta * values[provider] / rho - (1 - rho) * own - everything
        profit = float(price[provider, level] - cost[provider, level])
        found.append(np.log(profit) + log_share if profit > 0 else -np.inf)
    return np.array(found)


def equilibria_by_hand(market, users, rule):
    found = []
    for profile in itertools.product(range(market.levels), repeat=market.providers):
        gains = [
            utility - utility[level]
            for i, level in enumerate(profile)
            for utility in [log_utilities_by_hand(market, users, rule, profile, i)]
            if np.isfinite(utility[level])
        ]
        if len(gains) == market.providers and max(np.max(gain) for gain in gains) <= 1e-8:
            found.append(profile)
    return found


@pytest.mark.slow
def test_the_ends_enclose_every_equilibrium_that_enumeration_finds():
    unique = several = 0
    for seed in range(80):
        market, users, rule = game_of(seed)
        ends = mechlab.extremal_equilibria(market, users, rule)
        assert bool(ends.converged) or (seed % 4 == 0 and seed < 40), seed
        if not ends.converged:
            continue
        found = equilibria_by_hand(market, users, rule)
        value = np.asarray(market.quality - market.price)
        providers = range(market.providers)
        low, high = (value[providers, np.asarray(end)] for end in (ends.smallest, ends.largest))
        for profile in found:
            at = value[providers, profile]
            assert np.all(low <= at + 1e-12) and np.all(at <= high + 1e-12), (seed, profile)
        for end in (ends.smallest, ends.largest):
            assert tuple(np.asarray(end).tolist()) in found, seed
        reached = mechlab.equilibrium(market, users, rule)
        assert bool(reached.converged) and tuple(np.asarray(reached.profile).tolist()) in found
        assert bool(reached.unique) == bool(ends.unique)
        if ends.unique:
            same = {
                (*value[providers, p], *np.asarray(market.unit_profit)[providers, p]) for p in found
            }
            assert len(same) == 1, seed
        unique, several = unique + bool(ends.unique), several + (not ends.unique)
    assert unique > 20 and several >= 3


def potential_by_hand(market, users, rule, profile):
    """Σ(log m + log w) − (1−ρ)Σ log D − log(e^{βv0} + Σ D^ρ)."""
    beta, rho = float(users.rationality), float(rule.dissimilarity)
    chosen = (np.arange(market.providers), np.asarray(profile))
    z = beta / rho * np.asarray(market.quality - market.price)[chosen]
    nests = [
        np.logaddexp.reduce([x for x, own in zip(z, rule.nests) if own == nest])
        for nest in set(rule.nests)
    ]
    everything = np.logaddexp.reduce([beta * float(users.outside_value), *(rho * x for x in nests)])
    profit = np.asarray(market.unit_profit)[chosen]
    return np.sum(np.log(profit) + z) - (1 - rho) * sum(nests) - everything


def test_a_move_changes_the_potential_by_the_movers_log_utility():
    """So that the published dynamics have to end."""
    for seed in range(1, 20, 2):
        market, users, rule = game_of(seed)
        rng = np.random.default_rng(seed)
        profile = list(rng.integers(0, market.levels, market.providers))
        now = potential_by_hand(market, users, rule, profile)
        for provider in range(market.providers):
            utility = log_utilities_by_hand(market, users, rule, profile, provider)
            for level in range(market.levels):
                moved = [*profile[:provider], level, *profile[provider + 1 :]]
                np.testing.assert_allclose(
                    potential_by_hand(market, users, rule, moved) - now,
                    utility[level] - utility[profile[provider]],
                    rtol=1e-9,
                    atol=1e-9,
                )


@pytest.mark.slow
def test_sweeps_and_dynamics_agree_in_float32_at_far_rationalities():
    population = mechlab.Published(rationality=(1e3, 1e7))
    markets, users = population.markets(300)
    rule = NestedLogit(("a", "b", "a", "b", "c", "c", "d", "a", "b"), np.float32(0.2))
    assert markets.quality.dtype == np.float32
    found = mechlab.equilibrium(markets, users, rule)
    exact = mechlab.equilibrium(
        *jax.tree.map(lambda x: x if x.dtype == bool else x.astype(float), (markets, users)), rule
    )
    assert np.all(np.asarray(found.converged)) and np.all(np.asarray(exact.converged))
    same = np.all(np.asarray(found.profile == exact.profile), axis=-1)
    assert np.mean(same) > 0.97
    gains = jax.vmap(lambda m, u, p: mechlab.grid_deviations(m, u, rule, p).regret)
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(float), (markets, users))
    regret = gains(*wide, found.profile)
    assert np.all(np.asarray(regret) <= 1e-5 * np.max(np.abs(wide[0].quality)))


@pytest.mark.slow
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
    out = rule(market.at(PROFILE, "price"), mixed)
    each = [rule(market.at(PROFILE, "price"), Users.create(b)).shares for b in (100.0, 1000.0)]
    np.testing.assert_allclose(out.shares, (each[0] + each[1]) / 2, rtol=1e-12)
    some = demand.at_profile(market, mixed, rule, PROFILE).elasticities

    def log_shares(price):
        return jnp.log(rule(market.at(PROFILE, "price").replace(price=price), mixed).shares)

    price = market.price[:, 0]
    np.testing.assert_allclose(some, jax.jacfwd(log_shares)(price) * price, rtol=1e-9)


class WrongPrices(PostedPrices):
    """Says that users find nobody alike."""

    def market(self, market, axis=-2):
        return market

    @property
    def nests(self):
        return dataclasses.replace(self.rule.rule.grouping, dissimilarity=1.0)


class WrongNests(Mechanism):
    rule: NestedLogit

    def allocate(self, offers, users):
        return self.rule.allocate(offers, users)

    @property
    def posted(self):
        return WrongPrices(self)


@pytest.mark.slow
def test_a_rule_that_names_other_nests_than_it_serves_by_is_caught():
    found = mechlab.check_rule(
        WrongNests(NestedLogit(NESTS, 0.6)), market=market_of(10), users=Users.create(500.0)
    )
    assert any("posted says another market" in line for line in found)


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
            lambda: mechlab.equilibrium(published().market, Users.create(1.0), NestedLogit(NESTS)),
            "nests: 5 given for 9 providers",
        ),
        (
            lambda: NestedLogit(NESTS)(honest_bids(published().market), Users.create(1.0)),
            "nests: 5 given for 9 providers",
        ),
    ],
)
def test_nests_that_do_not_fit_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
