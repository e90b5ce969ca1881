"""Logit markets by the million: the solvers of one market, over columns of markets.

Arrays have the market axis last, [N, K, B], and everything is unrolled over providers and levels
into elementwise operations on [B], which vectorise and stay in cache. Float32 holds at any
rationality: utilities are measured against the best rival of the moment, and those of a provider
behind it against its own best level; the planner compares logarithms. Only the dynamics, which
visit each level many times, use weights computed once (`_Weights`), and say where those underflow.

`benchmarks/README.md` says what was measured on the way here.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, Users
from mechlab.core.pytree import Pytree, pytree

# Where a value feeds several others, the compiler would compute it again in each: this keeps it.
_keep = jax.lax.optimization_barrier

_CAP = 40.0
_FLOOR = 1e-17  # e^-39: rivals' weight below this is no competition


@pytree
class Games(Pytree):
    """A column of logit games.

    Attributes:
        value: [N, K, B] offered value.
        profit: [N, K, B] unit profit.
        best: [N, B] the provider's best offered value, over levels with a profit where it has one.
        relative: [N, K, B] e^{β(value − best)}.
        available: [N, K, B] bool, or None where all levels are.
        users: [B].
    """

    value: Array
    profit: Array
    best: Array
    relative: Array
    available: Array | None
    users: Users


def games(market: Market, users: Users, profitable: bool = False) -> Games:
    """The games of a column.

    Args:
        market: [N, K, B]; `available` None where all levels are.
        users: [B].
        profitable: static; every level is known to be priced above its cost.
    """
    value, profit, there = market.offered_value, market.unit_profit, market.available
    best = jnp.max(value if there is None else jnp.where(there, value, -jnp.inf), axis=1)
    if not profitable:
        # a level without a profit is never played beside one with it
        earns = profit > 0 if there is None else there & (profit > 0)
        earning = jnp.max(jnp.where(earns, value, -jnp.inf), axis=1)
        best = jnp.where(earning == -jnp.inf, best, earning)
    exponent = jnp.minimum(users.rationality * (value - best[:, None]), 80.0)
    return Games(
        value=value,
        profit=profit,
        best=best,
        relative=jnp.exp(exponent),
        available=there,
        users=users,
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


def _utilities(game: Games, i: int, current: Sequence[Array]) -> list[Array]:
    """[K][B] a provider's utility at each level, times a positive number of its own.

    With M the best rival value and A = Σ e^{β(V_j − M)} ≥ 1 over rivals, the share is w/(A + w),
    w = e^{β(V − M)}. A provider with all its levels behind M is measured in units of its best.
    """
    beta, outside = game.users.rationality, game.users.outside_value
    others = [outside, *(value for j, value in enumerate(current) if j != i)]
    top = functools.reduce(jnp.maximum, others)
    rivals = sum(jnp.exp(beta * (value - top)) for value in others)
    behind = game.best[i] < top
    utilities = []
    for k in range(game.value.shape[1]):
        ahead = game.value[i, k] >= top
        small = jnp.exp(-beta * jnp.abs(game.value[i, k] - top))
        part = jnp.where(behind, game.relative[i, k], jnp.where(ahead, 1.0, small))
        whole = jnp.where(ahead, 1.0 + rivals * small, small + rivals)
        utilities.append(game.profit[i, k] * part / whole)
    return utilities


@pytree
class _Weights(Pytree):
    """Games whose weights are computed once, for the dynamics, which visit each level many times.

    A provider's weights are relative to ρ_i = min(best_i, second), where `second` is the
    second-best value on offer in the market, the outside option included: so neither a provider
    far behind nor one far ahead loses the order of its levels in float32.

    Attributes:
        weight: [N, K, B] w = e^{β(V − ρ_i)}, at most e^40: above it a share is 1.
        gain: [N, K, B] unit profit × w; −∞ where a level is not available.
        scale: [N, B] e^{β(ρ_i − second)} ≤ 1: scale × w is comparable between providers.
        outside: [B] e^{β(v0 − second)}, at most e^40.
    """

    weight: Array
    gain: Array
    scale: Array
    outside: Array


def _weights_once(game: Games) -> _Weights:
    beta, outside = game.users.rationality, game.users.outside_value
    first, second = outside, jnp.full_like(outside, -jnp.inf)
    for best in game.best:
        second = jnp.maximum(second, jnp.minimum(first, best))
        first = jnp.maximum(first, best)
    reference = jnp.minimum(game.best, second)
    weight = jnp.exp(jnp.minimum(beta * (game.value - reference[:, None]), _CAP))
    gain = game.profit * weight
    if game.available is not None:
        weight = jnp.where(game.available, weight, 0.0)
        gain = jnp.where(game.available, gain, -jnp.inf)
    return _Weights(
        weight=weight,
        gain=gain,
        scale=jnp.exp(beta * (reference - second)),
        outside=jnp.exp(jnp.minimum(beta * (outside - second), _CAP)),
    )


def _rivals(current: Sequence[Array], i: int, outside: Array) -> Array:
    """[B] weight of everything but provider i; summed, since a difference would cancel."""
    total = outside
    for j, weight in enumerate(current):
        if j != i:
            total = total + weight
    return jnp.maximum(total, _FLOOR)


def better_response(
    game: Games, orders: tuple[tuple[int, ...], ...], tolerance: float, max_rounds: int
) -> tuple[Array, Array, Array]:
    """The published dynamics on a column; see `mechlab.solvers.equilibrium.better_response`.

    Args:
        orders: static; the rounds' visiting orders, shared by all markets and repeated in turn.
            Whole turns are played.
        tolerance: by how much, relatively, utility must rise.

    Returns:
        Levels [N, B] (as floats), converged [B], and the rounds played. Converged means that a
        round passed without a move, and that no provider's rivals were too weak to be seen.
    """
    games = _weights_once(game)
    n, levels, _ = games.weight.shape

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
        return tuple(level), tuple(current), rounds + len(orders), _differ(level, before)

    zero = games.outside * 0.0
    start = tuple(games.scale[i] * games.weight[i, 0] for i in range(n))
    state = (tuple(zero for _ in range(n)), start, jnp.zeros((), int), zero == 0.0)
    level, current, rounds, moved = jax.lax.while_loop(
        lambda s: jnp.any(s[3]) & (s[2] < max_rounds), turn, state
    )
    seen = [_rivals(current, i, games.outside) > _FLOOR for i in range(n)]
    return jnp.stack(level), functools.reduce(jnp.logical_and, seen, ~moved), rounds


def _differ(level: Sequence[Array], before: Sequence[Array]) -> Array:
    return functools.reduce(
        jnp.logical_or, [now != then for now, then in zip(level, before, strict=True)]
    )


def extremal_equilibria(game: Games, tie: float) -> tuple[Array, Array, Array, Array]:
    """The smallest and largest equilibrium; see `mechlab.solvers.equilibrium.extremal_equilibria`.

    Args:
        tie: relative difference of utility below which levels tie.

    Returns:
        Levels [N, B] of both ends (as floats); unique [B], up to levels with equal value and
        profit; and sound [B]: both sweeps converged and every provider has a level with a profit
        (else nothing is certified).
    """
    n, levels, batch = game.value.shape
    playable = game.profit > 0
    if game.available is not None:
        playable &= game.available
    sound = jnp.all(jnp.any(playable, axis=1), axis=0)
    zero = 0.0 * game.users.outside_value
    flat = game.users.rationality <= 0  # all weights are equal then

    def best(i: int, current: Sequence[Array], sign: float) -> Array:
        """Of the levels with the best utility, the lowest (sign 1) or highest (−1) in weight."""
        utility = [
            jnp.where(playable[i, k], u, 0.0) for k, u in enumerate(_utilities(game, i, current))
        ]
        top = functools.reduce(jnp.maximum, utility) * (1.0 - tie)
        return first(i, [u >= top for u in utility], sign)

    def first(i: int, among: Sequence[Array], sign: float) -> Array:
        """By weight, then profit, then index; sign −1 turns the order round."""
        weight = [sign * jnp.where(flat, 0.0, game.value[i, k]) for k in range(levels)]
        earns = [sign * game.profit[i, k] for k in range(levels)]
        among = [a & playable[i, k] for k, a in enumerate(among)]
        for keys in (weight, earns):
            least = _least(keys, among)
            among = [a & (key == least) for key, a in zip(keys, among, strict=True)]
        level = zero
        for k in reversed(range(levels)) if sign > 0 else range(levels):
            level = jnp.where(among[k], 1.0 * k, level)
        return level

    def sweep(sign: float) -> tuple[list[Array], Array]:
        def step(state: tuple) -> tuple:
            before, current, sweeps, _ = state
            level, current = list(before), list(current)
            for i in range(n):
                level[i] = _keep(best(i, current, sign))
                current[i] = _keep(_pick_one(game.value[i], level[i]))
            return tuple(level), tuple(current), sweeps + 1, _differ(level, before)

        everything = [jnp.ones(batch, bool)] * levels
        start = tuple(_keep(first(i, everything, sign)) for i in range(n))
        values = tuple(_pick_one(game.value[i], start[i]) for i in range(n))
        state = (start, values, jnp.zeros((), int), zero == 0.0)
        limit = n * (levels - 1) + 2
        level, _, _, moved = jax.lax.while_loop(
            lambda s: jnp.any(s[3]) & (s[2] < limit), step, state
        )
        return list(level), moved

    low, low_moved = sweep(1.0)
    high, high_moved = sweep(-1.0)
    sound = sound & ~low_moved & ~high_moved
    unique = sound
    for i in range(n):
        for field in (game.value[i], game.profit[i]):
            unique &= _pick_one(field, low[i]) == _pick_one(field, high[i])
    return jnp.stack(low), jnp.stack(high), unique, sound


def _weights(values: Sequence[Array], users: Users) -> tuple[list[Array], Array]:
    """[N][B] weights of values relative to the best on offer, and that of the outside option."""
    top = functools.reduce(jnp.maximum, values, users.outside_value)
    weight = [jnp.exp(users.rationality * (value - top)) for value in values]
    return weight, jnp.exp(users.rationality * (users.outside_value - top))


def social_optimum(
    game: Games, surplus: Array, epsilon: float, max_iterations: int
) -> tuple[Array, Array]:
    """Optimal welfare [B] and converged [B]; see `mechlab.solvers.optimum.social_optimum`."""
    n, levels, _ = game.value.shape
    nudge = _keep(epsilon * jnp.max(jnp.abs(surplus), axis=(0, 1)))
    tiny = jnp.finfo(surplus.dtype).tiny

    def available(i: int) -> Array | None:
        return None if game.available is None else game.available[i]

    def welfare(level: Sequence[Array]) -> Array:
        values = [_pick_one(game.value[i], level[i]) for i in range(n)]
        weight, total = _weights(values, game.users)
        worth = sum(w * _pick_one(surplus[i], level[i]) for i, w in enumerate(weight))
        return worth / sum(weight, total)

    def respond(i: int, trial: Array) -> Array:
        """The level of the largest w(s − trial), or, if none helps, of the least harmful."""
        good, bad = [], []
        for k in range(levels):
            excess = surplus[i, k] - trial
            size = game.users.rationality * (game.value[i, k] - game.best[i])
            size = size + jnp.log(jnp.maximum(jnp.abs(excess), tiny))
            good.append(jnp.where(excess > 0, size, -jnp.inf))
            bad.append(-size)
        helps, harms = _argmax(good, available(i)), _argmax(bad, available(i))
        some = [good[k] > -jnp.inf for k in range(levels)]
        if game.available is not None:
            some = [x & game.available[i, k] for k, x in enumerate(some)]
        return _keep(jnp.where(functools.reduce(jnp.logical_or, some), helps, harms))

    def step(state: tuple) -> tuple:
        value, steps, _ = state
        trial = value + nudge
        candidate = _keep(welfare([respond(i, trial) for i in range(n)]))
        return jnp.maximum(value, candidate), steps + 1, candidate - value > nudge

    start = welfare([_argmax(list(game.value[i]), available(i)) for i in range(n)])
    state = (start, jnp.zeros((), int), start == start)
    value, _, open_ = jax.lax.while_loop(
        lambda s: jnp.any(s[2]) & (s[1] < max_iterations), step, state
    )
    return value, ~open_


def logit_outcome(market: Market, users: Users, level: Array) -> dict[str, Array]:
    """The metrics [B] of `Outcome` at a profile [N, B]; provider_utility is summed."""
    at = {
        name: pick(getattr(market, name), level)
        for name in ("quality", "price", "cost", "accuracy", "tokens")
    }
    values = at["quality"] - at["price"]
    top = jnp.max(values, axis=0)
    beta, outside = users.rationality, users.outside_value
    among = jnp.exp(beta * (values - top))  # among providers alone: exact where nobody buys
    bought = among / jnp.sum(among, axis=0)
    better = jnp.maximum(top, outside)
    weight = jnp.exp(beta * (values - better))
    shares = weight / (jnp.sum(weight, axis=0) + jnp.exp(beta * (outside - better)))
    shares = _keep(shares)

    def total(x: Array) -> Array:
        return jnp.sum(shares * x, axis=0)

    return dict(
        welfare=total(at["quality"] - at["cost"]),
        net_welfare=total(at["quality"] - at["cost"] - outside),
        user_value=total(values),
        user_cost=total(at["price"]),
        quality=total(at["quality"]),
        provider_utility=total(at["price"] - at["cost"]),
        accuracy=jnp.sum(bought * at["accuracy"], axis=0),
        tokens=jnp.sum(bought * at["tokens"], axis=0),
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
