"""The published dynamics: better response, visit by visit, under any rule."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, vmapped
from mechlab.core.errors import checked_whole
from mechlab.core.market import Array, Market
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import STEP
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.mechanisms.logit import log_gain
from mechlab.solvers.logit_game import (
    LogitGame,
    logit_game,
    minus_log_share,
    picked,
    posted_game,
    rivals_of,
)
from mechlab.solvers.potential import potential

# gains(profile [N, B], provider) → [K, B]: by how much each level beats the one played
Gains = Callable[[Array, Array], Array]
# record(profile [N, B], provider) → what is kept of a visit, [..., B]
Record = Callable[[Array, Array], dict[str, Array]]


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

    _axes = ("round", "visit")

    provider: Array
    profile: Array
    shares: Array
    welfare: Array
    potential: Array
    active: Array


@pytree
class Dynamics(Solution):
    """The profile in which dynamics ended; CONVERGED: a whole round passed without a move.

    Attributes:
        profile: [..., N] int, one level per provider.
        iterations: [...] int, rounds played.
        status: [...] int, a `Status`.
        history: what happened after each visit, or None.
    """

    profile: Array
    iterations: Array
    history: History | None = None


@front_door(frozen=True)
def better_response(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism = DEFAULT_RULE,
    *,
    key: Any = None,
    start: Array | None = None,
    max_rounds: int = 100,
    history: bool = False,
    throw: bool = False,
) -> Dynamics:
    """The published better-response dynamics, under any mechanism.

    Every provider starts at level 0, or at `start` [..., N]. A round visits all in random order;
    the visited provider moves to the nearest level (the lower first at equal distance) that
    improves its `level_gains` by more than the mechanism's tolerance: for posted prices, log
    utility by 1e-8 (1e-6 in float32). It ends after a round without a move.

    Args:
        market: [..., N, K].
        users: [...].
        rule: the pricing rule; pay-per-compute where not given.
        key: one PRNG key, that of seed 0 where not given; all markets of a batch share the order.
        max_rounds: static; `Status.ITERATION_LIMIT` where it is not enough.
        history: static; whether to keep every visit.
        throw: raise NotSolved, outside jit, where some market did not settle.
    """
    checked_whole("max_rounds", max_rounds, 1, 10**6)
    start = jnp.zeros(market.providers, int) if start is None else start
    return _solve(market, users, start, rule, key, max_rounds=max_rounds, history=history)


@functools.partial(jax.jit, static_argnames=("max_rounds", "history"))
def _solve(
    market: Market,
    users: Users | UserMixture,
    start: Array,
    rule: Mechanism,
    key: Array,
    *,
    max_rounds: int,
    history: bool,
) -> Dynamics:
    solve = functools.partial(
        better_response_column, rule=rule, key=key, max_rounds=max_rounds, history=history
    )
    return over_columns(functools.partial(each, solve), market, users, start)


def better_response_column(
    market: Market,
    users: Users | UserMixture,
    start: Array,
    *,
    rule: Mechanism,
    key: Array,
    max_rounds: int = 100,
    history: bool = False,
) -> Dynamics:
    """`better_response` of a column: market [N, K, B], start [N, B]; pure."""
    found = posted_game(rule, market, users)
    plain = found is not None and found[1] is None
    if found is not None:
        posted, nests = found
        game = logit_game(posted, users, nests)  # type: ignore[arg-type]
        gains, tolerance, sound = logit_gains(game), STEP.of(game.value), game.sound
    else:
        gains, tolerance = rule_gains(market, users, rule), rule.tolerance.of(market.quality)
        sound = jnp.ones(start.shape[1:], bool)
        if isinstance(users, UserMixture) and rule.posted is not None:
            sound = ~sound

    def record(profile: Array, provider: Array) -> dict[str, Array]:
        def one(market: Market, users: Users | UserMixture, profile: Array) -> dict[str, Array]:
            outcome = rule(rule.offers(market, profile), users)
            phi = jnp.zeros((), market.quality.dtype)
            if plain:
                phi = potential(market, users, rule, profile)  # type: ignore[arg-type]
            return dict(
                provider=provider,
                profile=profile,
                shares=outcome.shares,
                welfare=outcome.welfare,
                potential=phi,
            )

        return vmapped(one)(market, users, profile)

    return dynamics(
        gains,
        start,
        market.quality.shape[1],
        sound,
        tolerance=tolerance,
        key=key,
        max_rounds=max_rounds,
        record=record if history else None,
    )


def logit_gains(game: LogitGame) -> Gains:
    """Gains in log utility, the published comparison, which no rationality underflows."""

    def gains(profile: Array, provider: Array) -> Array:
        rivals = rivals_of(game, picked(game.height, profile))
        rivals = jax.tree.map(lambda x: x[provider], rivals)
        # in units in which levels of a provider far behind keep their order
        size = jnp.maximum(*minus_log_share(game, rivals, jnp.zeros_like(rivals.rest)))
        others, own = minus_log_share(game, rivals, game.lag[provider])
        log_share = -jnp.logaddexp(own - size, others - size)
        profit, now = game.profit[provider], profile[provider][None]
        at_now = [jnp.take_along_axis(x, now, axis=0) for x in (profit, log_share)]
        gain = log_gain(profit, log_share, *at_now)
        return jnp.where(game.available[provider], gain, -jnp.inf)

    return gains


def rule_gains(market: Market, users: Users | UserMixture, rule: Mechanism) -> Gains:
    """Gains by the rule's own comparison, one market at a time."""

    def gains(profile: Array, provider: Array) -> Array:
        def one(market: Market, users: Users | UserMixture, profile: Array) -> Array:
            return rule.levels.gains(market, users, profile, provider)

        return vmapped(one)(market, users, profile)

    return gains


def dynamics(
    gains: Gains,
    start: Array,
    levels: int,
    sound: Array,
    *,
    tolerance: float,
    key: Array,
    max_rounds: int,
    record: Record | None = None,
) -> Dynamics:
    """Better-response dynamics of a column from a start [N, B]; pure.

    Args:
        levels: K, how many.
        sound: [B] bool: the game has a potential, so that the dynamics have to end.
        tolerance: a level has to gain more than that to be worth a move.
        record: what to keep of every visit, or None.
    """
    n, batch = start.shape
    steps = jnp.arange(levels)[:, None]

    def visit(profile: Array, provider: Array) -> tuple[Array, dict[str, Array]]:
        now = profile[provider]
        better = gains(profile, provider) > tolerance
        distance = 2 * jnp.abs(steps - now) + (steps > now)
        distance = jnp.where(better, distance, 2 * levels + 2)
        nearest = jnp.argmin(distance, axis=0).astype(profile.dtype)
        moved = jnp.where(jnp.any(better, axis=0), nearest, now)
        profile = profile.at[provider].set(moved)
        return profile, record(profile, provider) if record else {}

    def play(state: tuple[Any, ...]) -> tuple[Any, ...]:
        profile, played, rounds, _, log = state
        order = jax.random.permutation(jax.random.fold_in(key, played), n)
        after, visits = jax.lax.scan(visit, profile, order)
        log = jax.tree.map(lambda buffer, x: buffer.at[played].set(x), log, visits)
        moved = jnp.any(after != profile, axis=0)
        return after, played + 1, jnp.where(moved, played + 2, rounds), moved, log

    blank = record(start, jnp.zeros((), int)) if record else {}
    log = jax.tree.map(lambda x: jnp.broadcast_to(x, (max_rounds, n, *jnp.shape(x))), blank)
    rounds, moving = jnp.ones(batch, int), jnp.ones(batch, bool)
    profile, _, rounds, moving, log = jax.lax.while_loop(
        lambda s: jnp.any(s[3]) & (s[1] < max_rounds),
        play,
        (start, jnp.zeros((), int), rounds, moving, log),
    )
    rounds = jnp.minimum(rounds, max_rounds)
    limit = jnp.where(sound, Status.ITERATION_LIMIT, Status.NO_POTENTIAL)
    status = jnp.where(moving, limit, Status.CONVERGED).astype(jnp.int32)
    kept = None
    if record:
        active = jnp.arange(max_rounds)[:, None] < rounds  # [R, B]

        def filled(x: Array) -> Array:
            """[R, N, ..., B] with the end of each market after its last round."""
            shape = (max_rounds, *[1] * (x.ndim - 2), batch)
            last = jnp.broadcast_to((rounds - 1), (1, 1, *x.shape[2:]))
            end = jnp.take_along_axis(x[:, -1:], last, axis=0)
            return jnp.where(active.reshape(shape), x, end)

        kept = History(**jax.tree.map(filled, log), active=active)
    return Dynamics(profile=profile, iterations=rounds, status=status, history=kept)
