"""Projected gradient ascent over points of a strategy space, many searches at once.

Arrays are [A, R, *S]: alternatives, restarts, searches. The climb starts from what is played now,
from the best along each coordinate alone, and from points that fill the space; it follows a
mechanism's smooth `steering`, and ends with looks along lines and edges from the best point met.
What is kept along the way, and reported, is the exact utility.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mechlab.core.market import Array, Offers
from mechlab.core.pytree import Pytree, pytree
from mechlab.incentives.edges import Found, Lines, better, moved, winner
from mechlab.incentives.strategies import Strategies
from mechlab.mechanisms.alone import Alone

Point = tuple[Array, ...]
_PROBES = 8  # points at which a search looks whether its utility changes at all


@pytree
class Best(Pytree):
    """The best point of each search.

    Attributes:
        utility: [*S] exact, USD.
        offers: [*S] what is offered there.
        restart: [*S] int, the restart that ended highest, before the looks along lines.
        finite: [*S] bool: no utility on the way was NaN or infinite.
        varies: [*S] bool: some point tried gave another utility than others of its alternative.
        sloped: [*S] bool: some restart met a gradient.
        broken: [*S] int, the first coordinate whose gradient was NaN somewhere; −1: none was.
    """

    utility: Array
    offers: Offers
    restart: Array
    finite: Array
    varies: Array
    sloped: Array
    broken: Array


@functools.lru_cache
def default_optimizer(steps: int) -> optax.GradientTransformation:
    """Adam, with steps that shrink from a tenth of the range to none."""
    return optax.adam(optax.cosine_decay_schedule(0.1, steps), b1=0.7, b2=0.9)


def starts(strategies: Strategies, key: Array, restarts: int) -> Point:
    """[A, R, *S] where the restarts begin: the first at what is played now.

    The others follow a Kronecker sequence, shifted at random by the key, that fills the box evenly
    for any number of them (Roberts 2018, generalised golden ratio); all searches share it.
    """
    here = strategies.start()
    if not here:
        return ()
    dimensions = len(here)
    ratio = 2.0
    for _ in range(50):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    shift = jax.random.uniform(key, (dimensions,), here[0].dtype)
    index = jnp.arange(restarts, dtype=here[0].dtype)
    lead = (strategies.alternatives, restarts, *here[0].shape)
    points = []
    for d, now in enumerate(here):
        spread = (shift[d] + index * ratio ** -(d + 1)) % 1.0
        spread = spread.reshape(1, -1, *[1] * now.ndim)
        first = index.reshape(spread.shape) == 0
        points.append(jnp.broadcast_to(jnp.where(first, now, spread), lead))
    return tuple(points)


def climb(
    mechanism: Alone,
    rivals: Any,
    strategies: Strategies,
    key: Array,
    *,
    restarts: int,
    steps: int,
    optimizer: optax.GradientTransformation,
    scale: Array,
    also: Offers | None = None,
) -> Best:
    """The best exact utility that the restarts meet.

    Args:
        mechanism: a rule as one provider faces it, or two together.
        rivals: of `mechanism.rivals`, [*S, ...].
        scale: [*S] USD; the winner of an auction is smoothed at temperatures from a tenth of it
            down to a thousandth.
        also: [*S] offers to start from besides, such as those of the best grid level.
    """

    def values(point: Point, temperature: Array) -> tuple[Array, Array]:
        offers = strategies.offers(point)
        steer = mechanism.steering(rivals, offers, temperature)
        exact = mechanism.utility_against(rivals, offers)
        return jnp.broadcast_to(steer, point[0].shape), jnp.broadcast_to(exact, point[0].shape)

    def slope(point: Point, temperature: Array) -> tuple[Point, Array]:
        """Every search depends on its own point alone, so that a few tangents give all slopes."""
        slopes = []
        for d in range(len(point)):
            along = tuple(
                (jnp.ones_like if i == d else jnp.zeros_like)(x) for i, x in enumerate(point)
            )
            _, uphill, exact = jax.jvp(
                lambda x: values(x, temperature), (point,), (along,), has_aux=True
            )
            slopes.append(uphill)
        return tuple(slopes), exact

    def keep(best: tuple[Array, Point], point: Point, exact: Array) -> tuple[Array, Point]:
        utility, where = best
        better = exact > utility
        where = tuple(jnp.where(better, x, w) for x, w in zip(point, where, strict=True))
        return jnp.maximum(utility, exact), where  # the maximum with NaN is NaN, and stays so

    def ascend(state: tuple, now: Array) -> tuple:
        point, memory, best, steepest = state
        temperature = scale * 0.1 * 0.01 ** (now / max(steps - 1, 1))
        # without the barrier XLA computes slopes and utility again wherever they are used
        uphill, exact = jax.lax.optimization_barrier(slope(point, temperature))
        best = keep(best, point, exact)
        steepest = tuple(jnp.maximum(s, jnp.abs(g)) for s, g in zip(steepest, uphill, strict=True))
        downhill = tuple(jnp.where(jnp.isfinite(g), -g, 0.0) for g in uphill)
        moves, memory = update(downhill, memory, point)
        point = tuple(jnp.clip(x + dx, 0.0, 1.0) for x, dx in zip(point, moves, strict=True))
        return (point, memory, best, steepest), None

    def as_now(d: Array, best: Found) -> Found:
        """What does not pay to change is left as it is."""
        utility, where = best
        plain = moved(where, d, here[d])
        earned = lines.utility(plain)
        same = earned >= utility - _rounding(utility)
        return jnp.where(same, earned, utility), jnp.where(same, plain, where)

    lines = Lines(mechanism, rivals, strategies)
    spread = jnp.stack(starts(strategies, key, _PROBES))
    probes = jnp.broadcast_to(lines.utility(spread), spread.shape[1:])
    here = spread[:, :, :1]
    known, on_edge = lines.before((probes[:, :1], here))
    near = here
    if also is not None:
        near = jnp.broadcast_to(jnp.stack(strategies.start(also))[:, None, None], here.shape)
    first = jnp.stack(starts(strategies, key, restarts))
    begin = [first[:, :, :1], known[1], near, on_edge[1], first[:, :, 1:]]
    point = tuple(jnp.concatenate(begin, axis=2)[:, :, :restarts])
    memory, update = _each(optimizer, point)
    best = jnp.full_like(point[0], -jnp.inf), point
    clock = jnp.arange(steps, dtype=point[0].dtype)
    no_slope = tuple(jnp.zeros_like(x) for x in point)
    (point, _, best, steepest), _ = jax.lax.scan(ascend, (point, memory, best, no_slope), clock)
    climbed, where = keep(best, point, values(point, scale)[1])
    origin = jnp.argmax(climbed, axis=1)[:, None]
    utility, highest = lines.after(better(known, winner(climbed, jnp.stack(where))))
    utility, highest = jax.lax.fori_loop(0, len(point), as_now, (utility, highest))
    where = tuple(highest)
    tried = jnp.concatenate([climbed, utility, probes], axis=1)
    finite = jnp.all(jnp.isfinite(jnp.where(strategies.possible, tried, 0.0)), axis=(0, 1))
    most, least = jnp.max(tried, axis=1), jnp.min(tried, axis=1)
    # gains and losses of two members cancel, and leave the rounding of what is larger
    rounding = _rounding(jnp.maximum(jnp.maximum(jnp.abs(most), jnp.abs(least)), 0.1 * scale))
    apart = most - least > 2 * rounding
    varies = jnp.any(apart & strategies.possible[:, 0], axis=0)
    utility = jnp.where(strategies.possible, utility, -jnp.inf)
    slopes = jnp.where(strategies.possible, jnp.stack(steepest), 0.0)
    broken = jnp.any(jnp.isnan(slopes), axis=(1, 2))  # the maximum with NaN is NaN, and stays so
    top, (offers, restart) = choose(utility, (strategies.offers(where), origin))
    return Best(
        utility=top,
        offers=offers,
        restart=restart,
        finite=finite,
        varies=varies,
        sloped=jnp.any(slopes != 0, axis=(0, 1, 2)),
        broken=jnp.where(jnp.any(broken, axis=0), jnp.argmax(broken, axis=0), -1),
    )


def _rounding(utility: Array) -> Array:
    return 16 * float(jnp.finfo(utility.dtype).eps) * jnp.abs(utility)


def choose(utility: Array, offers: Any) -> tuple[Array, Any]:
    """[*S] the first of utilities [A, R, *S] that is largest up to rounding, and its offers."""
    shape = utility.shape
    flat = utility.reshape(-1, *shape[2:])
    top = jnp.max(flat, axis=0)
    index = jnp.argmax(flat >= jnp.where(top > -jnp.inf, top - _rounding(top), top), axis=0)[None]

    def take(x: Array) -> Array:
        return jnp.take_along_axis(jnp.broadcast_to(x, shape).reshape(flat.shape), index, 0)[0]

    return take(utility), jax.tree.map(take, offers)


def _each(
    optimizer: optax.GradientTransformation, point: Point
) -> tuple[Any, Callable[[Point, Any, Point], tuple[Point, Any]]]:
    """The optimiser's state and update, of every restart by itself.

    Counters are shared where they can be: a schedule is then computed once, and not by search.
    """
    example = tuple(jnp.zeros((), x.dtype) for x in point)
    memory = optimizer.init(example)

    def vmapped(shared: bool) -> tuple[Any, Callable]:
        axes = jax.tree.map(
            lambda x: None if shared and jnp.issubdtype(x.dtype, jnp.integer) else 0, memory
        )
        run = optimizer.update
        for _ in point[0].shape:
            run = jax.vmap(run, in_axes=(0, axes, 0), out_axes=(0, axes))
        state = jax.tree.map(
            lambda x, axis: x if axis is None else jnp.broadcast_to(x, point[0].shape + x.shape),
            memory,
            axes,
        )
        return state, run

    state, run = vmapped(True)
    try:
        jax.eval_shape(run, point, state, point)
    except ValueError:
        state, run = vmapped(False)
    return state, run
