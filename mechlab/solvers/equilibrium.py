"""Equilibria of the providers' game: dynamics, the extremal pair, the potential.

Every solver returns its status beside its values. Solvers take batches; they are jittable, and
their profiles are constants to differentiation.
"""

import enum
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, UserMixture, Users, over_markets, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.mechanisms.base import Mechanism, never, take_profile
from mechlab.mechanisms.logit import LogitChoice, log_gain, log_rivals
from mechlab.mechanisms.pay_per_compute import PayPerCompute


class Status(enum.IntEnum):
    """How a solver ended."""

    CONVERGED = 0
    ITERATION_LIMIT = 1  # more rounds would be needed, or the game cycles
    # a provider without any profit, or several types of users: a pure equilibrium may not exist
    NO_POTENTIAL = 2
    CAPPED = 3  # too many exact ties to list every equilibrium


@pytree
class History(Pytree):
    """What happened after each visit; entries after the last round are those of the end.

    Attributes:
        provider: [..., R, N] who was visited (R rounds of N visits).
        profile: [..., R, N, N] levels after the visit.
        shares: [..., R, N, N].
        welfare: [..., R, N] USD.
        potential: [..., R, N] Φ; 0 for rules other than logit choice.
        active: [..., R] bool, rounds that were played.
    """

    provider: Array
    profile: Array
    shares: Array
    welfare: Array
    potential: Array
    active: Array


@pytree
class Equilibrium(Pytree):
    """A profile that dynamics reached.

    Attributes:
        profile: [..., N] int, one level per provider.
        converged: [...] bool: a whole round passed without a move.
        iterations: [...] int, rounds played.
        status: [...] int, a `Status`.
        history: what happened after each visit, or None.
    """

    profile: Array
    converged: Array
    iterations: Array
    status: Array
    history: History | None = None


@pytree
class ExtremalEquilibria(Pytree):
    """The smallest and the largest pure equilibrium of a logit game, a certificate of uniqueness.

    Attributes:
        smallest, largest: [..., N] int profiles; every pure equilibrium has weights e^{βV} between.
        unique: [...] bool: both ends agree, up to levels with equal offered value and profit.
        converged: [...] bool.
        iterations: [...] int, sweeps of the slower of the two.
        status: [...] int, a `Status`.
    """

    smallest: Array
    largest: Array
    unique: Array
    converged: Array
    iterations: Array
    status: Array


def posted_market(market: Market, mechanism: LogitChoice | None) -> Market:
    """The market at the prices that a rule posts; pay-per-compute where none is given."""
    if mechanism is None:
        return market
    if not isinstance(mechanism, LogitChoice):
        raise InputError(
            f"{type(mechanism).__name__}: this solver is for posted prices and logit choice; "
            "use better_response for any other rule"
        )
    return mechanism.posted(market)


def has_potential(market: Market, mechanism: LogitChoice | None = None) -> Array:
    """[...] bool: whether every provider has a level with a profit."""
    posted = posted_market(market, mechanism)
    return jnp.all(jnp.any(posted.available & (posted.unit_profit > 0), axis=-1), axis=-1)


def playable_levels(posted: Market) -> Array:
    """[..., N, K] bool: levels that are not strictly dominated by one with a profit."""
    profitable = posted.available & (posted.unit_profit > 0)
    return jnp.where(jnp.any(profitable, axis=-1, keepdims=True), profitable, posted.available)


def potential(
    market: Market, users: Users, profile: Array, mechanism: LogitChoice | None = None
) -> Array:
    """[...] Φ = Σ log m_i + β Σ V_i − log(e^{βv0} + Σ e^{βV_j}) at a profile [..., N].

    A unilateral move changes Φ by exactly the mover's change of log utility. Providers without a
    profit at the profile are left out of Σ log m, and Φ means nothing then (`has_potential`).
    """
    posted = posted_market(market, mechanism)
    values, profit = take_profile(posted, jnp.asarray(profile))
    beta, outside = users.rationality[..., None], users.outside_value[..., None]
    top = jnp.maximum(jnp.max(values, axis=-1, keepdims=True), outside)
    total = jnp.sum(jnp.exp(beta * (values - top)), axis=-1, keepdims=True) + jnp.exp(
        beta * (outside - top)
    )
    logs = jnp.log(jnp.where(profit > 0, profit, 1.0))
    log_total = (beta * top + jnp.log(total))[..., 0]
    return jnp.sum(logs, axis=-1) + jnp.sum(beta * values, axis=-1) - log_total


def better_response(
    market: Market,
    users: Users | UserMixture,
    key: Array,
    mechanism: Mechanism | None = None,
    *,
    start: Array | None = None,
    max_rounds: int = 100,
    history: bool = False,
) -> Equilibrium:
    """The published better-response dynamics, under any mechanism.

    Every provider starts at level 0, or at `start` [..., N]. A round visits all in random order;
    the visited provider moves to the nearest level (the lower first at equal distance) that
    improves its `level_gains` by more than the mechanism's tolerance: for posted prices, log
    utility by 1e-8 (1e-6 in float32). It ends after a round without a move.

    Args:
        market: [..., N, K].
        users: [...].
        key: one PRNG key; all markets of a batch share the visiting order.
        mechanism: the pricing rule; pay-per-compute where not given.
        max_rounds: static; `Status.ITERATION_LIMIT` where it is not enough.
        history: static; whether to keep every visit.
    """
    mechanism = mechanism or PayPerCompute()
    if start is None:
        start = jnp.zeros(market.providers, int)
    start = market.checked_profile(start)
    frozen = jax.lax.stop_gradient((market, users, mechanism))
    return _dynamics(*frozen, key, start, max_rounds=max_rounds, history=history)


@functools.partial(jax.jit, static_argnames=("max_rounds", "history"))
def _dynamics(
    market: Market,
    users: Users | UserMixture,
    mechanism: Mechanism,
    key: Array,
    start: Array,
    *,
    max_rounds: int,
    history: bool,
) -> Equilibrium:
    solve = functools.partial(
        _better_response,
        key=key,
        mechanism=mechanism,
        max_rounds=max_rounds,
        history=history,
    )
    return over_markets(solve)(market, users, start)


def _better_response(
    market: Market,
    users: Any,
    start: Array,
    *,
    key: Array,
    mechanism: Mechanism,
    max_rounds: int,
    history: bool,
) -> Equilibrium:
    n, levels = market.providers, jnp.arange(market.levels)
    tolerance = mechanism.tolerance[market.quality.dtype.itemsize]
    posted = mechanism if isinstance(mechanism, LogitChoice) else None

    def visit(profile: Array, provider: Array) -> tuple[Array, dict[str, Array]]:
        now = profile[provider]
        better = mechanism.level_gains(market, users, profile, provider) > tolerance
        distance = 2 * jnp.abs(levels - now) + (levels > now)
        nearest = jnp.argmin(jnp.where(better, distance, 2 * market.levels + 2))
        profile = profile.at[provider].set(jnp.where(jnp.any(better), nearest, now))
        return profile, record(profile, provider) if history else {}

    def record(profile: Array, provider: Array) -> dict[str, Array]:
        outcome = mechanism(mechanism.offers(market, profile), users)
        has_phi = posted is not None and not isinstance(users, UserMixture)
        phi = potential(market, users, profile, posted) if has_phi else jnp.zeros(())
        return dict(
            provider=provider,
            profile=profile,
            shares=outcome.shares,
            welfare=outcome.welfare,
            potential=phi,
        )

    def play(state: tuple) -> tuple:
        profile, played, _, log = state
        order = jax.random.permutation(jax.random.fold_in(key, played), n)
        after, visits = jax.lax.scan(visit, profile, order)
        log = jax.tree.map(lambda buffer, x: buffer.at[played].set(x), log, visits)
        return after, played + 1, jnp.all(after == profile), log

    blank = record(start, jnp.zeros((), int)) if history else {}
    log = jax.tree.map(lambda x: jnp.broadcast_to(x, (max_rounds, n, *jnp.shape(x))), blank)
    state = (start, jnp.zeros((), int), jnp.zeros((), bool), log)
    profile, rounds, converged, log = jax.lax.while_loop(
        lambda s: ~s[2] & (s[1] < max_rounds), play, state
    )
    status = jnp.where(converged, Status.CONVERGED, Status.ITERATION_LIMIT)
    if posted is not None:
        sound = has_potential(market, posted) & (not isinstance(users, UserMixture))
        status = jnp.where(sound, status, Status.NO_POTENTIAL)
    if history:
        played = jnp.arange(max_rounds) < rounds
        end = jax.tree.map(lambda x: x[rounds - 1, -1], log)
        log = jax.tree.map(
            lambda x, last: jnp.where(played.reshape(-1, *[1] * (x.ndim - 1)), x, last), log, end
        )
    return Equilibrium(
        profile=profile,
        converged=converged,
        iterations=rounds,
        status=status,
        history=History(**log, active=played) if history else None,
    )


def extremal_equilibria(
    market: Market, users: Users, mechanism: LogitChoice | None = None
) -> ExtremalEquilibria:
    """The smallest and the largest pure equilibrium by best-response sweeps.

    A provider's levels are ordered by weight e^{βV} (then by profit, then by index). Providers
    answer tougher rivals with a weakly higher weight (strategic complements), so sweeps from the
    lowest weights climb to the smallest equilibrium and sweeps from the highest descend to the
    largest, in at most N(K−1)+1 sweeps. Ties (1e-12 relative in float64) go to the lowest weight on
    the way up and to the highest on the way down. Where `has_potential` is False the argument does
    not hold: the status says so, and nothing is certified.
    """
    posted, users = jax.lax.stop_gradient((posted_market(market, mechanism), users))
    return _extremal(posted, users)


@jax.jit
@over_markets
def _extremal(posted: Market, users: Users) -> ExtremalEquilibria:
    values, profit = posted.offered_value, posted.unit_profit
    n, k = values.shape
    playable = playable_levels(posted)
    weight = jnp.where(users.rationality > 0, values, 0.0)
    index = jnp.broadcast_to(jnp.arange(k), (n, k))
    order = jnp.lexsort((index, profit, weight, ~playable), axis=-1)
    values, profit, playable = (
        jnp.take_along_axis(x, order, axis=-1) for x in (values, profit, playable)
    )
    tie = {8: 1e-12, 4: 1e-6}[values.dtype.itemsize]
    rounding = 4 * float(jnp.finfo(values.dtype).eps)
    reference = jnp.maximum(values.max(), users.outside_value)

    def best(rank: Array, upward: bool) -> Array:
        now = take_level(values, rank)
        rivals = log_rivals(now, users, reference)
        own = users.rationality * (values - reference)
        log_sigma = -jax.nn.softplus(rivals[:, None] - own)
        base = jnp.zeros((n, 1), int)
        utility = log_gain(
            profit, log_sigma, profit[:, :1], jnp.take_along_axis(log_sigma, base, 1)
        )
        utility = jnp.where(playable, utility, -never(utility))
        top = utility.max(-1, keepdims=True)
        good = utility >= top - tie - rounding * jnp.abs(top)
        return jnp.argmax(good, axis=-1) if upward else k - 1 - jnp.argmax(good[:, ::-1], axis=-1)

    limit = n * (k - 1) + 2

    def sweep(start: Array, upward: bool) -> tuple[Array, Array, Array]:
        def step(state: tuple) -> tuple:
            rank, sweeps, _ = state
            after = best(rank, upward)
            return after, sweeps + 1, jnp.all(after == rank)

        state = (start, jnp.zeros((), int), jnp.zeros((), bool))
        return jax.lax.while_loop(lambda s: ~s[2] & (s[1] < limit), step, state)

    low, low_sweeps, low_done = sweep(jnp.zeros(n, int), True)
    high, high_sweeps, high_done = sweep(jnp.sum(playable, axis=-1) - 1, False)
    same = (take_level(values, low) == take_level(values, high)) & (
        take_level(profit, low) == take_level(profit, high)
    )
    sound = has_potential(posted)
    converged = low_done & high_done & sound
    status = jnp.where(converged, Status.CONVERGED, Status.ITERATION_LIMIT)
    return ExtremalEquilibria(
        smallest=take_level(order, low),
        largest=take_level(order, high),
        unique=jnp.all(same) & converged,
        converged=converged,
        iterations=jnp.maximum(low_sweeps, high_sweeps),
        status=jnp.where(sound, status, Status.NO_POTENTIAL),
    )
