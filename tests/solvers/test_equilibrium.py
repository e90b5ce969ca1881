"""Equilibria and dynamics against brute force over all profiles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import BATCH, batches, honest_bids, one_by_one
from hypothesis import given
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


def with_brute_equilibria(market, crowd, *found):
    """Each market, its users and its part of what was found, with all its pure equilibria; those
    without near-ties, which are a matter of rounding."""
    kept = 0
    for one, who, *part in one_by_one(market, crowd, *found):
        slacks = {p: oracles.slack(one, who, p) for p in oracles.profiles(one)}
        if min((s for s in slacks.values() if s > 1e-12), default=1.0) > 1e-10:
            kept += 1
            yield one, who, {p for p, s in slacks.items() if s <= 1e-12}, *part
    assert kept > BATCH / 2


@given(batches())
def test_enumeration_finds_exactly_the_brute_force_equilibria(batch):
    for market, crowd, expected in with_brute_equilibria(*batch):
        found = pure_equilibria(market, crowd)
        assert {tuple(map(int, p)) for p in found.profiles} == expected
        assert found.status == Status.CONVERGED
        by_hand = [oracles.welfare(market, crowd, p) for p in found.profiles]
        np.testing.assert_allclose(found.welfare, by_hand, rtol=1e-9, atol=1e-15)
        assert list(found.welfare) == sorted(found.welfare, reverse=True)


@pytest.mark.slow
@given(batches(betas=(0.0, 30.0, 300.0, 2000.0, 2e4, 1e6), losses=True))
def test_enumeration_is_exact_where_some_providers_only_lose(batch):
    sound, ends = has_potential(batch[0]), extremal_equilibria(*batch)
    for market, crowd, expected, sure, status in with_brute_equilibria(*batch, sound, ends.status):
        found = pure_equilibria(market, crowd)
        assert {tuple(map(int, p)) for p in found.profiles} == expected
        assert found.status == (Status.CONVERGED if sure else Status.NO_POTENTIAL)
        assert status == found.status


@given(batches())
def test_every_equilibrium_lies_between_the_extremal_pair(batch):
    together = extremal_equilibria(*batch)
    assert np.all(together.converged)
    for market, crowd, expected, ends in with_brute_equilibria(*batch, together):
        value = market.offered_value
        weight = value if crowd.rationality > 0 else 0 * value

        def weights(profile, weight=weight):
            return np.array([weight[i, k] for i, k in enumerate(profile)])

        low, high = tuple(map(int, ends.smallest)), tuple(map(int, ends.largest))
        assert low in expected and high in expected
        assert ends.unique == (len(expected) == 1)
        for profile in expected:
            assert np.all(weights(low) <= weights(profile))
            assert np.all(weights(profile) <= weights(high))


def test_extremal_pair_brackets_a_market_with_several_equilibria():
    # found by search: two providers that both prefer to be where the other is
    rng = np.random.default_rng(3)
    price = np.sort(rng.uniform(1e-4, 0.01, (400, 3, 4)), axis=-1)
    batch = (
        Market.from_arrays(
            rng.uniform(0, 0.01, (400, 3, 4)), price, price * rng.uniform(0.2, 0.99, (400, 3, 4))
        ),
        Users.create(np.full(400, 1500.0)),
    )
    found = [
        (len(pure_equilibria(market, crowd).profiles), unique)
        for market, crowd, unique in one_by_one(*batch, extremal_equilibria(*batch).unique)
    ]
    assert all(unique == (number == 1) for number, unique in found)
    assert any(number > 1 for number, _ in found)


@pytest.mark.float64
@given(batches(), st.integers(0, 100))
def test_potential_rises_with_every_move_by_the_movers_log_utility(batch, seed):
    runs = better_response(*batch, key=jax.random.key(seed), history=True)
    n = batch[0].providers
    start = potential_at(*batch, jnp.zeros((BATCH, n), int))
    assert np.all(np.asarray(runs.status) == Status.CONVERGED) and np.all(runs.converged)
    for market, crowd, run, phi in one_by_one(*batch, runs, start):
        now, visited = (0,) * n, run.history
        for round_, i in itertools.product(range(run.iterations), range(n)):
            mover, phi_after = visited.provider[round_, i], visited.potential[round_, i]
            after = tuple(map(int, visited.profile[round_, i]))
            rows = oracles.preferences(market, crowd, now, mover)
            if rows[now[mover]][0] > 0:
                gain = rows[after[mover]][1] - rows[now[mover]][1]
                assert after == now or phi_after > phi
                assert abs((phi_after - phi) - gain) <= 1e-9 * (1 + abs(phi))
            now, phi = after, phi_after
        assert now == tuple(map(int, run.profile))
        assert oracles.slack(market, crowd, now) <= 1e-8


@given(batches(providers=(1, 2, 3)), st.integers(0, 100))
def test_dynamics_move_to_the_nearest_improving_level(batch, seed):
    together = better_response(*batch, key=jax.random.key(seed), history=True)
    n = batch[0].providers
    sure = 0
    for market, crowd, run in one_by_one(*batch, together):
        now, visited = (0,) * n, run.history
        orders = visited.provider[: run.iterations]
        assert np.all(np.sort(orders) == np.arange(n))
        for mover, after in zip(orders.ravel(), visited.profile.reshape(-1, n)):
            rows = oracles.preferences(market, crowd, now, mover)
            here = rows[now[mover]]
            gains = [np.inf if r[0] > here[0] else r[1] - here[1] for r in rows]
            if any(abs(gain - 1e-8) <= 1e-10 for gain in gains if np.isfinite(gain)):
                break  # a matter of rounding
            better = [k for k, gain in enumerate(gains) if gain > 1e-8]
            by_distance = sorted(better, key=lambda k: (abs(k - now[mover]), k))
            expected = list(now)
            if by_distance:
                expected[mover] = by_distance[0]
            assert list(after) == expected
            now = tuple(expected)
        else:
            sure += 1
    assert sure > BATCH / 2


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
    best = SecondPriceAuction()(honest_bids(named.market), Users.create(1.0))
    assert bool(run.converged)
    np.testing.assert_allclose(outcome.welfare, best.welfare, rtol=1e-12)


@given(batches(), st.floats(0.0005, 0.006))
def test_fixed_price_equilibria_are_those_of_the_market_at_that_price(batch, price):
    market, crowd = batch
    flat = market.replace(price=np.full(market.price.shape, price, market.price.dtype))
    for one, who, expected in with_brute_equilibria(flat, crowd):
        found = pure_equilibria(one.replace(price=2 * one.price), who, FixedPrice(price))
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
