"""Bills that lie and models that are swapped, in every rule, against formulas by hand."""

import itertools

import drawn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mechlab
from mechlab import (
    ContinuousCompute,
    FirstPriceAuction,
    FixedPrice,
    GridLevel,
    InputError,
    NestedLogit,
    PayPerCharacter,
    PayPerCompute,
    PriceMultiplier,
    Published,
    QualityReport,
    ScoringAuction,
    SecondPriceAuction,
    Substitution,
    Tariff,
    TokenReport,
    Users,
    certify,
    coalitions,
    search,
)

pytestmark = pytest.mark.float64


def shares_of(market, users, profile, rule):
    return np.asarray(rule(rule.offers(market, profile), users).shares)


PROFILE = np.zeros((drawn.BATCH, 3), int)


@pytest.mark.slow
@given(drawn.batches(providers=(3,)), st.sampled_from([1.1, 1.7, 3.0]))
def test_a_token_too_many_is_paid_by_those_who_came_for_the_price_announced(batch, most):
    market, users = batch
    found = search(market, users, PayPerCompute(), PROFILE, space=TokenReport(1.0, most))
    share = shares_of(market, users, PROFILE, PayPerCompute())
    price = np.asarray(market.price)[..., 0]
    np.testing.assert_allclose(found.gain, share * (most - 1) * price, rtol=1e-9, atol=1e-18)
    gains = np.asarray(found.gain) > 0
    np.testing.assert_allclose(np.asarray(found.offers.bill)[gains], most, rtol=1e-9)


@given(drawn.batches(providers=(3,)), st.booleans())
def test_a_level_that_is_served_for_another_is_paid_as_the_one_announced(batch, other):
    market, users = batch
    space = Substitution(to=1) if other else Substitution()
    share = shares_of(market, users, PROFILE, PayPerCompute())
    found = search(market, users, PayPerCompute(), PROFILE, space=space)
    cost = np.asarray(market.cost)
    cheapest = np.where(np.asarray(market.available), cost, np.inf).min(axis=-1)
    cheapest = cheapest[:, 1:2] if other else cheapest
    gain = np.maximum(share * (cost[..., 0] - cheapest), 0.0)
    np.testing.assert_allclose(found.gain, gain, rtol=1e-9, atol=1e-18)
    gains = np.asarray(found.gain) > 0
    offers = found.offers
    np.testing.assert_allclose(offers.reported_quality, market.quality[..., 0], rtol=1e-12)
    np.testing.assert_allclose(offers.price, market.price[..., 0], rtol=1e-12)
    assert np.all(np.asarray(offers.cost)[gains] < cost[..., 0][gains])
    alone = search(market, users, PayPerCompute(), PROFILE, space=Substitution(to=2, level=0))
    gain = np.maximum(share * (cost[..., 0] - cost[:, 2:, 0]), 0.0)
    np.testing.assert_allclose(alone.gain, gain, rtol=1e-9, atol=1e-18)


def test_a_level_is_announced_and_another_one_served():
    """GridLevel with Substitution: every pair of levels, tried by hand."""
    market, users = mechlab.data.published("GSM8K").market, Users.create(1000.0)
    rule = PayPerCompute()
    profile = np.asarray(mechlab.equilibrium(market, users).profile)
    found = search(market, users, rule, profile, space=(GridLevel(), Substitution()))
    now = np.asarray(rule(market.at(profile, "price"), users).provider_utility)
    price, cost = np.asarray(market.price), np.asarray(market.cost)
    n, levels = market.providers, range(market.levels)
    moved = np.tile(profile, (n, len(levels), 1))
    for i, announced in itertools.product(range(n), levels):
        moved[i, announced, i] = announced
    shares = shares_of(market, users, moved, rule)
    for i in range(n):
        best = max(shares[i, k, i] * (price[i, k] - cost[i].min()) - now[i] for k in levels)
        np.testing.assert_allclose(found.gain[i], max(best, 0.0), rtol=1e-9)


@pytest.mark.parametrize(
    ("rule", "safe"),
    [
        (PayPerCharacter(1e-6, 800.0), (TokenReport(),)),
        (FixedPrice(1e-3), (TokenReport(),)),
        (SecondPriceAuction(), (TokenReport(), Substitution(), Substitution(to=3))),
        (SecondPriceAuction("reported"), (TokenReport(),)),
        (FirstPriceAuction(), (TokenReport(),)),
        (ScoringAuction(), (TokenReport(), Substitution())),
    ],
    ids=lambda x: type(x).__name__ if hasattr(x, "allocate") else "",
)
def test_what_each_rule_is_safe_from(rule, safe):
    market, users = mechlab.data.published("GSM8K").market, Users.create(1000.0)
    profile = market.best_surplus_profile()
    if rule.asking == "price":
        profile = mechlab.equilibrium(market, users, rule).profile
    for space in safe:
        assert float(search(market, users, rule, profile, space=space).regret) <= 1e-12, space
    if rule.asking == "price" or not isinstance(rule, SecondPriceAuction | ScoringAuction):
        assert float(search(market, users, rule, profile, space=Substitution()).regret) > 1e-6
    if isinstance(rule, SecondPriceAuction) and rule.settlement == "reported":
        assert float(search(market, users, rule, profile, space=Substitution()).regret) > 1e-6


@pytest.mark.parametrize("fee", [1e-7, 1e-6, 5e-6, -1e-7])
def test_a_fee_is_charged_for_the_tokens_that_are_served(fee):
    """Under realised settlement another level than the one announced brings nothing."""
    market, users = mechlab.data.published("GSM8K").market, Users.create(1000.0)
    rule = ScoringAuction(fee=fee)
    profile = rule.truthful_profile(market, users)
    assert np.any(np.asarray(profile) != np.asarray(market.best_surplus_profile()))
    for space in (Substitution(), Substitution(to=3)):
        assert float(search(market, users, rule, profile, space=space).regret) <= 1e-12, space


def test_tariffs_and_nests_bill_what_they_would_post():
    market, users = mechlab.data.published("GSM8K").market, Users.create(1000.0)
    offers = market.at(np.zeros(9, int), "price")
    lying = offers.replace(bill=np.full(9, 1.5))
    rule = Tariff(per_answer=1e-4, pass_through=0.5, token_cap=1e-7)
    honest, found = rule(offers, users), rule(lying, users)
    np.testing.assert_allclose(found.shares, honest.shares, rtol=1e-12)
    expected = 1e-4 + 0.5 * np.minimum(1.5 * offers.price, 1.5 * offers.tokens * 1e-7)
    np.testing.assert_allclose(found.payment, expected, rtol=1e-12)
    nested = NestedLogit(("a",) * 4 + ("b",) * 5, 0.5)
    np.testing.assert_allclose(nested(lying, users).payment, 1.5 * offers.price, rtol=1e-12)
    np.testing.assert_allclose(nested(lying, users).shares, nested(offers, users).shares)
    swapped = offers.replace(tokens=offers.tokens / 2, announced_tokens=offers.tokens)
    np.testing.assert_allclose(rule(swapped, users).payment, honest.payment, rtol=1e-12)


@pytest.mark.full
def test_lies_go_with_every_other_lever_and_with_partners():
    market, users = mechlab.data.published("GSM8K").market, Users.create(1000.0)
    profile = mechlab.equilibrium(market, users).profile
    rule = PayPerCompute()
    each = [float(search(market, users, rule, profile, space=x).regret) for x in (TokenReport(),)]
    space = (ContinuousCompute(), PriceMultiplier(), QualityReport(), TokenReport(), Substitution())
    everything = search(market, users, rule, profile, space=space)
    assert float(everything.regret) > max(each)
    # what is found is what the rule gives
    for i in np.flatnonzero(np.asarray(everything.gain) > 0):
        offers = jax.tree.map(
            lambda now, then, i=i: np.where(np.arange(9) == i, then, now),
            market.at(profile, "price").replace(
                bill=np.ones(9), announced_tokens=market.at(profile, "price").tokens
            ),
            everything.offers,
        )
        earned = float(rule(offers, users).provider_utility[i])
        np.testing.assert_allclose(
            earned, float(everything.utility[i] + everything.gain[i]), rtol=1e-9
        )
    pairs = coalitions(market, users, rule, profile, space=(TokenReport(), Substitution(to=0)))
    alone = search(market, users, rule, profile, space=(TokenReport(), Substitution(to=0)))
    members = np.asarray(pairs.members)
    np.testing.assert_allclose(
        pairs.gain, np.asarray(alone.gain)[members].sum(axis=1), rtol=1e-6, atol=1e-12
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("rule", "start", "space", "losing"),
    [
        (PayPerCompute(), "optimum", GridLevel(), 0.9),
        (PayPerCompute(), "equilibrium", TokenReport(), 0.9),
        (PayPerCompute(), "equilibrium", Substitution(), 0.9),
        (FixedPrice(0.001), "equilibrium", GridLevel(), 0.0),
        (FixedPrice(0.001), "equilibrium", TokenReport(), 0.0),
        (FixedPrice(0.001), "equilibrium", Substitution(), 0.7),
        (SecondPriceAuction(), "truthful", GridLevel(), 0.0),
        (SecondPriceAuction(), "truthful", TokenReport(), 0.0),
        (SecondPriceAuction(), "truthful", Substitution(), 0.0),
        (SecondPriceAuction("reported"), "truthful", TokenReport(), 0.0),
        (SecondPriceAuction("reported"), "truthful", Substitution(), 0.9),
    ],
)
def test_who_survives_what_over_published_markets(rule, start, space, losing):
    found = certify(Published(), rule, 4000, space, start=start)
    if losing:
        assert found.share_profitable >= losing
    else:
        assert found.regret.largest <= 1e-6
    if isinstance(space, TokenReport) and losing:
        assert found.directions["over_billed"]["count"] == 1.0
    assert ("over_billed" in found.directions) == isinstance(space, TokenReport)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, u, p: TokenReport(1.5, 2.0), "hold no truth, which is 1"),
        (lambda m, u, p: TokenReport(2.0, 1.5), "are empty; low has to be below high"),
        (lambda m, u, p: Substitution(to=-1), "Substitution: to"),
        (
            lambda m, u, p: search(m, u, PayPerCompute(), p, space=Substitution(to=9)),
            "to = 9, where the market has 9 providers, from 0",
        ),
        (
            lambda m, u, p: search(m, u, PayPerCompute(), p, space=Substitution(level=6)),
            "level = 6, where the market has 6 levels, from 0",
        ),
        (
            lambda m, u, p: search(
                m, u, PayPerCompute(), p, space=(Substitution(), Substitution(to=1))
            ),
            "Substitution and Substitution move the same thing",
        ),
        (
            lambda m, u, p: coalitions(m, u, PayPerCompute(), p, space=Substitution()),
            "pairs search continuous coordinates",
        ),
        (lambda m, u, p: PayPerCharacter(-1.0), "price = -1.0: give a finite number"),
    ],
)
def test_lies_that_cannot_be_told_are_named(call, words):
    market = mechlab.data.published("GSM8K").market
    with pytest.raises(InputError, match=words):
        call(market, Users.create(1000.0), np.zeros(9, int))


MISREPORTED = mechlab.Market.from_arrays(
    quality=[[0.010, 0.014], [0.008, 0.011]],
    price=[[0.002, 0.005], [0.001, 0.002]],
    cost=[[0.001, 0.003], [0.0005, 0.0015]],
    tokens=[[100.0, 300.0], [50.0, 200.0]],
    compute=[[1.0, 4.0], [1.0, 4.0]],
)
BILLING_RULES = [
    PayPerCompute(),
    Tariff(per_answer=0.001, token_cap=8e-6),
    NestedLogit([0, 1], 0.5),
    FixedPrice(0.003),
    SecondPriceAuction(),
    ScoringAuction(fee=1e-6),
]


@pytest.mark.parametrize("rule", BILLING_RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("factor", [2.0, 0.5, 1.0, [3.0, 1.0]], ids=str)
def test_a_bill_that_is_not_given_is_one_of_1(rule, factor):
    """Of tokens announced, whoever generated them: `lie` is announced over generated."""
    users = Users.create(300.0)
    honest = rule.truthful(MISREPORTED, users)
    silent = honest.replace(announced_tokens=honest.tokens * np.asarray(factor))
    told = silent.replace(bill=np.ones(2))
    np.testing.assert_allclose(silent.lie, np.broadcast_to(factor, 2), rtol=1e-12)
    np.testing.assert_allclose(silent.lie, told.lie, rtol=1e-12)
    np.testing.assert_allclose(silent.honestly_billed().lie, 1.0, rtol=1e-12)
    for held in (rule, mechlab.Audited(rule, 0.3, fine=0.01)):
        for name in ("shares", "payment", "provider_utility", "user_value", "welfare"):
            mine, theirs = (getattr(held(x, users), name) for x in (silent, told))
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("rule", [PayPerCompute(), SecondPriceAuction()], ids=["posted", "auction"])
@pytest.mark.parametrize("fields", [("announced_tokens",), ("bill",)], ids=" ".join)
def test_a_search_starts_from_offers_that_announce_or_bill_otherwise(rule, fields):
    users, profile = Users.create(300.0), np.array([1, 0])
    honest = rule.offers(MISREPORTED, profile)
    values = {"announced_tokens": honest.tokens * 1.5, "bill": np.array([1.2, 1.0])}
    offers = honest.replace(**{name: values[name] for name in fields})
    whole = honest.replace(announced_tokens=offers.posted_tokens, bill=offers.billing)
    options = dict(restarts=2, steps=4)
    for space in (GridLevel(), QualityReport()):
        mine = search(MISREPORTED, users, rule, profile, space=space, offers=offers, **options)
        theirs = search(MISREPORTED, users, rule, profile, space=space, offers=whole, **options)
        for name in ("utility", "gain"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        earned = rule(whole, users).provider_utility
        np.testing.assert_allclose(mine.utility, earned, rtol=1e-9, atol=1e-15)
