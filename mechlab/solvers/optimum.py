"""The social optimum of a logit market, exactly, and what is lost without it."""

import functools

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, UserMixture, Users, over_markets, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.mechanisms.logit import LogitChoice
from mechlab.mechanisms.pay_per_compute import PayPerCompute
from mechlab.solvers.equilibrium import posted_market


@pytree
class Optimum(Pytree):
    """The profile that maximises welfare when users choose by logit.

    Attributes:
        profile: [..., N] int.
        welfare: [...] USD per query; its derivatives in the market are exact (envelope theorem).
        converged: [...] bool.
        iterations: [...] int, Dinkelbach steps.
    """

    profile: Array
    welfare: Array
    converged: Array
    iterations: Array


def social_optimum(
    market: Market,
    users: Users,
    mechanism: LogitChoice | None = None,
    *,
    max_iterations: int = 100,
) -> Optimum:
    """max over profiles of Σσ_i s_i by Dinkelbach's iteration (Dinkelbach 1967).

    Welfare is a ratio of sums of per-provider terms, Σw s/(e^{βv0} + Σw), so for a trial value λ
    each provider alone maximises w(s − λ): O(N·K) a step, never K^N. λ is raised by ε·max|s|
    (1e-12 in float64, 1e-6 in float32), without which the last step stalls on rounding, and the
    best profile seen is kept.
    """
    rule = mechanism or PayPerCompute()
    posted = posted_market(market, mechanism)
    frozen = jax.lax.stop_gradient((posted, users))
    profile, converged, steps = _dinkelbach(*frozen, max_iterations=max_iterations)
    return Optimum(
        profile=profile,
        welfare=rule(market.at(profile), users).welfare,
        converged=converged,
        iterations=steps,
    )


def optimum_bounds(
    market: Market, users: UserMixture, profile: Array, mechanism: LogitChoice | None = None
) -> tuple[Array, Array]:
    """Bounds [...] on the optimal welfare with several types of users, where no exact step exists.

    Lower: the welfare of the best profile tried (`profile` [..., N], and each type's own optimum).
    Upper: every type at its own optimum, which one profile for all can at best attain.
    """
    rule = mechanism or PayPerCompute()
    scaled = jax.tree.map(lambda x: x[..., None, :, :], market)
    scaled = scaled.replace(quality=scaled.quality * users.value_scale[..., None, None])
    each = social_optimum(scaled, users.types(), mechanism)
    upper = jnp.sum(each.welfare * users.weight, axis=-1)
    lower = rule(market.at(profile), users).welfare
    for t in range(users.weight.shape[-1]):
        lower = jnp.maximum(lower, rule(market.at(each.profile[..., t, :]), users).welfare)
    return lower, jnp.maximum(upper, lower)


@functools.partial(jax.jit, static_argnames="max_iterations")
@over_markets
def _dinkelbach(posted: Market, users: Users, max_iterations: int) -> tuple[Array, Array, Array]:
    available = posted.available
    surplus = posted.surplus
    log_weight = users.rationality * (posted.offered_value - users.outside_value)
    epsilon = {8: 1e-12, 4: 1e-6}[surplus.dtype.itemsize]
    nudge = epsilon * jnp.max(jnp.abs(surplus), where=available, initial=0.0)

    def welfare(profile: Array) -> Array:
        log_w = take_level(log_weight, profile)
        shares = jax.nn.softmax(jnp.concatenate([jnp.zeros(1, log_w.dtype), log_w]))[1:]
        return jnp.sum(shares * take_level(surplus, profile))

    def respond(trial: Array) -> Array:
        excess = surplus - trial
        size = jnp.log(jnp.where(excess == 0, 1.0, jnp.abs(excess)))
        above = available & (excess > 0)
        # a level with no excess at all adds nothing: the best of those that do not help
        gain = jnp.argmax(jnp.where(above, log_weight + size, -jnp.inf), axis=-1)
        loss = jnp.where(excess == 0, -jnp.inf, log_weight + size)
        least = jnp.argmin(jnp.where(available, loss, jnp.inf), axis=-1)
        return jnp.where(jnp.any(above, axis=-1), gain, least)

    def step(state: tuple) -> tuple:
        profile, value, steps, _ = state
        candidate = respond(value + nudge)
        reached = welfare(candidate)
        improves = reached > value
        profile = jnp.where(improves, candidate, profile)
        return profile, jnp.maximum(reached, value), steps + 1, ~improves

    start = posted.best_surplus_profile()
    state = (start, welfare(start), jnp.zeros((), int), jnp.zeros((), bool))
    profile, _, steps, done = jax.lax.while_loop(
        lambda s: ~s[3] & (s[2] < max_iterations), step, state
    )
    return profile, done, steps


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
