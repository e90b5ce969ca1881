"""Rounds of auctions among providers of unknown accuracy."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import InputError, Market, Published, SecondPriceAuction, UserMixture, Users, evaluate
from mechlab.learning import (
    UCB,
    ExploreThenCommit,
    Greedy,
    Known,
    Learner,
    Thompson,
    gaming,
    growth,
    named_learner,
    repeated,
)

pytestmark = pytest.mark.float64

NAMED = mechlab.data.published("GSM8K")
MARKET, USERS = NAMED.market, Users.create(1000.0)
VALUE, COST = 0.01, np.array([0.001, 0.0005, 0.002, 0.0001])
ACCURACY = np.array([0.8, 0.6, 0.85, 0.3])
SMALL = Market.from_arrays(
    (VALUE * ACCURACY)[:, None], COST[:, None], COST[:, None], accuracy=ACCURACY[:, None]
)
ANYBODY = Users.create(0.0)


def two(gap, accuracy=0.5):
    """Two providers at no cost whose accuracies are apart by a gap."""
    accuracy = np.array([[accuracy + gap], [accuracy]])
    return Market.from_arrays(accuracy, np.zeros((2, 1)), np.zeros((2, 1)), accuracy=accuracy)


def by_hand(learner, rounds, seed, bids=COST):
    """One run in plain NumPy: mean payment, served counts and regret."""
    rng = np.random.default_rng(seed)
    n, asked, right = len(ACCURACY), np.zeros(4), np.zeros(4)
    served, income = np.zeros(n), np.zeros(n)
    each = math.ceil((rounds / n) ** (2 / 3))
    for t in range(rounds):
        mean = np.where(asked > 0, right / np.maximum(asked, 1), 1.0)
        told = None
        if learner == "known":
            believed = ACCURACY
        elif learner == "greedy":
            believed = mean
        elif learner == "ucb":
            bonus = np.sqrt(2 * np.log(t + 1) / np.maximum(asked, 1))
            believed = mean + bonus
        elif learner == "thompson":
            m = (right + 1) / (asked + 2)
            believed = np.clip(rng.normal(m, np.sqrt(m * (1 - m) / (asked + 3))), 0, 1)
        else:
            believed, told = mean, t % n if t < each * n else None
        score = VALUE * believed - bids
        i = int(score.argmax()) if told is None else told
        if told is None and score[i] < 0:
            continue
        correct = rng.random() < ACCURACY[i]
        rival = max(np.delete(score, i).max(), 0.0)
        income[i] += VALUE * believed[i] - rival if told is None else VALUE * correct
        served[i] += 1
        if learner != "explore_then_commit" or t < each * n:
            asked[i] += 1
            right[i] += correct
    surplus = VALUE * ACCURACY - COST
    return income / rounds, served / rounds, np.sum(served * (surplus.max() - surplus))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["known", "greedy", "ucb", "thompson", "explore_then_commit"])
def test_runs_are_those_of_a_simulation_by_hand(name):
    seeds, rounds = 20, 400
    hand = [by_hand(name, rounds, seed) for seed in range(seeds)]
    many = repeated(SMALL, ANYBODY, named_learner(name), rounds, draws=np.arange(400))
    ours = [many.provider_utility + COST * many.shares, many.shares, many.regret]
    for i, mine in enumerate(np.asarray(x) for x in ours):
        theirs = np.mean([x[i] for x in hand], axis=0)
        error = mine.std(0, ddof=1) * np.sqrt(1 / seeds + 1 / len(mine))
        assert np.all(np.abs(mine.mean(0) - theirs) <= 3 * error + 1e-12), i


@pytest.mark.slow
@pytest.mark.parametrize("queries", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_with_known_accuracies_it_is_the_auction(queries):
    markets = Published().markets(300)
    plain = evaluate(*markets, SecondPriceAuction())
    found = repeated(*markets, Known(), 50, queries=queries)
    for name in ("welfare", "user_value", "user_cost", "accuracy"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(plain, name), rtol=2e-5, atol=1e-9, err_msg=name
        )
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(float), markets)
    plain, found = evaluate(*wide, SecondPriceAuction()), repeated(*wide, Known(), 50)
    for name in ("welfare", "user_value", "user_cost", "accuracy"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(plain, name), rtol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(found.regret, 0.0, atol=1e-14)
    np.testing.assert_allclose(
        found.welfare, found.user_value + jnp.sum(found.provider_utility, axis=-1), atol=1e-15
    )


@pytest.mark.slow
def test_accounts_balance_and_a_market_is_the_same_in_any_batch():
    markets, users = Published().markets(1500)
    whole = repeated(markets, users, UCB(), 64)
    some = jax.tree.map(lambda x: x[1100:1103], (markets, users))
    part = repeated(*some, UCB(), 64, draws=np.arange(1100, 1103))
    for name in ("shares", "user_cost", "regret"):
        np.testing.assert_allclose(
            getattr(part, name), getattr(whole, name)[1100:1103], rtol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(
        whole.welfare, whole.user_value + jnp.sum(whole.provider_utility, axis=-1), atol=1e-7
    )
    traced = jax.jit(lambda m, u: repeated(m, u, UCB(), 64))(markets, users)
    np.testing.assert_allclose(traced.regret, whole.regret, rtol=1e-5, atol=1e-6)


def test_checkpoints_are_runs_that_end_there():
    long = repeated(SMALL, ANYBODY, Greedy(), 300, checkpoints=[1, 10, 77], draws=4)
    assert long.checkpoints.tolist() == [1, 10, 77, 300]
    for mark, regret in zip(long.checkpoints.tolist(), long.regret_at.tolist(), strict=True):
        np.testing.assert_allclose(
            repeated(SMALL, ANYBODY, Greedy(), mark, draws=4).regret, regret, atol=1e-15
        )
    assert repeated(SMALL, ANYBODY, Greedy(), 9).checkpoints.tolist() == [1, 2, 4, 8, 9]


def test_nobody_is_bought_from_below_the_outside_value():
    found = repeated(SMALL, Users.create(0.0, 0.5), Known(), 10)
    assert float(found.shares.sum()) == 0.0 and float(found.regret) == 0.0
    unknown = repeated(SMALL, Users.create(0.0, 0.0095), Greedy(), 200, draws=np.arange(50))
    assert float(jnp.mean(jnp.sum(unknown.shares, axis=-1))) < 0.1  # tried once, and left


def test_batches_of_queries_are_judged_together():
    one = repeated(SMALL, ANYBODY, UCB(), 200, queries=5, draws=np.arange(200))
    many = repeated(SMALL, ANYBODY, UCB(), 1000, draws=np.arange(200))
    assert float(jnp.mean(one.regret)) > 0
    # as many answers are judged, and the estimates are as good
    np.testing.assert_allclose(one.estimate.mean(0), many.estimate.mean(0), atol=0.05)


def test_a_learner_of_ones_own_is_ten_lines():
    class Windowed(Learner):
        """Believes the prior until enough answers were judged."""

        least: float = 5.0

        def accuracy(self, seen):
            return jnp.where(seen.asked >= self.least, seen.mean, 1.0)

    assert len(inspect.getsource(Windowed).splitlines()) <= 10
    found = repeated(SMALL, ANYBODY, Windowed(), 500, draws=np.arange(100))
    assert 0 < float(jnp.mean(found.regret)) < 500 * 0.006
    small = jax.jit(lambda least: repeated(SMALL, ANYBODY, Windowed(least), 50).regret)
    assert np.isfinite(small(3.0))


def test_another_level_may_be_served_from_a_round_on():
    level = MARKET.best_surplus_profile()
    i = int(evaluate(MARKET, USERS, SecondPriceAuction()).profile.argmax())
    worse = jnp.zeros_like(level)
    honest = repeated(MARKET, USERS, Known(), 100)
    half = repeated(MARKET, USERS, Known(), 100, later=(50, worse))
    always = repeated(MARKET, USERS, Known(), 100, served=worse)
    assert i >= 0
    np.testing.assert_allclose(
        always.accuracy, repeated(MARKET, USERS, Known(), 100, later=(0, worse)).accuracy
    )
    assert float(honest.accuracy) > float(half.accuracy) > float(always.accuracy)


def test_regret_is_by_what_is_served_when_it_is():
    """The same history told in two ways, and one in which everybody improves."""
    market = Market.from_curves(
        [[0.5, 0.8], [0.4, 0.7]], [[100.0, 200.0]] * 2, 1e-7, value_per_answer=0.01
    )
    low, high = np.array([0, 0]), np.array([1, 1])
    for plan in (
        dict(served=low),
        dict(later=(0, low)),
        dict(served=low, later=(0, high)),
        dict(served=low, later=(37, high)),
        dict(served=high, later=(37, low)),
    ):
        found = repeated(market, ANYBODY, Known(), 100, **plan)
        np.testing.assert_allclose(found.regret_at, 0.0, atol=1e-15)


def test_sums_over_very_many_rounds_do_not_drift_in_float32():
    market = Market.from_curves([[0.9], [0.88]], [[100.0], [100.0]], 1e-6, value_per_answer=0.01)
    narrow = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(np.float32), (market, ANYBODY)
    )
    exact = evaluate(market, ANYBODY, SecondPriceAuction())
    found = repeated(*narrow, Known(), 2**20, checkpoints=[2**20])
    assert found.user_cost.dtype == np.float32
    for name in ("user_cost", "welfare", "user_value"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(exact, name), rtol=2e-4, err_msg=name
        )


def test_alike_accuracies_need_a_stake():
    alike = Market.from_curves([[0.7], [0.7]], [[10.0], [20.0]], 1e-5, value_per_answer=0.01)
    with pytest.raises(InputError, match="all accuracies of a market are the same"):
        repeated(alike, ANYBODY, UCB(), 100)
    found = repeated(alike, ANYBODY, UCB(), 1000, stake=0.01)
    assert float(found.regret) > 0 and np.all(np.asarray(found.shares) > 0.2)


@pytest.mark.full
def test_regret_grows_as_theory_has_it():
    apart = two(0.3)
    explored = growth(apart, ANYBODY, ExploreThenCommit(), [1000, 4000, 16000, 64000], seeds=200)
    assert abs(explored.exponent - 2 / 3) <= 0.05
    optimist = growth(apart, ANYBODY, UCB(), [1000, 4000, 16000, 64000], seeds=400)
    per_log = np.diff(optimist.regret) / np.diff(np.log(optimist.horizons))
    assert np.all(np.abs(per_log / per_log.mean() - 1) < 0.1)  # as much for each e-fold of rounds
    assert np.all((2 / 0.3 < per_log) & (per_log < 8 / 0.3))  # the bound of Auer et al. 2002
    known = growth(apart, ANYBODY, Greedy(), [1000, 4000, 16000], seeds=400)
    assert known.exponent > 0.85  # stuck on the worse one in a share of the runs
    worst = growth(
        lambda rounds: two(math.sqrt(2 / rounds)),
        ANYBODY,
        UCB(),
        [1000, 4000, 16000, 64000],
        seeds=400,
    )
    assert abs(worst.exponent - 0.5) <= 0.05


def test_the_exponents_error_is_their_spread():
    apart = two(0.3)
    ones = [
        growth(apart, ANYBODY, UCB(), [100, 400, 1600], key=jax.random.key(k), seeds=100)
        for k in range(20)
    ]
    spread = np.std([x.exponent for x in ones], ddof=1)
    said = np.mean([x.exponent_error for x in ones])
    assert 0.6 < said / spread < 1.6


@pytest.mark.full
def test_bids_gain_nothing_where_exploration_does_not_see_them():
    explored = gaming(MARKET, USERS, ExploreThenCommit(), 600, seeds=400, levers=["bid", "served"])
    assert np.all(explored["bid"].gain <= 3 * explored["bid"].error + 1e-15)
    # what is explored can be another level than what is served after
    assert np.any(explored["served"].gain > 3 * explored["served"].error)
    optimist = gaming(MARKET, USERS, UCB(), 600, seeds=100, levers=["bid"])
    assert np.any(optimist["bid"].gain > 3 * optimist["bid"].error)


def test_gains_are_those_of_the_plan_run_alone():
    found = gaming(SMALL, ANYBODY, Greedy(), 60, levers=["bid"], factors=[0.5, 1.5], seeds=40)[
        "bid"
    ]
    for i in range(4):
        bids = COST.copy()
        bids[i] *= found.factor[i]
        ends = [
            np.asarray(
                repeated(
                    SMALL, ANYBODY, Greedy(), 60, bids=b, draws=np.arange(40)
                ).provider_utility[:, i]
            )
            for b in (bids, COST)
        ]
        np.testing.assert_allclose(found.gain[i], (ends[0] - ends[1])[1::2].mean(), atol=1e-15)
        np.testing.assert_allclose(found.honest[i], ends[1].mean(), atol=1e-15)


class Wild(Learner):
    value: float = 0.5
    who: int = -1

    def accuracy(self, seen):
        return jnp.full_like(seen.mean, self.value)

    def asks(self, seen):
        return jnp.asarray(self.who)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: repeated(SMALL, ANYBODY, UCB(), 0), "rounds = 0"),
        (lambda: repeated(SMALL, ANYBODY, "ucb", 5), "learner: a str; give one such as UCB"),
        (lambda: repeated(SMALL, ANYBODY, Wild(-0.1), 5), "Wild: an accuracy is NaN, infinite or"),
        (lambda: repeated(SMALL, ANYBODY, Wild(np.nan), 5), "Wild: an accuracy is NaN"),
        (lambda: repeated(SMALL, ANYBODY, Wild(0.5, 7), 5), "a provider is asked that"),
        (lambda: repeated(SMALL, ANYBODY, UCB(), 5, queries=0), "queries = 0"),
        (lambda: repeated(SMALL, ANYBODY, UCB(), 5, bids=[1.0]), "give one for each of 4"),
        (lambda: repeated(SMALL, ANYBODY, UCB(), 5, checkpoints=[3, 2]), "ascending rounds"),
        (lambda: repeated(SMALL, ANYBODY, UCB(), 5, checkpoints=[9]), "after the last round, 5"),
        (lambda: repeated(SMALL, UserMixture.create([1.0], [0.0]), UCB(), 5), "types of users"),
        (
            lambda: repeated(MARKET.replace(quality=MARKET.quality**2), USERS, UCB(), 5),
            "not linear in accuracy",
        ),
        (lambda: named_learner("bandit"), "bandit: no such learner; use known"),
        (lambda: named_learner("ucb=x"), "ucb=x: give a number"),
        (lambda: UCB(-1.0), "width = -1"),
        (lambda: ExploreThenCommit(0), "each = 0"),
        (lambda: growth(SMALL, ANYBODY, UCB(), [100]), "at least two"),
        (lambda: growth(SMALL, ANYBODY, UCB(), [100, 200], seeds=3), "seeds = 3"),
        (lambda: gaming(SMALL, ANYBODY, UCB(), 9, levers=["lie"]), "'lie' is not known"),
        (lambda: gaming(SMALL, ANYBODY, UCB(), 9, turns=[2.0]), "shares of the rounds"),
        (lambda: gaming(SMALL, ANYBODY, UCB(), 9, factors=[-1.0]), "give numbers ≥ 0"),
    ],
)
def test_bad_input_is_one_line(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_thompson_draws_from_what_is_believed():
    from mechlab.learning import Seen

    seen = Seen(
        asked=jnp.full((1, 4000), 30.0),
        right=jnp.full((1, 4000), 12.0),
        round=jnp.asarray(3),
        rounds=jnp.asarray(10.0),
        truth=jnp.zeros((1, 4000)),
        index=jnp.arange(4000, dtype=jnp.uint32),
        key=jax.random.key(0),
    )
    drawn = np.asarray(Thompson().accuracy(seen))[0]
    mean = 13 / 32
    np.testing.assert_allclose(drawn.mean(), mean, atol=0.005)
    np.testing.assert_allclose(drawn.std(), np.sqrt(mean * (1 - mean) / 33), rtol=0.05)


@pytest.mark.parametrize(
    ("rounds", "queries", "accuracy"),
    [(2**20, 33, 0.9), (2**19, 65, 0.3), (2**18, 129, 0.77), (2**17, 257, 0.9)],
)
def test_more_answers_than_float32_counts_are_estimated(rounds, queries, accuracy):
    """Sums of rounds × queries answers beyond 2²⁴, where a float32 counts by twos and fours."""
    assert rounds * queries > 2**24
    one = np.float32(accuracy)
    with jax.enable_x64(False):
        market = Market.from_arrays([[one]], [[0.1]], [[0.1]], accuracy=[[one]])
        options = dict(queries=queries, checkpoints=[rounds], stake=1.0)
        found = repeated(market, Users.create(1.0), Greedy(), rounds, **options)
    assert found.estimate.dtype == np.float32
    error = math.sqrt(accuracy * (1 - accuracy) / (rounds * queries))
    assert abs(float(found.estimate[0]) - accuracy) < 5 * error + 3e-7


@pytest.mark.parametrize("outside", [0.0, -0.001, 0.002, 0.0078, 0.5])
@pytest.mark.parametrize("noise", ["error", "taste"])
def test_those_who_buy_nothing_hold_what_that_is_worth(outside, noise):
    """As in every other outcome: v0 is part of users' value where noise is their taste."""
    users = Users.create(1000.0, outside, noise)
    for market in (SMALL, MARKET):
        plain = evaluate(market, users, SecondPriceAuction())
        found = repeated(market, users, Known(), 8)
        for name in ("welfare", "user_value", "user_cost"):
            mine, theirs = getattr(found, name), getattr(plain, name)
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15, err_msg=name)
    some = repeated(SMALL, users, Greedy(), 64, draws=np.arange(20))
    total = some.user_value + jnp.sum(some.provider_utility, axis=-1)
    np.testing.assert_allclose(some.welfare, total, atol=1e-12)
