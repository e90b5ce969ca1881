"""Evaluate rules, equilibria, optima and metrics over many markets, chunk by chunk.

A chunk of markets is sized to stay in cache; the chunks of a part run one after the other on each
device, and the devices share the part through a mesh with the axis `markets`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market, UserMixture, Users
from mechlab.mechanisms import (
    FirstPriceAuction,
    Mechanism,
    PayPerCompute,
    SecondPriceAuction,
    symmetric_markup,
)
from mechlab.mechanisms.auction import ReverseAuction
from mechlab.mechanisms.logit import LogitChoice
from mechlab.populations import Population
from mechlab.solvers import kernel
from mechlab.solvers.equilibrium import better_response
from mechlab.solvers.optimum import optimum_bounds, social_optimum

METRICS = (
    "welfare", "net_welfare", "user_value", "user_cost", "quality", "provider_utility", "accuracy",
    "tokens",
)  # fmt: skip
# metric(market [N, K, B], users [B], rows {name: [B]}) → [B]
Metric = Callable[[Market, Users | UserMixture, dict[str, Array]], Array]
Rows = dict[str, np.ndarray]
_MARKUPS = tuple(float(x) for x in np.linspace(0.0, 1.0, 21))
_MAX_ROUNDS = 100


def default_mechanisms() -> dict[str, Mechanism]:
    return {"pay_per_compute": PayPerCompute(), "second_price": SecondPriceAuction()}


def evaluate(
    market: Market,
    users: Users | UserMixture,
    mechanisms: Mapping[str, Mechanism],
    key: Array,
    orders: tuple[tuple[int, ...], ...],
    *,
    certificate: bool = True,
    profitable: bool = False,
) -> dict[str, Array]:
    """Rows {name: [B]} of a chunk of markets [N, K, B]; pure, to be jitted.

    Posted prices are played to the better-response equilibrium, auctions truthfully (first-price
    ones with the symmetric markup). For each rule NAME the row NAME.METRIC holds each of
    `METRICS`, and NAME.price_of_anarchy: under posted prices the optimum against the worst
    equilibrium known (a lower bound where the equilibrium is not unique), in auctions the best
    assignment against the one made; not a number where it means nothing. Posted prices also give
    NAME.optimal_welfare, NAME.converged, and with `certificate` NAME.unique.

    Args:
        orders: static; the visiting orders that all markets share.
        certificate: whether to find the extremal equilibria of logit games.
        profitable: static; every level's price is known to be above its cost, which saves work.
    """
    rows: dict[str, Array] = {}
    for name, rule in mechanisms.items():
        if isinstance(rule, LogitChoice) and isinstance(users, Users):
            sure = profitable and isinstance(rule, PayPerCompute)
            found = _logit_rows(rule.posted(market), users, orders, certificate, sure)
        elif isinstance(rule, SecondPriceAuction) and isinstance(users, Users):
            found = _auction_rows(market, users)
        else:
            found = _generic_rows(market, users, rule, key)
        rows |= {f"{name}.{metric}": values for metric, values in found.items()}
    return rows


def _ratio(optimal: Array, reached: Array) -> Array:
    return jnp.where(reached > 0, optimal / jnp.where(reached > 0, reached, 1.0), jnp.nan)


def _logit_rows(
    market: Market,
    users: Users,
    orders: tuple[tuple[int, ...], ...],
    certificate: bool,
    profitable: bool,
) -> dict[str, Array]:
    wide = market.quality.dtype.itemsize == 8
    game = kernel.games(market, users, profitable)
    tolerance = PayPerCompute.tolerance[market.quality.dtype.itemsize]
    level, converged, _ = kernel.better_response(game, orders, tolerance, _MAX_ROUNDS)
    rows = kernel.logit_outcome(market, users, level)
    optimal, solved = kernel.social_optimum(
        game, market.surplus, 1e-12 if wide else 1e-6, _MAX_ROUNDS
    )
    rows["optimal_welfare"] = jnp.maximum(optimal, rows["welfare"])
    rows["converged"] = converged & solved
    worst = rows["welfare"]
    if certificate:
        low, high, unique, sound = kernel.extremal_equilibria(game, 1e-12 if wide else 1e-6)
        for end in (low, high):
            reached = kernel.logit_outcome(market, users, end)["welfare"]
            worst = jnp.where(sound, jnp.minimum(worst, reached), worst)
        rows["unique"] = unique
    rows["price_of_anarchy"] = _ratio(rows["optimal_welfare"], worst)
    return rows


def _auction_rows(market: Market, users: Users) -> dict[str, Array]:
    rows = kernel.truthful_auction(market, users, market.available is not None)
    rows["price_of_anarchy"] = _ratio(_best_assignment(market, users), rows["welfare"])
    return rows


def _best_assignment(market: Market, users: Users) -> Array:
    """[B] the largest surplus of all providers and levels; 0 where not trading is worth more."""
    surplus = market.surplus
    if market.available is not None:
        surplus = jnp.where(market.available, surplus, -jnp.inf)
    best = jnp.max(surplus, axis=(0, 1))
    return jnp.where(best >= users.outside_value, best, 0.0)


def _generic_rows(
    market: Market, users: Users | UserMixture, rule: Mechanism, key: Array
) -> dict[str, Array]:
    """Any rule and any users, one market at a time under vmap."""
    market = market.with_mask()

    def one(market: Market, users: Users | UserMixture) -> dict[str, Array]:
        rows: dict[str, Array] = {}
        if isinstance(rule, FirstPriceAuction) and isinstance(users, Users):
            offers = symmetric_markup(market, users, jnp.asarray(_MARKUPS)).offers
        elif rule.asking == "cost":
            offers = market.truthful()
        else:
            reached = better_response(market, users, key, rule)
            offers = rule.offers(market, reached.profile)
            rows["converged"] = reached.converged
        outcome = rule(offers, users)
        for metric in METRICS:
            value = getattr(outcome, metric)
            rows[metric] = jnp.sum(value) if metric == "provider_utility" else value
        if isinstance(rule, LogitChoice):
            if isinstance(users, UserMixture):
                low, high = optimum_bounds(market, users, reached.profile, rule)
                rows["optimal_welfare"], rows["optimal_welfare_bound"] = low, high
            else:
                rows["optimal_welfare"] = social_optimum(market, users, rule).welfare
            rows["price_of_anarchy"] = _ratio(rows["optimal_welfare"], rows["welfare"])
        elif isinstance(rule, ReverseAuction) and isinstance(users, Users):
            rows["price_of_anarchy"] = _ratio(_best_assignment(market, users), rows["welfare"])
        return rows

    return jax.vmap(one, in_axes=-1, out_axes=-1)(market, users)


def visiting_orders(seed: int, providers: int, rounds: int = 2) -> tuple[tuple[int, ...], ...]:
    """The random orders that rounds of the dynamics take in turn, shared by all markets."""
    rng = np.random.default_rng(seed)
    return tuple(tuple(int(i) for i in rng.permutation(providers)) for _ in range(rounds))


@dataclasses.dataclass(eq=False)
class Evaluator:
    """Rows of a population's markets by index, compiled once.

    Attributes:
        population: draws market j from (seed, j).
        seed: of the markets and of the visiting orders.
        mechanisms: name → rule.
        metrics: name → function of columns, for rows of your own.
        chunk: markets evaluated at once on one device; `default_chunk` where not given.
        chunks: how many chunks a device runs in one call; a part holds chunk·chunks·devices.
        certificate: see `evaluate`.
        devices: the local ones where not given.
        dtype: float32 as drawn, or float64: the same float32 markets, upcast (needs x64).
    """

    population: Population
    seed: int = 0
    mechanisms: Mapping[str, Mechanism] = dataclasses.field(default_factory=default_mechanisms)
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    chunk: int = None  # type: ignore[assignment]
    chunks: int = 16
    certificate: bool = True
    devices: Sequence[jax.Device] = ()
    dtype: type = np.float32

    def __post_init__(self) -> None:
        self.devices = list(self.devices or jax.local_devices())
        self.chunk = default_chunk(self.devices[0]) if self.chunk is None else self.chunk
        for name in ("chunk", "chunks"):
            checked_whole(name, getattr(self, name), 1, 2**24)
        if not self.mechanisms:
            raise InputError("mechanisms: give at least one")

    @property
    def part(self) -> int:
        """Markets in one call."""
        return self.chunk * self.chunks * len(self.devices)

    @functools.cached_property
    def sharding(self) -> NamedSharding:
        """Chunks spread over the mesh axis `markets`."""
        mesh = jax.sharding.Mesh(np.array(self.devices), ("markets",))
        return NamedSharding(mesh, PartitionSpec("markets"))

    def cast(
        self, market: Market, users: Users | UserMixture
    ) -> tuple[Market, Users | UserMixture]:
        """The columns in this evaluator's precision."""
        if self.dtype == np.float32:
            return market, users
        return jax.tree.map(
            lambda x: x if x.dtype == bool else x.astype(self.dtype), (market, users)
        )

    def columns_rows(
        self, market: Market, users: Users | UserMixture, key: Array
    ) -> dict[str, Array]:
        """Rows of given columns; pure."""
        market, users = self.cast(market, users)
        orders = visiting_orders(self.seed, market.quality.shape[0])
        options = dict(certificate=self.certificate, profitable=self.population.profitable)
        rows = evaluate(market, users, self.mechanisms, key, orders, **options)
        for name, metric in self.metrics.items():
            rows[name] = metric(market, users, rows)
        return rows

    @functools.cached_property
    def _run(self) -> Any:
        key = jax.random.key(self.seed)

        def chunks(index: Array) -> dict[str, Array]:
            return jax.lax.map(
                lambda j: self.columns_rows(*self.population.columns(key, j), key), index
            )

        spec = self.sharding.spec
        run = jax.shard_map(
            chunks, mesh=self.sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
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
        rows = jax.eval_shape(self._run, self.index(0))
        return {name: np.dtype(x.dtype).str for name, x in rows.items()}

    def launch(self, start: int) -> dict[str, Array]:
        """Start computing the part from a market on; rows by chunk, on the devices."""
        return self._run(self.index(start))

    def compile(self) -> None:
        """Compile now, rather than at the first part."""
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


def default_chunk(device: jax.Device) -> int:
    """Markets that stay in a core's cache, or that keep an accelerator busy."""
    return 2**11 if device.platform == "cpu" else 2**18


def compiler_options(device: jax.Device) -> dict[str, int] | None:
    """Wide vectors on the CPU: half as much again in speed where there is AVX-512."""
    return {"xla_cpu_prefer_vector_width": 512} if device.platform == "cpu" else None
