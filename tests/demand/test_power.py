"""Demand at a profile, against pyblp and against differences of shares."""

import blp
import drawn
import jax
import numpy as np
import pytest
from hypothesis import given

from mechlab import (
    FixedPrice,
    InputError,
    Market,
    PayPerCompute,
    SecondPriceAuction,
    UserMixture,
    Users,
    demand,
)


@given(drawn.batches(betas=(30.0, 300.0, 2000.0), outsides=(0.0, 0.004)))
def test_elasticities_are_those_of_the_shares(batch):
    """Central differences of log shares in log prices."""
    market, users = batch
    profile = np.zeros(market.price.shape[:-1], int)
    found = demand.at_profile(market, users, PayPerCompute(), profile)
    offers = market.at(profile, "price")

    def log_shares(log_price):
        changed = offers.replace(price=offers.price * np.exp(log_price))
        return np.log(PayPerCompute()(changed, users).shares)

    n, step = market.providers, 1e-6
    for j in range(n):
        by = step * np.eye(n)[j]
        slope = (log_shares(by) - log_shares(-by)) / (2 * step)
        np.testing.assert_allclose(found.elasticities[..., j], slope, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.sum(found.diversion, axis=-1), 1.0, rtol=1e-12)


def market_of(rng, n=5):
    quality, price = rng.uniform(0, 0.01, (n, 1)), rng.uniform(1e-4, 0.004, (n, 1))
    return Market.from_arrays(quality, price, 0.8 * price)


OWNERS = [[0, 3], [1], [2, 4]]


@pytest.mark.parametrize("owners", [None, OWNERS])
def test_pyblp_says_the_same(owners):
    """With our implied costs its Bertrand–Nash prices are ours, and so is all that follows."""
    rng = np.random.default_rng(7)
    for _ in range(4):
        market, beta = market_of(rng), float(rng.uniform(100, 1000))
        found = demand.at_profile(
            market, Users.create(beta), PayPerCompute(), np.zeros(5, int), owners=owners
        )
        blp.agrees(found, market, beta, owners)


def test_types_of_users_are_mixed_logit():
    rng = np.random.default_rng(3)
    market, profile = market_of(rng), np.zeros(5, int)
    mixed = UserMixture.create([0.3, 0.7], [200.0, 1500.0], [0.0, 0.002], [1.0, 1.4])
    found = demand.at_profile(market, mixed, PayPerCompute(), profile)

    def shares(price):
        return PayPerCompute()(
            market.replace(price=price[:, None]).at(profile, "price"), mixed
        ).shares

    price = market.price[:, 0]
    jacobian = jax.jacfwd(shares)(price)
    np.testing.assert_allclose(found.shares, shares(price), rtol=1e-12)
    elastic = jacobian * price / found.shares[:, None]
    np.testing.assert_allclose(found.elasticities, elastic, rtol=1e-9)
    away = -jacobian.T / np.diag(jacobian)[:, None]
    np.testing.assert_allclose(
        found.diversion[~np.eye(5, dtype=bool)], away[~np.eye(5, dtype=bool)]
    )
    np.testing.assert_allclose(found.markups, -found.shares / np.diag(jacobian), rtol=1e-9)


def test_batches_gradients_and_the_far_ends_of_rationality():
    rng = np.random.default_rng(4)
    one = market_of(rng)
    profile = np.zeros(5, int)
    beta = np.array([0.0, 1e-3, 500.0, 1e5, 1e9])
    found = jax.jit(demand.at_profile)(one, Users.create(beta), PayPerCompute(), profile)
    for i, b in enumerate(beta):
        alone = demand.at_profile(one, Users.create(b), PayPerCompute(), profile)
        np.testing.assert_allclose(found.elasticities[i], alone.elasticities, rtol=1e-12)
    for name in ("shares", "elasticities", "mean_elasticity", "hhi"):
        assert np.all(np.isfinite(getattr(found, name))), name
    assert np.all(np.asarray(found.mean_elasticity) <= 0)
    np.testing.assert_allclose(found.hhi[0], 1e4 / 5)
    np.testing.assert_allclose(found.hhi[-1], 1e4)

    def mean(scale):
        return demand.mean_elasticity(
            one.replace(price=scale * one.price), Users.create(500.0), PayPerCompute(), profile
        )

    slope = (mean(1 + 1e-6) - mean(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(mean)(1.0), slope, rtol=1e-6)


def test_the_mean_alone_is_that_of_the_whole():
    market, users = market_of(np.random.default_rng(5)), Users.create(700.0)
    whole = demand.at_profile(market, users, PayPerCompute(), np.zeros(5, int))
    mean = demand.mean_elasticity(market, users, PayPerCompute(), np.zeros(5, int))
    np.testing.assert_allclose(whole.mean_elasticity, mean, rtol=1e-12)
    own, sold = np.diag(whole.elasticities), np.asarray(whole.shares)
    np.testing.assert_allclose(mean, np.sum(sold * own) / np.sum(sold), rtol=1e-12)


@pytest.mark.parametrize(
    ("owners", "words"),
    [
        ([[0, 1], [], [2, 3, 4]], "owner 1 owns no provider; leave it out"),
        ([[0, 1], [1, 2, 3, 4]], "provider 1 has two owners"),
        ([[0, 1], [2, 3]], "provider 4 has no owner"),
        ([[0, 1, 2, 3, 4, 5]], "there is no provider 5; they are 0 to 4"),
    ],
)
def test_owners_that_are_no_partition_are_named(owners, words):
    market = market_of(np.random.default_rng(6))
    with pytest.raises(InputError, match=words):
        demand.at_profile(
            market, Users.create(1.0), PayPerCompute(), np.zeros(5, int), owners=owners
        )


def test_demand_is_of_posted_prices():
    market, users = market_of(np.random.default_rng(6)), Users.create(700.0)
    with pytest.raises(InputError, match="posted prices"):
        demand.at_profile(market, users, SecondPriceAuction(), np.zeros(5, int))
    flat = demand.at_profile(market, users, FixedPrice(0.002), np.zeros(5, int))
    assert np.all(np.diag(flat.elasticities) < 0)
