"""Audits: payments by hand, the tests' power by simulation, the least rate in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import mechlab
from mechlab import (
    Audited,
    Family,
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Mechanism,
    NestedLogit,
    PayPerCompute,
    QualityReport,
    SecondPriceAuction,
    SequentialTest,
    Substitution,
    TokenReport,
    TokenTest,
    UserMixture,
    Users,
    better_response,
    check_rule,
    grid_deviations,
    least_deterrent,
    search,
)

pytestmark = pytest.mark.float64

MARKET, USERS = mechlab.data.published("GSM8K").market, Users.create(1000.0)


def lying(profile, bill=1.0, served=None):
    """Offers at a profile, with bills and the levels served instead."""
    offers = MARKET.at(profile, "price")
    other = offers if served is None else MARKET.at(served, "price")
    return other.replace(
        reported_quality=offers.reported_quality,
        price=offers.price,
        announced_tokens=offers.tokens,
        bill=jnp.full(9, bill),
    )


def test_what_is_found_is_returned_and_fined():
    profile, served = np.full(9, 2), np.full(9, 1)
    offers = lying(profile, 1.4, served)
    rate, fine, power = 0.3, 0.002, TokenTest(50, 0.05, 0.8)
    plain = PayPerCompute()(offers, USERS)
    found = Audited(PayPerCompute(), rate, power, fine)(offers, USERS)
    price = np.asarray(MARKET.price)[:, 2]
    tokens = np.asarray(MARKET.tokens)
    size = 1.4 * tokens[:, 2] / tokens[:, 1]
    chance = stats.norm.cdf(((size - 1) * np.sqrt(50) / 0.8 - stats.norm.ppf(0.95)) / size)
    over = 1.4 * price * (1 - 1 / size)
    np.testing.assert_allclose(found.shares, plain.shares, rtol=1e-12)
    np.testing.assert_allclose(
        found.payment, 1.4 * price - rate * chance * (over + fine), rtol=1e-9
    )
    np.testing.assert_allclose(
        found.welfare, found.user_value + np.sum(found.provider_utility), rtol=1e-12
    )
    honest = Audited(PayPerCompute(), rate, power, fine)(MARKET.at(profile, "price"), USERS)
    np.testing.assert_allclose(honest.payment, price - rate * 0.05 * fine, rtol=1e-9)
    # an auction bills no tokens: nothing is returned
    bid = Audited(SecondPriceAuction(), rate, power, fine)(offers, USERS)
    plain = SecondPriceAuction()(offers, USERS)
    wins = np.asarray(plain.shares) > 0
    np.testing.assert_allclose(
        (plain.payment - bid.payment)[wins], rate * fine * chance[wins], rtol=1e-9
    )


def test_power_is_that_of_simulated_checks():
    rng = np.random.default_rng(3)
    for lie in (1.0, 1.1, 1.3):
        bills = lie * (1 + 0.5 * rng.standard_normal((20_000, 100)))
        reach = 1 + stats.norm.ppf(0.99) * 0.5 / np.sqrt(100)
        seen = np.mean(bills.mean(axis=1) > reach)
        error = 3 * np.sqrt(max(seen * (1 - seen), 1e-4) / 20_000)
        assert abs(float(TokenTest()(lie)) - seen) <= error
        step = 0.2 / 0.5
        ratio = np.cumsum(step * (bills - 1) / 0.5 - step**2 / 2, axis=1)
        crossed = np.mean(ratio.max(axis=1) >= np.log(100))
        assert abs(float(SequentialTest()(lie)) - crossed) <= 0.03
    assert float(SequentialTest()(1.0)) <= 0.01 and float(TokenTest()(1.0)) == pytest.approx(0.01)


@pytest.mark.parametrize("fine", [0.005, 0.05])
def test_the_least_rate_is_the_closed_form(fine):
    """max over lies of (ρ−1)p/(power(ρ)((ρ−1)p + fine) − power(1)·fine), at the dearest bill."""
    profile = mechlab.equilibrium(MARKET, USERS).profile
    price = np.asarray(MARKET.at(profile, "price").price)[:, None]
    power = TokenTest()
    lies = np.concatenate([1 + np.logspace(-6, -2, 2000), np.linspace(1.01, 2.0, 20_000)])
    over = (lies - 1) * price
    rates = over / (np.asarray(power(lies)) * (over + fine) - 0.01 * fine)
    exact = rates.max()
    found = least_deterrent(MARKET, USERS, PayPerCompute(), profile=profile, fine=fine)
    if exact > 1:
        assert not found.enough and "no rate is enough" in str(found)
        return
    # the smallest lies are worth so little that they count a little later
    assert found.enough and 0 <= exact - found.rate <= 5e-3 * exact
    for rate in np.linspace(0, 1, 9):
        rule = Audited(PayPerCompute(), rate, power, fine)
        gains = float(search(MARKET, USERS, rule, profile, space=TokenReport()).regret)
        assert (gains > 1e-11) == (rate < found.rate)


@pytest.mark.slow
def test_audits_that_are_never_enough_say_so():
    none = least_deterrent(MARKET, USERS, PayPerCompute(), power=lambda lie: 0.0 * lie, fine=0.01)
    assert not none.enough and np.isnan(none.rate) and none.regret == pytest.approx(none.without)
    assert "raise the fine, or the power" in str(none)
    free = least_deterrent(MARKET, USERS, PayPerCompute(), fine=0.0)
    assert not free.enough
    safe = least_deterrent(MARKET, USERS, FixedPrice(0.001))
    assert safe.enough and safe.rate == 0.0
    auction = least_deterrent(MARKET, USERS, SecondPriceAuction(), space=Substitution())
    assert auction.rate == 0.0
    # under first price what is played is a markup, and serving less pays on top of it
    first = least_deterrent(MARKET, USERS, FirstPriceAuction(), space=Substitution(), fine=0.01)
    assert first.without > 0


def test_serving_less_is_found_by_its_tokens():
    profile = mechlab.equilibrium(MARKET, USERS).profile
    found = least_deterrent(
        MARKET, USERS, PayPerCompute(), profile=profile, space=Substitution(), fine=0.01
    )
    assert 0 < found.rate < 1 and found.without > 1e-4
    # another model with as many tokens is not found by counting them
    tokens = np.broadcast_to(np.asarray(MARKET.tokens)[:1], MARKET.tokens.shape)
    alike = MARKET.replace(tokens=jnp.asarray(tokens))
    same = least_deterrent(
        alike,
        USERS,
        PayPerCompute(),
        profile=np.full(9, 2),
        space=Substitution(to=0, level=2),
        fine=0.01,
    )
    assert not same.enough


def test_an_auction_of_its_own_bids_keeps_them_when_it_is_audited():
    rule = SecondPriceAuction("per_answer", 0.002)
    found = Audited(rule, 0.3, TokenTest(), 0.002)
    plain = rule(rule.truthful(MARKET, USERS), USERS)
    out = found(found.truthful(MARKET, USERS), USERS)
    winner = int(plain.winner)
    assert int(out.winner) == winner
    np.testing.assert_allclose(out.payment[winner], plain.payment[winner] - 0.3 * 0.01 * 0.002)
    np.testing.assert_allclose(out.income_deviation, plain.income_deviation)
    best = mechlab.evaluate(MARKET, USERS, found).optimal_welfare
    np.testing.assert_allclose(best, mechlab.evaluate(MARKET, USERS, rule).optimal_welfare)


@dataclasses.dataclass
class Unhashed:
    def __call__(self, lie):
        return 0.5 + 0 * lie


class Own(Mechanism):
    """Pay-per-compute of which the lab knows nothing but `allocate`."""

    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)


@pytest.mark.full
def test_every_rule_is_audited_alike():
    profile = np.full(9, 2)
    mixed = UserMixture.create([0.5, 0.5], [300.0, 3000.0])
    offers = lying(profile, 1.4)
    for users in (USERS, mixed):
        outs = [
            Audited(rule, 0.3, TokenTest(), 0.002)(offers, users)
            for rule in (PayPerCompute(), Own())
        ]
        np.testing.assert_allclose(outs[0].payment, outs[1].payment, rtol=1e-12)
        regrets = [
            float(
                search(
                    MARKET,
                    users,
                    Audited(rule, 0.3, TokenTest(), 0.002),
                    profile,
                    space=TokenReport(),
                ).regret
            )
            for rule in (PayPerCompute(), Own())
        ]
        assert regrets[0] == pytest.approx(regrets[1], rel=1e-3)
    for rule in (
        Audited(PayPerCompute(), 0.3, TokenTest(), 0.002),
        Audited(SecondPriceAuction(), 0.3, SequentialTest(), 0.002),
    ):
        assert check_rule(rule) == ()
    nested = NestedLogit(("a",) * 4 + ("b",) * 5, 0.5)
    bills = [
        Audited(r, 0.3, TokenTest(), 0.002)(offers, USERS).payment
        for r in (nested, PayPerCompute())
    ]
    np.testing.assert_allclose(*bills, rtol=1e-12)
    jitted = jax.jit(lambda rate: Audited(PayPerCompute(), rate)(offers, USERS).user_cost)
    slope = jax.grad(jitted)(0.3)
    step = (jitted(0.3001) - jitted(0.2999)) / 2e-4
    assert float(slope) == pytest.approx(float(step), rel=1e-6) and float(slope) < 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Audited(PayPerCompute(), 1.5), "rate = 1.5 is above 1"),
        (lambda: Audited(PayPerCompute(), 0.5, fine=-1.0), "fine = -1 is below 0"),
        (lambda: Audited(0.5, 0.5), "rule is a float; give a rule first"),
        (lambda: Audited(PayPerCompute(), 0.5, lambda lie: lie), "a chance lies within"),
        (lambda: Audited(PayPerCompute(), 0.5, lambda lie: 1 / lie), "power falls from"),
        (lambda: Audited(PayPerCompute(), 0.5, Unhashed()), "a Unhashed without a hash"),
        (lambda: Audited(PayPerCompute(), 0.5, 0.3), "power: a float; give a function"),
        (lambda: TokenTest(answers=0), "answers = 0; a check is of at least one"),
        (lambda: TokenTest(level=1.0), "level = 1.0; give the chance"),
        (lambda: TokenTest(spread=0.0), "spread = 0.0; give a standard deviation"),
        (lambda: SequentialTest(size=1.0), "size = 1.0; a lie bills more"),
        (
            lambda: least_deterrent(MARKET, USERS, Audited(PayPerCompute(), 0.5)),
            "give the rule without audits",
        ),
    ],
)
def test_audits_that_cannot_be_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_an_audited_auction_is_compared_level_by_level_as_it_pays():
    """Where the rule bids, a fine by mistake is in what is earned and not in the bid."""
    rule = Audited(SecondPriceAuction(), 0.2, fine=0.001)
    reached = better_response(MARKET, USERS, rule)
    assert bool(reached.converged)
    gains = grid_deviations(MARKET, USERS, rule, reached.profile)
    assert float(gains.regret) <= 1e-12
    profile = jnp.zeros(9, int)
    earned = grid_deviations(MARKET, USERS, rule, profile).level_utility
    for i in (0, 8):
        gain = rule.levels.gains(MARKET, USERS, profile, i)
        np.testing.assert_allclose(gain, earned[i] - earned[i, 0], atol=1e-15)


def test_an_audited_auction_is_searched_among_several_types():
    types = UserMixture.create([0.5, 0.5], [500.0, 2000.0], 0.0, [1.0, 1.2])
    rule = Audited(SecondPriceAuction("reported"), 0.2, fine=0.001)
    profile = np.asarray(rule.truthful_profile(MARKET, types))
    space = QualityReport(0.5, 1.5)
    found = search(MARKET, types, rule, profile, space=space, restarts=2, steps=5)
    offers = rule.offers(MARKET, profile)
    i = int(np.argmax(found.gain))
    moved = jax.tree.map(lambda x, y: x.at[i].set(y[i]), offers, found.offers)
    earned = [rule(bids, types).provider_utility[i] for bids in (moved, offers)]
    assert float(found.gain[i]) > 0
    np.testing.assert_allclose(earned[0] - earned[1], found.gain[i], rtol=1e-9)


def test_audited_posted_prices_are_learned_at_their_equilibrium():
    free = {"rate": (0.0, 0.1)}
    assert Family(Audited, free, {"rule": PayPerCompute()}).posted
    assert not Family(Audited, free, {"rule": SecondPriceAuction()}).posted
