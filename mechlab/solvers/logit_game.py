"""The game of providers that post prices, in columns: what all its solvers compute with.

With weights w = e^{βV} and rivals' A = e^{βv0} + Σ_{j≠i} e^{βV_j}, a provider's utility is
U = m·w/(A + w), so that 1/U = (1 + A/w)/m is affine in A: a best response needs A alone. Where
users choose a nest first, w = e^{βV/ρ}, D is the sum of w in the own nest, S that of the others in
it, and 1/U = (D/w + A·D^{1−ρ}/w)/m with A = e^{βv0} + Σ D^ρ of the other nests: S and A are all
that is needed. In both games log U has increasing differences in log w and the rivals' weights,
and there is a potential, Σ(log m + log w) − (1−ρ)Σ log D − log(e^{βv0} + Σ D^ρ).

Everything is in logarithms and relative to the best of those compared, so that no rationality
under- or overflows and a provider far behind the others keeps the order of its levels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array, Market, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.capabilities import Nests


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
        lag: [N, K, B] κ(V − best V of the provider's playable levels), κ = β, with nests β/ρ.
        height: [N, K, B] κ(V − best V on offer in the market, v0 included).
        best: [N, B] the largest height of the provider's playable levels.
        outside: [B] β(v0 − best V on offer).
        rationality: [B] κ.
        nests: whom users find alike; None where nobody.
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
    nests: Nests | None = None


def posted_game(
    rule: Mechanism, market: Market, users: Users | UserMixture, axis: int = -3
) -> tuple[Market, Nests | None] | None:
    """The market at the prices posted and the nests, where users of one type choose by (nested)
    logit; else None."""
    if isinstance(users, UserMixture):
        return None
    if rule.posted is None:
        return None
    return rule.posted.providers_market(market, axis), rule.posted.nests


def logit_game(posted: Market, users: Users, nests: Nests | None = None) -> LogitGame:
    """The game of a market [N, K, B] at the prices posted, and its users [B]."""
    value, profit, there = posted.offered_value, posted.unit_profit, posted.available
    earns = there & (profit > 0)
    some = jnp.any(earns, axis=1)
    playable = jnp.where(some[:, None], earns, there)
    outside = users.outside_value
    own = jnp.max(jnp.where(playable, value, -jnp.inf), axis=1)
    top = jnp.maximum(jnp.max(own, axis=0), outside)
    scale = users.rationality if nests is None else users.rationality / nests.dissimilarity
    game = LogitGame(
        value=value,
        profit=profit,
        surplus=posted.surplus,
        available=there,
        playable=playable,
        sound=jnp.all(some, axis=0),
        lag=scale * (value - own[:, None]),
        height=scale * (value - top),
        best=scale * (own - top),
        outside=users.rationality * (outside - top),
        rationality=scale,
    )
    return keep(game).replace(nests=nests)


@pytree
class Rivals(Pytree):
    """What providers face, relative to their own best level.

    Attributes:
        rest: [..., B] log A − log w^ρ of the best level (ρ = 1 without nests).
        near: [..., B] log S − log w of it; None without nests.
    """

    rest: Array
    near: Array | None = None


def rivals_of(game: LogitGame, height: Array) -> Rivals:
    """[N, B] of all providers, from heights [N, B] on offer."""
    if game.nests is None:
        return Rivals(rest=log_rivals(height, game.outside) - game.best)
    rho = game.nests.dissimilarity
    groups = [np.flatnonzero(row) for row in game.nests.members(len(height))]
    near, inclusive = [], []
    for members in groups:
        own = height[members]
        others, every = _log_sums(own) if len(own) > 1 else (jnp.full_like(own, -jnp.inf), own[0])
        near.append(others)
        inclusive.append(rho * every)
    back = np.argsort(np.concatenate(groups))
    rest = log_rivals(jnp.stack(inclusive), game.outside)[np.array(game.nests.of)]
    return Rivals(rest=rest - rho * game.best, near=jnp.concatenate(near)[back] - game.best)


def minus_log_share(game: LogitGame, rivals: Rivals, lag: Array) -> tuple[Array, Array]:
    """Two terms whose exponentials sum to 1/σ, of levels at a lag; shapes broadcast.

    A/w and 1, with nests A·D^{1−ρ}/w and D/w.
    """
    if game.nests is None or rivals.near is None:
        return rivals.rest - lag, jnp.zeros_like(rivals.rest)
    rho = game.nests.dissimilarity
    near = rivals.near - lag
    nest = jnp.maximum(near, 0.0) + jnp.log(1.0 + jnp.exp(-jnp.abs(near)))  # log D/w
    return rivals.rest - rho * lag + (1.0 - rho) * nest, nest


def log_rivals(height: Array, outside: Array) -> Array:
    """[N, B] log A of every provider at once, from heights [N, B] on offer and of v0 [B]."""
    return _log_sums(jnp.concatenate([height, outside[None]]))[0][:-1]


def _log_sums(height: Array) -> tuple[Array, Array]:
    """log Σ_{j≠i} e^{z_j} of each of at least two heights z [M, B], and log Σ e^{z_j} [B].

    Where somebody else is at least as high as i, the first is top + log(Σ_j e^{z_j − top} −
    e^{z_i − top}), and nothing cancels, since at least 1 is left. The leader alone is measured
    against the second best.
    """
    shift = jax.lax.stop_gradient(height)
    top = jnp.max(shift, axis=0)
    leads = shift == top
    second = jnp.max(jnp.where(leads, -jnp.inf, shift), axis=0)
    alone = (jnp.sum(leads, axis=0) == 1) & leads
    weight = jnp.exp(height - top)
    others = jnp.where(leads, 0.0, jnp.exp(jnp.where(leads, 0.0, height - second)))
    behind = jnp.sum(others, axis=0)
    total = jnp.sum(weight, axis=0)
    rest = jnp.where(alone, behind, total - weight)
    return jnp.where(alone, second, top) + jnp.log(rest), top + jnp.log(total)


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
