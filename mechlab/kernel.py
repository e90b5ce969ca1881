"""Logit markets by the million: the solvers of one market, over columns of markets.

Arrays have the market axis last, [N, K, B], and everything is unrolled over providers and levels
into elementwise operations on [B], which vectorise and stay in cache. No logarithm is taken: each
provider's weights e^{βV} are normalised by a reference of its own, ρ_i = min(max_k V_ik, second),
where `second` is the second-best value on offer in the market, the outside option included. So
neither a provider far behind (all its weights would underflow against the leader's) nor one far
ahead (its rivals' would) loses the order of its levels in float32. Weights are capped at e^40:
above it a share is 1 to the last bit.

`benchmarks/README.md` says what was measured on the way here.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from mechlab.market import Array, Market, Users

# Where a value feeds several others, the compiler would compute it again in each: this keeps it.
_keep = jax.lax.optimization_barrier

_CAP = 40.0
_FLOOR = 1e-17  # e^-39: rivals' weight below this is no competition


@chex.dataclass(frozen=True)
class Weights:
    """A column of logit games, normalised.

    Attributes:
        weight: [N, K, B] w = e^{β(V − ρ_i)}, at most e^40; 0 where a level is not available.
        gain: [N, K, B] unit profit × w; −∞ where a level is not available.
        scale: [N, B] e^{β(ρ_i − second)} ≤ 1: scale × w is comparable between providers.
        outside: [B] e^{β(v0 − second)}, at most e^40.
    """

    weight: Array
    gain: Array
    scale: Array
    outside: Array


def weights(market: Market, users: Users, masked: bool, over_all: bool) -> Weights:
    """Normalise a column.

    Args:
        market: [N, K, B].
        users: [B].
        masked: static; some levels are not available.
        over_all: static; the references are over all levels, as the social optimum needs them,
            and not only over those with a profit, as the providers' game does: they never play a
            level without a profit beside one with it. The same where every level has a profit.
    """
    value = market.offered_value
    beta, outside = users.rationality, users.outside_value
    if masked:
        value = jnp.where(market.available, value, -jnp.inf)
    best = jnp.max(value, axis=1)
    if not over_all:
        earning = jnp.max(jnp.where(market.unit_profit > 0, value, -jnp.inf), axis=1)
        best = jnp.where(earning == -jnp.inf, best, earning)
    first, second = outside, jnp.full_like(outside, -jnp.inf)
    for i in range(value.shape[0]):
        second = jnp.maximum(second, jnp.minimum(first, best[i]))
        first = jnp.maximum(first, best[i])
    reference = jnp.minimum(best, second)
    exponent = value - reference[:, None]
    if masked:
        # β·(−∞) is not a number at β = 0
        weight = jnp.exp(jnp.minimum(beta * jnp.where(market.available, exponent, 0.0), _CAP))
        weight = jnp.where(market.available, weight, 0.0)
        gain = jnp.where(market.available, market.unit_profit * weight, -jnp.inf)
    else:
        weight = jnp.exp(jnp.minimum(beta * exponent, _CAP))
        gain = market.unit_profit * weight
    return Weights(
        weight=weight,
        gain=gain,
        scale=jnp.exp(beta * (reference - second)),
        outside=jnp.exp(jnp.minimum(beta * (outside - second), _CAP)),
    )


def pick(values: Array, level: Array) -> Array:
    """[N, B] the entries of [N, K, B] at a profile [N, B] of levels."""
    chosen = values[:, 0]
    for k in range(1, values.shape[1]):
        chosen = jnp.where(level == k, values[:, k], chosen)
    return chosen


def _pick_one(values: Array, level: Array) -> Array:
    return pick(values[None], level[None])[0]


def _argmax(values: Sequence[Array], available: Array | None) -> Array:
    """[B] (as floats) the index of the largest, the lowest on a tie.

    The maximum first, then who attains it: a chain of selects that carried both along would be
    computed anew at every link.
    """
    if available is not None:
        values = [jnp.where(available[k], v, -jnp.inf) for k, v in enumerate(values)]
    top = functools.reduce(jnp.maximum, values)
    index = 0.0 * top
    for k in reversed(range(1, len(values))):
        index = jnp.where(values[k] == top, 1.0 * k, index)
    return jnp.where(values[0] == top, 0.0, index)


def _least(values: Sequence[Array], among: Sequence[Array]) -> Array:
    """[B] the smallest of the values that count."""
    return functools.reduce(
        jnp.minimum, [jnp.where(a, v, jnp.inf) for v, a in zip(values, among, strict=True)]
    )


def _rivals(current: Sequence[Array], i: int, outside: Array) -> Array:
    """[B] weight of everything but provider i; summed, since a difference would cancel."""
    total = outside
    for j, weight in enumerate(current):
        if j != i:
            total = total + weight
    return jnp.maximum(total, _FLOOR)


def better_response(
    games: Weights, orders: tuple[tuple[int, ...], ...], tolerance: float, max_rounds: int
) -> tuple[Array, Array, Array]:
    """The published dynamics on a column; see `mechlab.equilibrium.better_response`.

    Args:
        orders: static; the rounds' visiting orders, shared by all markets and repeated in turn.
            Whole turns are played.
        tolerance: by how much, relatively, utility must rise.

    Returns:
        Levels [N, B] (as floats), converged [B], and the rounds played.
    """
    n, levels, batch = games.weight.shape

    def visit(i: int, level: Array, current: Sequence[Array]) -> Array:
        """The level after a visit: the nearest that improves m·w/(1 + w·x), x = scale/rivals."""
        weight, gain = games.weight[i], games.gain[i]
        x = games.scale[i] / _rivals(current, i, games.outside)
        gain_now = _pick_one(gain, level)
        slope = 1.0 + _pick_one(weight, level) * x

        def improves(k: int) -> Array:
            now = gain_now * (1.0 + weight[k] * x)
            return gain[k] * slope - now > tolerance * jnp.abs(now)

        below, above = jnp.full_like(level, -1.0), jnp.full_like(level, 3.0 * levels)
        for k in range(levels - 1):
            below = jnp.where(improves(k) & (level > k), 1.0 * k, below)
        for k in reversed(range(1, levels)):
            above = jnp.where(improves(k) & (level < k), 1.0 * k, above)
        down = (below >= 0) & (level - below <= above - level)
        return jnp.where(down, below, jnp.where(above < levels, above, level))

    def turn(state: tuple) -> tuple:
        level, current, rounds, _ = state
        level, current = list(level), list(current)
        before = level
        for order in orders:
            before = list(level)
            for i in order:
                level[i] = _keep(visit(i, level[i], current))
                weight = games.scale[i] * _pick_one(games.weight[i], level[i])
                current[i] = _keep(weight)
        moved = jnp.zeros(batch, bool)
        for now, then in zip(level, before, strict=True):
            moved |= now != then
        return tuple(level), tuple(current), rounds + len(orders), moved

    zero = games.outside * 0.0
    start = tuple(games.scale[i] * games.weight[i, 0] for i in range(n))
    state = (tuple(zero for _ in range(n)), start, jnp.zeros((), int), zero == 0.0)
    level, _, rounds, moved = jax.lax.while_loop(
        lambda s: jnp.any(s[3]) & (s[2] < max_rounds), turn, state
    )
    return jnp.stack(level), ~moved, rounds


def extremal_equilibria(
    games: Weights, profit: Array, available: Array | None, tie: float
) -> tuple[Array, Array, Array]:
    """The smallest and largest equilibrium; see `mechlab.equilibrium.extremal_equilibria`.

    Args:
        profit: [N, K, B] unit profits.
        available: [N, K, B] bool, or None where all levels are.
        tie: relative difference of utility below which levels tie.

    Returns:
        Levels [N, B] of both ends (as floats), and sound [B]: both sweeps converged and every
        provider has a level with a profit (else nothing is certified).
    """
    n, levels, batch = games.weight.shape
    playable = profit > 0
    if available is not None:
        playable &= available
    sound = jnp.all(jnp.any(playable, axis=1), axis=0)
    zero = games.outside * 0.0

    def best(i: int, current: Sequence[Array], sign: float) -> Array:
        """Of the levels with the best utility, the lowest (sign 1) or highest (−1) in weight."""
        x = games.scale[i] / _rivals(current, i, games.outside)
        utility = [
            jnp.where(playable[i, k], games.gain[i, k] / (1.0 + games.weight[i, k] * x), 0.0)
            for k in range(levels)
        ]
        top = functools.reduce(jnp.maximum, utility) * (1.0 - tie)
        return first(i, [u >= top for u in utility], sign)

    def first(i: int, among: Sequence[Array], sign: float) -> Array:
        """By weight, then profit, then index; sign −1 turns the order round."""
        weight = [sign * games.weight[i, k] for k in range(levels)]
        earns = [sign * profit[i, k] for k in range(levels)]
        among = [a & playable[i, k] for k, a in enumerate(among)]
        for keys in (weight, earns):
            least = _least(keys, among)
            among = [a & (key == least) for key, a in zip(keys, among, strict=True)]
        level = zero
        for k in reversed(range(levels)) if sign > 0 else range(levels):
            level = jnp.where(among[k], 1.0 * k, level)
        return level

    def sweep(sign: float) -> tuple[Array, Array]:
        def current(i: int, level: Array) -> Array:
            return games.scale[i] * _pick_one(games.weight[i], level)

        def step(state: tuple) -> tuple:
            before, weight, sweeps, _ = state
            level, weight = list(before), list(weight)
            for i in range(n):
                level[i] = _keep(best(i, weight, sign))
                weight[i] = _keep(current(i, level[i]))
            moved = jnp.zeros(batch, bool)
            for now, then in zip(level, before, strict=True):
                moved |= now != then
            return tuple(level), tuple(weight), sweeps + 1, moved

        everything = [jnp.ones(batch, bool)] * levels
        start = tuple(_keep(first(i, everything, sign)) for i in range(n))
        state = (
            start,
            tuple(current(i, start[i]) for i in range(n)),
            jnp.zeros((), int),
            games.outside == games.outside,
        )
        limit = n * (levels - 1) + 2
        level, _, _, moved = jax.lax.while_loop(
            lambda s: jnp.any(s[3]) & (s[2] < limit), step, state
        )
        return jnp.stack(level), moved

    low, low_moved = sweep(1.0)
    high, high_moved = sweep(-1.0)
    return low, high, sound & ~low_moved & ~high_moved


def social_optimum(
    games: Weights, market: Market, masked: bool, epsilon: float, max_iterations: int
) -> tuple[Array, Array]:
    """Optimal welfare [B] and converged [B]; see `mechlab.optimum.social_optimum`.

    `games` are normalised over all levels. Each provider's largest w(s − λ') is that of its best
    level where one helps, and of its least harmful one otherwise: no case distinction is needed
    once weights are not logarithms.
    """
    surplus = market.surplus
    available = market.available if masked else None
    n, levels, _ = games.weight.shape
    nudge = _keep(epsilon * jnp.max(jnp.abs(surplus), axis=(0, 1)))

    def welfare(level: Sequence[Array], otherwise: Array) -> Array:
        """At a profile; `otherwise` where all weights underflow, since nobody helps there."""
        total, worth = games.outside, 0.0 * games.outside
        for i in range(n):
            weight = games.scale[i] * _pick_one(games.weight[i], level[i])
            total, worth = total + weight, worth + weight * _pick_one(surplus[i], level[i])
        return jnp.where(total > 0, worth / jnp.where(total > 0, total, 1.0), otherwise)

    def respond(i: int, trial: Array | None) -> Array:
        """The level of the largest w(s − trial); of the largest s where there is no trial."""
        worth = [surplus[i, k] for k in range(levels)]
        if trial is not None:
            worth = [games.weight[i, k] * (s - trial) for k, s in enumerate(worth)]
        return _keep(_argmax(worth, None if available is None else available[i]))

    def step(state: tuple) -> tuple:
        value, steps, _ = state
        trial = value + nudge
        candidate = _keep(welfare([respond(i, trial) for i in range(n)], value))
        return jnp.maximum(value, candidate), steps + 1, candidate - value > nudge

    start = welfare([respond(i, None) for i in range(n)], 0.0 * games.outside)
    state = (start, jnp.zeros((), int), start == start)
    value, _, open_ = jax.lax.while_loop(
        lambda s: jnp.any(s[2]) & (s[1] < max_iterations), step, state
    )
    return value, ~open_


def logit_outcome(market: Market, users: Users, games: Weights, level: Array) -> dict[str, Array]:
    """The metrics [B] of `Outcome` at a profile [N, B]; provider_utility is summed."""
    at = {
        name: pick(getattr(market, name), level)
        for name in ("quality", "price", "cost", "accuracy", "tokens")
    }
    bought = games.scale * pick(games.weight, level)
    trade = jnp.sum(bought, axis=0)
    shares = bought / (trade + games.outside)

    def total(x: Array) -> Array:
        return jnp.sum(shares * x, axis=0)

    def mean(x: Array) -> Array:
        return jnp.sum(bought * x, axis=0) / jnp.maximum(trade, jnp.finfo(trade.dtype).tiny)

    return dict(
        welfare=total(at["quality"] - at["cost"]),
        net_welfare=total(at["quality"] - at["cost"] - users.outside_value),
        user_value=total(at["quality"] - at["price"]),
        user_cost=total(at["price"]),
        quality=total(at["quality"]),
        provider_utility=total(at["price"] - at["cost"]),
        accuracy=mean(at["accuracy"]),
        tokens=mean(at["tokens"]),
    )


def truthful_auction(market: Market, users: Users, masked: bool) -> dict[str, Array]:
    """The metrics [B] of the second-price auction at truthful play; ties to the lowest index."""
    surplus = market.surplus
    level, best = [], []
    for i in range(surplus.shape[0]):
        mask = market.available[i] if masked else None
        level.append(_keep(_argmax(list(surplus[i]), mask)))
        best.append(_keep(_pick_one(surplus[i], level[i])))
    outside = users.outside_value
    first, second = best[0], jnp.full_like(outside, -jnp.inf)
    winner = jnp.zeros_like(outside)
    for i in range(1, len(best)):
        second = jnp.maximum(second, jnp.minimum(first, best[i]))
        winner = jnp.where(best[i] > first, 1.0 * i, winner)
        first = jnp.maximum(first, best[i])
    second = jnp.maximum(second, outside)
    wins, second = _keep(jnp.where(first >= outside, winner, -1.0)), _keep(second)
    trade = wins >= 0
    levels = surplus.shape[1]
    chosen = wins * 0.0 - 1.0
    for i in range(len(best)):
        chosen = jnp.where(wins == i, level[i] + 1.0 * levels * i, chosen)
    chosen = _keep(chosen)

    def won(values: Array) -> Array:
        entries = (values[i, k] for i in range(len(best)) for k in range(levels))
        return _keep(sum(jnp.where(chosen == e, value, 0.0) for e, value in enumerate(entries)))

    quality, cost = won(market.quality), won(market.cost)
    paid = jnp.where(trade, quality - second, 0.0)
    return dict(
        welfare=quality - cost,
        net_welfare=jnp.where(trade, quality - cost - outside, 0.0),
        user_value=jnp.where(trade, second, 0.0),
        user_cost=paid,
        quality=quality,
        provider_utility=paid - cost,
        accuracy=won(market.accuracy),
        tokens=won(market.tokens),
    )
