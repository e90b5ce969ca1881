"""Verifiers that err, checks of a few answers, and providers averse to risk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import honest_bids, markets, users
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

import mechlab
from mechlab import (
    Audited,
    GridLevel,
    InputError,
    Market,
    NoisyAuction,
    PriceBid,
    Published,
    QualityReport,
    SecondPriceAuction,
    TokenTest,
    UserMixture,
    Users,
    Verifier,
    check_rule,
    evaluate,
    regret,
    search,
)

pytestmark = pytest.mark.float64

NAMED = mechlab.data.published("GSM8K")
MARKET, USERS = NAMED.market, Users.create(1000.0)
VALUE, BASE = NAMED.constants.value_per_answer["GSM8K"], NAMED.constants.baseline
STAKE = VALUE * (1 - BASE)
ERRS = Verifier(0.08, 0.15)
rates = st.floats(0.0, 0.5)


@given(rates, rates, st.floats(0.0, 1.0))
def test_a_verifier_measures_what_simulated_verdicts_count(false_positive, false_negative, a):
    found = float(Verifier(false_positive, false_negative).accuracy(a))
    rng = np.random.default_rng(0)
    right = rng.random(40_000) < a
    taken = np.where(
        right, rng.random(40_000) >= false_negative, rng.random(40_000) < false_positive
    )
    assert abs(found - taken.mean()) <= 5 * np.sqrt(found * (1 - found) / 40_000) + 1e-9


@given(rates, rates)
def test_what_is_measured_is_paid_and_decides_the_levels(false_positive, false_negative):
    verifier = Verifier(false_positive, false_negative)
    rule = SecondPriceAuction(verifier=verifier)
    measured = VALUE * BASE + STAKE * np.asarray(verifier.accuracy(MARKET.accuracy))
    score = np.where(MARKET.available, measured - np.asarray(MARKET.cost), -np.inf)
    np.testing.assert_array_equal(rule.truthful_profile(MARKET, USERS), score.argmax(1))
    best = score.max(1)
    i = int(best.argmax())
    level, rival = int(score[i].argmax()), max(np.delete(best, i).max(), 0.0)
    out = rule(rule.truthful(MARKET, USERS), USERS)
    if best[i] > 0:
        assert int(out.winner) == i
        np.testing.assert_allclose(out.payment[i], measured[i, level] - rival, rtol=1e-12)
        np.testing.assert_allclose(
            out.user_value, MARKET.quality[i, level] - measured[i, level] + rival, rtol=1e-9
        )
        np.testing.assert_allclose(
            out.welfare, MARKET.surplus[i, level], rtol=1e-12
        )  # what is truly delivered
    else:
        assert int(out.winner) == -1


@pytest.mark.full
@pytest.mark.parametrize("answer", ["realised", "per_answer"])
@pytest.mark.parametrize(
    "verifier",
    [
        pytest.param(None, marks=pytest.mark.slow),
        pytest.param(Verifier(), marks=pytest.mark.slow),
        ERRS,
    ],
)
def test_truth_as_it_is_measured_is_dominant(verifier, answer):
    rule = SecondPriceAuction(answer, verifier=verifier)
    profile = rule.truthful_profile(MARKET, USERS)
    for space in (
        PriceBid(),
        GridLevel(),
        (GridLevel(), PriceBid()),
        (PriceBid(), QualityReport()),
    ):
        assert float(regret(MARKET, USERS, rule, profile, space=space)) <= 1e-12, space
    if verifier is not ERRS:
        plain = SecondPriceAuction()
        one, other = (rule(rule.truthful(MARKET, USERS), USERS), plain(honest_bids(MARKET), USERS))
        for name in ("welfare", "user_cost", "user_value", "provider_utility"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), atol=1e-15, err_msg=name
            )


def test_the_truth_itself_is_no_longer_best_where_the_verifier_errs():
    """By exact gains over the grid: levels that are best for users are left."""
    rule, markets = SecondPriceAuction(verifier=ERRS), Published().markets(200)
    found = evaluate(*markets, rule)
    best = evaluate(*markets, SecondPriceAuction())
    assert bool(jnp.all(found.welfare <= best.welfare + 1e-9))
    assert float(jnp.mean(found.welfare < best.welfare - 1e-9)) > 0.2
    assert bool(jnp.all(found.price_of_anarchy >= 1.0))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "risk_aversion",
    [
        pytest.param(0.0, marks=SLOW),
        pytest.param(30.0, marks=SLOW),
        300.0,
        pytest.param(3000.0, marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    "liability", [np.inf, pytest.param(0.005, marks=SLOW), 0.001, pytest.param(0.0, marks=SLOW)]
)
def test_averse_providers_bid_what_covers_cost_and_risk(liability, risk_aversion):
    rule = SecondPriceAuction("per_answer", liability, verifier=ERRS, risk_aversion=risk_aversion)
    profile = np.asarray(rule.truthful_profile(MARKET, USERS))
    offers = rule.offers(MARKET, profile)

    def utility(a, cost, rival):
        """−log E exp(−r·income)/r by quadrature over the draw that decides the answer."""
        right = max(VALUE - rival, -liability) - cost
        wrong = max(VALUE * BASE - rival, -liability) - cost
        if not risk_aversion:
            return quad(lambda u: right if u < a else wrong, 0, 1, points=[a])[0]
        worse = min(right, wrong)  # taken out, so that nothing under- or overflows
        mean = quad(
            lambda u: np.exp(-risk_aversion * ((right if u < a else wrong) - worse)),
            0,
            1,
            points=[a],
        )[0]
        return worse - np.log(mean) / risk_aversion

    scores = np.asarray(offers.offered_value)
    for i, level in enumerate(profile):
        a = float(ERRS.accuracy(MARKET.accuracy[i, level]))
        cost = float(MARKET.cost[i, level])
        if scores[i] < -1e6:  # no V₂ is low enough
            assert (1 - a) * np.exp(risk_aversion * (liability + cost)) >= 1
            continue
        exact = brentq(lambda v, a=a, c=cost: utility(a, c, v), -10.0, VALUE, xtol=1e-15)
        np.testing.assert_allclose(scores[i], exact, rtol=1e-6, atol=1e-11)
    out = rule(offers, USERS)
    i = int(out.winner)
    rival = max(np.delete(scores, i).max(), 0.0)
    a = float(ERRS.accuracy(offers.accuracy[i]))
    np.testing.assert_allclose(
        out.provider_utility[i], utility(a, float(offers.cost[i]), rival), rtol=1e-7, atol=1e-13
    )
    np.testing.assert_allclose(out.welfare, out.user_value + np.sum(out.provider_utility))
    for space in (PriceBid(), (PriceBid(), QualityReport())):
        assert float(regret(MARKET, USERS, rule, profile, space=space)) <= 1e-12, space


def test_aversion_near_zero_is_none():
    exact, near = (SecondPriceAuction("per_answer", 0.002, risk_aversion=r) for r in (0.0, 1e-7))
    one, other = (rule(rule.truthful(MARKET, USERS), USERS) for rule in (exact, near))
    np.testing.assert_allclose(one.provider_utility, other.provider_utility, rtol=1e-6, atol=1e-12)
    slope = jax.grad(
        lambda r: (
            SecondPriceAuction("per_answer", 0.002, risk_aversion=r)(
                exact.truthful(MARKET, USERS), USERS
            ).welfare
        )
    )
    assert float(slope(100.0)) < 0
    risky = SecondPriceAuction("per_answer")
    held = risky.truthful(MARKET, USERS)

    def welfare(r):  # of bids that are held
        return SecondPriceAuction("per_answer", risk_aversion=r)(held, USERS).welfare

    beside = (welfare(1e-3) - welfare(0.0)) / 1e-3
    np.testing.assert_allclose(jax.grad(welfare)(0.0), beside, rtol=1e-3)


@pytest.mark.parametrize("answers", [3, 40, 1000])
def test_checks_of_a_few_answers_are_the_means_of_simulated_ones(answers):
    """Binomial counts of verdicts, by their normal approximation; shares and payments."""
    rule = NoisyAuction(1e-5, answers=answers, verifier=ERRS)
    offers = rule.truthful(MARKET, USERS)
    out = rule(offers, USERS)
    measured = np.asarray(ERRS.accuracy(offers.accuracy))
    deviation = np.sqrt(1e-10 + STAKE**2 * measured * (1 - measured) / answers)
    rng, draws = np.random.default_rng(1), 200_000
    score = np.asarray(offers.offered_value)
    seen = score + deviation * rng.standard_normal((draws, len(score)))
    order, winner = np.sort(seen, axis=1), seen.argmax(1)
    trade = order[:, -1] >= 0
    paid = np.asarray(offers.reported_quality)[winner] - np.maximum(order[:, -2], 0.0)
    paid = np.where(trade, paid, 0.0)
    worth = np.where(trade, np.asarray(offers.quality - offers.cost)[winner], 0.0)
    for name, drawn in (("user_cost", paid), ("welfare", worth)):
        assert abs(float(getattr(out, name)) - drawn.mean()) < 4 * drawn.std() / draws**0.5 + 1e-12
    shares = np.array([np.mean(trade & (winner == i)) for i in range(len(score))])
    np.testing.assert_allclose(out.shares, shares, atol=4 * 0.5 / draws**0.5)


def test_scores_of_very_unequal_noise_are_integrated_exactly():
    """One provider hardly checked beside others measured a thousand times as well."""
    offers = honest_bids(MARKET)
    accuracy = jnp.asarray([0.5, *[1e-9] * 8])
    offers = offers.replace(accuracy=accuracy, stake=jnp.full(9, STAKE))
    rule = NoisyAuction(0.0, answers=4)
    out = rule(offers, USERS)
    score, sigma = np.asarray(offers.offered_value), np.asarray(rule.deviation(offers))
    assert sigma.max() / sigma.min() > 1e4
    best = score[1:].max()
    np.testing.assert_allclose(out.shares[0], norm.sf((best - score[0]) / sigma[0]), atol=1e-6)
    np.testing.assert_allclose(np.sum(out.shares), 1.0, atol=1e-9)


@pytest.mark.slow
@given(markets(max_providers=4), users())
def test_all_answers_checked_by_who_never_errs_is_the_second_price_auction(market, crowd):
    plain = SecondPriceAuction()(honest_bids(market), crowd)
    stake = 1e-3
    rule = NoisyAuction(0.0, answers=1e30, verifier=Verifier(), stake=stake)
    found = rule(rule.truthful(market, crowd), crowd)
    scores = np.sort(np.append(np.asarray(honest_bids(market).offered_value), crowd.outside_value))
    if np.all(np.diff(scores) > 1e-9 * np.abs(scores).max()):  # ties are decided by chance
        np.testing.assert_allclose(found.shares, plain.shares, atol=1e-7)
        np.testing.assert_allclose(found.welfare, plain.welfare, rtol=1e-6, atol=1e-12)


@pytest.mark.full
def test_traced_and_eager_are_one():
    def numbers(f, m, r):
        verifier = Verifier(f, 0.1)
        rules = (
            SecondPriceAuction("per_answer", 0.002, verifier=verifier, risk_aversion=r),
            NoisyAuction(1e-5, answers=m, verifier=verifier),
            Audited(SecondPriceAuction(verifier=verifier), 0.1, TokenTest(), 0.001),
        )
        return [evaluate(MARKET, USERS, rule).user_cost for rule in rules]

    eager = numbers(0.05, 50.0, 10.0)
    np.testing.assert_allclose(jax.jit(numbers)(0.05, 50.0, 10.0), eager, rtol=1e-9)
    slopes = jax.jacobian(numbers, argnums=(0, 1, 2))(0.05, 50.0, 10.0)
    step = 1e-5
    for i, name in enumerate(("false_positive", "answers", "risk_aversion")):
        at = [0.05, 50.0, 10.0]
        ends = []
        for sign in (1, -1):
            moved = list(at)
            moved[i] += sign * step
            ends.append(numbers(*moved))
        beside = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
        for j in range(3):
            np.testing.assert_allclose(
                slopes[j][i], beside[j], rtol=1e-4, atol=1e-9, err_msg=f"{name} of {j}"
            )


ALIKE = Market.from_curves([[0.7], [0.7]], [[10.0], [20.0]], 1e-5, value_per_answer=0.01)


@pytest.mark.parametrize(
    "rule",
    [
        NoisyAuction(answers=10),
        SecondPriceAuction(verifier=ERRS),
        SecondPriceAuction("per_answer", 0.0),
    ],
)
def test_a_stake_that_the_market_does_not_show_is_asked_for(rule):
    with pytest.raises(InputError, match="all accuracies of a market are the same"):
        rule.truthful(ALIKE, USERS)
    blind = jax.jit(lambda m: rule(rule.truthful(m, USERS), USERS).user_cost)(ALIKE)
    given = dataclasses.replace(rule, stake=0.01)
    assert np.isnan(blind) and np.isfinite(given(given.truthful(ALIKE, USERS), USERS).welfare)


def test_slopes_are_finite_where_an_answer_is_sure():
    sure = Market.from_curves(
        [[0.5, 1.0], [0.4, 0.7]], [[10.0, 20.0]] * 2, 1e-6, value_per_answer=0.01
    )

    def welfare(answers):
        rule = NoisyAuction(answers=answers)
        return rule(rule.truthful(sure, USERS), USERS).welfare

    beside = (welfare(10.001) - welfare(9.999)) / 0.002
    np.testing.assert_allclose(jax.grad(welfare)(10.0), beside, rtol=1e-3)


@pytest.mark.slow
def test_noise_of_a_batch_is_not_that_of_types():
    """Two markets with a noise each, and two types of users."""
    mixed = UserMixture.create([0.5, 0.5], 1000.0, value_scale=[0.5, 1.0])
    noise, offers = jnp.asarray([1e-5, 1e-3]), honest_bids(MARKET)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), offers)
    crowd = jax.tree.map(lambda x: jnp.stack([x, x]), mixed)
    for name in ("noise", "answers"):
        staked = NoisyAuction(answers=1.0).truthful(MARKET, USERS)
        one = offers if name == "noise" else staked
        many = two if name == "noise" else jax.tree.map(lambda x: jnp.stack([x, x]), staked)
        values = noise if name == "noise" else 1.0 / noise
        both = NoisyAuction(**{name: values})(many, crowd)
        for j in range(2):
            alone = NoisyAuction(**{name: values[j]})(one, mixed)
            np.testing.assert_allclose(both.shares[j], alone.shares, atol=1e-12)


@pytest.mark.slow
def test_batches_and_float32():
    rule = NoisyAuction(0.0, answers=25, verifier=ERRS)
    many = Published().markets(32)
    single, double = (
        rule(rule.truthful(m, u), u)
        for m, u in (
            many,
            jax.tree.map(lambda x: x if x.dtype == bool else x.astype(np.float64), many),
        )
    )
    np.testing.assert_allclose(single.welfare, double.welfare, rtol=1e-4)
    np.testing.assert_allclose(single.shares, double.shares, atol=1e-5)

    def welfare(answers):
        few = NoisyAuction(answers=answers)
        return jnp.mean(few(few.truthful(*many), many[1]).welfare)

    for answers in (10.0, 1e3, 1e5):
        step = 0.03 * answers
        beside = (welfare(answers + step) - welfare(answers - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(welfare)(answers), beside, rtol=0.05, atol=1e-10)


@pytest.mark.full
@pytest.mark.parametrize(
    "rule",
    [
        SecondPriceAuction(verifier=ERRS),
        SecondPriceAuction("per_answer", 0.002, verifier=ERRS, risk_aversion=100.0),
        NoisyAuction(1e-5, answers=30, verifier=ERRS),
    ],
)
def test_they_keep_the_contract(rule):
    assert check_rule(rule) == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Verifier(1.2), "false_positive = 1.2 is above 1"),
        (lambda: Verifier(0.1, -0.1), "false_negative = -0.1 is below 0"),
        (lambda: SecondPriceAuction(verifier=0.1), "verifier: a float; give mechlab.Verifier"),
        (lambda: SecondPriceAuction("reported", verifier=ERRS), "a verifier is of 'realised'"),
        (lambda: SecondPriceAuction(risk_aversion=1.0), "risk_aversion are of 'per_answer'"),
        (lambda: SecondPriceAuction("per_answer", risk_aversion=-1.0), "risk_aversion = -1"),
        (lambda: SecondPriceAuction(stake=0.01), "nothing is settled by it; give a verifier"),
        (lambda: NoisyAuction(answers=0), "answers = 0 is not above 0.0; give how many"),
        (lambda: NoisyAuction(verifier="me"), "verifier: a str; give mechlab.Verifier"),
        (lambda: NoisyAuction(0.1, stake=1.0), "nothing is settled by it"),
        (lambda: NoisyAuction(answers=3)(honest_bids(MARKET), USERS), "offers have no stake"),
        (
            lambda: evaluate(
                MARKET.replace(quality=jnp.square(MARKET.quality)), USERS, NoisyAuction(answers=9)
            ),
            "quality is not linear in accuracy",
        ),
    ],
)
def test_verifiers_that_cannot_be_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_search_tries_honest_bids_of_other_levels_as_the_rule_has_them():
    """A level alone, bid at its break-even price and not at its cost."""
    rule = SecondPriceAuction("per_answer", 0.001)
    low = np.zeros(9, int)
    found = search(MARKET, USERS, rule, low, space=GridLevel())
    start = rule(rule.offers(MARKET, low), USERS).provider_utility
    for i in range(9):
        best = 0.0
        for level in range(int(MARKET.available[i].sum())):
            honest = rule.offers(MARKET, low.copy() + level * (np.arange(9) == i))
            held = rule.offers(MARKET, low)
            swapped = honest.replace(price=held.price, reported_quality=held.reported_quality)
            for offers in (honest, swapped):
                best = max(best, float(rule(offers, USERS).provider_utility[i] - start[i]))
        np.testing.assert_allclose(found.gain[i], best, atol=1e-14)
