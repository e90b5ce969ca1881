"""The β at which demand in equilibrium has an elasticity."""

import jax
import numpy as np
import pytest
from drawn import honest_bids

from mechlab import (
    FixedPrice,
    InputError,
    Market,
    PayPerCompute,
    Published,
    Users,
    demand,
    equilibrium,
)
from mechlab.core.solution import Status
from mechlab.data import published


@pytest.mark.parametrize("elasticity", [-0.2, -1.1, -2.5])
def test_equilibrium_demand_has_the_elasticity(elasticity):
    market = published().market
    users = Users.calibrate(market, elasticity=elasticity)
    reached = equilibrium(market, users)
    found = demand.mean_elasticity(market, users, PayPerCompute(), reached.profile)
    np.testing.assert_allclose(found, elasticity, rtol=1e-7)


def test_a_market_with_one_level_each_has_the_closed_form():
    """Equal providers: −βp(1 − 1/(N + 1)) at an outside option as good as they."""
    market = Market.from_arrays(np.full((3, 1), 0.005), np.full((3, 1), 0.002), np.zeros((3, 1)))
    found = demand.calibrate(market, -1.5, outside_value=0.003)
    np.testing.assert_allclose(found.rationality, 1.5 / 0.002 / 0.75, rtol=1e-9)
    np.testing.assert_allclose(found.elasticity, -1.5, rtol=1e-9)


@pytest.mark.full
def test_batches_say_how_each_ended_and_agree_with_one_market():
    market, _ = Published().markets(60)
    market = jax.tree.map(lambda x: np.asarray(x, float) if x.dtype.kind == "f" else x, market)
    target = np.where(np.arange(60) % 3, -1.1, -3000.0)
    found = jax.jit(demand.calibrate)(market, target)
    status = np.asarray(found.status)
    assert np.all(status[::3] == Status.OUT_OF_REACH) and np.isnan(found.rationality[0])
    done = np.flatnonzero(status == Status.CONVERGED)
    assert len(done) > 30
    np.testing.assert_allclose(found.elasticity[done], -1.1, rtol=1e-7)
    assert np.all(np.asarray(found.lowest)[::3] > -3000)
    i = int(done[5])
    alone = demand.calibrate(jax.tree.map(lambda x: x[i], market), -1.1)
    np.testing.assert_allclose(alone.rationality, found.rationality[i], rtol=1e-9)


@pytest.mark.full
def test_where_the_elasticity_leaps_the_nearer_side_is_given():
    """Two levels of one provider and a rival: where it changes its level, demand leaps."""
    market, _ = Published().markets(3000)
    found = demand.calibrate(market, -1.1)
    leaps = np.flatnonzero(np.asarray(found.status) == Status.JUMP)
    assert len(leaps)
    for i in leaps[:3]:
        one = jax.tree.map(lambda x, i=i: np.asarray(x[i]), market)
        beta = float(found.rationality[i]) * np.array([0.999, 1.001])
        users = Users.create(beta)
        around = np.asarray(
            demand.mean_elasticity(one, users, PayPerCompute(), equilibrium(one, users).profile)
        )
        assert around[0] > -1.1 > around[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: Users.calibrate(m, elasticity=-50.0), r"equilibria have -2.8\d* to 0"),
        (lambda m: Users.calibrate(m, elasticity=0.0), "own-price elasticities are below 0"),
        (lambda m: Users.calibrate(m, elasticity=float("nan")), "elasticity"),
        (lambda m: demand.calibrate(m, 1.1), "own-price elasticities are below 0"),
    ],
)
def test_what_no_rationality_gives_is_said(call, words):
    with pytest.raises(InputError, match=words):
        call(published().market)


@pytest.mark.parametrize("price", [0.001, 0.05])
def test_other_posted_prices(price):
    """Far above those of pay-per-compute as well: β is sought at the prices that are posted."""
    market, rule = published().market, FixedPrice(price)
    found = demand.calibrate(market, -1.1, rule=rule, outside_value=price - 0.01)
    users = Users.create(float(found.rationality), price - 0.01)
    played = equilibrium(market, users, rule).profile
    mean = demand.mean_elasticity(market, users, rule, played)
    np.testing.assert_allclose(mean, -1.1, rtol=1e-7)


def test_tastes_go_along():
    tasteful = Users.calibrate(published().market, elasticity=-1.1, noise="taste")
    assert tasteful.noise == "taste"
    assert float(PayPerCompute()(honest_bids(published().market), tasteful).user_value) > 0
