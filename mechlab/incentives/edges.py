"""Exact utilities along one coordinate, and at the edges where a rule jumps.

A winner who takes all makes utility jump where the own score ties with what it has to beat
(`Mechanism.leads`). Scores are affine in prices and reports, so that those edges are known: they
are tried from either side, and followed while another coordinate moves. Points are [D, A, R, *S]:
coordinates, alternatives, points tried, searches.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array, keep
from mechlab.incentives.strategies import ContinuousCompute, TokenReport

_BLOCK = 8  # points tried at once, as many as a climb has restarts
_BLOCKS = 3  # evenly over a coordinate
_AROUND = np.array([-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0])
_ZOOMS = 3  # each four times finer

Found = tuple[Array, Array]
"""A utility [A, 1, *S] and the point [D, A, 1, *S] that has it."""


class Step(NamedTuple):
    """Points to try: a block of 8, from the best of the line so far.

    Attributes:
        coordinate: that moves; −1: none.
        follow: another that is put on an edge; −1: none.
        edge, side: which of the rule's edges, and on what side of it (1: served).
        first, half: the coordinate's points are evenly from `first` on, or, where half > 0, around
            the best within that distance.
        anew: begin a line at the start.
        served: count only points where some lead is above 0, losses included.
    """

    coordinate: int
    follow: int = -1
    edge: int = 0
    side: float = 1.0
    first: float = 0.0
    half: float = 0.0
    anew: bool = False
    served: bool = False


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines through points of a strategy space.

    Attributes:
        mechanism: has utility_against(rivals, own) and leads(rivals, own).
        rivals: of the mechanism, [*S, ...].
        strategies: has kinds, and offers(point).
    """

    mechanism: Any
    rivals: Any
    strategies: Any

    def utility(self, point: Array, level: Any = None) -> Array:
        """[A, R, *S] USD; `level` is what is had there, where it is known."""
        own = self.strategies.offers(tuple(point), level)
        earned = self.mechanism.utility_against(self.rivals, own)
        return jnp.broadcast_to(earned, point.shape[1:])

    def leads(self, point: Array, level: Any = None) -> Array:
        """[E, A, R, *S] by how much the own score leads each of those that matter."""
        found = self.mechanism.leads(self.rivals, self.strategies.offers(tuple(point), level))
        found = found.reshape(len(found), *[1] * (point.ndim - found.ndim), *found.shape[1:])
        return jnp.broadcast_to(found, (len(found), *point.shape[1:]))

    @property
    def jumps(self) -> int:
        """E, the number of edges."""
        start = jnp.stack(self.strategies.start())[:, None, None]
        start = jnp.repeat(start, self.strategies.alternatives, axis=1)
        return len(jax.eval_shape(self.leads, start))

    @property
    def affine(self) -> list[int]:
        """The coordinates in which a score is affine."""
        apart = (ContinuousCompute, TokenReport)  # no score depends on what is billed
        return [i for i, kind in enumerate(self.strategies.kinds) if kind not in apart]

    def before(self, start: Found) -> tuple[Found, Found]:
        """Looks before the climb, from what is played: the best of all, and the best on an edge.

        Along each coordinate alone, edges included; then along one after the other while another
        follows an edge, on the side that is served, at a loss if need be.
        """
        count, steps = len(start[1]), []
        for d in range(count):
            line = self._scan(d) + self._zoom(d, half=_evenly(1))
            if d in self.affine:
                sides = itertools.product(range(self.jumps), (-1.0, 0.0, 1.0))
                line[_BLOCKS:_BLOCKS] = [Step(-1, d, e, side) for e, side in sides]
            steps += [line[0]._replace(anew=True), *line[1:]]
        # compute last: what is reported and asked may have to make up for a level that loses
        on_edges = 2 * [
            step._replace(served=True)
            for d, f, e in reversed(self._ways(count))
            if f >= 0
            for step in self._scan(d, f, e)
        ]
        if on_edges:
            on_edges[0] = on_edges[0]._replace(anew=True)
        return self._walked(start, start, [*steps, *on_edges])

    def after(self, best: Found) -> Found:
        """Looks after the climb: along each coordinate, and near the best while another coordinate
        follows an edge."""
        count = len(best[1])
        steps = [step for d in range(count) for step in self._scan(d)]
        steps += [step for way in self._ways(count) for step in self._zoom(*way, half=0.125)]
        return self._walked(best, best, steps)[1]

    def _ways(self, count: int) -> list[tuple[int, int, int]]:
        """To move along each coordinate: alone, and while a price or report follows each edge."""
        follows = [(f, e) for f in self.affine for e in range(self.jumps)]
        return [(d, *way) for d in range(count) for way in ((-1, 0), *follows) if way[0] != d]

    def _scan(self, d: int, follow: int = -1, edge: int = 0) -> list[Step]:
        return [Step(d, follow, edge, first=_evenly(_BLOCK * i)) for i in range(_BLOCKS)]

    def _zoom(self, d: int, follow: int = -1, edge: int = 0, *, half: float) -> list[Step]:
        return [Step(d, follow, edge, half=half * 0.25**i) for i in range(_ZOOMS)]

    def _walked(self, best: Found, start: Found, steps: list[Step]) -> tuple[Found, Found]:
        """The best of all, and of the last line."""
        dtype = best[0].dtype
        block = jnp.asarray(_evenly(np.arange(_BLOCK)), dtype)
        around = jnp.asarray(_AROUND, dtype)

        def walk(state: tuple[Found, Found], step: Any) -> tuple[tuple[Found, Found], None]:
            best, line = state
            line = jax.tree.map(lambda x, y: jnp.where(step.anew, x, y), start, line)
            line = jnp.where(step.anew & step.served, -jnp.inf, line[0]), line[1]
            x = jnp.where(step.half > 0, line[1][step.coordinate], step.first)
            x = x + _across(jnp.where(step.half > 0, step.half * around, block), start[1])
            point = moved(line[1], step.coordinate, jnp.clip(x, 0.0, 1.0))
            level = keep(self.strategies.level(tuple(point)))  # prices and reports leave it be
            if self.jumps:
                point = jax.lax.cond(
                    step.follow >= 0, self._on_edge, lambda point, *_: point, point, step, level
                )
            utility = self.utility(point, level)
            if self.jumps:
                utility = jax.lax.cond(
                    step.served, self._served, lambda utility, *_: utility, utility, point, level
                )
            found = winner(utility, point)
            return (better(best, found), better(line, found)), None

        columns: Any = jax.tree.map(lambda *x: np.array(x), *steps)
        numbers = ("side", "first", "half")
        columns = columns._replace(
            **{name: getattr(columns, name).astype(dtype) for name in numbers}
        )
        return jax.lax.scan(walk, (best, start), columns)[0]

    def _on_edge(self, point: Array, step: Any, level: Any) -> Array:
        """The points with a coordinate where a lead is 0, or a rounding more (or less)."""
        ends = (moved(point, step.follow, jnp.full((), x, point.dtype)) for x in (0.0, 1.0))
        low, high = (self.leads(end, level)[step.edge] for end in ends)
        slope = high - low
        rounding = 4 * float(jnp.finfo(low.dtype).eps) * jnp.maximum(jnp.abs(low), jnp.abs(high))
        root = (step.side * rounding - low) / jnp.where(slope != 0, slope, 1.0)
        root = jnp.clip(jnp.where(slope != 0, root, 0.0), 0.0, 1.0)
        return moved(point, step.follow, root)

    def _served(self, utility: Array, point: Array, level: Any) -> Array:
        """The utility where some lead is above 0, and −inf elsewhere."""
        return jnp.where(jnp.any(self.leads(point, level) > 0, axis=0), utility, -jnp.inf)


def _evenly(index: Any) -> Any:
    """The points of a scan over a coordinate, by number."""
    return index / (_BLOCK * _BLOCKS - 1)


def winner(utility: Array, point: Array) -> Found:
    """The best of points [D, A, R, *S] with their utilities [A, R, *S]."""
    utility, point = keep((jnp.broadcast_to(utility, point.shape[1:]), point))
    index = jnp.argmax(utility, axis=1)[:, None]
    where = jnp.take_along_axis(point, index[None], axis=2)
    return keep((jnp.take_along_axis(utility, index, axis=1), where))


def better(best: Found, other: Found) -> Found:
    """The first, or the other where its utility is higher."""
    higher = other[0] > best[0]
    return jnp.where(higher, other[0], best[0]), jnp.where(higher, other[1], best[1])


def moved(point: Array, coordinate: Array | int, x: Array) -> Array:
    """Points with one coordinate at x."""
    here = jnp.arange(len(point)) == coordinate
    return jnp.where(here.reshape(-1, *[1] * (point.ndim - 1)), x, point)


def _across(x: Array, point: Array) -> Array:
    """[1, R, 1 …] of x [R], along the axis of points tried."""
    return x.astype(point.dtype).reshape(1, -1, *[1] * (point.ndim - 3))
