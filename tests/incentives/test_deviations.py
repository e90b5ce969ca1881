"""Grid deviations against brute force, under every rule."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import LEVELS, batches, one_by_one, profiles
from hypothesis import given
from hypothesis import strategies as st

from mechlab import (
    FirstPriceAuction,
    PayPerCompute,
    SecondPriceAuction,
    Users,
    better_response,
    data,
    grid_deviations,
    social_optimum,
)


@pytest.mark.float64
@given(batches(), st.integers(0, 5))
def test_pay_per_compute_gains_are_those_of_trying_every_level(batch, seed):
    played = profiles(batch[0], seed)
    together = grid_deviations(*batch, PayPerCompute(), played)
    for market, crowd, profile, found in one_by_one(*batch, played, together):
        lengths = market.available.sum(1)
        now = oracles.utilities(market, crowd, profile)
        for i in range(len(profile)):
            moved = [
                oracles.utilities(market, crowd, (*profile[:i], k, *profile[i + 1 :]))[i]
                for k in range(lengths[i])
            ]
            np.testing.assert_allclose(found.level_utility[i, : lengths[i]], moved, rtol=1e-9)
            gain = max(0.0, max(moved) - now[i])
            np.testing.assert_allclose(found.gain[i], gain, atol=1e-15)
            assert moved[int(found.best_level[i])] >= max(moved) - 1e-15
        np.testing.assert_allclose(found.regret, max(found.gain))


@given(batches(), st.integers(0, 5), st.sampled_from([SecondPriceAuction(), FirstPriceAuction()]))
def test_auction_gains_are_those_of_trying_every_level(batch, seed, rule):
    market, crowd = batch
    profile = profiles(market, seed)
    found = np.asarray(grid_deviations(market, crowd, rule, profile).level_utility)
    for i in range(market.providers):
        for k in range(LEVELS):
            moved, there = profile.copy(), np.asarray(market.available)[:, i, k]
            moved[there, i] = k
            out = rule(market.at(moved, asking="cost"), crowd)
            np.testing.assert_allclose(
                found[there, i, k], np.asarray(out.provider_utility)[there, i], atol=1e-15
            )


def test_nobody_gains_at_equilibrium_and_somebody_does_at_the_optimum():
    named = data.published()
    crowd = Users.create([200.0, 1000.0])
    run = better_response(named.market, crowd, key=jax.random.key(0))
    at_rest = grid_deviations(named.market, crowd, PayPerCompute(), run.profile)
    assert float(jnp.max(at_rest.regret)) < 1e-10
    best = social_optimum(named.market, crowd).profile
    tempted = grid_deviations(named.market, crowd, PayPerCompute(), best)
    assert bool(jnp.all(tempted.regret > 1e-5))
    low = tempted.best_level[0] > best[0]
    assert bool(jnp.all(low | (tempted.gain[0] == 0)))  # at β = 200, all toward more compute


@given(batches())
def test_truthful_auction_has_no_gain_on_the_grid(batch):
    market, crowd = batch
    found = grid_deviations(market, crowd, SecondPriceAuction(), market.best_surplus_profile())
    assert float(found.regret.max()) <= 1e-15
