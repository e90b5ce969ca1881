"""The smallest and the largest pure equilibrium of a logit game, a certificate of uniqueness."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns
from mechlab.core.market import Array, Market, keep
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import TIE
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.capabilities import Nests
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.logit_game import (
    LogitGame,
    alike,
    first_level,
    logit_game,
    minus_log_share,
    picked,
    posted_game,
    rivals_of,
)


@pytree
class ExtremalEquilibria(Solution):
    """The smallest and the largest pure equilibrium of a logit game.

    Attributes:
        smallest, largest: [..., N] int profiles; every pure equilibrium has weights e^{βV} between.
        unique: [...] bool: both ends agree, up to levels with equal offered value and profit.
        iterations: [...] int, sweeps of the slower of the two, of the slowest of the markets that
            were solved together.
        status: [...] int, a `Status`; nothing is certified unless it is CONVERGED.
    """

    smallest: Array
    largest: Array
    unique: Array
    iterations: Array

    @property
    def converged(self) -> Array:
        """[...] bool, whether the two ends are certified."""
        return self.status == Status.CONVERGED


@front_door(frozen=True)
def extremal_equilibria(
    market: Market, users: Users, rule: Mechanism = DEFAULT_RULE, *, throw: bool = False
) -> ExtremalEquilibria:
    """The smallest and the largest pure equilibrium by best-response sweeps.

    A provider's levels are ordered by weight e^{βV} (then by value, then by index). Providers
    answer tougher rivals with a weakly higher weight (strategic complements), so that simultaneous
    sweeps from the lowest weights climb to the smallest equilibrium, and from the highest descend
    to the largest, in at most N(K−1)+1 sweeps. Ties (1e-12 relative in float64) go to the lowest
    weight on the way up and to the highest on the way down. Where some provider has no level with
    a profit the argument does not hold: the status says so, and nothing is certified.

    Args:
        market, users: [..., N, K] and [...].
        rule: posted prices, or `NestedLogit`; pay-per-compute where not given.
        throw: raise NotSolved, outside jit, where some market has no certificate.
    """
    game = posted_game(rule, market, users, axis=-2)
    posted, nests = (posted_market(market, rule), None) if game is None else game
    return _solve(posted, users, nests)


@jax.jit
def _solve(posted: Market, users: Users, nests: Nests | None) -> ExtremalEquilibria:
    solve = functools.partial(extremal_column, nests=nests)
    return over_columns(functools.partial(each, solve), posted, users)


def extremal_column(posted: Market, users: Users, nests: Nests | None = None) -> ExtremalEquilibria:
    """`extremal_equilibria` of a column of markets [N, K, B] at the prices posted; pure."""
    game = logit_game(posted, users, nests)
    good = _best_responses(game)
    low, low_sweeps = _sweep(game, good, _lowest)
    high, high_sweeps = _sweep(game, good, _highest)
    best = good(low), good(high)
    # the best responses with the weight of the end
    smallest = jnp.argmin(jnp.where(best[0], game.value, jnp.inf), axis=1)
    largest = jnp.argmax(jnp.where(best[1], game.value, -jnp.inf), axis=1)
    ended = jnp.all(alike(game, picked(game.height, smallest), low), axis=0)
    ended &= jnp.all(alike(game, picked(game.height, largest), high), axis=0)
    same = smallest == largest
    equal = jnp.ones_like(same)
    for field in (game.value, game.profit):
        equal &= picked(field, smallest) == picked(field, largest)
    same = jnp.all(same | equal, axis=0)
    idle = jnp.any(jnp.all(~game.available | (game.profit == 0), axis=1), axis=0)
    status = jnp.where(ended, Status.CONVERGED, Status.ITERATION_LIMIT)
    status = jnp.where(game.sound, status, Status.NO_POTENTIAL)
    status = jnp.where(idle, Status.INDIFFERENT, status).astype(jnp.int32)
    return ExtremalEquilibria(
        smallest=smallest,
        largest=largest,
        unique=same & (status == Status.CONVERGED),
        iterations=jnp.broadcast_to(jnp.maximum(low_sweeps, high_sweeps), status.shape),
        status=status,
    )


def certified_column(
    posted: Market, users: Users, nests: Nests | None = None
) -> tuple[Array, Array]:
    """A profile [N, B], and whether it is surely the only equilibrium [B]; pure.

    The plain case of `extremal_column`: both ends have the same weights, and every provider a
    single best response. Sweeps end when few markets still move: those are left to be settled,
    together with others of their kind.
    """
    game = logit_game(posted, users, nests)
    good = _best_responses(game)
    few = game.sound.shape[0] // 32
    low, _ = _sweep(game, good, _lowest, few)
    high, _ = _sweep(game, good, _highest, few)
    best = good(low)
    single = jnp.sum(best, axis=(0, 1)) == low.shape[0]
    level = first_level(best)
    ended = jnp.all(alike(game, picked(game.height, level), low), axis=0)
    same = jnp.all(alike(game, low, high), axis=0)
    return level, single & ended & same & game.sound


def _best_responses(game: LogitGame) -> Callable[[Array], Array]:
    """From heights [N, B] on offer to bools [N, K, B], where 1/U is least."""
    inverse = 1.0 / jnp.where(game.profit > 0, game.profit, 1.0)
    # a level that is not played may lie so far above the others that all else underflows: 0·inf
    lag = jnp.where(game.playable, game.lag, 0.0)
    lag, inverse = keep((lag, jnp.where(game.playable, inverse, jnp.inf)))
    tie = TIE.of(game.value)
    rounding = 4 * float(jnp.finfo(game.value.dtype).eps)

    def good(height: Array) -> Array:
        rivals = rivals_of(game, height)
        size = jnp.maximum(*minus_log_share(game, rivals, jnp.zeros_like(rivals.rest)))
        of_levels = jax.tree.map(lambda x: x[:, None], rivals)
        others, own = minus_log_share(game, of_levels, lag)
        score = (jnp.exp(own - size[:, None]) + jnp.exp(others - size[:, None])) * inverse
        slack = 1.0 + tie - rounding * jnp.minimum(rivals.rest, 0.0)
        return score <= (jnp.min(score, axis=1) * slack)[:, None]

    return good


def _lowest(game: LogitGame, among: Array) -> Array:
    return jnp.min(jnp.where(among, game.height, jnp.inf), axis=1)


def _highest(game: LogitGame, among: Array) -> Array:
    return jnp.max(jnp.where(among, game.height, -jnp.inf), axis=1)


def _sweep(
    game: LogitGame,
    good: Callable[[Array], Array],
    choose: Callable[[LogitGame, Array], Array],
    few: int = 0,
) -> tuple[Array, Array]:
    """Heights [N, B] at one end, and how many sweeps it took until at most `few` markets moved."""
    n, k, batch = game.value.shape

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        height, sweeps, _ = state
        after = choose(game, good(height))
        return after, sweeps + 1, jnp.any(after != height, axis=0)

    limit = n * (k - 1) + 2
    state = (choose(game, game.playable), jnp.zeros((), jnp.int32), jnp.ones(batch, bool))
    height, sweeps, _ = jax.lax.while_loop(
        lambda s: (jnp.sum(s[2]) > few) & (s[1] < limit), step, state
    )
    return height, sweeps
