"""The smoothed equilibrium: logit quantal response of providers, differentiable in everything.

Every provider mixes over its levels with probabilities π ∝ e^{λ·E[U]} (McKelvey & Palfrey 1995),
and E[U] is over rivals that mix independently. The game is aggregative, so that with weights
w = e^{β(V − v0)},

    E[w_i/(1 + w_i + Σ_j w_j)] = ∫₀^∞ w_i e^{−z w_i} e^{−z} Π_{j≠i} φ_j(z) dz,
    φ_j(z) = Σ_l π_jl e^{−z w_jl}:

one integral in place of K^(N−1) profiles. With t = log z the integrand is smooth and lives where
some clock e^t w is about to ring: nodes of the trapezoidal rule, at one distance, stand there and
nowhere else. Arrays have the batch first inside this module, [B, N, K]; T counts types of users.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, settled
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.results import PER_THOUSAND
from mechlab.core.solution import Solution, Status
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import checked
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door

# of the quadrature, by bytes of a number: the distance of its nodes, and how far before and after
# the ringing of a clock they reach; the error is about 2|Γ(1 + 2πi/distance)|, 1e-14 and 1e-6
_APART, _BEFORE, _AFTER = {8: 0.28, 4: 0.6}, {8: 34.0, 4: 15.0}, {8: 3.7, 4: 3.0}
_BLOCK = 48  # nodes at once
_MOST_NODES = 2**14
_TOLERANCE = {8: 1e-12, 4: 2e-6}  # of utilities, relative to the largest profit
_ITERATIONS = 8  # of Newton's method, before markets that have arrived are left out
_MOST_ITERATIONS = 4000
# a step along the branch is good where no probability is further than this from where the tangent
# pointed, nor from where it was
_ASTRAY, _MOVED = 0.1, 0.4


@pytree
class SmoothedEquilibrium(Solution):
    """The logit quantal response equilibrium; expectations are over the providers' mixing.

    Attributes:
        mixture: [..., N, K] π, the probability of each level; 0 where not available.
        shares: [..., N] expected share of queries.
        level_utility: [..., N, K] expected utility of each level, USD.
        provider_utility: [..., N] expected utility, USD.
        welfare, user_value, user_cost: [...] expected, USD.
        residual: [...] largest difference between π's utilities and those π was made from, USD.
        status: [...] int, a `Status`; CONVERGED: the branch was followed to the precision asked
            for. Where it turns back or splits before, or the integral would take more than 16,384
            nodes, it is not.
    """

    _units = {"residual": PER_THOUSAND}  # noqa: RUF012

    mixture: Array
    shares: Array
    level_utility: Array
    provider_utility: Array
    welfare: Array
    user_value: Array
    user_cost: Array
    residual: Array


@front_door()
def smoothed_equilibrium(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism = DEFAULT_RULE,
    *,
    precision: Any,
    throw: bool = False,
) -> SmoothedEquilibrium:
    """Follow the branch of quantal response equilibria from λ = 0 to `precision`.

    Newton's method from where the branch's tangent points; a step is taken where the solution is
    near that point, and the determinant of the Jacobian keeps the sign that it has at λ = 0.
    Derivatives in the market, users, precision and the mechanism's parameters are those of the
    implicit function theorem: nothing is unrolled. First ones in both directions, second ones
    forwards (`jax.jacfwd` of `jax.jacfwd`).

    Args:
        market, users: [..., N, K] and [...]; with several types of users, T times the work.
        precision: λ ≥ 0 in 1/USD, number or [...]; at 0 every level is equally likely, and as it
            grows the mixture approaches a pure equilibrium where that is unique.
        rule: posted prices; pay-per-compute where not given.
        throw: raise NotSolved, outside jit, where some market did not converge.

    Raises:
        InputError: for an auction, or a precision that is negative or not finite.
    """
    if users.taste is not None:
        raise InputError(
            "smoothed_equilibrium: values of mixed play are those of noise='error'; give users "
            "without tastes"
        )
    posted = posted_market(market, rule)
    precision = checked("precision", precision, minimum=0.0, why="λ is a precision, in 1/USD")
    precision = jnp.asarray(precision, market.quality.dtype)
    return _solve(posted, users, precision[..., None])


@jax.jit
def _solve(posted: Market, users: Users | UserMixture, precision: Array) -> SmoothedEquilibrium:
    narrow = 4 * posted.levels  # integrands need columns that are the narrower
    return over_columns(_columns, posted, users, precision, levels=narrow)


def _columns(posted: Market, users: Users | UserMixture, precision: Array) -> SmoothedEquilibrium:
    """Of columns: market [P, N, K, B], users [P, B] or [P, T, B], precision [P, 1, B]; pure."""
    data = posted, users, precision
    fixed = jax.lax.stop_gradient(data)
    # markets that need as many nodes as each other lie in the same column
    nodes = each(lambda *column: _Game.of(*column).nodes.needed(), *fixed)
    order = jnp.argsort(nodes.ravel())
    data = jax.tree.map(lambda x: _in_order(x, order), data)
    branch = _followed(jax.lax.stop_gradient(data))

    def reached(column: tuple[Market, Users | UserMixture, Array], branch: _Branch) -> Any:
        return _outcome(*column, branch)

    # what is remembered for derivatives are the data and the solution, and not the Jacobians
    found = each(jax.checkpoint(reached), data, branch)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: _in_order(x, back), found)


def _in_order(x: Array, order: Array) -> Array:
    """[P, ..., B] with its markets in another order."""
    flat = jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])[order]
    return jnp.moveaxis(flat.reshape(x.shape[0], x.shape[-1], *x.shape[1:-1]), 1, -1)


@pytree
class _Nodes(Pytree):
    """Where the quadrature has its nodes: evenly along all that is left of the line of t = log z
    when the gaps are taken out in which nothing happens.

    Attributes:
        first: [B, T] t of the first node.
        gap, ends: [B, T, C] how long the gap before each clock is, and what is passed before it.
        length: [B, T] of what is left.
    """

    first: Array
    gap: Array
    ends: Array
    length: Array

    @property
    def apart(self) -> float:
        return _APART[self.length.dtype.itemsize]

    def needed(self) -> Array:
        """[B] nodes."""
        return jnp.max(jnp.ceil(self.length / self.apart) + 1, axis=-1).astype(jnp.int32)

    def block(self, start: Array) -> tuple[Array, Array]:
        """[B, T, Q] t of the nodes from a number on, and whether they are within the length."""
        s = self.apart * (start + jnp.arange(_BLOCK, dtype=self.length.dtype))
        passed = s[:, None] >= self.ends[..., None, :]
        passed = jnp.asarray(passed, s.dtype)
        skipped = jnp.einsum("btqc,btc->btq", passed, self.gap, precision="highest")
        t = self.first[..., None] + s + skipped
        return t, s <= self.length[..., None] + self.apart


@pytree
class _Game(Pytree):
    """Markets with the batch first.

    Attributes:
        profit: [B, N, K] USD.
        log_weight: [B, T, N, K] β(V − v0) of each type.
        share: [B, T] of each type among users.
        precision: [B] λ.
        there: [B, N, K] bool.
    """

    profit: Array
    log_weight: Array
    share: Array
    precision: Array
    there: Array

    @classmethod
    def of(cls, posted: Market, users: Users | UserMixture, precision: Array) -> "_Game":
        """Of a column: market [N, K, B], users [B] or [T, B], precision [1, B]."""
        posted, users = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (posted, users))
        there = posted.available
        beta, outside, scale, share = _types(users)
        quality = scale[..., None, None] * posted.quality[:, None]
        value = quality - posted.price[:, None] - outside[..., None, None]
        return cls(
            profit=jnp.where(there, posted.unit_profit, 0.0),
            log_weight=jnp.where(there[:, None], beta[..., None, None] * value, 0.0),
            share=share,
            precision=precision[0],
            there=there,
        )

    @property
    def nodes(self) -> _Nodes:
        """By the weights, relative to v0's of e^0."""
        there, log_weight = self.there[:, None], jax.lax.stop_gradient(self.log_weight)
        width = log_weight.dtype.itemsize
        before, after = _BEFORE[width], _AFTER[width]
        lowest = jnp.min(jnp.where(there, log_weight, jnp.inf), axis=-1)
        # nothing is left where every level of some provider, or v0, has rung
        end = after - jnp.maximum(jnp.max(lowest, axis=-1), 0.0)
        clocks = jnp.where(there, -log_weight, jnp.inf).reshape(*log_weight.shape[:2], -1)
        clocks = jnp.concatenate([clocks, jnp.zeros_like(clocks[..., :1])], axis=-1)
        clocks = jnp.sort(jnp.minimum(clocks, end[..., None] + before), axis=-1)
        starts = clocks - before
        stops = jnp.minimum(clocks + after, end[..., None])
        gap = jnp.maximum(starts[..., 1:] - stops[..., :-1], 0.0)
        covered = jnp.maximum(stops, starts) - starts
        overlap = jnp.maximum(stops[..., :-1] - starts[..., 1:], 0.0)
        fresh = covered.at[..., 1:].add(-jnp.minimum(overlap, covered[..., 1:]))
        passed = jnp.cumsum(fresh, axis=-1)
        return _Nodes(first=starts[..., 0], gap=gap, ends=passed[..., :-1], length=passed[..., -1])

    def mixture(self, utility: Array, rate: Array) -> Array:
        """[B, N, K] the logit of utilities at a precision [B]."""
        return jax.nn.softmax(
            jnp.where(self.there, rate[:, None, None] * utility, -jnp.inf), axis=-1
        )


def _types(users: Users | UserMixture) -> tuple[Array, Array, Array, Array]:
    """[B, T] rationality, v0, worth of an answer and share."""
    if isinstance(users, UserMixture):
        return users.rationality, users.outside_value, users.value_scale, users.weight
    one = jnp.ones_like(users.rationality)
    return tuple(x[:, None] for x in (users.rationality, users.outside_value, one, one))  # type: ignore[return-value]


def _integrals(
    game: _Game, nodes: _Nodes, mixture: Array, weights: bool = False
) -> tuple[Array, Array, Array]:
    """[B, T, N, K] expected shares, and their derivatives in the rivals' mixtures and, where asked
    for, in all log weights: [B, T, NK, NK] twice.

    Derivatives in a mixture are for changes that sum to 0: what all levels of a rival have in
    common, the share itself, is taken off.
    """
    b, types, n, k = game.log_weight.shape
    apart = 1.0 - jnp.eye(n, dtype=mixture.dtype)
    there, likely = game.there[:, None, ..., None], mixture[:, None, ..., None]
    needed = jnp.max(jnp.minimum(nodes.needed(), _MOST_NODES))
    least = float(jnp.finfo(mixture.dtype).tiny) ** 0.5

    def block(i: Array, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        t, within = nodes.block(i * _BLOCK)
        exponent = jnp.minimum(game.log_weight[..., None] + t[:, :, None, None], 60.0)
        rate = jnp.where(there, jnp.exp(exponent), 0.0)  # z·w, [B, T, N, K, Q]
        silent = jnp.where(there, jnp.exp(-rate), 0.0)
        rate, silent = keep((rate, silent))
        phi = jnp.einsum("bnk,btnkq->btnq", mixture, silent, precision="highest")
        heard = phi > least  # below, nothing is left that counts, and 1/φ² would overflow
        safe = jnp.where(heard, phi, 1.0)
        log_phi = jnp.where(heard, jnp.log(safe), -1e30)
        others = jnp.einsum("ij,btjq->btiq", apart, log_phi, precision="highest")
        others = jnp.exp(others - jnp.exp(jnp.minimum(t, 60.0))[:, :, None])
        others = jnp.where(within[:, :, None], nodes.apart * others, 0.0)
        mass = rate * silent * others[:, :, :, None]
        seen = jnp.where(heard, 1.0 / safe, 0.0)[:, :, :, None]
        share, across, by_weight, own = sums
        share += jnp.sum(mass, axis=-1)
        flat, each_ = mass.reshape(b, types, n * k, -1), (silent * seen)
        across += _product(flat, each_)
        if weights:
            by_weight -= _product(flat, likely * rate * each_)
            own += jnp.sum(mass * (1.0 - rate), axis=-1).reshape(own.shape)
        return share, across, by_weight, own

    size = (b, types, n * k, n * k)
    # a provider's own levels are no rivals of each other
    foreign = jnp.repeat(jnp.repeat(apart, k, axis=0), k, axis=1)
    more = [size, size[:-1]] if weights else [(), ()]
    start = [jnp.zeros(x, mixture.dtype) for x in (game.log_weight.shape, size, *more)]
    share, across, by_weight, own = jax.lax.fori_loop(0, -(-needed // _BLOCK), block, tuple(start))
    if weights:
        by_weight = by_weight * foreign + jnp.eye(n * k, dtype=own.dtype) * own[..., None]
    across = (across - share.reshape(b, types, -1)[..., None]) * foreign
    return share, across, by_weight


def _product(a: Array, b: Array) -> Array:
    """[B, T, NK, NK] a·bᵀ of [B, T, NK, Q] and [B, T, N, K, Q]."""
    return jnp.matmul(a, b.reshape(a.shape).swapaxes(-1, -2), precision="highest")


# --------------------------------------------------------------------------------------- the branch


@pytree
class _Branch(Pytree):
    """How far each market of columns [P, ..., B] got.

    Attributes:
        utility: [P, N, K, B] where the branch was last, relative to the largest profit.
        at: [P, B] the precision there, times the largest profit.
        tangent: [P, N, K, B] of the utilities there.
        guess, aim: [P, N, K, B] the point under trial, and where the tangent pointed.
        trial: [P, B] the precision under trial.
        stride, move, gap: [P, B] the step's length, Newton's last move, and the residual at `at`.
        tries, count: [P, B] int, iterations of this step, and of all.
        over: [P, B] bool.
    """

    utility: Array
    at: Array
    tangent: Array
    guess: Array
    aim: Array
    trial: Array
    stride: Array
    move: Array
    gap: Array
    tries: Array
    count: Array
    over: Array


def _unit(game: _Game) -> Array:
    """[B] USD, the largest profit."""
    unit = jnp.max(jnp.abs(game.profit), axis=(-1, -2))
    return jnp.where(unit > 0, unit, 1.0)


def _followed(data: tuple[Market, Users | UserMixture, Array]) -> _Branch:
    """The branch from even mixing to the precision, of columns."""
    shape = data[0].quality.shape
    dtype = data[0].quality.dtype
    number, whole = jnp.zeros((shape[0], shape[-1]), dtype), jnp.zeros((shape[0], shape[-1]), int)
    levels = jnp.zeros(shape, dtype)
    start = _Branch(
        utility=levels,
        at=number - 1.0,
        tangent=levels,
        guess=levels,
        aim=levels,
        trial=number,
        stride=number + 1.0,
        move=number,
        gap=number + jnp.inf,
        tries=whole,
        count=whole,
        over=whole > 0,
    )

    def further(column: tuple[Any, ...], branch: _Branch) -> _Branch:
        game = _Game.of(*column)
        nodes = game.nodes
        first = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), branch)
        first = first.replace(over=first.over | (nodes.needed() > _MOST_NODES))
        after = jax.lax.fori_loop(0, _ITERATIONS, lambda _, x: _iterated(game, nodes, x), first)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), after)

    return jax.lax.while_loop(
        lambda branch: jnp.any(~branch.over),
        lambda branch: settled(~branch.over, branch, data, further),
        start,
    )


def _iterated(game: _Game, nodes: _Nodes, now: _Branch) -> _Branch:
    """One iteration of Newton's method, and what follows from it, for a batch [B, ...]."""
    tolerance = _TOLERANCE[game.profit.dtype.itemsize]
    unit = _unit(game)
    profit, goal = game.profit / unit[:, None, None], game.precision * unit
    mixture = game.mixture(now.guess, now.trial)
    share, across = _by_users(game, *_integrals(game, nodes, mixture)[:2])
    gap = now.guess - profit * share
    size = jnp.max(jnp.abs(gap), axis=(-1, -2))
    jacobian = _jacobian(mixture, profit, across, now.trial)
    inverse, sign = _inverse(jacobian, mixture.shape[-1])
    rises = mixture * (now.guess - jnp.sum(mixture * now.guess, axis=-1, keepdims=True))
    grows = profit * _times(across, rises)
    move, tangent = _times(inverse, gap), _times(inverse, grows)
    far = jnp.max(jnp.abs(move), axis=(-1, -2))

    there = size <= tolerance
    astray = _furthest(mixture, game.mixture(now.aim, now.trial))
    moved = _furthest(mixture, game.mixture(now.utility, jnp.maximum(now.at, 0.0)))
    good = there & (sign > 0) & (astray <= _ASTRAY) & (moved <= _MOVED)
    slow = (now.tries > 0) & (far > 0.5 * now.move) & (far > 100 * tolerance)
    bad = ~good & (there | slow | (now.tries >= 8) | ~jnp.isfinite(size))
    # further where the tangent pointed well, and not so far that a probability would turn
    grown = jnp.minimum(jnp.sqrt(0.03 / (astray + 1e-6)), 0.25 / (moved + 1e-6))
    stride = jnp.where(good, now.stride * jnp.clip(grown, 0.5, 4.0), now.stride)
    stride = jnp.where(bad, 0.25 * now.stride, stride)
    stride = jnp.where(good & (now.at < 0), 1.0, stride)  # the first is no step

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(good.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    utility, tangent = kept(now.guess, now.utility), kept(tangent, now.tangent)
    at = kept(now.trial, now.at)
    trial = jnp.where(good | bad, jnp.minimum(jnp.maximum(at, 0.0) + stride, goal), now.trial)
    ahead = utility + tangent * (trial - at)[:, None, None]
    anew = (good | bad)[:, None, None]
    after = now.replace(
        utility=utility,
        at=at,
        tangent=tangent,
        trial=trial,
        stride=stride,
        guess=jnp.where(anew, ahead, now.guess - move),
        aim=jnp.where(anew, ahead, now.aim),
        move=far,
        gap=kept(size, now.gap),
        tries=jnp.where(good | bad, 0, now.tries + 1),
        count=now.count + 1,
        over=(at >= goal) | (stride <= 1e-9 * goal) | (now.count >= _MOST_ITERATIONS),
    )
    return jax.tree.map(
        lambda old, new: jnp.where(now.over.reshape(-1, *[1] * (new.ndim - 1)), old, new),
        now,
        after,
    )


def _by_users(game: _Game, *values: Array) -> tuple[Array, ...]:
    """The mean over types of [B, T, ...]."""
    return tuple(
        jnp.sum(game.share.reshape(*game.share.shape, *[1] * (x.ndim - 2)) * x, axis=1)
        for x in values
    )


def _times(matrix: Array, x: Array) -> Array:
    """[B, N, K] of [B, NK, NK] and [B, N, K]."""
    flat = x.reshape(*x.shape[:-2], -1)
    return jnp.einsum("bij,bj->bi", matrix, flat, precision="highest").reshape(x.shape)


def _jacobian(mixture: Array, profit: Array, across: Array, rate: Array) -> Array:
    """I − ∂(profit·share)/∂utility, [B, NK, NK]."""
    b, n, k = mixture.shape
    slope = (rate[:, None] * profit.reshape(b, -1))[..., None] * across
    slope = slope * mixture.reshape(b, 1, -1)
    return jnp.eye(n * k, dtype=slope.dtype) - slope


def _inverse(matrix: Array, block: int) -> tuple[Array, Array]:
    """[B, M, M] the inverse, and the sign of the determinant, by Gauss–Jordan elimination of
    `block` rows at once: a provider's levels.

    Of array operations alone: LAPACK's routines wait for each other for ever where two devices of
    one processor run them. At λ = 0 the matrix is the identity, and what elimination without
    exchanges loses when it is far from that, Newton's residual and one refinement tell and mend.
    """
    size = matrix.shape[-1]
    index = jnp.arange(size)
    unit = jnp.broadcast_to(jnp.eye(block, dtype=matrix.dtype), (len(matrix), block, block))

    def eliminate(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, sign = state
        first = i * block
        rows = jax.lax.dynamic_slice_in_dim(matrix, first, block, axis=1)
        columns = jax.lax.dynamic_slice_in_dim(matrix, first, block, axis=2)
        pivot = jax.lax.dynamic_slice_in_dim(rows, first, block, axis=2)
        if block == 1:
            inverse, own = 1.0 / pivot, jnp.sign(pivot[:, 0, 0])
        else:
            inverse, own = _inverse(pivot, 1)
        here = (index >= first) & (index < first + block)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, unit, first, axis=2)
        rows = jnp.matmul(inverse, rows, precision="highest")
        columns = jnp.where(here[:, None], 0.0, columns)
        # the columns eliminated become those of the inverse
        rest = jnp.where(here, 0.0, matrix) - jnp.matmul(columns, rows, precision="highest")
        return jax.lax.dynamic_update_slice_in_dim(rest, rows, first, axis=1), sign * own

    start = matrix, jnp.ones_like(matrix[:, 0, 0])
    return jax.lax.fori_loop(0, size // block, eliminate, start)


def _furthest(a: Array, b: Array) -> Array:
    return jnp.max(jnp.abs(a - b), axis=(-1, -2))


# ------------------------------------------------------------------------------------- the solution


@jax.custom_jvp
def _mixing(game: _Game, nodes: _Nodes, utility: Array) -> tuple[Array, Array, Array]:
    """Utilities (USD), mixture and shares by type at the solution [B, N, K], as functions of the
    game: by the implicit function theorem, and by the integrals' own derivatives."""
    mixture = game.mixture(utility, game.precision)
    share, _, _ = _integrals(game, nodes, mixture)
    return utility, mixture, share


@_mixing.defjvp
def _mixing_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    game, nodes, _ = primals
    moves: _Game = tangents[0]
    utility, mixture, share = _mixing(*primals)
    _, across, by_weight = _integrals(game, nodes, mixture, weights=True)
    mean_share, mean_across = _by_users(game, share, across)

    def mixed(change: Array) -> Array:
        """The mixture's change with that of λ·utility."""
        return mixture * (change - jnp.sum(mixture * change, axis=-1, keepdims=True))

    flat = moves.log_weight.reshape(*moves.log_weight.shape[:2], -1)
    by_log = jnp.einsum("btij,btj->bti", by_weight, flat, precision="highest").reshape(share.shape)
    alone = mixed(moves.precision[:, None, None] * utility)
    (weighed,) = _by_users(game, by_log)
    (recrowded,) = _by_users(game.replace(share=moves.share), share)
    right = moves.profit * mean_share
    right += game.profit * (weighed + recrowded + _times(mean_across, alone))
    matrix = _jacobian(mixture, game.profit, mean_across, game.precision)
    inverse, _ = _inverse(matrix, mixture.shape[-1])
    change = _times(inverse, right)
    change += _times(inverse, right - _times(matrix, change))
    turned = alone + mixed(game.precision[:, None, None] * change)
    by_mixture = jnp.einsum(
        "btij,bj->bti", across, turned.reshape(len(turned), -1), precision="highest"
    )
    tangent = change, turned, by_log + by_mixture.reshape(share.shape)
    return (utility, mixture, share), tangent


def _outcome(
    posted: Market, users: Users | UserMixture, precision: Array, branch: _Branch
) -> SmoothedEquilibrium:
    """What comes of a column [N, K, B] where its branch got to."""
    game = _Game.of(posted, users, precision)
    unit = jax.lax.stop_gradient(_unit(game))
    reached = jnp.moveaxis(branch.utility, -1, 0) * unit[:, None, None]
    utility, mixture, share = _mixing(game, game.nodes, reached)
    posted, crowd = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (posted, users))
    scale = _types(crowd)[2][..., None, None]
    (mean_share,) = _by_users(game, share)
    (worth,) = _by_users(game, share * scale)
    played, valued = mixture * mean_share, mixture * worth

    def total(shares: Array, x: Array) -> Array:
        return jnp.sum(jnp.where(game.there, shares * x, 0.0), axis=(-1, -2))

    quality, price = total(valued, posted.quality), total(played, posted.price)
    converged = (branch.at >= precision[0] * unit) & jnp.isfinite(branch.gap)
    found = SmoothedEquilibrium(
        mixture=mixture,
        shares=jnp.sum(played, axis=-1),
        level_utility=jnp.where(game.there, utility, 0.0),
        provider_utility=jnp.sum(played * game.profit, axis=-1),
        welfare=quality - total(played, posted.cost),
        user_value=quality - price,
        user_cost=price,
        residual=branch.gap * unit,
        status=jnp.where(converged, Status.CONVERGED, Status.ITERATION_LIMIT).astype(jnp.int32),
    )
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), found)
