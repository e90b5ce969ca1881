"""Identities of the pricing rules, and truth-telling in the auction."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import honest_bids, markets, users
from hypothesis import given
from hypothesis import strategies as st

from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    Mechanism,
    PayPerCompute,
    SecondPriceAuction,
    UserMixture,
    Users,
    data,
    social_optimum,
    symmetric_markup,
)

RULES = [
    PayPerCompute(),
    FixedPrice(0.001),
    SecondPriceAuction(),
    SecondPriceAuction("reported"),
    FirstPriceAuction(),
]
rules = st.sampled_from(RULES)


@pytest.mark.float64
@given(markets(), users(), rules)
def test_accounts_balance_under_every_rule(market, crowd, rule):
    offers = rule.offers(market, jnp.zeros(market.providers, int))
    out = rule(offers, crowd)
    profit = float(jnp.sum(out.provider_utility))
    np.testing.assert_allclose(out.welfare, out.user_value + profit, atol=1e-15)
    np.testing.assert_allclose(out.quality, out.user_value + out.user_cost, atol=1e-15)
    sold = float(jnp.sum(out.shares))
    np.testing.assert_allclose(
        out.net_welfare, out.welfare - sold * crowd.outside_value, atol=1e-15
    )
    assert sold <= 1 + 1e-12


@pytest.mark.float64
@given(markets(), users(), st.integers(0, 3))
def test_pay_per_compute_is_the_logit_formula(market, crowd, seed):
    rng = np.random.default_rng(seed)
    profile = [int(rng.integers(n)) for n in np.asarray(market.available).sum(1)]
    out = PayPerCompute()(market.at(jnp.array(profile), "price"), crowd)
    values = oracles.values_at(market, profile)
    beta, outside = float(crowd.rationality), float(crowd.outside_value)
    sigma = np.array(oracles.shares(values, beta, outside))
    np.testing.assert_allclose(out.shares, sigma, rtol=1e-9)
    np.testing.assert_allclose(out.welfare, oracles.welfare(market, crowd, profile), rtol=1e-9)
    accuracy = np.array(oracles.at(market.accuracy, profile))
    np.testing.assert_allclose(out.accuracy, sigma @ accuracy / sigma.sum(), rtol=1e-9)
    x = np.array([outside, *values])
    surplus = np.log(np.mean(np.exp(beta * (x - x.max())))) / beta + x.max() if beta else x.mean()
    np.testing.assert_allclose(out.consumer_surplus, surplus, rtol=1e-9, atol=1e-15)


@pytest.mark.float64
@given(markets(), users())
def test_truthful_auction_leaves_users_the_runner_ups_value(market, crowd):
    out = SecondPriceAuction()(honest_bids(market), crowd)
    surplus = sorted(
        (
            max(float(s) for s, there in zip(row, mask) if there)
            for row, mask in zip(market.surplus, market.available)
        ),
        reverse=True,
    )
    outside = float(crowd.outside_value)
    if surplus[0] < outside:
        assert int(out.winner) == -1 and float(out.welfare) == 0 == float(out.user_cost)
        assert float(out.consumer_surplus) == outside
        return
    second = max([outside, *surplus[1:2]])
    np.testing.assert_allclose(out.welfare, surplus[0], rtol=1e-12)
    np.testing.assert_allclose(out.user_value, second, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(
        jnp.sum(out.provider_utility), surplus[0] - second, rtol=1e-9, atol=1e-15
    )
    assert int(out.runner_up) == -1 or surplus[1] >= outside


@given(markets())
def test_auction_welfare_is_never_below_the_pay_per_compute_optimum(market):
    for beta in (0.0, 300.0, 1e5):
        crowd = Users.create(beta)
        best = social_optimum(market, crowd).welfare
        assert SecondPriceAuction()(honest_bids(market), crowd).welfare >= best - 1e-15


@given(markets(max_providers=3), users(), st.integers(0, 2))
def test_truth_is_a_best_response_to_any_bids_under_realised_settlement(market, crowd, seed):
    """Weak dominance, on a grid of levels × price bids × quality reports, whatever rivals bid."""
    rng = np.random.default_rng(seed)
    rule, truth = SecondPriceAuction(), honest_bids(market)
    noise = rng.uniform(0.5, 1.5, (2, market.providers))
    bids = truth.replace(
        reported_quality=truth.quality * noise[0],
        price=truth.cost * noise[1] if seed else truth.cost,
    )
    shades = jnp.array([0.0, 0.5, 0.9, 1.0, 1.1, 2.0])
    factors = jnp.array([0.25, 0.8, 1.0, 1.2, 4.0])
    level, shade, factor = (
        x.ravel() for x in jnp.meshgrid(jnp.arange(4), shades, factors, indexing="ij")
    )
    for i in range(market.providers):

        def utility(level, shade, factor, i=i):
            offers = bids.replace(
                quality=bids.quality.at[i].set(market.quality[i, level]),
                cost=bids.cost.at[i].set(market.cost[i, level]),
                reported_quality=bids.reported_quality.at[i].set(market.quality[i, level] * factor),
                price=bids.price.at[i].set(market.cost[i, level] * shade),
            )
            return rule(offers, crowd).provider_utility[i]

        best = jnp.max(jax.vmap(utility)(level, shade, factor))
        honest = utility(market.best_surplus_profile()[i], 1.0, 1.0)
        assert best <= honest + 1e-15


def test_overstating_quality_pays_under_reported_settlement_only():
    market = Market.from_arrays([[0.01], [0.008]], [[0.002], [0.002]], [[0.001], [0.001]])
    truth, crowd = honest_bids(market), Users.create(1.0)
    lie = truth.replace(reported_quality=truth.reported_quality * jnp.array([1.0, 1.5]))
    reported = SecondPriceAuction("reported")(lie, crowd)
    assert int(reported.winner) == 1 and float(reported.provider_utility[1]) > 0
    np.testing.assert_allclose(reported.user_value, 0.009 + 0.008 - 0.012)
    realised = SecondPriceAuction()(lie, crowd)
    assert float(realised.provider_utility[1]) < 0
    np.testing.assert_allclose(realised.user_value, 0.009)


@pytest.mark.float64
def test_ties_go_to_the_lowest_index_and_earn_nothing():
    market = Market.from_arrays([[0.005]] * 3, [[0.002]] * 3, [[0.001]] * 3)
    out = SecondPriceAuction()(honest_bids(market), Users.create(1.0))
    np.testing.assert_array_equal(out.shares, [1, 0, 0])
    assert float(out.provider_utility[0]) == 0 and int(out.runner_up) == 1


def test_a_single_provider_is_held_to_the_outside_option():
    market = Market.from_arrays([[0.005]], [[0.002]], [[0.001]])
    out = SecondPriceAuction()(honest_bids(market), Users.create(1.0, 0.0015))
    np.testing.assert_allclose(out.user_value, 0.0015)
    np.testing.assert_allclose(out.provider_utility, [0.0025])
    assert int(out.runner_up) == -1
    nobody = SecondPriceAuction()(honest_bids(market), Users.create(1.0, 0.01))
    assert int(nobody.winner) == -1
    for name in ("welfare", "user_value", "user_cost", "quality", "accuracy", "tokens"):
        assert float(getattr(nobody, name)) == 0


def test_first_price_winner_is_paid_its_bid():
    market = Market.from_arrays([[0.01], [0.008]], [[0.002], [0.002]], [[0.001], [0.001]])
    offers = market.at([0, 0], asking="cost").replace(price=jnp.array([0.0025, 0.001]))
    out = FirstPriceAuction()(offers, Users.create(1.0))
    np.testing.assert_allclose(out.user_cost, 0.0025)
    np.testing.assert_allclose(out.provider_utility, [0.0015, 0])


def test_symmetric_markup_is_a_best_response_to_itself_on_the_grid():
    # provider 0 is so far ahead that its rivals cannot undercut it at any markup of the grid
    market = Market.from_arrays([[0.02], [0.004]], [[0.002], [0.002]], [[0.001], [0.001]])
    grid = np.array([0.0, 0.5, 1.0, 2.0])
    found = symmetric_markup(market, Users.create(1.0), FirstPriceAuction(), grid=grid)
    assert bool(found.is_equilibrium) and float(found.markup) == 2.0
    # two equal providers undercut each other, so only the price that earns nothing is stable
    equal = Market.from_arrays([[0.01]] * 2, [[0.002]] * 2, [[0.001]] * 2)
    found = symmetric_markup(equal, Users.create(1.0), FirstPriceAuction(), grid=grid)
    assert bool(found.is_equilibrium) and float(found.markup) == 0.0
    with pytest.raises(InputError, match="grid"):
        symmetric_markup(equal, Users.create(1.0), FirstPriceAuction(), grid=[])


@pytest.mark.slow
@pytest.mark.float64
def test_symmetric_markup_reports_the_smallest_regret_where_there_is_no_equilibrium():
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 6)
    crowd, rule = Users.create(1.0), FirstPriceAuction()
    for _ in range(20):
        cost = rng.uniform(0.001, 0.004, (3, 1))
        market = Market.from_arrays(rng.uniform(0.004, 0.01, (3, 1)), cost, cost)
        truth = honest_bids(market)
        regrets = []
        for markup in grid:
            price = np.asarray(truth.cost) * (1 + markup)
            now = rule(truth.replace(price=jnp.array(price)), crowd).provider_utility
            gain = 0.0
            for i in range(3):
                for other in grid:
                    bid = price.copy()
                    bid[i] = float(truth.cost[i]) * (1 + other)
                    out = rule(truth.replace(price=jnp.array(bid)), crowd)
                    gain = max(gain, float(out.provider_utility[i] - now[i]))
            regrets.append(gain)
        found = symmetric_markup(market, crowd, FirstPriceAuction(), grid=grid)
        np.testing.assert_allclose(found.regret, min(regrets), atol=1e-15)
        ties = np.array(regrets) <= min(regrets) + 1e-16
        np.testing.assert_allclose(found.markup, grid[int(np.argmax(ties))])


def test_a_rule_of_ones_own_is_a_pytree_with_parameters():
    class CostPlus(Mechanism):
        """The cheapest provider serves at its cost plus a share of it."""

        margin: float = 0.1

        def allocate(self, offers, users):
            first = jnp.argmin(offers.cost, axis=-1, keepdims=True)
            shares = (jnp.arange(offers.cost.shape[-1]) == first).astype(offers.cost.dtype)
            return shares, offers.cost * (1 + self.margin)

    market, crowd = data.published().market, Users.create(1.0)
    pays = jax.jit(lambda rule: rule(market.at(jnp.zeros(9, int), "price"), crowd).user_cost)
    slope = jax.grad(lambda margin: pays(CostPlus(margin)))(0.1)
    np.testing.assert_allclose(slope, jnp.min(market.cost[:, 0]), rtol=1e-12)
    with pytest.raises(Exception, match="margin"):
        CostPlus(0.1).margin = 0.2


class OnTheHost(Mechanism):
    """Reads numbers, which no program has."""

    def allocate(self, offers, users):
        shares, paid = PayPerCompute().allocate(offers, users)
        return np.asarray(shares), np.asarray(paid)


class Named(Mechanism):
    """Has text for a parameter."""

    label: str = "today"

    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)


@pytest.mark.parametrize("rule", [OnTheHost(), Named()], ids=["OnTheHost", "Named"])
def test_a_rule_that_no_program_takes_is_called_eagerly(rule):
    market, crowd = data.published().market, Users.create(1000.0)
    offers = market.at(np.zeros(9, int), "price")
    found, plain = rule(offers, crowd), PayPerCompute()(offers, crowd)
    for name in ("shares", "payment", "welfare", "user_value"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-6)


def test_what_allocate_returns_is_checked_for_every_type_of_users():
    class TwiceTheFirst(Mechanism):
        def allocate(self, offers, users):
            sold = jnp.where(users.rationality > 1.0, 2.0, 0.0)[..., None]
            return sold * (jnp.arange(offers.cost.shape[-1]) == 0), offers.price

    types = UserMixture.create([0.5, 0.5], [0.5, 2.0])  # whose mean sums to 1
    market = data.published().market
    with pytest.raises(InputError, match=r"TwiceTheFirst: allocate's shares .* sum to up to 2"):
        TwiceTheFirst()(market.at(np.zeros(9, int), "price"), types)


@pytest.mark.parametrize("price", [-0.1, float("nan"), float("inf")])
def test_a_fixed_price_is_checked(price):
    with pytest.raises(InputError, match="price"):
        FixedPrice(price)


def test_runner_up_follows_the_price_that_the_rule_asks():
    market = Market.from_arrays(
        [[0.010], [0.009], [0.008]], [[0.001], [0.008], [0.001]], [[0.001]] * 3
    )
    out = FixedPrice(0.002)(market.at([0, 0, 0], "price"), Users.create(1000.0))
    assert int(out.winner) == 0 and int(out.runner_up) == 1


def test_an_unknown_settlement_is_refused():
    with pytest.raises(InputError, match="realised"):
        SecondPriceAuction("maybe")
