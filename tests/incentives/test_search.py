"""Gradient search: gains are exact, at least the grid's, and near those of dense grids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import batches, profiles
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    Mechanism,
    PayPerCompute,
    Published,
    ScoringAuction,
    SecondPriceAuction,
    Tariff,
    UserMixture,
    Users,
    coalitions,
    data,
    grid_deviations,
    regret,
    search,
)
from mechlab.incentives.strategies import (
    ContinuousCompute,
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
    lay_out,
)
from mechlab.mechanisms.alone import Alone
from mechlab.mechanisms.capabilities import Facing

KEY = jax.random.key(0)
RULES = (
    PayPerCompute(),
    FixedPrice(0.002),
    Tariff(0.0005, 0.8, 1e-6),
    SecondPriceAuction(),
    SecondPriceAuction("reported"),
    FirstPriceAuction(),
    ScoringAuction(0.4, 0.001, 0.9, 1e-8),
)


def replaced(offers, own, i):
    """Offers [..., N] with those of provider i from its own."""
    return jax.tree.map(lambda x, y: np.where(np.arange(x.shape[-1]) == i, y, x), offers, own)


@jax.jit
def against(rule, offers, crowd, own):
    """Utilities of own offers, by the rule's summary of rivals and by the whole field of them."""
    return [
        facing.utility_against(facing.rivals(offers, crowd), own)
        for facing in (rule.facing, Facing(rule))
    ]


@pytest.mark.float64
@given(batches(providers=(3,)), st.integers(0, 2**32 - 1), st.sampled_from(RULES))
def test_utility_against_rivals_is_that_of_the_mechanism(batch, seed, rule):
    market, crowd = batch
    offers = rule.offers(market, profiles(market, seed))
    noise = np.random.default_rng(seed).choice([0.0, 0.001, -0.002], (2, *offers.price.shape))
    offers = offers.replace(reported_quality=offers.quality + noise[0])
    own = offers.replace(price=np.abs(offers.price + noise[1]))
    for found in against(rule, offers, crowd, own):
        for i in range(market.providers):
            exact = rule(replaced(offers, own, i), crowd).provider_utility
            np.testing.assert_allclose(found[:, i], exact[:, i], rtol=1e-9, atol=1e-18)


def test_ties_go_to_the_lowest_index_as_in_the_mechanism():
    market = data.published().market
    rule, crowd = SecondPriceAuction(), Users.create(0.0)
    offers = rule.offers(market, market.best_surplus_profile())
    offers = offers.replace(price=offers.quality - 0.005)  # everybody's score ties
    for outside in (0.0, 0.005, 0.006):
        crowd = Users.create(0.0, outside)
        found = rule.facing.utility_against(rule.facing.rivals(offers, crowd), offers)
        np.testing.assert_allclose(found, rule(offers, crowd).provider_utility, atol=1e-18)


@pytest.mark.full
@settings(max_examples=12)
@given(
    batches(providers=(3,), betas=(0.0, 300.0, 2e4)),
    st.sampled_from([PayPerCompute(), SecondPriceAuction("reported")]),
)
def test_gains_are_exact_and_at_least_the_grids(batch, rule):
    market, crowd = batch
    profile = market.best_surplus_profile()
    found = search(
        market,
        crowd,
        rule,
        profile,
        space=(ContinuousCompute(), QualityReport()),
        key=KEY,
        restarts=3,
        steps=10,
    )
    truth = rule.offers(market, profile)
    now = rule(truth, crowd).provider_utility
    np.testing.assert_allclose(found.utility, now, rtol=1e-9, atol=1e-18)
    assert bool(jnp.all(found.gain >= 0))
    on_grid = grid_deviations(market, crowd, rule, profile).gain
    assert bool(jnp.all(found.grid_gain >= on_grid - 1e-15))
    assert bool(jnp.all(found.gain >= found.grid_gain))
    for i in range(market.providers):
        then = rule(replaced(truth, found.offers, i), crowd).provider_utility[:, i]
        np.testing.assert_allclose(then - now[:, i], found.gain[:, i], rtol=1e-7, atol=1e-15)


@pytest.mark.slow
def test_between_the_levels_the_search_finds_what_a_dense_grid_does():
    market, rule = data.published().market, PayPerCompute()
    crowd = Users.create([100.0, 1000.0, 20000.0])
    profile = jnp.full((3, 9), 1)
    found = search(market, crowd, rule, profile, space=ContinuousCompute(), key=KEY)
    z = np.linspace(0, 6, 1025)
    for b in range(3):
        offers = rule.offers(market, profile[b])
        one = jax.tree.map(lambda x, b=b: x[b], crowd)
        rivals = rule.facing.rivals(offers, one)
        for i in range(9):
            knots = np.log2(np.asarray(market.compute[i]))
            curve = {
                name: jnp.array(PchipInterpolator(knots, getattr(market, name)[i])(z))[:, None]
                for name in ("quality", "price", "cost", "tokens", "accuracy")
            }
            own = rule.offers(market, profile[b]).replace(
                reported_quality=curve["quality"], **curve
            )
            dense = (
                np.asarray(rule.facing.utility_against(rivals, own))[:, i].max()
                - found.utility[b, i]
            )
            assert found.gain[b, i] >= 0.99 * dense
    assert bool(jnp.all(found.gain >= found.grid_gain)) and float(found.gain.max()) > 1e-5


@pytest.mark.slow
def test_truth_is_best_under_realised_settlement_and_not_under_reported():
    market, crowd = data.published().market, Users.create(1000.0)
    space = (PriceBid(), QualityReport(), GridLevel())
    profile = market.best_surplus_profile()
    options = dict(restarts=2, steps=20)
    assert (
        float(regret(market, crowd, SecondPriceAuction(), profile, space=space, key=KEY, **options))
        < 1e-12
    )
    lies = search(
        market,
        crowd,
        SecondPriceAuction("reported"),
        profile,
        space=QualityReport(0.5, 2.0),
        key=KEY,
    )
    # the bound: the winner reports twice the truth and is paid for it
    winner = int(jnp.argmax(market.surplus.max(-1)))
    np.testing.assert_allclose(lies.gain[winner], lies.offers.quality[winner], rtol=1e-6)
    np.testing.assert_allclose(
        lies.offers.reported_quality[winner], 2 * lies.offers.quality[winner], rtol=1e-9
    )


def test_a_first_price_winner_shades_up_to_the_runner_up():
    market, crowd = data.published().market, Users.create(1000.0)
    profile = market.best_surplus_profile()
    found = search(
        market, crowd, FirstPriceAuction(), profile, space=PriceBid(), key=KEY, steps=200
    )
    first, second = np.sort(np.asarray(market.surplus.max(-1)))[:-3:-1]
    np.testing.assert_allclose(found.regret, first - second, rtol=0.02)
    winner = int(jnp.argmax(found.gain))
    assert found.offers.price[winner] > found.offers.cost[winner]


@pytest.mark.slow
def test_winner_and_runner_up_collude_for_what_separates_the_runner_up_from_the_third():
    market = data.published().market
    profile = market.best_surplus_profile()
    score = np.asarray(market.surplus.max(-1))
    order = np.argsort(-score)
    crowd = Users.create(1000.0, [0.0, float(score[order[1]]) - 1e-5, 0.02])
    found = coalitions(
        market,
        crowd,
        SecondPriceAuction(),
        profile,
        space=PriceBid(),
        key=KEY,
        restarts=2,
        steps=40,
    )
    pairs = [tuple(pair) for pair in np.asarray(found.members[0])]
    pair = pairs.index(tuple(sorted(int(i) for i in order[:2])))
    gain = np.asarray(found.gain)
    np.testing.assert_allclose(gain[0, pair], score[order[1]] - score[order[2]], rtol=1e-9)
    np.testing.assert_allclose(gain[1, pair], 1e-5, rtol=1e-6)
    assert np.all(np.delete(gain, pair, axis=1) < 1e-12) and gain[2, pair] < 1e-12


@pytest.mark.slow
def test_results_do_not_depend_on_how_markets_are_batched():
    market, rule = data.published().market, PayPerCompute()
    beta = jnp.logspace(1, 5, 70)
    profile = jnp.zeros(9, int)
    options = dict(restarts=2, steps=5)
    together = search(
        market, Users.create(beta), rule, profile, space=ContinuousCompute(), key=KEY, **options
    )
    for b in (0, 33, 69):
        alone = search(
            market,
            Users.create(beta[b]),
            rule,
            profile,
            space=ContinuousCompute(),
            key=KEY,
            **options,
        )
        np.testing.assert_allclose(together.gain[b], alone.gain, rtol=1e-9, atol=1e-18)
    compiled = jax.jit(
        lambda b: (
            search(
                market,
                Users.create(b),
                rule,
                profile,
                space=ContinuousCompute(),
                key=KEY,
                **options,
            ).gain
        )
    )
    np.testing.assert_allclose(compiled(beta[33]), together.gain[33], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(1e-3), optax.chain(optax.clip(1.0), optax.lion(0.05))]
)
def test_any_optimiser_of_optax_searches(optimizer):
    market, crowd = data.published().market, Users.create(300.0)
    found = search(
        market,
        crowd,
        PayPerCompute(),
        jnp.zeros(9, int),
        space=PriceMultiplier(1.0, 3.0),
        key=KEY,
        optimizer=optimizer,
        restarts=4,
        steps=30,
    )
    assert float(found.regret) > 0


@pytest.mark.float64
def test_several_types_of_users_are_searched_too():
    market = data.published().market
    crowd = UserMixture.create([0.5, 0.5], [100.0, 5000.0])
    profile = jnp.zeros(9, int)
    found = search(market, crowd, PayPerCompute(), profile, space=GridLevel(), key=KEY)
    on_grid = grid_deviations(market, crowd, PayPerCompute(), profile)
    np.testing.assert_allclose(found.gain, on_grid.gain, rtol=1e-9)


class Broken(Mechanism):
    def allocate(self, offers, users):
        return jnp.sqrt(offers.price - 1.0), offers.price


class Steps(Mechanism):
    """Pays by whole thousandths of quality: there is no slope anywhere."""

    def allocate(self, offers, users):
        paid = jax.lax.stop_gradient(jnp.round(offers.reported_quality, 3))
        return jnp.ones_like(paid) / paid.shape[-1], paid + jax.lax.stop_gradient(offers.cost)


def bad_search(rule=None, space=None, **options):
    market, crowd = data.published().market, Users.create(300.0)
    space = ContinuousCompute() if space is None else space
    rule = rule or PayPerCompute()
    return lambda: search(market, crowd, rule, jnp.zeros(9, int), space=space, key=KEY, **options)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: ContinuousCompute(8.0, 4.0), "ContinuousCompute: bounds"),
        (lambda: PriceBid(0.1, 0.1), "PriceBid: bounds .* empty"),
        (lambda: QualityReport(0.5, float("inf")), "QualityReport: bounds"),
        (lambda: PriceMultiplier(-1.0, 2.0), "PriceMultiplier: bounds"),
        (bad_search(space=(GridLevel(), ContinuousCompute())), "GridLevel and ContinuousCompute"),
        (bad_search(space=(PriceBid(), PriceMultiplier())), "PriceBid and PriceMultiplier"),
        (bad_search(space=()), "space: .*at least one"),
        (bad_search(restarts=0), "restarts = 0"),
        (bad_search(steps=1.5), "steps = 1.5"),
        (bad_search(optimizer="adam"), "optimizer"),
        (bad_search(Broken(), QualityReport(), restarts=2, steps=3), "Broken: a utility is NaN"),
        (bad_search(Steps(), QualityReport(), restarts=4, steps=3), "Steps: has no gradient"),
    ],
)
def test_what_cannot_be_searched_is_named(run, words):
    with pytest.raises(InputError, match=words):
        run()


@pytest.mark.slow
def test_compute_that_only_counts_levels_is_searched_along_tokens():
    named = data.published("GSM8K", "reasoning_effort")
    market = dataclasses.replace(named.market, compute=named.market.compute - 1)
    crowd, profile = Users.create(1000.0), jnp.zeros(3, int)
    with pytest.raises(InputError, match="axis='tokens'"):
        search(market, crowd, PayPerCompute(), profile, space=ContinuousCompute(), key=KEY)
    along = ContinuousCompute(axis="tokens")
    found = search(
        market, crowd, PayPerCompute(), profile, space=along, key=KEY, restarts=2, steps=20
    )
    assert bool(jnp.all(found.gain >= found.grid_gain)) and float(found.regret) > 0


def two_providers():
    return Market.from_arrays(
        [[1.0, 2.0, 2.5], [1.0, 1.5, 2.0]],
        [[0.2, 0.5, 1.0], [0.2, 0.5, 0.8]],
        [[0.1, 0.3, 0.6], [0.1, 0.3, 0.5]],
    )


@pytest.mark.slow
@pytest.mark.parametrize("compute", [ContinuousCompute(), GridLevel()])
def test_what_is_found_lies_within_the_bounds(compute):
    space = (compute, PriceBid(0.5, 0.9), QualityReport(0.99, 1.01))
    found = search(
        two_providers(),
        Users.create(1.0),
        FirstPriceAuction(),
        jnp.array([2, 2]),
        space=space,
        key=KEY,
    )
    gains = np.asarray(found.gain) > 0
    report = np.asarray(found.offers.reported_quality / found.offers.quality)[gains]
    assert gains.any() and np.all((report > 0.98999) & (report < 1.01001))
    assert np.all(np.asarray(found.offers.price)[gains] <= 0.9 + 1e-9)


@pytest.mark.slow
def test_bounds_that_no_level_reaches_leave_nothing_to_try():
    found = search(
        two_providers(),
        Users.create(1.0),
        PayPerCompute(),
        jnp.array([0, 0]),
        space=(ContinuousCompute(100.0, 200.0), PriceMultiplier()),
        key=KEY,
    )
    assert float(found.regret) == 0 and found.offers.compute.tolist() == [1, 1]


def test_rules_of_the_same_fields_are_told_apart():
    """A compiled function must not be taken for that of another rule."""

    def flat(payment):
        class Flat(Mechanism):
            def allocate(self, offers, users):
                n = offers.price.shape[-1]
                return jnp.full(offers.price.shape, 1 / n), jnp.full(offers.price.shape, payment)

        return Flat()

    rules = [PayPerCompute(), FirstPriceAuction(), *(flat(float(x)) for x in range(5))]
    structures = [jax.tree.structure(rule) for rule in rules]
    assert all(a != b for i, a in enumerate(structures) for b in structures[:i])
    assert jax.tree.structure(SecondPriceAuction()) != jax.tree.structure(
        SecondPriceAuction("reported")
    )
    market, crowd = two_providers(), Users.create(1.0)
    for rule in rules[2:]:
        found = grid_deviations(market, crowd, rule, jnp.array([0, 0])).utility
        exact = rule(rule.offers(market, jnp.array([0, 0])), crowd).provider_utility
        np.testing.assert_allclose(found, exact)


@pytest.mark.slow
def test_levers_that_change_nothing_are_no_fault_of_the_rule():
    market = data.published().market
    profile = market.best_surplus_profile()
    options = dict(restarts=2, steps=5)
    space = (GridLevel(), QualityReport())
    found = search(
        market, Users.create(0.0), PayPerCompute(), profile, space=space, key=KEY, **options
    )
    assert float(found.regret) > 0  # by its level; at β = 0 reports do not matter
    losing = search(
        market,
        Users.create(1.0),
        SecondPriceAuction(),
        profile,
        space=PriceBid(5.0, 6.0),
        key=KEY,
        **options,
    )
    assert float(losing.regret) == 0
    flat = coalitions(
        market,
        Users.create(1.0),
        FixedPrice(0.001),
        profile,
        space=PriceMultiplier(),
        key=KEY,
        **options,
    )
    assert float(flat.gain.max()) == 0
    with pytest.raises(InputError, match="Steps: has no gradient"):
        bad_search(Steps(), QualityReport(), restarts=1, steps=2)()


@pytest.mark.slow
def test_auctions_are_searched_among_several_types_of_users():
    market = data.published().market
    crowd = UserMixture.create([0.5, 0.5], [1000.0, 1000.0], 0.0, [1.0, 2.0])
    profile = market.best_surplus_profile()
    options = dict(restarts=2, steps=10)
    rule = FirstPriceAuction()
    found = search(market, crowd, rule, profile, space=PriceBid(), key=KEY, **options)
    truth = rule.offers(market, profile)
    i = int(jnp.argmax(found.gain))
    then = rule(replaced(truth, found.offers, i), crowd).provider_utility[i]
    now = rule(truth, crowd).provider_utility[i]
    assert found.gain[i] > 0
    np.testing.assert_allclose(then - now, found.gain[i], rtol=1e-9)
    pairs = coalitions(
        market, crowd, SecondPriceAuction(), profile, space=PriceBid(), key=KEY, **options
    )
    assert float(pairs.gain.max()) > 0


class Unbounded(Mechanism):
    def allocate(self, offers, users):
        shares = jnp.full(offers.price.shape, 1 / offers.price.shape[-1])
        return shares, jnp.where(offers.price > 1e-3, jnp.inf, offers.price)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: ContinuousCompute(None, 0.0), "ContinuousCompute: high = 0"),
        (lambda: PriceMultiplier(None, 1.0), "PriceMultiplier: bounds: give both"),
        (lambda: PriceMultiplier("a", 1.0), "PriceMultiplier: bounds"),
        (bad_search(space=PriceMultiplier), "space: .*at least one"),
        (bad_search(optimizer=optax.lbfgs()), "optimizer: it needs more"),
        (bad_search(offers=two_providers().at(jnp.zeros(2, int), "price")), "offers: 2 providers"),
        (
            lambda: grid_deviations(
                data.published().market, Users.create(1.0), Unbounded(), jnp.zeros(9, int)
            ),
            "Unbounded: a utility is NaN or infinite",
        ),
    ],
)
def test_what_cannot_be_used_is_named(run, words):
    with pytest.raises(InputError, match=words):
        run()


def densest(market, crowd, rule, profile, space, points):
    """[N] the largest gain on a grid over the space."""
    alone, now = Alone(rule), rule.offers(market, profile)
    rivals = alone.rivals(now, crowd)
    curves = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), market)
    outside = jnp.broadcast_to(jnp.min(crowd.outside_value), now.quality.shape)
    strategies = lay_out(space, curves, now, outside, rule)
    count = len(strategies.kinds)

    @jax.jit
    def best(first):
        rest = jnp.meshgrid(*[jnp.linspace(0, 1, points)] * (count - 1), indexing="ij")
        point = [jnp.full((1, 1, 1), first), *(x.reshape(1, -1, 1) for x in rest)]
        point = [jnp.broadcast_to(x, (1, points ** (count - 1), market.providers)) for x in point]
        earned = alone.utility_against(rivals, strategies.offers(tuple(point)))
        return jnp.max(jnp.where(strategies.possible, earned, -jnp.inf), axis=(0, 1))

    reached = jnp.max(jax.lax.map(best, jnp.linspace(0, 1, points)), axis=0)
    return np.maximum(reached - alone.utility_against(rivals, now), 0.0)


@pytest.mark.slow
@pytest.mark.float64
@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("rule", [FirstPriceAuction(), SecondPriceAuction("reported"), RULES[-1]])
def test_the_edge_of_a_jump_is_found(rule, types):
    market = data.published().market
    crowd = Users.create(1000.0)
    if types:
        crowd = UserMixture.create([0.3, 0.7], [1000.0, 1000.0], 0.0, [0.7, 1.2])
    profile, key = market.best_surplus_profile(), jax.random.key(3)
    for space in ((PriceBid(),), (QualityReport(),)):
        found = search(market, crowd, rule, profile, space=space, key=key).gain
        grid = densest(market, crowd, rule, profile, space, 4096)
        np.testing.assert_array_less(0.999 * grid - 1e-15, found)


@pytest.mark.full
@pytest.mark.float64
@pytest.mark.parametrize("rule", [PayPerCompute(), FirstPriceAuction(), RULES[-1]])
def test_in_three_coordinates_a_search_finds_what_a_grid_does_and_no_less_than_in_one(rule):
    market, crowd = data.published().market, Users.create(3000.0)
    price = PriceMultiplier() if rule.asking == "price" else PriceBid()
    space, key = (ContinuousCompute(), price, QualityReport()), jax.random.key(3)
    for profile in (market.best_surplus_profile(), jnp.zeros(9, int)):
        found = search(market, crowd, rule, profile, space=space, key=key).gain
        grid = densest(market, crowd, rule, profile, space, 64)
        np.testing.assert_array_less(0.99 * grid - 1e-15, found)
        for part in space:
            less = search(market, crowd, rule, profile, space=part, key=key).gain
            np.testing.assert_array_less(less * (1 - 1e-5) - 1e-15, found)


@pytest.mark.full
@pytest.mark.float64
@pytest.mark.parametrize("rule", [SecondPriceAuction(), SecondPriceAuction("reported")])
def test_a_larger_space_finds_no_less_than_a_truthful_bid_at_another_level(rule):
    """Compute with an honest bid moves price and report too, off every line of the joint space."""
    market, crowd = jax.tree.map(
        lambda x: x.astype(float) if x.dtype != bool else x, Published().markets(128, seed=3)
    )
    profile = market.best_surplus_profile()
    less = search(market, crowd, rule, profile, space=ContinuousCompute()).gain
    space = (ContinuousCompute(), PriceBid(), QualityReport())
    found = search(market, crowd, rule, profile, space=space).gain
    assert float(less.max()) > 0
    np.testing.assert_array_less(less * (1 - 1e-9) - 1e-18, found)


class Root(Mechanism):
    """A surcharge of √0, whose slope is 0·inf."""

    def allocate(self, offers, users):
        paid = offers.price + jnp.sqrt(0.0 * offers.tokens)
        lead = users.rationality[..., None] * (offers.reported_quality - paid)
        return jax.nn.softmax(lead, axis=-1), paid


@pytest.mark.slow
def test_a_slope_that_is_nan_names_the_rule_and_the_coordinate():
    with pytest.raises(InputError, match="Root: its slope in ContinuousCompute is NaN"):
        bad_search(Root(), restarts=2, steps=3)()


@pytest.mark.slow
def test_a_provider_that_loses_money_is_not_driven_to_sell_more():
    market = Market.from_arrays([[0.004, 0.005], [0.004, 0.006]], 1e-3, [[0.002, 0.003]] * 2)
    rule, crowd = PayPerCompute(), Users.create(1000.0)
    profile, space = jnp.zeros(2, int), QualityReport(0.5, 2.0)
    found = search(market, crowd, rule, profile, space=space, restarts=1, steps=30)
    assert bool(jnp.all(found.gain > 0))
    assert bool(jnp.all(found.offers.reported_quality < found.offers.quality))
    own = rule.offers(market, profile)
    rivals = rule.facing.rivals(own, crowd)

    def steer(report):
        lied = own.replace(reported_quality=own.quality * report)
        return rule.facing.steering(rivals, lied, jnp.asarray(1e-3)).sum()

    assert float(jax.grad(steer)(1.0)) < 0
