"""The game of providers that post prices, in columns: what all its solvers compute with.

With weights w = e^{βV} and rivals' A = e^{βv0} + Σ_{j≠i} e^{βV_j}, a provider's utility is
U = m·w/(A + w), so that 1/U = (1 + A/w)/m is affine in A: a best response needs A alone. Everything
is in logarithms and relative to the best of those compared, so that no rationality under- or
overflows and a provider far behind the others keeps the order of its levels.
"""

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, Users, keep
from mechlab.core.pytree import Pytree, pytree


@pytree
class LogitGame(Pytree):
    """A column of games of posted prices.

    Attributes:
        value: [N, K, B] V = quality − price, USD.
        profit: [N, K, B] m = price − cost, USD.
        surplus: [N, K, B] s = quality − cost, USD.
        available: [N, K, B] bool.
        playable: [N, K, B] bool: available, and not strictly dominated by a level with a profit
            where this one has none.
        sound: [B] bool: every provider has a level with a profit, so that there is a potential.
        lag: [N, K, B] β(V − best V of the provider's playable levels).
        height: [N, K, B] β(V − best V on offer in the market, v0 included).
        best: [N, B] the largest height of the provider's playable levels.
        outside: [B] the height of v0.
        rationality: [B] β.
    """

    value: Array
    profit: Array
    surplus: Array
    available: Array
    playable: Array
    sound: Array
    lag: Array
    height: Array
    best: Array
    outside: Array
    rationality: Array


def logit_game(posted: Market, users: Users) -> LogitGame:
    """The game of a market [N, K, B] at the prices posted, and its users [B]."""
    value, profit, there = posted.offered_value, posted.unit_profit, posted.available
    earns = there & (profit > 0)
    some = jnp.any(earns, axis=1)
    playable = jnp.where(some[:, None], earns, there)
    outside = users.outside_value
    own = jnp.max(jnp.where(playable, value, -jnp.inf), axis=1)
    top = jnp.maximum(jnp.max(own, axis=0), outside)
    return keep(_game(posted, users, own, top, playable, jnp.all(some, axis=0)))


def _game(
    posted: Market, users: Users, own: Array, top: Array, playable: Array, sound: Array
) -> LogitGame:
    value, beta = posted.offered_value, users.rationality
    return LogitGame(
        value=value,
        profit=posted.unit_profit,
        surplus=posted.surplus,
        available=posted.available,
        playable=playable,
        sound=sound,
        lag=beta * (value - own[:, None]),
        height=beta * (value - top),
        best=beta * (own - top),
        outside=beta * (users.outside_value - top),
        rationality=beta,
    )


def log_rivals(height: Array, outside: Array) -> Array:
    """[N, B] log A of every provider at once, from heights [N, B] on offer and of v0 [B].

    Where somebody else offers at least as much as i, log A = top + log(Σ_j e^{z_j − top} −
    e^{z_i − top}), and nothing cancels, since at least 1 is left. The leader alone is measured
    against the second best.
    """
    every = jnp.concatenate([height, outside[None]])
    shift = jax.lax.stop_gradient(every)
    top = jnp.max(shift, axis=0)
    leads = shift == top
    second = jnp.max(jnp.where(leads, -jnp.inf, shift), axis=0)
    alone = (jnp.sum(leads, axis=0) == 1) & leads[:-1]
    weight = jnp.exp(every - top)
    others = jnp.where(leads, 0.0, jnp.exp(jnp.where(leads, 0.0, every - second)))
    behind = jnp.sum(others, axis=0)
    rest = jnp.sum(weight, axis=0) - weight[:-1]
    rest = jnp.where(alone, behind, rest)
    return jnp.where(alone, second, top) + jnp.log(rest)


def log_rivals_of(provider: Array, height: Array, outside: Array) -> Array:
    """[B] log A of one provider."""
    here = jnp.arange(height.shape[0])[:, None] == provider
    every = jnp.concatenate([jnp.where(here, -jnp.inf, height), outside[None]])
    return jax.nn.logsumexp(every, axis=0)


def picked(values: Array, level: Array) -> Array:
    """[N, B] the entries of [N, K, B] at a profile [N, B]: exact, without a gather."""
    here = jnp.arange(values.shape[1])[:, None] == level[:, None]
    return jnp.sum(jnp.where(here, values, jnp.zeros((), values.dtype)), axis=1)


def first_level(among: Array, last: bool = False) -> Array:
    """[..., B] (int) of bools [..., K, B], the lowest level that is True, or the last."""
    levels = jnp.arange(among.shape[-2])[:, None]
    if last:
        return jnp.max(jnp.where(among, levels, -1), axis=-2)
    return jnp.min(jnp.where(among, levels, among.shape[-2] - 1), axis=-2)


def alike(game: LogitGame, a: Array, b: Array) -> Array:
    """bool: heights [..., B] that are one up to rounding.

    A compiler may compute a height once for a maximum and again for the question who attains it,
    and round it otherwise: solvers carry levels, and never ask for equal heights.
    """
    size = game.rationality * jnp.max(jnp.abs(game.value), axis=(0, 1)) + 1.0
    return jnp.abs(a - b) <= 16 * jnp.finfo(a.dtype).eps * size
