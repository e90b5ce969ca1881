"""Equilibria and dynamics against brute force over all profiles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import markets, users
from hypothesis import assume, given
from hypothesis import strategies as st

from mechlab import (
    FixedPrice,
    InputError,
    Market,
    Mechanism,
    PayPerCompute,
    SecondPriceAuction,
    Status,
    Users,
    better_response,
    data,
    extremal_equilibria,
    has_potential,
    potential,
    pure_equilibria,
)

potential_at = jax.jit(lambda market, crowd, profile: potential(market, crowd, None, profile))


def brute_equilibria(market, crowd):
    """All pure equilibria, and how close the nearest non-equilibrium is."""
    slacks = {p: oracles.slack(market, crowd, p) for p in oracles.profiles(market)}
    found = {p for p, s in slacks.items() if s <= 1e-12}
    return found, min((s for s in slacks.values() if s > 1e-12), default=1.0)


@given(markets(), users())
def test_enumeration_finds_exactly_the_brute_force_equilibria(market, crowd):
    expected, nearest = brute_equilibria(market, crowd)
    assume(nearest > 1e-10)  # near-ties are a matter of rounding
    found = pure_equilibria(market, crowd)
    assert {tuple(map(int, p)) for p in found.profiles} == expected
    assert found.status == Status.CONVERGED
    by_hand = [oracles.welfare(market, crowd, p) for p in found.profiles]
    np.testing.assert_allclose(found.welfare, by_hand, rtol=1e-9, atol=1e-15)
    assert list(found.welfare) == sorted(found.welfare, reverse=True)


@pytest.mark.slow
@given(markets(losses=True), users())
def test_enumeration_is_exact_where_some_providers_only_lose(market, crowd):
    expected, nearest = brute_equilibria(market, crowd)
    assume(nearest > 1e-10)
    found = pure_equilibria(market, crowd)
    assert {tuple(map(int, p)) for p in found.profiles} == expected
    sound = bool(has_potential(market))
    assert found.status == (Status.CONVERGED if sound else Status.NO_POTENTIAL)
    assert extremal_equilibria(market, crowd).status == found.status


@given(markets(), users())
def test_every_equilibrium_lies_between_the_extremal_pair(market, crowd):
    expected, nearest = brute_equilibria(market, crowd)
    assume(nearest > 1e-10)
    ends = extremal_equilibria(market, crowd)
    assert bool(ends.converged)
    value = np.asarray(market.offered_value)
    weight = value if float(crowd.rationality) > 0 else 0 * value

    def weights(profile):
        return np.array([weight[i, k] for i, k in enumerate(profile)])

    low, high = tuple(map(int, ends.smallest)), tuple(map(int, ends.largest))
    assert low in expected and high in expected
    assert bool(ends.unique) == (len(expected) == 1)
    for profile in expected:
        assert np.all(weights(low) <= weights(profile))
        assert np.all(weights(profile) <= weights(high))


def test_extremal_pair_brackets_a_market_with_several_equilibria():
    # found by search: two providers that both prefer to be where the other is
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(400):
        quality = rng.uniform(0, 0.01, (3, 4))
        price = np.sort(rng.uniform(1e-4, 0.01, (3, 4)), axis=1)
        market = Market.from_arrays(quality, price, price * rng.uniform(0.2, 0.99, (3, 4)))
        crowd = Users.create(1500.0)
        found = pure_equilibria(market, crowd)
        ends = extremal_equilibria(market, crowd)
        assert bool(ends.unique) == (len(found.profiles) == 1)
        seen += len(found.profiles) > 1
    assert seen > 0


@pytest.mark.slow
@pytest.mark.float64
@given(markets(), users(), st.integers(0, 100))
def test_potential_rises_with_every_move_by_the_movers_log_utility(market, crowd, seed):
    run = better_response(market, crowd, key=jax.random.key(seed), history=True)
    assert bool(run.converged) and int(run.status) == Status.CONVERGED
    now = (0,) * market.providers
    phi = float(potential_at(market, crowd, jnp.array(now)))
    visits = zip(
        np.asarray(run.history.provider).ravel(),
        np.asarray(run.history.profile).reshape(-1, market.providers),
        np.asarray(run.history.potential).ravel(),
    )
    rounds = int(run.iterations)
    for step, (mover, after, phi_after) in enumerate(visits):
        if step >= rounds * market.providers:
            break
        after = tuple(map(int, after))
        rows = oracles.preferences(market, crowd, now, mover)
        gain = rows[after[mover]][1] - rows[now[mover]][1] if rows[now[mover]][0] > 0 else None
        if after != now and gain is not None:
            assert phi_after > phi
        if gain is not None:
            assert abs((phi_after - phi) - gain) <= 1e-9 * (1 + abs(phi))
        now, phi = after, float(phi_after)
    assert now == tuple(map(int, run.profile))
    assert oracles.slack(market, crowd, now) <= 1e-8


@given(markets(max_providers=3), users(), st.integers(0, 100))
def test_dynamics_move_to_the_nearest_improving_level(market, crowd, seed):
    run = better_response(market, crowd, key=jax.random.key(seed), history=True)
    now = (0,) * market.providers
    rounds = int(run.iterations)
    orders = np.asarray(run.history.provider)[:rounds]
    after_visit = np.asarray(run.history.profile)[:rounds]
    for order, profiles in zip(orders, after_visit):
        assert sorted(order) == list(range(market.providers))
        for mover, after in zip(order, profiles):
            rows = oracles.preferences(market, crowd, now, mover)
            here = rows[now[mover]]
            gains = [np.inf if r[0] > here[0] else r[1] - here[1] for r in rows]
            better = [k for k, gain in enumerate(gains) if gain > 1e-8]
            by_distance = sorted(better, key=lambda k: (abs(k - now[mover]), k))
            expected = list(now)
            if by_distance:
                expected[mover] = by_distance[0]
            assume(all(abs(gain - 1e-8) > 1e-10 for gain in gains if np.isfinite(gain)))
            assert list(after) == expected
            now = tuple(expected)
    assert np.all(orders.shape == (rounds, market.providers))


@pytest.mark.parametrize("benchmark", ["GSM8K", "AIME", "GPQA"])
@pytest.mark.parametrize("method", ["majority_voting", "best_of_n", "reasoning_effort"])
def test_published_dynamics_end_in_the_unique_equilibrium_in_any_order(benchmark, method):
    named = data.published(benchmark, method)
    crowd = Users.create(list(named.constants.rationality))
    ends = extremal_equilibria(named.market, crowd)
    assert bool(jnp.all(ends.unique))
    for seed in range(5):
        run = better_response(named.market, crowd, key=jax.random.key(seed))
        assert bool(jnp.all(run.converged))
        np.testing.assert_array_equal(run.profile, ends.smallest)
    for i, beta in enumerate(named.constants.rationality):
        found = pure_equilibria(named.market, Users.create(beta))
        np.testing.assert_array_equal(found.profiles, ends.largest[i : i + 1])


def test_dynamics_report_that_they_did_not_converge():
    named = data.published()
    run = better_response(named.market, Users.create(1000.0), key=jax.random.key(0), max_rounds=1)
    assert not bool(run.converged) and int(run.status) == Status.ITERATION_LIMIT


def test_history_after_the_end_repeats_the_end():
    named = data.published()
    run = better_response(named.market, Users.create(1000.0), key=jax.random.key(0), history=True)
    rounds = int(run.iterations)
    assert bool(run.history.active[rounds - 1]) and not bool(run.history.active[rounds])
    np.testing.assert_array_equal(run.history.profile[-1, -1], run.profile)
    np.testing.assert_allclose(run.history.welfare[-1, -1], run.history.welfare[rounds - 1, -1])


def test_a_user_defined_rule_plays_the_same_dynamics():
    class Free(Mechanism):
        """Nobody is paid, so everybody serves at the lowest cost."""

        def allocate(self, offers, users):
            equal = jnp.ones_like(offers.price) / offers.price.shape[-1]
            return equal, jnp.zeros_like(offers.price)

    named = data.published()
    run = better_response(
        named.market, Users.create(1.0), Free(), key=jax.random.key(0), start=jnp.full(9, 5)
    )
    assert bool(run.converged)
    np.testing.assert_array_equal(run.profile, np.zeros(9))


def test_the_auction_as_a_game_of_levels_ends_at_the_surplus_maximum_of_the_winner():
    named = data.published()
    run = better_response(
        named.market, Users.create(1.0), SecondPriceAuction(), key=jax.random.key(0)
    )
    offers = named.market.at(run.profile, asking="cost")
    outcome = SecondPriceAuction()(offers, Users.create(1.0))
    best = SecondPriceAuction()(named.market.truthful(), Users.create(1.0))
    assert bool(run.converged)
    np.testing.assert_allclose(outcome.welfare, best.welfare, rtol=1e-12)


@pytest.mark.slow
@given(markets(), users(), st.floats(0.0005, 0.006))
def test_fixed_price_equilibria_are_those_of_the_market_at_that_price(market, crowd, price):
    flat = Market.from_arrays(
        market.quality,
        np.full(market.price.shape, price),
        market.cost,
        available=np.asarray(market.available),
    )
    expected, nearest = brute_equilibria(flat, crowd)
    assume(nearest > 1e-10)
    found = pure_equilibria(market, crowd, FixedPrice(price))
    assert {tuple(map(int, p)) for p in found.profiles} == expected


def test_levels_that_tie_to_rounding_are_both_equilibria():
    market = Market.from_arrays(
        [[0.006, 0.008, 0.010]], [[0.004, 0.005, 0.005]], [[0.0032, 0.004, 0.004]]
    )
    found = pure_equilibria(market, Users.create(1e4))
    assert {tuple(map(int, p)) for p in found.profiles} == {(1,), (2,)}
    assert not bool(extremal_equilibria(market, Users.create(1e4)).unique)


def test_too_many_ties_are_said_and_some_are_shown():
    market = Market.from_arrays([[0.01, 0.01]] * 17, 0.001, 0.0005)
    found = pure_equilibria(market, Users.create(10.0), cap=100)
    assert found.status == Status.CAPPED and len(found.profiles) == 100
    assert np.isfinite(found.best_welfare)


def test_an_auction_is_no_logit_game():
    with pytest.raises(InputError, match="SecondPriceAuction"):
        extremal_equilibria(data.published().market, Users.create(1.0), SecondPriceAuction())


def test_batches_of_markets_and_users_broadcast():
    named = data.published()
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), named.market)
    crowd = Users.create(np.array([[200.0], [1000.0], [1e5]]))
    run = better_response(stacked, crowd, key=jax.random.key(0))
    assert run.profile.shape == (3, 2, 9)
    alone = better_response(named.market, Users.create(1000.0), key=jax.random.key(0))
    np.testing.assert_array_equal(run.profile[1, 0], alone.profile)
    assert extremal_equilibria(stacked, crowd).unique.shape == (3, 2)


def test_pay_per_compute_is_the_default_rule():
    named, crowd = data.published(), Users.create(1000.0)
    key = jax.random.key(1)
    explicit = better_response(named.market, crowd, PayPerCompute(), key=key)
    np.testing.assert_array_equal(
        better_response(named.market, crowd, key=key).profile, explicit.profile
    )
