"""Settlement answer by answer, with and without a limit to what a provider pays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import honest_bids
from scipy.optimize import brentq

import mechlab
from mechlab import (
    GridLevel,
    InputError,
    Market,
    PriceBid,
    Published,
    QualityReport,
    SecondPriceAuction,
    Substitution,
    TokenReport,
    UserMixture,
    Users,
    check_rule,
    evaluate,
    search,
)

pytestmark = pytest.mark.float64

NAMED = mechlab.data.published("GSM8K")
MARKET, USERS = NAMED.market, Users.create(1000.0)
VALUE, BASE = NAMED.constants.value_per_answer["GSM8K"], NAMED.constants.baseline
RIGHT, WRONG = VALUE, VALUE * BASE
LIABILITIES = (np.inf, 0.005, 0.002, 0.0005, 0.0)


@pytest.mark.parametrize("liability", LIABILITIES)
def test_simulated_answers_are_paid_so(liability):
    rule = SecondPriceAuction("per_answer", liability)
    out = rule(rule.truthful(MARKET, USERS), USERS)
    i, level = int(out.winner), None
    level = int(rule.truthful_profile(MARKET, USERS)[i])
    scores = np.asarray(rule.truthful(MARKET, USERS).offered_value)
    rival = max(np.delete(scores, i).max(), 0.0)
    rng, count = np.random.default_rng(2), 10**6
    accuracy = float(MARKET.accuracy[i, level])
    worth = np.where(rng.random(count) < accuracy, RIGHT, WRONG)
    income = np.maximum(worth - rival, -liability)
    error = 3 * income.std() / 1e3 + 1e-15
    assert abs(float(out.payment[i]) - income.mean()) <= error
    assert abs(float(out.income_deviation[i]) - income.std()) <= 3e-3 * income.std() + 1e-12
    share = np.mean(income < 0)
    assert (
        abs(float(out.provider_pays[i]) - share) <= 3 * np.sqrt(share * (1 - share)) / 1e3 + 1e-12
    )
    np.testing.assert_allclose(out.welfare, out.user_value + np.sum(out.provider_utility))
    if liability == np.inf:
        plain = SecondPriceAuction()(honest_bids(MARKET), USERS)
        for name in ("shares", "payment", "welfare", "user_value", "user_cost"):
            np.testing.assert_allclose(
                getattr(out, name), getattr(plain, name), rtol=1e-12, atol=1e-15, err_msg=name
            )


@pytest.mark.parametrize("liability", LIABILITIES)
def test_the_honest_score_is_where_nothing_is_left(liability):
    rule = SecondPriceAuction("per_answer", liability)
    profile = np.arange(9) % 5
    offers = rule.offers(MARKET, profile)
    for i, level in enumerate(profile):
        accuracy, cost = float(MARKET.accuracy[i, level]), float(MARKET.cost[i, level])

        def left(rival, accuracy=accuracy, cost=cost):
            right, wrong = max(RIGHT - rival, -liability), max(WRONG - rival, -liability)
            return accuracy * right + (1 - accuracy) * wrong - cost

        exact = brentq(left, -1.0, RIGHT, xtol=1e-15)
        np.testing.assert_allclose(offers.offered_value[i], exact, rtol=1e-7, atol=1e-13)
        assert float(offers.offered_value[i]) >= float(MARKET.surplus[i, level]) - 1e-15


@pytest.mark.slow
@pytest.mark.parametrize("liability", LIABILITIES)
def test_nobody_gains_by_another_bid(liability):
    rule = SecondPriceAuction("per_answer", liability)
    profile = rule.truthful_profile(MARKET, USERS)
    for space in (
        PriceBid(),
        (GridLevel(), PriceBid()),
        (PriceBid(), QualityReport()),
        TokenReport(),
    ):
        assert float(search(MARKET, USERS, rule, profile, space=space).regret) <= 1e-12, space
    # in this market no other level earns more over the runner-up than the one that scores best
    assert float(search(MARKET, USERS, rule, profile, space=Substitution()).regret) <= 1e-12


def test_a_small_liability_lets_a_worse_provider_win():
    """Of two with the same cost, the rarely right one is not made to pay for its wrong answers."""
    accuracy = np.array([[0.9], [0.3]])
    market = Market.from_curves(
        accuracy, [[100.0], [100.0]], [1e-5, 1e-7], value_per_answer=0.01, baseline=0.0
    )
    plain, users = SecondPriceAuction(), Users.create(1.0)
    limited = SecondPriceAuction("per_answer", 0.0)
    best = int(plain(honest_bids(market), users).winner)
    found = limited(limited.truthful(market, users), users)
    assert best == 0 and int(found.winner) == 1
    assert float(found.welfare) < float(plain(honest_bids(market), users).welfare)


@pytest.mark.slow
def test_batches_populations_types_and_the_contract():
    rule = SecondPriceAuction("per_answer", 0.002)
    markets, users = Published().markets(64)
    found = evaluate(markets, users, rule)
    for j in (0, 17, 63):
        one, who = jax.tree.map(lambda x, j=j: x[j], (markets, users))
        np.testing.assert_allclose(
            found.welfare[j], rule(rule.truthful(one, who), who).welfare, rtol=1e-5
        )
    whole = mechlab.simulate(Published(), 64, rules={"it": rule}).to_dict()["mechanisms"]["it"]
    np.testing.assert_allclose(whole["welfare"]["mean"], np.mean(found.welfare), rtol=1e-5)
    mixed = UserMixture.create([0.5, 0.5], [100.0, 1000.0], value_scale=[0.5, 1.0])
    offers = rule.truthful(MARKET, USERS)
    halved = offers.replace(
        quality=offers.quality / 2,
        reported_quality=offers.reported_quality / 2,
        stake=offers.stake / 2,
    )
    each = [float(rule(one, USERS).user_cost) for one in (halved, offers)]
    np.testing.assert_allclose(rule(offers, mixed).user_cost, np.mean(each), rtol=1e-12)
    slope = jax.grad(
        lambda x: SecondPriceAuction("per_answer", x)(rule.truthful(MARKET, USERS), USERS).user_cost
    )(0.001)
    assert np.isfinite(slope) and slope <= 0


def test_qualities_that_are_not_linear_are_no_payment_under_jit():
    """Where outside jit there is an error, and not another market's numbers."""
    rule = SecondPriceAuction("per_answer", 0.002)
    bent = MARKET.replace(quality=jnp.square(MARKET.quality))
    found = jax.jit(lambda market: evaluate(market, USERS, rule))(bent)
    assert np.isnan(found.user_cost) and np.isnan(found.provider_utility)
    given = SecondPriceAuction("per_answer", 0.002, stake=1e-4)
    assert np.isfinite(jax.jit(lambda market: evaluate(market, USERS, given))(bent).user_cost)


@pytest.mark.slow
def test_it_keeps_the_contract():
    assert check_rule(SecondPriceAuction("per_answer", 0.002)) == ()
    assert check_rule(SecondPriceAuction("per_answer")) == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SecondPriceAuction("later"), "'later' is not known; use 'realised'"),
        (
            lambda: SecondPriceAuction("realised", 0.1),
            "liability and risk_aversion are of 'per_answer'",
        ),
        (lambda: SecondPriceAuction("per_answer", -1.0), "liability = -1.0; give a number"),
        (
            lambda: SecondPriceAuction("per_answer")(honest_bids(MARKET), USERS),
            "offers have no stake to settle by; take them from the rule's `offers`",
        ),
        (
            lambda: SecondPriceAuction("per_answer").truthful(
                MARKET.replace(quality=jnp.square(MARKET.quality)), USERS
            ),
            "quality is not linear in accuracy",
        ),
    ],
)
def test_settlements_that_cannot_be_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
