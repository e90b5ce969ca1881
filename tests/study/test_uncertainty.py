"""Intervals of the auction: that they hold the truth, and what they say at the edges."""

import jax
import numpy as np
import pytest
from drawn import honest_bids

from mechlab import Market, SecondPriceAuction, Users
from mechlab.study.uncertainty import auction_intervals

METRICS = ("welfare", "user_value", "provider_utility", "user_cost", "quality", "tokens")


def market(quality, cost, tokens=100.0):
    quality = np.asarray(quality, float)
    return Market.from_arrays(
        quality,
        np.broadcast_to(cost, quality.shape),
        np.broadcast_to(cost, quality.shape),
        tokens=np.broadcast_to(tokens, quality.shape),
    )


def outcome(of, outside=0.0):
    found = SecondPriceAuction()(honest_bids(of), Users.create(0.0, outside))
    return {name: float(np.sum(getattr(found, name))) for name in (*METRICS, "accuracy")}


# noise has a standard error of 1; distances are in it
WORLDS = {
    "one far ahead": ([[20.0, 10.0], [10.0, 0.0], [3.0, 0.0]], [[2.0, 1.0]]),
    "three equals": ([[20.0, 10.0]] * 3, [[2.0, 1.0]]),
    "two equals": ([[20.0, 10.0], [20.0, 10.0], [10.0, 0.0]], [[2.0, 1.0]]),
    "half a standard error ahead": ([[20.5, 10.0], [20.0, 10.0]], [[2.0, 1.0]]),
    "two levels of the winner": ([[20.0, 28.0], [10.0, 0.0]], [[2.0, 10.0]]),
    "equal runners-up": ([[30.0, 10.0], [20.0, 10.0], [20.0, 10.0]], [[2.0, 1.0]]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_hold_the_truth(name):
    """600 worlds of correlated noise; of three equals a little more than 95 % is right."""
    quality, cost = map(np.asarray, WORLDS[name])
    true = outcome(market(quality, cost))
    rng = np.random.default_rng(3)
    spread = np.eye(quality.size) * 0.5 + 0.5  # questions are common to all

    def noise(count):
        return rng.multivariate_normal(np.zeros(quality.size), spread, count).reshape(
            count, *quality.shape
        )

    held = dict.fromkeys(("welfare", "user_value", "provider_utility", "user_cost"), 0)
    one, many = market(quality, cost), market(np.broadcast_to(quality, (400, *quality.shape)), cost)
    for error in noise(600):
        seen = quality + error
        replicates = many.replace(quality=seen + noise(400))
        found = auction_intervals(one.replace(quality=seen), replicates, 0.0, 0.95)
        for metric in held:
            low, high = found[metric]
            held[metric] += low - 1e-12 <= true[metric] <= high + 1e-12
    for metric, times in held.items():
        assert 0.93 <= times / 600 <= 0.99, (metric, times)


def test_a_market_without_noise_has_its_outcome_as_interval():
    rng = np.random.default_rng(0)
    for outside in (0.0, 0.4, 2.0):
        for _ in range(20):
            one = market(rng.random((3, 2)), 0.3 * rng.random((3, 2)), 1 + rng.random((3, 2)))
            same = jax.tree.map(lambda x: np.stack([np.asarray(x)] * 3), one)
            true = outcome(one, outside)
            for name, ends in auction_intervals(one, same, outside, 0.9).items():
                np.testing.assert_allclose(ends, true[name], atol=1e-12, err_msg=name)


def test_equals_leave_the_earnings_at_zero_open_and_missing_levels_count_for_nothing():
    rng = np.random.default_rng(1)
    quality = np.array([[1.0, 9.0], [1.0, 1.0]])
    there = np.array([[True, False], [True, True]])

    def masked(values):
        return Market.from_arrays(
            values,
            np.full(values.shape, 0.2),
            np.full(values.shape, 0.2),
            available=np.broadcast_to(there, values.shape),
        )

    drawn = quality + 0.05 * rng.standard_normal((500, 2, 2))
    found = auction_intervals(masked(quality), masked(drawn), 0.0, 0.95)
    assert found["provider_utility"][0] == 0 and 0.05 < found["provider_utility"][1] < 0.3
    assert found["welfare"][1] < 1.1


def test_where_perhaps_nobody_buys_nothing_is_within():
    rng = np.random.default_rng(2)
    quality = np.array([[1.0]])
    drawn = market(quality + 0.1 * rng.standard_normal((500, 1, 1)), 0.2)
    found = auction_intervals(market(quality, 0.2), drawn, 0.75, 0.95)
    assert all(low <= 0 <= high for low, high in found.values())
    assert found["user_cost"][1] > 0.2
    found = auction_intervals(market(quality, 0.2), drawn, 2.0, 0.95)
    assert all(ends == [0.0, 0.0] for ends in found.values())


def test_who_buys_nothing_holds_the_outside_option_where_noise_is_taste():
    rng = np.random.default_rng(2)
    quality = np.array([[1.0]])
    drawn = market(quality + 0.1 * rng.standard_normal((500, 1, 1)), 0.2)
    for outside in (0.75, 2.0):
        for noise in ("error", "taste"):
            found = auction_intervals(market(quality, 0.2), drawn, outside, 0.95, noise)
            users = Users.create(1.0, outside, noise)
            out = SecondPriceAuction()(honest_bids(market(quality, 0.2)), users)
            for name in ("welfare", "user_value", "user_cost", "provider_utility"):
                low, high = found[name]
                assert low <= float(np.sum(getattr(out, name))) <= high, (outside, noise, name)
