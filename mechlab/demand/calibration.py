"""The rationality at which demand is as elastic as data say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import each, over_columns, vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import Tolerance
from mechlab.core.users import Users
from mechlab.core.validation import checked, concrete
from mechlab.demand.power import mean_elasticity
from mechlab.mechanisms import Mechanism, PayPerCompute
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.equilibrium import equilibrium_columns

MOST = 1e4  # β times the market's mean price: users who see hardly anything but prices
_GRID, _CLOSER, _HALVINGS = 24, 8, Tolerance(double=40, single=13)
_NEAR = Tolerance(single=1e-4, double=1e-8)


@pytree
class Calibration(Solution):
    """The β at which equilibrium demand has an elasticity.

    Attributes:
        rationality: [...] β, 1/USD; NaN where none gives it.
        elasticity: [...] the mean own-price elasticity at β, weighted by share.
        lowest: [...] the most elastic that equilibria were seen to be; they go from it to 0.
        status: [...] int, a `Status`: CONVERGED; OUT_OF_REACH where no β tried is elastic
            enough; JUMP where the equilibrium changes at β so that the elasticity leaps over the
            one wanted.
    """

    rationality: Array
    elasticity: Array
    lowest: Array


def calibrate(
    market: Market,
    elasticity: Any = -1.1,
    *,
    outside_value: Any = 0.0,
    latency_value: Any = None,
    rule: Mechanism = DEFAULT_RULE,
) -> Calibration:
    """A β at which demand in equilibrium is as elastic as wanted.

    Elasticity grows with β where levels stay, leaps where equilibrium levels change, and falls when
    one provider sells nearly all, so that several β may have it. β runs over a grid of 24, from the
    least that can do to 10,000 over the market's mean price, and over 8 more around the most
    elastic; between the first two that enclose the elasticity the interval is halved to rounding.

    Args:
        market: [..., N, K].
        elasticity: [...] mean own-price elasticity of shares, weighted by share, below 0; about
            −1.1 is reported for the market of LLM inference.
        outside_value: [...] v0, USD.
        latency_value: [...] h, USD per second; see `Users.create`.
        rule: posted prices; pay-per-compute where not given.

    Raises:
        InputError: for an elasticity that is not below 0, or a rule without posted prices.
    """
    target = checked("elasticity", elasticity)
    if concrete(target) and not np.all(np.asarray(target) < 0):
        raise InputError(f"elasticity = {elasticity}; own-price elasticities are below 0")
    # the target travels where users have their rationality
    wanted = Users.create(-jnp.asarray(target), outside_value, latency_value=latency_value)
    return _calibrated(market, wanted, rule)


@front_door(frozen=True)
def _calibrated(market: Market, users: Users, rule: Mechanism) -> Calibration:
    return _solve(posted_market(market, rule), users)


def reached(
    market: Market, elasticity: Any, outside_value: Any = 0.0, latency_value: Any = None
) -> Calibration:
    """`calibrate`, outside jit, with an InputError where some market has no such β."""
    found = calibrate(market, elasticity, outside_value=outside_value, latency_value=latency_value)
    bad = np.argwhere(np.asarray(found.status) != Status.CONVERGED)
    if len(bad):
        i = tuple(bad[0])
        where = f" of market {', '.join(map(str, i))}" if i else ""
        wanted = np.broadcast_to(np.asarray(elasticity), np.shape(found.status))[i]
        if found.status[i] == Status.OUT_OF_REACH:
            raise InputError(
                f"elasticity = {wanted:g}: no β gives it to demand{where}, whose equilibria have "
                f"{float(found.lowest[i]):.4g} to 0; give one between"
            )
        raise InputError(
            f"elasticity = {wanted:g}: levels{where} change at β = "
            f"{float(found.rationality[i]):.6g} so that demand leaps over it; give "
            f"{float(found.elasticity[i]):.6g}, which is the nearest"
        )
    return found


@jax.jit
def _solve(posted: Market, wanted: Users) -> Calibration:
    return over_columns(_columns, posted, wanted)


def _columns(market: Market, wanted: Users) -> Calibration:
    """Of columns at posted prices: market [P, N, K, B], wanted elasticities (as positive numbers)
    [P, B]."""
    target, rule = wanted.rationality, PayPerCompute()
    there, price = market.available, market.price
    mean_price = jnp.sum(jnp.where(there, price, 0.0), axis=(1, 2)) / jnp.sum(there, axis=(1, 2))
    scale = 1.0 / jnp.maximum(mean_price, jnp.finfo(price.dtype).tiny * 1e6)

    def elastic(log_beta: Array) -> Array:
        """[P, B] minus the elasticity at e^log_beta over the mean price."""
        users = wanted.replace(rationality=jnp.exp(log_beta) * scale)
        played = equilibrium_columns(market, users, rule=rule, key=jax.random.key(0))

        def one(market: Market, users: Users, profile: Array) -> Array:
            return -mean_elasticity(market, users, PayPerCompute(), profile)

        return each(vmapped(one), market, users, played.profile)

    # |elasticity| is at most β times the highest price, so that no lower β gives it
    dearest = jnp.max(jnp.where(there, price, 0.0), axis=(1, 2))
    low = jnp.log(target / jnp.maximum(dearest * scale, 1.0))
    low = jnp.minimum(low, np.log(MOST) - 1.0)
    step = (np.log(MOST) - low) / (_GRID - 1)

    def search(start: Array, step: Array, count: int) -> tuple[Array, Array, Array]:
        """Of points start, start + step, …: the first elastic enough (NaN: none), the most elastic,
        and its elasticity."""

        def look(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            first, at, most = state
            here = start + i * step
            found = elastic(here)
            first = jnp.where(jnp.isnan(first) & (found >= target), here, first)
            return first, jnp.where(found > most, here, at), jnp.maximum(found, most)

        nowhere = jnp.full_like(target, jnp.nan)
        return jax.lax.fori_loop(0, count, look, (nowhere, start, jnp.zeros_like(target)))

    first, peak, most = search(low, step, _GRID)
    closer = 2 * step / (_CLOSER + 1)
    near, _, higher = search(peak - step + closer, closer, _CLOSER)
    most = jnp.maximum(most, higher)
    step = jnp.where(jnp.isnan(first), closer, step)
    first = jnp.where(jnp.isnan(first), near, first)
    reached = ~jnp.isnan(first)
    above = jnp.where(reached, first, np.log(MOST))

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = ends
        middle = 0.5 * (below + above)
        enough = elastic(middle) >= target
        return jnp.where(enough, below, middle), jnp.where(enough, middle, above)

    below, above = jax.lax.fori_loop(0, int(_HALVINGS.of(target)), halve, (above - step, above))
    # of the two ends that are left the nearer: the same, but where the elasticity leaps
    ends = jnp.stack([below, above])
    found = jax.lax.map(elastic, ends)
    nearer = jnp.argmin(jnp.abs(found - target), axis=0)
    at, found = (jnp.take_along_axis(x, nearer[None], axis=0)[0] for x in (ends, found))
    close = jnp.abs(found - target) <= _NEAR.of(target) * target
    status = jnp.where(close, Status.CONVERGED, Status.JUMP)
    return Calibration(
        rationality=jnp.where(reached, jnp.exp(at) * scale, jnp.nan),
        elasticity=jnp.where(reached, -found, jnp.nan),
        lowest=-most,
        status=jnp.where(reached, status, Status.OUT_OF_REACH).astype(jnp.int32),
    )
