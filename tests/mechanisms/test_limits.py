"""Auctions under limits: capacity (VCG by brute force) and noisy estimates (by simulation)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import honest_bids, markets, users
from hypothesis import given
from hypothesis import strategies as st

from mechlab import (
    InputError,
    MultiUnitAuction,
    NoisyAuction,
    PriceBid,
    SecondPriceAuction,
    Users,
    data,
    search,
)


def largest_value(scores, queries, outside):
    """Most value of an assignment of queries to providers, one each, by trying all."""
    best = queries * outside
    for count in range(1, min(queries, len(scores)) + 1):
        for chosen in itertools.combinations(scores, count):
            best = max(best, sum(chosen) + (queries - count) * outside)
    return best


@pytest.mark.float64
@given(markets(max_providers=5), users(), st.integers(1, 4))
def test_winners_are_paid_what_they_add_to_the_others(market, crowd, queries):
    offers = honest_bids(market)
    out = MultiUnitAuction(queries)(offers, crowd)
    scores = np.asarray(offers.offered_value).tolist()
    outside = float(crowd.outside_value)
    whole = largest_value(scores, queries, outside)
    served = np.asarray(out.shares) > 0
    total = sum(s for s, wins in zip(scores, served) if wins)
    np.testing.assert_allclose(
        total + (queries - served.sum()) * outside, whole, rtol=1e-12, atol=1e-15
    )
    for i in np.flatnonzero(served):
        others = scores[:i] + scores[i + 1 :]
        # Vickrey–Clarke–Groves: utility is the value added by taking part
        added = whole - largest_value(others, queries, outside)
        earned = float(out.provider_utility[i]) * queries
        np.testing.assert_allclose(earned, added, rtol=1e-7, atol=1e-14)


@given(markets(), users())
def test_one_query_is_the_second_price_auction(market, crowd):
    offers = honest_bids(market)
    first, second = MultiUnitAuction(1)(offers, crowd), SecondPriceAuction()(offers, crowd)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), first, second)


@pytest.mark.slow
@pytest.mark.parametrize("outside", [0.0, 0.0065])
@pytest.mark.parametrize("noise", [2e-4, 2e-3])
def test_noisy_outcomes_are_the_means_of_simulated_ones(noise, outside):
    offers = honest_bids(data.published().market)
    crowd = Users.create(0.0, outside)
    out = NoisyAuction(noise)(offers, crowd)
    rng, draws = np.random.default_rng(0), 400_000
    score, quality, cost = (
        np.asarray(getattr(offers, x)) for x in ("offered_value", "quality", "cost")
    )
    seen = score + noise * rng.standard_normal((draws, len(score)))
    order = np.sort(seen, axis=1)
    winner, trade = seen.argmax(1), order[:, -1] >= outside
    paid = np.where(trade, quality[winner] - np.maximum(order[:, -2], outside), 0.0)
    welfare = np.where(trade, (quality - cost)[winner], 0.0)
    for name, drawn in (("user_cost", paid), ("welfare", welfare)):
        error = 5 * drawn.std() / draws**0.5
        assert abs(float(getattr(out, name)) - drawn.mean()) < error + 1e-12
    shares = np.array([np.mean(trade & (winner == i)) for i in range(len(score))])
    np.testing.assert_allclose(out.shares, shares, atol=5 * 0.5 / draws**0.5)


@pytest.mark.slow
@given(markets(max_providers=4), users(), st.sampled_from([1e-5, 1e-3, 1e-1]))
def test_accounts_balance_under_noise(market, crowd, noise):
    out = NoisyAuction(noise)(honest_bids(market), crowd)
    assert 0 <= float(out.shares.sum()) <= 1 + 1e-9
    profit = float(out.provider_utility.sum())
    np.testing.assert_allclose(out.welfare, out.user_value + profit, rtol=1e-9, atol=1e-12)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


@pytest.mark.slow
@pytest.mark.float64
def test_a_search_finds_what_an_overbid_leaves_and_nothing_at_the_truth():
    """Gains under unit supply, by search and by trying many bids."""
    market, crowd = data.published().market, Users.create(1000.0)
    rule, level = MultiUnitAuction(3), market.best_surplus_profile()
    truth = search(market, crowd, rule, level, space=PriceBid())
    np.testing.assert_allclose(truth.gain, 0.0, atol=1e-12)
    honest = rule.offers(market, level)
    dear = honest.replace(price=honest.cost + 0.004)
    found = search(market, crowd, rule, level, space=PriceBid(), offers=dear)
    bids = np.linspace(0.0, 0.02, 200)
    before = rule(dear, crowd).provider_utility
    for i in range(market.providers):
        tried = [
            float(rule(dear.replace(price=dear.price.at[i].set(b)), crowd).provider_utility[i])
            for b in (bids[::10] if i else bids)
        ]
        assert float(found.gain[i]) >= max(tried) - float(before[i]) - 1e-12
    assert float(found.gain.max()) > 0


@pytest.mark.slow
@pytest.mark.float64
def test_without_noise_the_best_wins_and_more_noise_loses_welfare():
    offers, crowd = (honest_bids(data.published().market), Users.create(0.0))
    exact = SecondPriceAuction()(offers, crowd)
    none = NoisyAuction(0.0)(offers, crowd)
    for name in ("shares", "payment", "welfare", "user_cost"):
        np.testing.assert_allclose(getattr(none, name), getattr(exact, name), atol=1e-12)
    welfare = [float(NoisyAuction(x)(offers, crowd).welfare) for x in np.logspace(-6, -1, 12)]
    assert np.all(np.diff(welfare) <= 1e-15) and welfare[-1] < welfare[0] - 1e-4
    slope = jax.grad(lambda x: NoisyAuction(x)(offers, crowd).welfare)(1e-3)
    step = 1e-7
    beside = [float(NoisyAuction(1e-3 + s)(offers, crowd).welfare) for s in (-step, step)]
    np.testing.assert_allclose(slope, (beside[1] - beside[0]) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MultiUnitAuction(0), "queries = 0"),
        (lambda: NoisyAuction(-1.0), "noise = -1.0"),
        (lambda: NoisyAuction(jnp.array([1.0, jnp.nan])), "noise"),
    ],
)
def test_bad_limits_are_named(make, says):
    with pytest.raises(InputError, match=says):
        make()
