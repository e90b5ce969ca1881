"""Tastes, waiting, nests and owners in the precision that tests run in, float32 or float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import (
    NestedLogit,
    PayPerCompute,
    PersonalAuction,
    Published,
    SecondPriceAuction,
    Users,
    demand,
    evaluate,
    owner_deviations,
    owners_equilibrium,
)

BETAS = (1e-3, 10.0, 1e3, 1e5, 1e8)


def market(seed=0):
    drawn, _ = Published(providers=4).markets(1, seed=seed)
    return jax.tree.map(lambda x: x[0], drawn)


@pytest.mark.slow
@pytest.mark.parametrize("beta", BETAS)
def test_worth_and_earnings_are_finite_and_add_up(beta):
    for seed in range(3):
        one, users = market(seed), Users.create(beta, noise="taste", latency_value=1e-5)
        one = one.replace(latency=one.tokens / 50)
        nested = NestedLogit(("a", "a", "b", "b"), 0.3)
        for rule in (PayPerCompute(), PersonalAuction(), SecondPriceAuction(), nested):
            out = rule(rule.offers(one, jnp.zeros(4, int)), users)
            for name in ("welfare", "user_value", "provider_utility", "payment", "shares"):
                assert bool(jnp.all(jnp.isfinite(getattr(out, name)))), (rule, name)
            whole = out.user_value + jnp.sum(out.provider_utility)
            np.testing.assert_allclose(out.welfare, whole, rtol=1e-4)
        own = evaluate(one, users, PersonalAuction())
        today = evaluate(one, users, PayPerCompute())
        assert own.welfare >= today.welfare * (1 - 1e-5)
        assert today.optimal_welfare <= own.welfare * (1 + 1e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_demand_is_finite(beta):
    one, users = market(), Users.create(beta)
    for rule in (PayPerCompute(), NestedLogit(("a", "a", "b", "b"), 0.3)):
        found = demand.at_profile(one, users, rule, jnp.zeros(4, int))
        for name in ("shares", "elasticities", "mean_elasticity", "hhi"):
            assert bool(jnp.all(jnp.isfinite(getattr(found, name)))), (rule, name)
        assert bool(jnp.all(jnp.diagonal(found.elasticities) <= 0))


def test_owners_end_where_none_gains():
    drawn, users = Published(providers=4).markets(20)
    owners = [[0, 1], [2, 3]]
    found = owners_equilibrium(drawn, users, owners=owners)
    left = owner_deviations(drawn, users, PayPerCompute(), found.profile, owners=owners)
    settled = np.asarray(found.converged)
    assert settled.mean() > 0.9
    gain, earned = np.asarray(left.gain)[settled], np.asarray(left.utility)[settled]
    assert np.all(gain <= 1e-5 * np.abs(earned) + 1e-12)


@pytest.mark.slow
def test_calibration_reaches_its_elasticity():
    drawn, _ = Published(providers=4).markets(20)
    found = demand.calibrate(drawn, -0.7)
    done = np.asarray(found.converged)
    assert done.mean() > 0.8
    np.testing.assert_allclose(np.asarray(found.elasticity)[done], -0.7, rtol=2e-4)
