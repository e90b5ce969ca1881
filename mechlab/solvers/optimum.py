"""The social optimum of a logit market, exactly, and what is lost without it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, settled
from mechlab.core.errors import checked_whole
from mechlab.core.market import Array, Market, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import TIE
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.logit_game import logit_game, picked


@pytree
class Optimum(Solution):
    """The profile that maximises welfare when users choose by logit.

    Attributes:
        profile: [..., N] int.
        welfare: [...] USD per query; its derivatives in the market are exact (envelope theorem).
        iterations: [...] int, Dinkelbach steps.
        status: [...] int, a `Status`.
    """

    profile: Array
    welfare: Array
    iterations: Array


@front_door()
def social_optimum(
    market: Market,
    users: Users,
    rule: Mechanism = DEFAULT_RULE,
    *,
    max_iterations: int = 100,
    throw: bool = False,
) -> Optimum:
    """max over profiles of welfare: of Σσ_i s_i by Dinkelbach's iteration (Dinkelbach 1967).

    Welfare is a ratio of sums of per-provider terms, Σw s/(e^{βv0} + Σw), so for a trial value λ
    each provider alone maximises w(s − λ): O(N·K) a step, never K^N. λ is raised by ε·Σσ|s| of the
    best profile so far (ε = 1e-12 in float64, 1e-6 in float32), which is what rounding makes of
    its welfare, and the best profile seen is kept.

    Where the noise of users is taste, welfare is log(A)/β + M/A with A = e^{βv0} + Σw and
    M = Σ w m. No set {welfare ≤ x} of points (A, M) has a dent, so that the largest welfare is at a
    corner of the convex hull of what profiles can reach: one where, for some λ, each provider
    alone maximises w(m − λ). There are at most N·K such corners, and
    they are walked from one to the next.

    Args:
        market, users: [..., N, K] and [...].
        rule: posted prices; pay-per-compute where not given.
        max_iterations: static.
        throw: raise NotSolved, outside jit, where some market needs more iterations.
    """
    checked_whole("max_iterations", max_iterations, 1, 10**6)
    frozen = jax.lax.stop_gradient((posted_market(market, rule), users))
    profile, iterations, status = _solve(*frozen, max_iterations=max_iterations)
    found = Optimum(
        profile=profile,
        welfare=rule(rule.offers(market, profile), users).welfare,
        iterations=iterations,
        status=status,
    )
    return found


@functools.partial(jax.jit, static_argnames="max_iterations")
def _solve(posted: Market, users: Users, *, max_iterations: int) -> tuple[Array, Array, Array]:
    solve = functools.partial(optimum_columns, max_iterations=max_iterations)
    return over_columns(solve, posted, users)


def optimum_columns(
    posted: Market, users: Users, max_iterations: int = 100
) -> tuple[Array, Array, Array]:
    """Profile [P, N, B], iterations and status [P, B] of columns at posted prices; pure."""

    if users.taste is not None:
        return each(_hull, posted, users)

    def start(posted: Market, users: Users) -> tuple[Array, Array, Array]:
        # the markets that take longest are left, to be settled together with others of their kind
        return _dinkelbach(posted, users, max_iterations, few=users.rationality.shape[-1] // 32)

    def finish(column: tuple[Market, Users], found: tuple[Any, ...]) -> tuple[Array, Array, Array]:
        return _dinkelbach(*column, max_iterations)

    found = each(start, posted, users)
    return settled(found[2] != Status.CONVERGED, found, (posted, users), finish)


def _dinkelbach(
    posted: Market, users: Users, max_iterations: int, few: int = 0
) -> tuple[Array, Array, Array]:
    """Profile [N, B], iterations [B] and status [B] of a column; ends when at most few are open."""
    game = logit_game(posted, users)
    there, surplus = game.available, game.surplus
    batch = there.shape[-1]
    tiny = jnp.finfo(surplus.dtype).tiny
    epsilon = TIE.of(surplus)

    def welfare(height: Array, worth: Array) -> tuple[Array, Array]:
        """[B] Σσs of heights and surpluses [N, B] chosen, and Σσ|s|."""
        top = jnp.maximum(jnp.max(height, axis=0), game.outside)
        weight = jnp.exp(height - top)
        total = jnp.sum(weight, axis=0) + jnp.exp(game.outside - top)
        size = jnp.sum(weight * jnp.abs(worth), axis=0)
        return jnp.sum(weight * worth, axis=0) / total, size / total

    def respond(trial: Array) -> Array:
        """[N, B] the levels of the largest w(s − λ), or, none helping, of the least harm."""
        excess = surplus - trial
        size = game.lag + jnp.log(jnp.maximum(jnp.abs(excess), tiny))
        helps = there & (excess > 0)
        most = jnp.argmax(jnp.where(helps, size, -jnp.inf), axis=1)
        least = jnp.argmin(jnp.where(there, size, jnp.inf), axis=1)
        return jnp.where(jnp.any(helps, axis=1), most, least)

    def at(level: Array) -> tuple[Array, Array]:
        """Heights and surpluses [N, B] of a profile."""
        return picked(game.height, level), picked(surplus, level)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        level, value, size, steps, rounds, _ = state
        trial = value + epsilon * size
        tried = respond(trial)
        reached, weighed = welfare(*at(tried))
        better, open_ = reached > value, reached > trial
        return (
            jnp.where(better, tried, level),
            jnp.maximum(reached, value),
            jnp.where(better, weighed, size),
            steps + 1,
            jnp.where(open_, steps + 2, rounds),
            open_,
        )

    first = jnp.argmax(jnp.where(there, surplus, -jnp.inf), axis=1)
    clock, ones = jnp.zeros((), int), jnp.ones(batch, int)
    state = (first, *welfare(*at(first)), clock, ones, ones > 0)
    level, _, _, _, rounds, open_ = jax.lax.while_loop(
        lambda s: (jnp.sum(s[-1]) > few) & (s[3] < max_iterations), step, state
    )
    status = jnp.where(open_, Status.ITERATION_LIMIT, Status.CONVERGED).astype(jnp.int32)
    return level, jnp.minimum(rounds, max_iterations), status


def _hull(posted: Market, users: Users) -> tuple[Array, Array, Array]:
    """`_dinkelbach` where noise is taste: profile [N, B], steps [B] and status [B] of a column.

    The corners of the hull are walked from the largest A on, an edge at a time: of all providers
    the one goes to a lighter level that does so at the least slope λ. Where λ comes to y = M/A,
    y is at its peak, and all further corners are worse in A and in y.
    """
    game = logit_game(posted, users)
    _, k, batch = game.height.shape
    there, beta, profit, outside = game.available, game.rationality, game.profit, game.outside
    height = keep(jnp.where(there, game.height, -jnp.inf))
    rounding = float(jnp.finfo(height.dtype).eps)

    def left(j: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        """Where each level [N, K, B] is best left for: which level, and what decides it.

        The slope from a level to a lighter one is m − (m' − m)/(e^{βΔV} − 1); where the exponential
        has no end, the heaviest of the levels with a larger profit comes first, then the lightest.
        """
        most, then, to = found
        apart = jnp.maximum(jnp.exp(height - height[:, j, None]) - 1.0, rounding)
        more = profit[:, j, None] - profit
        less = there[:, j, None] & (height[:, j, None] < height)
        gain = jnp.where(less, more / apart, -jnp.inf)
        far = jnp.where(more > 0, height[:, j, None], -jnp.inf)
        better = (gain > most) | ((gain == most) & (far >= then))
        return jnp.where(better, gain, most), jnp.where(better, far, then), jnp.where(better, j, to)

    nothing = jnp.full_like(height, -jnp.inf)
    gain, _, to = jax.lax.fori_loop(0, k, left, (nothing, nothing, jnp.zeros(height.shape, int)))
    tables = keep((height, profit, profit - gain, to))

    def at(level: Array) -> list[Array]:
        found = [x[:, 0] for x in tables]
        for i in range(1, k):
            found = [jnp.where(level == i, x[:, i], y) for x, y in zip(tables, found, strict=True)]
        return found

    def welfare(height: Array, profit: Array) -> tuple[Array, Array]:
        top = jnp.maximum(jnp.max(height, axis=0), outside)
        weight = jnp.exp(height - top)
        total = jnp.sum(weight, axis=0) + jnp.exp(outside - top)
        mean = jnp.sum(weight * profit, axis=0) / total
        return (top + jnp.log(total)) / beta + mean, mean

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        level, (_, _, slope, to), best, most, mean, steps, _ = state
        next_ = jnp.min(slope, axis=0)
        on = next_ <= mean + 8 * rounding * jnp.abs(mean)  # a corner more does no harm
        level = jnp.where(on & (slope == next_), to, level)
        now = at(level)
        reached, mean = welfare(now[0], now[1])
        best = jnp.where(reached > most, level, best)
        return level, now, best, jnp.maximum(reached, most), mean, steps + 1, on

    heaviest = jnp.max(height, axis=1, keepdims=True)
    first = jnp.argmax(jnp.where(height == heaviest, profit, -jnp.inf), axis=1)
    now = at(first)
    state = (first, now, first, *welfare(now[0], now[1]), jnp.zeros((), int), jnp.ones(batch, bool))
    _, _, best, _, _, steps, _ = jax.lax.while_loop(lambda s: jnp.any(s[-1]), step, state)
    converged = jnp.full(batch, Status.CONVERGED, jnp.int32)
    return best, jnp.full(batch, steps), converged


def optimum_bounds(
    market: Market, users: UserMixture, rule: Mechanism, profile: Array
) -> tuple[Array, Array]:
    """Bounds [...] on the optimal welfare with several types of users, where no exact step exists.

    Lower: the welfare of the best profile tried (`profile` [..., N], and each type's own optimum).
    Upper: every type at its own optimum, which one profile for all can at best attain.
    """
    scaled = jax.tree.map(lambda x: x[..., None, :, :], market)
    scaled = scaled.replace(quality=scaled.quality * users.value_scale[..., None, None])
    each = social_optimum(scaled, users.types(), rule)
    upper = jnp.sum(each.welfare * users.weight, axis=-1)
    lower = rule(rule.offers(market, profile), users).welfare
    for t in range(users.weight.shape[-1]):
        lower = jnp.maximum(
            lower, rule(rule.offers(market, each.profile[..., t, :]), users).welfare
        )
    return lower, jnp.maximum(upper, lower)


@pytree
class Efficiency(Pytree):
    """Optimal welfare against the welfare reached.

    Attributes:
        ratio: [...] optimal/reached; 1 where `valid` is False, so that nothing is infinite.
        inefficiency: [...] ratio − 1; 0 where `valid` is False.
        gap: [...] optimal − reached, USD; always meaningful.
        valid: [...] bool: reached > 0, without which a ratio means nothing.
    """

    _axes = ()

    ratio: Array
    inefficiency: Array
    gap: Array
    valid: Array


def efficiency(optimal: Array, reached: Array) -> Efficiency:
    """What is lost at welfare `reached` [...]: price of anarchy at the worst equilibrium."""
    optimal, reached = jnp.asarray(optimal), jnp.asarray(reached)
    valid = reached > 0
    ratio = jnp.where(valid, optimal, 1.0) / jnp.where(valid, reached, 1.0)
    return Efficiency(ratio=ratio, inefficiency=ratio - 1.0, gap=optimal - reached, valid=valid)
