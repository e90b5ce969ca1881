"""Evaluate rules on a population's markets, part by part.

A device draws the columns of its share of a part and evaluates them; the devices share the part
through a mesh with the axis `markets`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mechlab.core.columns import column_size, each
from mechlab.core.devices import AXIS, markets_mesh, over_devices
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market
from mechlab.core.users import UserMixture, Users
from mechlab.core.waiting import column_net_of_waiting
from mechlab.mechanisms import Mechanism, named_play
from mechlab.populations import Population
from mechlab.simulation.evaluate import default_rules, evaluate_columns

# metric(market [B, N, K], users [B], rows {name: [B]}) → [B]
Metric = Callable[[Market, Users | UserMixture, dict[str, Array]], Array]
Rows = dict[str, np.ndarray]
_TOGETHER = 2**14  # markets that a device holds at once
_TURNS = 2  # how often it does so in one call


@dataclasses.dataclass(eq=False)
class Evaluator:
    """Rows of a population's markets by index, compiled once.

    Attributes:
        population: draws market j from (seed, j).
        seed: of the markets and of the visiting orders.
        rules: name → rule, each in its own play.
        metrics: name → metric(market [B, N, K], users [B], rows) → [B], for rows of your own.
        chunk: markets in a column; as many as stay in a core's cache where not given.
        chunks: columns that a device takes in one call; a part holds chunk·chunks·devices.
        certificate: see `evaluate`.
        devices: the local ones where not given.
        dtype: float32 as drawn, or float64: the same float32 markets, upcast (needs x64).
    """

    population: Population
    seed: int = 0
    rules: Mapping[str, Mechanism] = dataclasses.field(default_factory=default_rules)
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    chunk: int = None  # type: ignore[assignment]
    chunks: int = None  # type: ignore[assignment]
    certificate: bool = True
    devices: Sequence[jax.Device] = ()
    dtype: type = np.float32

    def __post_init__(self) -> None:
        self.devices = list(self.devices or jax.local_devices())
        if self.chunk is None:
            self.chunk = column_size(*self._size)
        checked_whole("chunk", self.chunk, 1, 2**24)
        if self.chunks is None:
            self.chunks = -(-_TOGETHER // self.chunk) * _TURNS
        checked_whole("chunks", self.chunks, 1, 2**24)
        if not self.rules:
            raise InputError("rules: give at least one")

    @functools.cached_property
    def _size(self) -> tuple[int, int]:
        """N and K."""
        index = jax.ShapeDtypeStruct((1,), np.uint32)
        market, _ = jax.eval_shape(self.population.columns, jax.random.key(0), index)
        return market.quality.shape[:2]

    @property
    def _columns(self) -> int:
        """Columns that are held at once."""
        return -(-_TOGETHER // self.chunk)

    @property
    def part(self) -> int:
        """Markets in one call."""
        return self.chunk * self.chunks * len(self.devices)

    @functools.cached_property
    def sharding(self) -> NamedSharding:
        """Columns spread over the mesh axis `markets`."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return markets_mesh(self.devices)

    def drawn(self, index: Array) -> tuple[Market, Users | UserMixture]:
        """Columns [P, N, K, B] of the markets [P, B], in this evaluator's precision; pure."""
        key = jax.random.key(self.seed)

        def draw(index: Array) -> tuple[Market, Users | UserMixture]:
            market, users = column_net_of_waiting(*self.population.columns(key, index))
            return market.with_mask(), users

        columns = jax.lax.map(draw, index)
        if self.dtype == np.float32:
            return columns
        return jax.tree.map(lambda x: x if x.dtype == bool else x.astype(self.dtype), columns)

    def rows(self, market: Market, users: Users | UserMixture) -> dict[str, Array]:
        """Rows [P, B] of columns; pure."""
        plays = {name: named_play(None, rule) for name, rule in self.rules.items()}
        found = evaluate_columns(
            market,
            users,
            self.rules,
            plays,
            certificate=self.certificate,
            key=jax.random.key(self.seed),
        )
        rows = {
            f"{name}.{column}": x for name, one in found.items() for column, x in one.rows().items()
        }
        if self.metrics:

            def own(market: Market, users: Any, rows: dict[str, Array]) -> dict[str, Array]:
                market, users = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (market, users))
                return {name: metric(market, users, rows) for name, metric in self.metrics.items()}

            rows |= each(own, market, users, rows)
        return rows

    @functools.cached_property
    def _run(self) -> Any:
        def turn(index: Array) -> dict[str, Array]:
            return self.rows(*self.drawn(index))

        def turns(index: Array) -> dict[str, Array]:
            """Some columns at a time, in memory that is used again."""
            size = next(n for n in range(self._columns, 0, -1) if len(index) % n == 0)
            found = jax.lax.map(turn, index.reshape(-1, size, self.chunk))
            return jax.tree.map(lambda x: x.reshape(-1, self.chunk), found)

        run = functools.partial(over_devices, turns, self.mesh)
        return jax.jit(run, compiler_options=compiler_options(self.devices[0]))

    def index(self, start: int) -> Array:
        """[chunks·devices, chunk] indices of a part, spread over the devices."""
        shape = (self.chunks * len(self.devices), self.chunk)
        first = start + np.arange(shape[0], dtype=np.uint32) * np.uint32(self.chunk)
        return jax.make_array_from_callback(
            shape,
            self.sharding,
            lambda where: first[where[0], None] + np.arange(self.chunk, dtype=np.uint32),  # type: ignore[index]
        )

    def columns(self) -> dict[str, str]:
        """Names and dtypes of the rows, without computing any."""
        with jax.set_mesh(self.mesh):
            rows = jax.eval_shape(self._run, self.index(0))
        return {name: np.dtype(x.dtype).str for name, x in rows.items()}

    def launch(self, start: int) -> dict[str, Array]:
        """Start computing the part from a market on; rows by chunk, on the devices."""
        with jax.set_mesh(self.mesh):
            return self._run(self.index(start))

    def compile(self) -> None:
        """Compile now, rather than at the first part."""
        with jax.set_mesh(self.mesh):
            self._run = self._run.lower(self.index(0)).compile()

    def parts(self, ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Rows]]:
        """(start, rows) for each (start, count ≤ part), the next part computing meanwhile."""
        waiting: tuple[int, int, dict[str, Array]] | None = None
        for start, count in ranges:
            launched = (start, count, self.launch(start))
            if waiting is not None:
                yield _fetch(*waiting)
            waiting = launched
        if waiting is not None:
            yield _fetch(*waiting)


def _fetch(start: int, count: int, rows: dict[str, Array]) -> tuple[int, Rows]:
    return start, {name: np.asarray(x).reshape(-1)[:count] for name, x in rows.items()}


def compiler_options(device: jax.Device) -> dict[str, int] | None:
    """Wide vectors on the CPU: half as much again in speed where there is AVX-512."""
    return {"xla_cpu_prefer_vector_width": 512} if device.platform == "cpu" else None
