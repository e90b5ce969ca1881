"""What outcomes are worth where the noise in users' choices is their taste."""

import itertools
import math

import drawn
import jax
import numpy as np
import oracles
import pytest
from drawn import honest_bids
from hypothesis import given
from hypothesis import strategies as st

import mechlab
from mechlab import (
    FixedPrice,
    InputError,
    Market,
    PayPerCompute,
    PersonalAuction,
    PriceBid,
    Published,
    QualityReport,
    SecondPriceAuction,
    UserMixture,
    Users,
    WithTastes,
    evaluate,
    pure_equilibria,
    search,
    social_optimum,
)
from mechlab.data import published
from mechlab.mechanisms.capabilities import METRICS

pytestmark = pytest.mark.float64

tasteful = st.builds(
    Users.create,
    st.sampled_from([30.0, 300.0, 2000.0, 2e4]),
    st.sampled_from([0.0, -0.003, 0.004]),
    st.just("taste"),
)


def wide(tree):
    """In float64."""
    return jax.tree.map(lambda x: np.asarray(x, float) if x.dtype.kind == "f" else x, tree)


def mean_best(values, users):
    """(1/β)·log Σ e^{βx} over v0 and the values, in plain Python."""
    beta, every = float(users.rationality), [float(users.outside_value), *map(float, values)]
    top = max(every)
    return top + math.log(sum(math.exp(beta * (x - top)) for x in every)) / beta


def simulated(values, users, count=10**6, seed=0):
    """[count, N + 1] what v0 and each value is worth to each user."""
    beta = float(users.rationality)
    shocks = np.random.default_rng(seed).gumbel(size=(count, len(values) + 1)) - np.euler_gamma
    return np.array([float(users.outside_value), *values]) + shocks / beta


@given(drawn.markets(), tasteful)
def test_users_hold_the_mean_of_what_is_best_for_each(market, users):
    profile = np.zeros(market.providers, int)
    offers = market.at(profile, "price")
    for rule in (PayPerCompute(), FixedPrice(0.001)):
        out = rule(offers, users)
        held = mean_best(rule.accounts.ranking(offers), users)
        np.testing.assert_allclose(out.user_value, held, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(out.consumer_surplus, held, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(
            out.welfare, out.user_value + out.provider_utility.sum(), rtol=1e-12, atol=1e-15
        )
        np.testing.assert_allclose(out.net_welfare, out.welfare - users.outside_value, atol=1e-15)
        error = rule(offers, users.replace(taste=None))
        for name in ("shares", "payment", "provider_utility", "user_cost", "quality", "tokens"):
            np.testing.assert_array_equal(getattr(out, name), getattr(error, name))


@pytest.mark.slow
def test_the_readings_reverse_the_comparison_of_the_study():
    """GSM8K, majority voting, β = 1000, USD per 1,000 queries."""
    named = published()
    rules = {"today": PayPerCompute(), "auction": SecondPriceAuction(), "own": PersonalAuction()}
    found = {
        noise: evaluate(named.market, Users.create(1000.0, noise=noise), rules)
        for noise in ("error", "taste")
    }
    welfare = {
        (noise, name): 1000 * float(one.welfare)
        for noise, each in found.items()
        for name, one in each.items()
    }
    assert round(welfare["error", "today"], 2) == 6.04
    assert round(welfare["taste", "today"], 2) == 7.93
    assert round(welfare["error", "auction"], 2) == round(welfare["taste", "auction"], 2) == 7.26
    assert welfare["taste", "own"] > welfare["taste", "today"] > welfare["taste", "auction"]
    assert welfare["error", "auction"] > welfare["error", "own"] > welfare["error", "today"]


@pytest.mark.parametrize("outside", [0.0, 0.0065])
def test_the_personal_auction_is_what_a_million_users_give(outside):
    market = published().market
    users = Users.create(1000.0, outside, noise="taste")
    offers = honest_bids(market)
    offers = offers.replace(
        price=offers.price * 1.1, quality=offers.quality * np.linspace(0.9, 1.05, 9)
    )
    out = PersonalAuction()(offers, users)
    worth = simulated(np.asarray(offers.offered_value), users)
    count = len(worth)
    winner = worth.argmax(axis=1)
    ranked = np.sort(worth, axis=1)
    first, second = ranked[:, -1], ranked[:, -2]
    # the user pays the worth of what is delivered less the second-best score
    delivered = np.r_[0.0, np.asarray(offers.quality - offers.reported_quality + offers.price)]
    paid = np.where(winner > 0, first - second + delivered[winner], 0.0)
    kept = np.where(winner > 0, second, first)

    def close(drawn, exact):
        assert abs(drawn.mean() - float(exact)) < 3 * drawn.std() / count**0.5 + 1e-15

    for i in range(len(out.shares)):
        wins = winner == i + 1
        close(wins.astype(float), out.shares[i])
        close(np.where(wins, paid - float(offers.cost[i]), 0.0), out.provider_utility[i])
    close(paid, out.user_cost)
    close(kept, out.user_value)


@pytest.mark.slow
def test_truth_is_dominant_in_the_personal_auction():
    """From truthful and from arbitrary play of the others, no bid or report gains."""
    market, users = Published(providers=4).markets(6)
    market, users = wide((market, users))
    users = users.replace(rationality=np.clip(users.rationality, 50.0, 5000.0))
    rule = PersonalAuction()
    space = (PriceBid(), QualityReport(0.5, 1.5))
    rng = np.random.default_rng(0)
    for crowd in (users, users.replace(taste=np.ones(6))):
        for case in range(2):
            profile = np.asarray(market.best_surplus_profile())
            if case:
                profile = rng.integers(0, np.asarray(market.available).sum(-1))
                truth = np.asarray(market.best_surplus_profile())
                profile[:, 0] = truth[:, 0]
            found = search(market, crowd, rule, profile, space=space, key=jax.random.key(case))
            welfare = np.asarray(rule(rule.offers(market, profile), crowd).welfare)
            gain = np.asarray(found.gain)[:, 0]
            assert np.all(gain <= 1e-9 * np.abs(welfare)), gain / welfare


@given(drawn.markets(), tasteful)
def test_levels_of_the_largest_surplus_are_dominant_in_the_personal_auction(market, users):
    rule, truth = PersonalAuction(), np.asarray(market.best_surplus_profile())
    for profile in (truth, np.zeros_like(truth)):
        for i in range(market.providers):
            utility = []
            for level in range(int(market.available[i].sum())):
                moved = profile.copy()
                moved[i] = level
                out = rule(rule.offers(market, moved), users)
                utility.append(float(out.provider_utility[i]))
            assert utility[truth[i]] >= max(utility) - 1e-15


@given(drawn.markets(), tasteful)
def test_the_shortcut_earns_what_the_outcome_says(market, users):
    rule = PersonalAuction()
    offers = rule.offers(market, np.zeros(market.providers, int))
    earned = rule.facing.utility_against(rule.facing.rivals(offers, users), offers)
    np.testing.assert_allclose(earned, rule(offers, users).provider_utility, rtol=1e-9, atol=1e-18)


def welfare_by_hand(market, users, profile):
    earned = sum(oracles.utilities(market, users, profile))
    return mean_best(oracles.values_at(market, profile), users) + earned


@given(drawn.markets(losses=True), tasteful)
def test_the_optimum_is_the_best_of_all_profiles(market, users):
    found = social_optimum(market, users)
    most = max(welfare_by_hand(market, users, one) for one in oracles.profiles(market))
    np.testing.assert_allclose(found.welfare, most, rtol=1e-9, atol=1e-13)
    by_hand = welfare_by_hand(market, users, np.asarray(found.profile))
    np.testing.assert_allclose(by_hand, most, rtol=1e-9, atol=1e-13)


def test_optima_where_going_on_from_one_level_would_end_at_a_lesser_one():
    """Games with far-apart weights, where a climb by one provider at a time can stop early."""
    rng = np.random.default_rng(11)
    shape = (200, 3, 4)
    price = rng.uniform(0.0, 0.02, shape)
    markets = Market.from_arrays(
        rng.uniform(0, 0.02, shape), price, price * rng.uniform(0.1, 1.0, shape)
    )
    crowds = Users.create(10 ** rng.uniform(1.5, 4, 200), rng.uniform(-0.01, 0.01, 200), "taste")
    found = np.asarray(social_optimum(markets, crowds).welfare)
    for j in range(200):
        market, users = jax.tree.map(lambda x, j=j: np.asarray(x)[j], (markets, crowds))
        most = max(welfare_by_hand(market, users, one) for one in oracles.profiles(market))
        np.testing.assert_allclose(found[j], most, rtol=1e-9)


def test_a_level_at_a_loss_that_is_worth_far_more_to_users_is_not_overlooked():
    """e^1000 times as much: providers would not play it, and the planner does."""
    market = Market.from_arrays(
        [[0.002, 0.012], [0.003, 0.003]],
        [[0.002, 0.002], [0.002, 0.0021]],
        [[0.001, 0.0025], [0.001, 0.001]],
    )
    users = Users.create(1e5, 0.0, "taste")
    most = max(welfare_by_hand(market, users, one) for one in oracles.profiles(market))
    np.testing.assert_allclose(social_optimum(market, users).welfare, most, rtol=1e-9)


@given(drawn.markets(), tasteful)
def test_listed_equilibria_have_the_welfare_of_their_outcomes(market, users):
    found = pure_equilibria(market, users)
    for profile, welfare in zip(found.profiles[:3], found.welfare[:3]):
        exact = PayPerCompute()(market.at(profile, "price"), users).welfare
        np.testing.assert_allclose(welfare, exact, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    "rule", [PayPerCompute(), SecondPriceAuction(), FixedPrice(0.001), PersonalAuction()]
)
def test_columns_are_the_outcomes(rule):
    market, users = WithTastes(Published()).markets(40)
    market, users = wide((market, users))
    users = users.replace(outside_value=np.linspace(0, 0.004, 40))
    profile = np.asarray(market.best_surplus_profile())
    found = rule.levels.metrics(
        *jax.tree.map(lambda x: np.moveaxis(x, 0, -1), (market, users)), profile.T
    )
    out = rule(rule.offers(market, profile), users)
    for name in METRICS:
        exact = getattr(out, name)
        exact = exact.sum(-1) if name == "provider_utility" else exact
        np.testing.assert_allclose(found[name], exact, rtol=1e-9, atol=1e-14, err_msg=name)


def test_types_of_users_are_their_mean():
    market = published().market
    mixed = UserMixture.create([0.25, 0.75], [300.0, 2000.0], 0.001, [1.0, 1.5], noise="taste")
    offers = market.at(np.zeros(9, int), "price")
    for rule in (PayPerCompute(), PersonalAuction()):
        out = rule(offers, mixed)
        each = [
            rule(
                offers.replace(
                    quality=offers.quality * scale, reported_quality=offers.reported_quality * scale
                ),
                Users.create(beta, 0.001, "taste"),
            )
            for beta, scale in ((300.0, 1.0), (2000.0, 1.5))
        ]
        np.testing.assert_allclose(
            out.welfare, 0.25 * each[0].welfare + 0.75 * each[1].welfare, rtol=1e-12
        )


@pytest.mark.full
def test_batches_jit_and_float32_agree_with_one_market():
    market, users = WithTastes(Published()).markets(300)
    rules = {"today": PayPerCompute(), "own": PersonalAuction(), "auction": SecondPriceAuction()}
    narrow = jax.jit(lambda m, u: evaluate(m, u, rules))(market, users)
    exact = evaluate(*wide((market, users)), rules)
    for name in rules:
        for metric in ("welfare", "user_value", "optimal_welfare", "provider_utility"):
            a, b = getattr(narrow[name], metric), getattr(exact[name], metric)
            assert np.mean(np.isclose(a, b, rtol=2e-4)) > 0.98, (name, metric)
    best = np.asarray(exact["own"].welfare)
    for name, metric in itertools.product(rules, ("welfare", "optimal_welfare")):
        assert np.all(np.asarray(getattr(exact[name], metric)) <= best * (1 + 1e-9)), name
    one = evaluate(*jax.tree.map(lambda x: x[7], wide((market, users))), rules)
    np.testing.assert_allclose(one["own"].welfare, exact["own"].welfare[7], rtol=1e-12)


@pytest.mark.slow
def test_the_personal_auction_keeps_the_contract():
    assert mechlab.check_rule(PersonalAuction()) == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Users.create(100.0, noise="tastes"), "noise: 'tastes' is not known"),
        (lambda: Users.create(0.0, noise="taste"), "no bound at β = 0"),
        (lambda: UserMixture.create([1.0], [0.0], noise="taste"), "no bound at β = 0"),
        (lambda: PersonalAuction()(honest_bids(published().market), Users.create(0.0)), "no bound"),
        (
            lambda: mechlab.smoothed_equilibrium(
                published().market, Users.create(10.0, noise="taste"), precision=100.0
            ),
            "without tastes",
        ),
    ],
)
def test_what_means_nothing_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
