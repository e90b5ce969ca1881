"""Owners of several providers, against every combination of levels."""

import functools
import itertools

import drawn
import jax
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechlab import (
    FixedPrice,
    InputError,
    PayPerCompute,
    Published,
    SecondPriceAuction,
    Status,
    Users,
    equilibrium,
    owner_deviations,
    owners_equilibrium,
    pure_equilibria,
)

pytestmark = pytest.mark.float64

batches = functools.partial(drawn.batches, betas=(30.0, 300.0, 2000.0))


def best_by_hand(market, users, profile, owner):
    """The most that an owner's providers earn together, over all their combinations of levels."""
    counts = np.asarray(market.available).sum(axis=1)
    most = -np.inf
    for levels in itertools.product(*(range(counts[i]) for i in owner)):
        tried = np.array(profile)
        tried[list(owner)] = levels
        earned = oracles.utilities(market, users, tuple(tried))
        most = max(most, sum(earned[i] for i in owner))
    return most


def partition(market, split):
    """Every other provider with one owner, the rest with another; or the first alone."""
    providers = range(market.providers)
    sides = [[i for i in providers if (i % 2 if split else i > 0) == side] for side in (0, 1)]
    return [side for side in sides if side]


@given(batches(losses=True), st.booleans(), st.integers(0, 3))
def test_an_answer_is_the_best_of_all_combinations(batch, split, seed):
    profiles = drawn.profiles(batch[0], seed)
    owners = partition(batch[0], split)
    together = owner_deviations(*batch, PayPerCompute(), profiles, owners=owners)
    for market, users, profile, found in drawn.one_by_one(*batch, profiles, together):
        earned = oracles.utilities(market, users, profile)
        for number, owner in enumerate(owners):
            now, most = sum(earned[i] for i in owner), best_by_hand(market, users, profile, owner)
            np.testing.assert_allclose(found.utility[number], now, rtol=1e-9, atol=1e-18)
            np.testing.assert_allclose(found.gain[number], most - now, rtol=1e-8, atol=1e-15)
            moved = np.array(profile)
            moved[list(owner)] = found.levels[list(owner)]
            reached = oracles.utilities(market, users, tuple(moved))
            np.testing.assert_allclose(sum(reached[i] for i in owner), most, rtol=1e-9, atol=1e-18)


@given(batches(), st.booleans())
def test_at_the_end_no_owner_gains(batch, split):
    owners = partition(batch[0], split)
    found = owners_equilibrium(*batch, owners=owners)
    left = owner_deviations(*batch, PayPerCompute(), found.profile, owners=owners)
    settled = np.asarray(found.status) == Status.CONVERGED
    small = np.asarray(left.gain) <= 1e-7 * np.abs(np.asarray(left.utility)) + 1e-18
    assert settled.any() and np.all(small[settled])


@pytest.mark.slow
@given(batches())
def test_owners_of_one_provider_end_at_an_equilibrium(batch):
    together = owners_equilibrium(*batch, owners=[[i] for i in range(batch[0].providers)])
    assert np.all(np.asarray(together.status) == Status.CONVERGED)
    for market, users, found, known in drawn.one_by_one(*batch, together, equilibrium(*batch)):
        if known.unique:
            for x in (market.price, market.quality):
                at = [np.take_along_axis(x, p.profile[:, None], 1) for p in (found, known)]
                np.testing.assert_allclose(*at, rtol=1e-9)
        else:
            listed = pure_equilibria(market, users).profiles
            assert any(np.array_equal(found.profile, one) for one in listed)


def test_one_owner_of_all_earns_most_and_users_lose():
    market, users = Published(providers=4).markets(40)
    market, users = jax.tree.map(
        lambda x: np.asarray(x, float) if x.dtype.kind == "f" else x, (market, users)
    )
    whole = owners_equilibrium(market, users, owners=[[0, 1, 2, 3]])
    apart = owners_equilibrium(market, users, owners=[[0], [1], [2], [3]])
    outcomes = [PayPerCompute()(market.at(x.profile, "price"), users) for x in (whole, apart)]
    assert np.all(np.asarray(whole.converged))
    earned = [np.asarray(x.provider_utility).sum(-1) for x in outcomes]
    assert np.all(earned[0] >= earned[1] * (1 - 1e-9))
    assert np.mean(outcomes[0].user_value) < np.mean(outcomes[1].user_value)
    one = jax.tree.map(lambda x: x[3], (market, users))
    np.testing.assert_array_equal(
        owners_equilibrium(*one, owners=[[0, 1, 2, 3]]).profile, whole.profile[3]
    )


def test_rules_and_arguments():
    market, users = jax.tree.map(lambda x: np.asarray(x)[0], Published(providers=3).markets(1))
    flat = owners_equilibrium(market, users, owners=[[0, 1], [2]], rule=FixedPrice(0.002))
    assert flat.profile.shape == (3,)
    for owners, rule, words in (
        ([[0, 1], []], None, "owner 1 owns no provider"),
        ([[0, 1], [1, 2]], None, "provider 1 has two owners"),
        ([[0, 1]], None, "provider 2 has no owner"),
        ([[0, 1], [2]], SecondPriceAuction(), "posted prices"),
    ):
        with pytest.raises(InputError, match=words):
            owners_equilibrium(market, Users.create(100.0), owners=owners, rule=rule)
