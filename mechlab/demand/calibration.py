"""The rationality at which demand is as elastic as data say."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import each, over_columns, vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Users
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import Tolerance
from mechlab.core.validation import checked, concrete
from mechlab.demand.power import mean_elasticity
from mechlab.mechanisms import Mechanism, PayPerCompute
from mechlab.mechanisms.base import check_arguments, posted_market
from mechlab.solvers.equilibrium import equilibrium_columns

# β times the market's mean price: from users who hardly look at prices to those who see no else
LEAST, MOST = 1e-3, 1e4
_GRID, _HALVINGS = 28, Tolerance(double=40, single=16)
_NEAR = Tolerance(single=1e-4, double=1e-8)


@pytree
class Calibration(Solution):
    """The β at which equilibrium demand has an elasticity.

    Attributes:
        rationality: [...] β, 1/USD; NaN where none gives it.
        elasticity: [...] the mean own-price elasticity at β, weighted by share.
        lowest, highest: [...] the elasticities that equilibria of the grid of β have.
        status: [...] int, a `Status`: CONVERGED; OUT_OF_REACH where no β of the grid is elastic
            enough; JUMP where the equilibrium changes at β so that the elasticity leaps over the
            one wanted.
    """

    rationality: Array
    elasticity: Array
    lowest: Array
    highest: Array


def calibrate(
    market: Market,
    elasticity: Any = -1.1,
    *,
    outside_value: Any = 0.0,
    rule: Mechanism | None = None,
) -> Calibration:
    """A β at which demand in equilibrium is as elastic as wanted.

    Elasticity grows with β where levels stay, leaps where equilibrium levels change, and falls when
    one provider sells nearly all, so that several β may have it. β runs over a grid of 28 from
    0.001 to 10,000 over the market's mean price; between the first two that enclose the elasticity
    the interval is halved to rounding.

    Args:
        market: [..., N, K].
        elasticity: [...] mean own-price elasticity of shares, weighted by share, below 0; about
            −1.1 is reported for the market of LLM inference.
        outside_value: [...] v0, USD.
        rule: posted prices; pay-per-compute where not given.

    Raises:
        InputError: for an elasticity that is not below 0, or a rule without posted prices.
    """
    rule = PayPerCompute() if rule is None else rule
    target = checked("elasticity", elasticity)
    if concrete(target) and not np.all(np.asarray(target) < 0):
        raise InputError(f"elasticity = {elasticity}; own-price elasticities are below 0")
    posted_market(market, rule)
    # the target travels where users have their rationality
    wanted = Users.create(-jnp.asarray(target), outside_value)
    check_arguments(market, wanted, rule)
    return _solve(*jax.lax.stop_gradient((market, wanted, rule)))


def reached(market: Market, elasticity: Any, outside_value: Any = 0.0) -> Calibration:
    """`calibrate`, outside jit, with an InputError where some market has no such β."""
    found = calibrate(market, elasticity, outside_value=outside_value)
    bad = np.argwhere(np.asarray(found.status) != Status.CONVERGED)
    if len(bad):
        i = tuple(bad[0])
        where = f" of market {', '.join(map(str, i))}" if i else ""
        wanted = np.broadcast_to(np.asarray(elasticity), np.shape(found.status))[i]
        if found.status[i] == Status.OUT_OF_REACH:
            raise InputError(
                f"elasticity = {wanted:g}: no β gives it to demand{where}; equilibria have from "
                f"{float(found.lowest[i]):.4g} to {float(found.highest[i]):.4g}: give one of these"
            )
        raise InputError(
            f"elasticity = {wanted:g}: levels{where} change at β = "
            f"{float(found.rationality[i]):.6g} so that demand leaps over it; give "
            f"{float(found.elasticity[i]):.6g}, which is the nearest"
        )
    return found


@jax.jit
def _solve(market: Market, wanted: Users, rule: Mechanism) -> Calibration:
    return over_columns(functools.partial(_columns, rule=rule), market, wanted)


def _columns(market: Market, wanted: Users, rule: Mechanism) -> Calibration:
    """Of columns: market [P, N, K, B], wanted elasticities (as positive numbers) [P, B]."""
    target = wanted.rationality
    there, price = market.available, market.price
    mean_price = jnp.sum(jnp.where(there, price, 0.0), axis=(1, 2)) / jnp.sum(there, axis=(1, 2))
    scale = 1.0 / jnp.maximum(mean_price, jnp.finfo(price.dtype).tiny * 1e6)

    def elastic(log_beta: Array) -> Array:
        """[P, B] minus the elasticity at e^log_beta over the mean price."""
        users = wanted.replace(rationality=jnp.exp(log_beta) * scale)
        played = equilibrium_columns(market, users, rule=rule, key=jax.random.key(0))

        def one(market: Market, users: Users, profile: Array) -> Array:
            return -mean_elasticity(market, users, profile, rule)

        return each(vmapped(one), market, users, played.profile)

    low, high = float(np.log(LEAST)), float(np.log(MOST))
    step = (high - low) / (_GRID - 1)

    def look(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        at, least, most = state
        found = elastic(jnp.full(target.shape, low, target.dtype) + i * step)
        here = jnp.isnan(at) & (found >= target)
        return (
            jnp.where(here, low + i * step, at),
            jnp.minimum(least, found),
            jnp.maximum(most, found),
        )

    nowhere = jnp.full(target.shape, jnp.nan, target.dtype)
    first, least, most = jax.lax.fori_loop(
        0, _GRID, look, (nowhere, jnp.full_like(target, jnp.inf), jnp.full_like(target, -jnp.inf))
    )
    reached = ~jnp.isnan(first)
    above = jnp.where(reached, first, high)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = ends
        middle = 0.5 * (below + above)
        enough = elastic(middle) >= target
        return jnp.where(enough, below, middle), jnp.where(enough, middle, above)

    below, above = jax.lax.fori_loop(0, int(_HALVINGS.of(target)), halve, (above - step, above))
    # of the two ends that are left the nearer: the same, but where the elasticity leaps
    ends = jnp.stack([below, above])
    found = jnp.stack([elastic(below), elastic(above)])
    nearer = jnp.argmin(jnp.abs(found - target), axis=0)
    at, found = (jnp.take_along_axis(x, nearer[None], axis=0)[0] for x in (ends, found))
    close = jnp.abs(found - target) <= _NEAR.of(target) * target
    status = jnp.where(close, Status.CONVERGED, Status.JUMP)
    return Calibration(
        rationality=jnp.where(reached, jnp.exp(at) * scale, jnp.nan),
        elasticity=jnp.where(reached, -found, jnp.nan),
        lowest=-most,
        highest=-least,
        status=jnp.where(reached, status, Status.OUT_OF_REACH).astype(jnp.int32),
    )
