"""The smoothed equilibrium: logit quantal response of providers, differentiable in everything.

Every provider mixes over its levels with probabilities π ∝ e^{λ·E[U]} (McKelvey & Palfrey 1995),
and E[U] is over rivals that mix independently. The game is aggregative, so that with weights
w = e^{βV}, E[w/(A + w)] = ∫₀^∞ w e^{−zw} e^{−z e^{βv0}} Π_{j≠i} E[e^{−z w_j}] dz: one integral in
place of K^(N−1) profiles. With z = e^t the trapezoidal rule converges geometrically.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import over_markets
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market, UserMixture, Users
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status, thrown
from mechlab.core.validation import checked, concrete
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import check_arguments, posted_market

_MAX_NEWTON = 12
_MAX_STEPS = 400
# widest step of the quadrature, and the left end's distance, for the precision of the dtype
_WIDEST, _LEFT = {8: 0.4, 4: 0.8}, {8: 36.0, 4: 17.0}


@pytree
class SmoothedEquilibrium(Solution):
    """The logit quantal response equilibrium; expectations are over the providers' mixing.

    Attributes:
        mixture: [..., N, K] π, the probability of each level; 0 where not available.
        shares: [..., N] expected share of queries.
        level_utility: [..., N, K] expected utility of each level, USD.
        provider_utility: [..., N] expected utility, USD.
        welfare, user_value, user_cost: [...] expected, USD.
        residual: [...] largest difference between π's utilities and those π was made from, USD.
        status: [...] int, a `Status`; CONVERGED: the branch was followed to the precision asked
            for, on a quadrature fine enough.
    """

    mixture: Array
    shares: Array
    level_utility: Array
    provider_utility: Array
    welfare: Array
    user_value: Array
    user_cost: Array
    residual: Array


def smoothed_equilibrium(
    market: Market,
    users: Users,
    precision: Any,
    rule: Mechanism | None = None,
    *,
    nodes: int | None = None,
    throw: bool = False,
) -> SmoothedEquilibrium:
    """Follow the branch of quantal response equilibria from λ = 0 to `precision`.

    Newton's method at each step of λ. Derivatives in the market, users, precision and the
    mechanism's parameters are those of the implicit function theorem: nothing is unrolled.

    Args:
        market, users: [..., N, K] and [...].
        precision: λ ≥ 0 in 1/USD, number or [...]; at 0 every level is equally likely, and as it
            grows the mixture approaches a pure equilibrium where that is unique.
        rule: posted prices; pay-per-compute where not given.
        nodes: of the quadrature. Rationality spreads log weights over β·(range of V and v0), and
            the nodes cover that and about 40 more; where they are more than 0.4 apart (0.8 in
            float32) `converged` is False. Enough for this market (up to 16,384) where not given;
            512 inside jit.
        throw: raise NotSolved, outside jit, where some market did not converge.

    Raises:
        InputError: for several types of users, or a precision that is negative or not finite.
    """
    check_arguments(market, users, rule)
    if isinstance(users, UserMixture):
        raise InputError("smoothed_equilibrium: give one type of users; the integral is for one β")
    posted = posted_market(market, rule)
    nodes = _enough(posted, users) if nodes is None else nodes
    checked_whole("nodes", nodes, 8, 10**5)
    precision = checked("precision", precision, minimum=0.0, why="λ is a precision, in 1/USD")
    precision = jnp.asarray(precision, market.quality.dtype)
    found = _solve(posted, users, precision[..., None], nodes=nodes)
    return thrown(found, throw)  # type: ignore[return-value]


def _enough(posted: Market, users: Users) -> int:
    """Nodes for the widest market of a batch, as a power of two, so that few shapes compile."""
    if not concrete(posted.quality, posted.price, users.rationality, users.outside_value):
        return 512
    there = np.asarray(posted.available)
    value = np.asarray(posted.quality) - np.asarray(posted.price)  # NumPy's also while tracing
    outside = np.asarray(users.outside_value)
    high = np.maximum(np.max(value, axis=(-1, -2), where=there, initial=-np.inf), outside)
    low = np.minimum(np.min(value, axis=(-1, -2), where=there, initial=np.inf), outside)
    width = posted.quality.dtype.itemsize
    most = float(np.max(np.asarray(users.rationality) * (high - low)))
    wanted = (most + _LEFT[width] + 4 + math.log(posted.providers + 1)) / _WIDEST[width] + 1
    return 2 ** math.ceil(math.log2(min(wanted, 2**14)))


@functools.partial(jax.jit, static_argnames="nodes")
def _solve(posted: Market, users: Users, precision: Array, *, nodes: int) -> SmoothedEquilibrium:
    return over_markets(functools.partial(_one, nodes=nodes))(posted, users, precision)


def _one(posted: Market, users: Users, precision: Array, *, nodes: int) -> SmoothedEquilibrium:
    precision = precision[0]
    width = posted.quality.dtype.itemsize
    there, profit = posted.available, posted.unit_profit
    log_weight = users.rationality * (posted.offered_value - users.outside_value)
    log_weight = jnp.where(there, log_weight, 0.0)
    clock, step = _nodes(jax.lax.stop_gradient(log_weight), there, nodes, width)
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(profit), where=there, initial=0.0))
    unit = jnp.where(unit > 0, unit, 1.0)

    def respond(utility: Array) -> Array:
        """u − E[U] at the mixture that u leads to, in units of the largest profit."""
        mixture = _mix(utility, there, precision * unit)
        share, _ = _expected_shares(mixture, log_weight, there, clock, step)
        return utility - profit / unit * share

    def solve(_: Any, start: Array) -> tuple[Array, tuple[Array, Array]]:
        del start  # the branch begins at even mixing
        fixed = jax.lax.stop_gradient((profit / unit, log_weight, precision * unit))
        return _follow(*fixed, there, clock, step)

    def tangent(linear: Any, y: Array) -> Array:
        matrix = jax.jacfwd(lambda x: linear(x.reshape(y.shape)).ravel())(
            jnp.zeros(y.size, y.dtype)
        )
        return jnp.linalg.solve(matrix, y.ravel()).reshape(y.shape)

    start = jnp.zeros_like(profit)
    utility, (residual, reached) = jax.lax.custom_root(respond, start, solve, tangent, has_aux=True)
    mixture = _mix(utility, there, precision * unit)
    share, _ = _expected_shares(mixture, log_weight, there, clock, step)
    played = mixture * share

    def total(x: Array) -> Array:
        return jnp.sum(jnp.where(there, played * x, 0.0))

    converged = (reached > 0) & (step <= _WIDEST[width])
    return SmoothedEquilibrium(
        mixture=mixture,
        shares=jnp.sum(played, axis=-1),
        level_utility=jnp.where(there, share * profit, 0.0),
        provider_utility=jnp.sum(jnp.where(there, played * profit, 0.0), axis=-1),
        welfare=total(posted.surplus),
        user_value=total(posted.offered_value),
        user_cost=total(posted.price),
        residual=residual * unit,
        status=jnp.where(converged, Status.CONVERGED, Status.ITERATION_LIMIT).astype(jnp.int32),
    )


def _nodes(log_weight: Array, there: Array, nodes: int, width: int) -> tuple[Array, Array]:
    """[M] values of t = log z, and their distance; relative to the weight e^0 of v0.

    The integrand rises as e^t and falls as e^{−A e^t}, where A is at most the sum of the largest
    weights and at least v0's, or the smallest that a provider can have.
    """
    highest = jnp.max(jnp.where(there, log_weight, -jnp.inf), axis=-1)
    lowest = jnp.min(jnp.where(there, log_weight, jnp.inf), axis=-1)
    most = jax.nn.logsumexp(jnp.append(highest, 0.0))
    least = jnp.maximum(jnp.max(lowest), 0.0)
    left, right = -most - _LEFT[width], 4.0 - least
    step = (right - left) / (nodes - 1)
    return left + step * jnp.arange(nodes), step


def _expected_shares(
    mixture: Array, log_weight: Array, there: Array, clock: Array, step: Array
) -> tuple[Array, Array]:
    """[N, K] E[w/(A + w)], and its derivatives in the rivals' mixtures [N, K, N, K]."""
    n, k = log_weight.shape
    exponent = jnp.minimum(log_weight[..., None] + clock, 60.0)
    rate = jnp.exp(exponent)  # z·w
    safe = jnp.where(mixture > 0, mixture, 1.0)
    log_mix = jnp.where(there & (mixture > 0), jnp.log(safe), -1e30)
    log_phi = jax.nn.logsumexp(log_mix[..., None] - rate, axis=1)  # log E[e^{−z w_j}]
    apart = 1.0 - jnp.eye(n, dtype=clock.dtype)
    others = jnp.matmul(apart, log_phi, precision="highest") - jnp.exp(jnp.minimum(clock, 60.0))
    mass = step * jnp.exp(exponent - rate + others[:, None])
    share = jnp.sum(mass, axis=-1)
    likely = jnp.exp(jnp.minimum(-rate - log_phi[:, None], 80.0))
    flat = mass.reshape(n * k, -1), likely.reshape(n * k, -1).T
    across = jnp.matmul(*flat, precision="highest").reshape(n, k, n, k)
    across = across * apart[:, None, :, None]
    return share, across


def _mix(utility: Array, there: Array, rate: Array) -> Array:
    return jax.nn.softmax(jnp.where(there, rate * utility, -jnp.inf), axis=-1)


def _follow(
    profit: Array,
    log_weight: Array,
    rate: Array,
    there: Array,
    clock: Array,
    step: Array,
) -> tuple[Array, tuple[Array, Array]]:
    """Utilities [N, K] on the branch from 0 to `rate`; the residual; 1 where it got there, else 0.

    Everything is in units of the largest profit. Steps along the branch double where Newton's
    method converges, and are quartered where it does not.
    """
    size = profit.size
    tolerance = {8: 1e-12, 4: 2e-6}[profit.dtype.itemsize]
    eye = jnp.eye(size, dtype=profit.dtype)

    def newton(utility: Array, at: Array) -> tuple[Array, Array]:
        mixture = _mix(utility, there, at)
        share, across = _expected_shares(mixture, log_weight, there, clock, step)
        gap = utility - profit * share
        mean = jnp.sum(across * mixture, axis=-1, keepdims=True)
        slope = at * profit[..., None, None] * (across - mean) * mixture
        move = jnp.linalg.solve(eye - slope.reshape(size, size), gap.ravel())
        return utility - move.reshape(gap.shape), jnp.max(jnp.abs(gap))

    def polish(utility: Array, at: Array) -> tuple[Array, Array]:
        def again(state: tuple) -> Array:
            return (state[1] > tolerance) & (state[2] < _MAX_NEWTON)

        def once(state: tuple) -> tuple:
            after, gap = newton(state[0], at)
            # the gap is that of the point before: keep it when it is good
            return jnp.where(gap > tolerance, after, state[0]), gap, state[2] + 1

        first = (utility, jnp.full((), jnp.inf, utility.dtype), jnp.zeros((), int))
        utility, gap, _ = jax.lax.while_loop(again, once, first)
        return utility, gap

    def advance(state: tuple) -> tuple:
        utility, now, stride, gap, count = state
        goal = jnp.minimum(now + stride, rate)
        after, left = polish(utility, goal)
        good = left <= tolerance
        return (
            jnp.where(good, after, utility),
            jnp.where(good, goal, now),
            jnp.where(good, 2.0 * stride, 0.25 * stride),
            jnp.where(good, left, gap),
            count + 1,
        )

    def more(state: tuple) -> Array:
        _, now, stride, _, count = state
        return (now < rate) & (count < _MAX_STEPS) & (stride > 1e-9 * rate)

    even, gap = polish(jnp.zeros_like(profit), jnp.zeros((), profit.dtype))
    first = (even, jnp.zeros((), profit.dtype), jnp.ones((), profit.dtype), gap, jnp.zeros((), int))
    utility, now, _, gap, _ = jax.lax.while_loop(more, advance, first)
    # a number, not a bool: custom_root differentiates what comes with the root
    return utility, (gap, (now >= rate).astype(gap.dtype))
