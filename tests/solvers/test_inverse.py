"""Parameters are recovered from the equilibrium that they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import InputError, Published, continuous_equilibrium, fit


def drawn(count, providers, seed):
    return jax.tree.map(
        lambda x: x.astype(float) if x.dtype != bool else x,
        Published(providers=providers).markets(count, seed=seed),
    )


def recovers(count, seed):
    """Rationality and the worth of an answer, from a start that is up to a factor 1.6 off."""
    market, crowd = drawn(count, 3, seed)
    true = continuous_equilibrium(market, crowd)
    rng = np.random.default_rng(seed)
    off = jnp.asarray(np.exp(rng.uniform(-0.5, 0.5, (2, count))))
    guess = market.replace(quality=market.quality * off[0][:, None, None])
    found = fit(
        guess,
        crowd.replace(rationality=crowd.rationality * off[1]),
        observed={"compute": true.compute, "shares": true.shares},
        free=("rationality", "value"),
    )
    # at the ends of all curves compute says nothing, and one share decides the others
    told = np.isfinite(found.standard_errors["value"])
    told &= np.isfinite(found.standard_errors["rationality"])
    assert told.mean() > 0.9 and bool(found.converged.all())
    worth = np.asarray(found.parameters["value"] * off[0])[told]
    beta = np.asarray(found.parameters["rationality"] / crowd.rationality)[told]
    right = (np.abs(worth - 1) < 1e-6) & (np.abs(beta - 1) < 1e-6)
    assert right.mean() >= 0.98
    # what is not recovered is not said to fit either
    assert np.all(np.asarray(found.residual)[told][~right] > 1e-6)
    assert np.all(np.asarray(found.residual)[told][right] < 1e-9)


@pytest.mark.full
def test_known_parameters_are_recovered():
    recovers(48, 1)


@pytest.mark.full
def test_known_parameters_of_a_thousand_markets_are_recovered():
    recovers(1000, 2)


@pytest.mark.full
def test_standard_errors_are_the_spread_over_noisy_observations():
    market, crowd = drawn(1, 4, 3)
    market, crowd = jax.tree.map(lambda x: x[0], (market, crowd))
    crowd = crowd.replace(rationality=jnp.asarray(2000.0))
    true, rng, noise = continuous_equilibrium(market, crowd), np.random.default_rng(4), 0.01
    draws = 300
    compute = true.compute * np.exp(noise * rng.standard_normal((draws, 4)))
    shares = true.shares + noise * rng.standard_normal((draws, 4))
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (draws, *x.shape)), (market, crowd))
    found = fit(
        *many,
        observed={"compute": compute, "shares": shares},
        noise={"compute": noise, "shares": noise},
    )
    spread = float(jnp.std(found.parameters["rationality"]))
    said = float(jnp.median(found.standard_errors["rationality"]))
    np.testing.assert_allclose(said, spread, rtol=0.2)


@pytest.mark.full
def test_margins_and_costs_of_every_provider():
    market, crowd = drawn(12, 3, 5)
    crowd = crowd.replace(rationality=jnp.full(12, 1500.0))
    true = continuous_equilibrium(market, crowd)
    observed = {"compute": true.compute, "shares": true.shares, "payment": true.outcome.payment}
    dear = market.replace(price=market.price * 1.03)
    found = fit(dear, crowd, observed=observed, free=("margin",))
    margin = (market.price / market.cost - 1)[..., 0]
    np.testing.assert_allclose(found.parameters["margin"], margin, rtol=1e-5)
    # costs in proportion to prices move no choice of compute, whatever their height
    found = fit(market.replace(cost=market.cost * 1.02), crowd, observed=observed, free=("cost",))
    assert np.all(np.isinf(found.standard_errors["cost"]))
    # with a part that does not depend on compute they do
    market = market.replace(cost=0.8 * market.cost + 0.1 * market.cost[..., :1])
    true = continuous_equilibrium(market, crowd)
    guess = market.replace(cost=market.cost * 1.05)
    found = fit(
        guess, crowd, observed={"compute": true.compute}, free=("cost",), noise={"compute": 0.01}
    )
    told = np.isfinite(np.asarray(found.standard_errors["cost"])) & ~np.asarray(true.held)
    assert told.mean() > 0.5
    np.testing.assert_allclose(found.parameters["cost"][told], 1 / 1.05, rtol=1e-6)


@pytest.mark.full
def test_more_parameters_than_observations_are_not_told():
    market, crowd = drawn(4, 2, 7)
    crowd = crowd.replace(rationality=jnp.full(4, 800.0))
    shares = continuous_equilibrium(market, crowd).shares
    found = fit(
        market,
        crowd,
        observed={"shares": shares},
        free=("rationality", "value", "margin"),
        noise={"shares": 0.01},
    )
    unknown = [np.isinf(x).reshape(4, -1) for x in found.standard_errors.values()]
    assert np.all(np.any(np.concatenate(unknown, axis=1), axis=1))


def test_what_cannot_be_fitted_is_told():
    market, crowd = drawn(2, 2, 6)
    for call, said in (
        (lambda: fit(market, crowd, observed={"tokens": 1.0}), "observed"),
        (lambda: fit(market, crowd, observed={"shares": 0.5}, free="rationality"), "free"),
        (
            lambda: fit(market, crowd, observed={"shares": 0.5}, free=("cost", "margin")),
            "one of them",
        ),
        (lambda: fit(market, crowd, observed={"shares": np.ones(3)}), "observed: give arrays"),
        (lambda: fit(market, crowd, observed={"shares": np.nan}), "observed: shares"),
        (lambda: fit(market, crowd, observed={"compute": 0.0}), "observed: compute"),
        (
            lambda: fit(market, crowd, observed={"shares": 0.5}, noise={"compute": 0.1}),
            "noise: compute",
        ),
        (
            lambda: fit(market, crowd, observed={"shares": 0.5}, noise={"shares": 0.0}),
            "noise: shares",
        ),
    ):
        with pytest.raises(InputError, match=said):
            call()
