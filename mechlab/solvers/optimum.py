"""The social optimum of a logit market, exactly, and what is lost without it."""

import functools

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, settled
from mechlab.core.errors import checked_whole
from mechlab.core.market import Array, Market, UserMixture, Users, felt
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status, thrown
from mechlab.core.tolerance import TIE
from mechlab.mechanisms import Mechanism, PayPerCompute
from mechlab.mechanisms.base import check_arguments, posted_market
from mechlab.solvers.logit_game import logit_game


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


def social_optimum(
    market: Market,
    users: Users,
    rule: Mechanism | None = None,
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
    alone maximises w(m − λ). There are at most N·K such corners, and all are tried.

    Args:
        market, users: [..., N, K] and [...].
        rule: posted prices; pay-per-compute where not given.
        max_iterations: static.
        throw: raise NotSolved, outside jit, where some market needs more iterations.
    """
    rule = PayPerCompute() if rule is None else rule
    check_arguments(market, users, rule)
    market, users = felt(market, users)
    checked_whole("max_iterations", max_iterations, 1, 10**6)
    frozen = jax.lax.stop_gradient((posted_market(market, rule), users))
    profile, iterations, status = _solve(*frozen, max_iterations=max_iterations)
    found = Optimum(
        profile=profile,
        welfare=rule(market.at(profile), users).welfare,
        iterations=iterations,
        status=status,
    )
    return thrown(found, throw)  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnames="max_iterations")
def _solve(posted: Market, users: Users, *, max_iterations: int) -> tuple[Array, Array, Array]:
    solve = functools.partial(optimum_columns, max_iterations=max_iterations)
    return over_columns(solve, posted, users)


def optimum_columns(
    posted: Market, users: Users, max_iterations: int = 100
) -> tuple[Array, Array, Array]:
    """Profile [P, N, B], iterations and status [P, B] of columns at posted prices; pure."""

    if users.taste is not None:
        return each(_corners, posted, users)

    def start(posted: Market, users: Users) -> tuple[Array, Array, Array]:
        # the markets that take longest are left, to be settled together with others of their kind
        return _dinkelbach(posted, users, max_iterations, few=users.rationality.shape[-1] // 32)

    def finish(column: tuple[Market, Users], found: tuple) -> tuple[Array, Array, Array]:
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
        return _picked(game.height, level), _picked(surplus, level)

    def step(state: tuple) -> tuple:
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


def _corners(posted: Market, users: Users) -> tuple[Array, Array, Array]:
    """`_dinkelbach` where noise is taste: profile [N, B], steps [B] and status [B] of a column.

    A corner is left by one provider going from a lower weight to its level k, at the largest λ at
    which k beats all its levels of a lower weight; the others are at their best for that λ.
    """
    game = logit_game(posted, users)
    n, k, batch = game.height.shape
    there, beta = game.available, game.rationality
    weight = jnp.where(there, jnp.exp(game.height), 0.0)
    earned = jnp.where(there, weight * game.profit, 0.0)
    outside = jnp.exp(game.outside)
    lighter = there[:, None] & (weight[:, None] < weight[:, :, None])  # [N, level, lighter, B]
    apart = jnp.where(lighter, weight[:, :, None] - weight[:, None], 1.0)
    slope = (earned[:, :, None] - earned[:, None]) / apart
    enters = jnp.min(jnp.where(lighter, slope, jnp.inf), axis=2)  # [N, K, B]

    def best(trial: Array) -> Array:
        """[N, B] each provider's level of the largest w(m − λ); that of the least w at λ = ∞."""
        finite = jnp.isfinite(trial)
        worth = jnp.where(finite, earned - jnp.where(finite, trial, 0.0) * weight, -weight)
        return jnp.argmax(jnp.where(there, worth, -jnp.inf), axis=1)

    def corner(number: Array, trial: Array) -> Array:
        """[N, B] that of provider number // K entering its level number % K; numbers broadcast."""
        enters_here = jnp.arange(n)[:, None] == number // k
        return jnp.where(enters_here, number % k, best(trial))

    def tried(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        most, which = state
        profile = corner(number, enters[number // k, number % k])
        a = jnp.sum(_picked(weight, profile), axis=0) + outside
        reached = jnp.log(a) / beta + jnp.sum(_picked(earned, profile), axis=0) / a
        better = (reached > most) & there[number // k, number % k]
        return jnp.where(better, reached, most), jnp.where(better, number, which)

    start = (jnp.full(batch, -jnp.inf, weight.dtype), jnp.zeros(batch, int))
    _, which = jax.lax.fori_loop(0, n * k, tried, start)
    trial = jnp.take_along_axis(enters.reshape(n * k, batch), which[None], axis=0)[0]
    return (
        corner(which, trial),
        jnp.full(batch, n * k),
        jnp.full(batch, Status.CONVERGED, jnp.int32),
    )


def _picked(values: Array, level: Array) -> Array:
    return jnp.take_along_axis(values, level[:, None], axis=1)[:, 0]


def optimum_bounds(
    market: Market, users: UserMixture, rule: Mechanism | None, profile: Array
) -> tuple[Array, Array]:
    """Bounds [...] on the optimal welfare with several types of users, where no exact step exists.

    Lower: the welfare of the best profile tried (`profile` [..., N], and each type's own optimum).
    Upper: every type at its own optimum, which one profile for all can at best attain.
    """
    rule = PayPerCompute() if rule is None else rule
    scaled = jax.tree.map(lambda x: x[..., None, :, :], market)
    scaled = scaled.replace(quality=scaled.quality * users.value_scale[..., None, None])
    each = social_optimum(scaled, users.types(), rule)
    upper = jnp.sum(each.welfare * users.weight, axis=-1)
    lower = rule(market.at(profile), users).welfare
    for t in range(users.weight.shape[-1]):
        lower = jnp.maximum(lower, rule(market.at(each.profile[..., t, :]), users).welfare)
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
