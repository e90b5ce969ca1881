"""Certificates: the largest gain by deviating that a search finds in a population of markets.

A gain is relative to the welfare of its market as it is played now; markets without a positive
welfare are left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mechlab.core.devices import over_devices
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market, Offers
from mechlab.core.results import Result
from mechlab.core.tolerance import NEGLIGIBLE
from mechlab.core.users import UserMixture, Users
from mechlab.incentives.coalitions import best_pairs, checked_space
from mechlab.incentives.deviations import (
    CHUNK,
    RESTARTS,
    STEPS,
    Checks,
    best_deviations,
    check_axes,
    checked_effort,
    raise_if_blind,
    raise_on_fault,
)
from mechlab.incentives.strategies import DISCRETE, GridLevel, Space, TokenReport, coordinates
from mechlab.mechanisms import Mechanism, PayPerCompute, Play, named_play
from mechlab.populations import MOST, Population
from mechlab.simulation.evaluator import Evaluator, compiler_options
from mechlab.simulation.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

STARTS = ("optimum", "truthful", "equilibrium")
"""Plays that a report starts from; "sincere" is one more for `certify`."""
DIRECTIONS = (
    "more_compute",
    "less_compute",
    "overstated_quality",
    "understated_quality",
    "raised_price",
    "lowered_price",
)


def starting_play(rule: Mechanism, start: str) -> Play:
    """The play at a start of the report.

    - "sincere": true qualities and costs at the levels of the largest surplus, whatever the rule
      makes of them.
    - "truthful": honest offers at the levels that are best for honest providers.
    - "optimum": the profile of the largest welfare; in an auction that is truthful play.
    - "equilibrium": the play that the rule is judged by: the providers' equilibrium of levels; in
      an auction truthful play, an equilibrium of the second-price rule with realised settlement
      and a mere starting point of others; under first price the common markup.
    """
    _check_start(start)
    return named_play(None if start == "equilibrium" else start, rule)


def _check_start(start: str) -> None:
    if start not in (*STARTS, "sincere"):
        raise InputError(f"start: {start!r} is not known; use {', '.join(STARTS)}, sincere")


@dataclasses.dataclass(eq=False)
class _Searches(Evaluator):
    """Rows about the best deviations from a start, one market each.

    The columns are drawn from the population; rows are `regret` (relative to welfare), `gaining`
    (share of providers, or of pairs), for each direction DIR the number of providers that gain
    that way and their market share, DIR.count and DIR.share, and their sums `count` and `share`.
    What is played and the search are two programs, which know neither the rule's numbers nor, the
    second, the start: the same search from another start, or of a rule with other numbers, is
    compiled already.
    """

    mechanism: Mechanism = dataclasses.field(default_factory=PayPerCompute)
    start: str = "truthful"
    together: int = 1
    space: tuple = (GridLevel(),)
    restarts: int = RESTARTS
    steps: int = STEPS
    optimizer: optax.GradientTransformation | None = None

    @functools.cached_property
    def _programs(self) -> tuple[Any, Any]:
        begin = _starting(_Drawing(self), self.start)
        search = _searching(
            self.mesh,
            self.seed,
            self.space,
            self.together,
            self.restarts,
            self.steps,
            self.optimizer,
        )
        return begin, search

    def launch(self, start: int) -> dict[str, Array]:
        begin, search = self._programs
        with jax.set_mesh(self.mesh):
            return search(self.mechanism, *begin(self.mechanism, self.index(start)))


class _Drawing:
    """How an evaluator draws columns: the same where population, seed, type and devices are."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator
        population, devices = evaluator.population, tuple(evaluator.devices)
        self._key = population.content(), evaluator.seed, evaluator.dtype, devices

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Drawing) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=64)
def _starting(drawing: _Drawing, start: str) -> Any:
    """(rule, indices [P, B]) → what is played there: (market, users, offers, shares, welfare)."""
    drawn, seed = drawing.evaluator.drawn, drawing.evaluator.seed

    def column(rule: Mechanism, market: Market, users: Users | UserMixture) -> tuple:
        first = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, -1, 0))
        last = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, 0, -1))
        play = starting_play(rule, start)
        offers = play(first(market), first(users), rule, key=jax.random.key(seed)).offers
        assert offers is not None
        now = rule(offers, first(users))
        return market, users, last(offers), last(now.shares), now.welfare

    def run(rule: Mechanism, index: Array) -> tuple:
        return jax.lax.map(lambda one: column(rule, *one), drawn(index))

    return _on_devices(drawing.evaluator.mesh, run)


@functools.lru_cache(maxsize=64)
def _searching(
    mesh: jax.sharding.Mesh,
    seed: int,
    space: tuple,
    together: int,
    restarts: int,
    steps: int,
    optimizer: optax.GradientTransformation,
) -> Any:
    """(rule, *what is played in columns [P, …, B]) → rows [P, B]."""
    options: dict[str, Any] = dict(space=space, restarts=restarts, steps=steps, optimizer=optimizer)

    def column(
        rule: Mechanism,
        market: Market,
        users: Users | UserMixture,
        before: Offers,
        shares: Array,
        welfare: Array,
    ) -> dict[str, Array]:
        key = jax.random.key(seed)
        if together == 2:
            pairs, checks = best_pairs(rule, market, users, before, key, **options)
            # a row for each member: both gain
            who = pairs.members.T.ravel()
            before = jax.tree.map(lambda x: x[who], before)
            after = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), pairs.first, pairs.second)
            gain, shares = jnp.tile(pairs.gain, (2, 1)), shares[who]
        else:
            found, checks = best_deviations(rule, market, users, before, key, **options)
            gain, after = found.gain, found.offers
        relative = gain / jnp.where(welfare > 0, welfare, jnp.nan)
        gains = relative > NEGLIGIBLE.of(relative)
        rows = dict(
            regret=jnp.max(relative, axis=0),
            gaining=jnp.mean(jnp.where(welfare > 0, gains, jnp.nan), axis=0),
            count=jnp.sum(gains, axis=0),
            share=jnp.sum(jnp.where(gains, shares, 0.0), axis=0),
            finite=jnp.all(checks.finite, axis=0),
            sloped=jnp.any(checks.sloped, axis=0),
            flat=jnp.all(checks.flat, axis=0),
            broken=jnp.max(checks.broken, axis=0),
        )
        for name, moved in directions(before, after, space).items():
            rows[f"{name}.count"] = jnp.sum(gains & moved, axis=0)
            rows[f"{name}.share"] = jnp.sum(jnp.where(gains & moved, shares, 0.0), axis=0)
        return rows

    def run(rule: Mechanism, *played: Any) -> dict[str, Array]:
        return jax.lax.map(lambda one: column(rule, *one), played)

    return _on_devices(mesh, run)


def _on_devices(mesh: jax.sharding.Mesh, run: Callable) -> Any:
    """`run(rule, *columns)`, compiled, with the columns spread over the devices."""

    def spread(rule: Mechanism, *columns: Any) -> Any:
        return over_devices(lambda columns, rule: run(rule, *columns), mesh, columns, rule)

    return jax.jit(spread, compiler_options=compiler_options(mesh.devices.flat[0]))


def directions(now: Offers, then: Offers, space: tuple = ()) -> dict[str, Array]:
    """{direction: bool [..., N]} of moves between offers in a space; a move can have several.

    Prices are compared as price/cost, so that a bill that follows the level is no raise; quality
    is over- or understated where the report differs from the truth.
    """
    rounding = 1e-4

    def above(a: Array, b: Array) -> Array:
        return a > b + rounding * jnp.abs(b)

    def markup(offers: Offers) -> Array:
        return offers.price / jnp.where(offers.cost > 0, offers.cost, 1.0)

    found = {
        "more_compute": above(then.compute, now.compute),
        "less_compute": above(now.compute, then.compute),
        "overstated_quality": above(then.reported_quality, then.quality),
        "understated_quality": above(then.quality, then.reported_quality),
        "raised_price": above(markup(then), markup(now)),
        "lowered_price": above(markup(now), markup(then)),
    }
    if then.bill is not None and "over_billed" in directions_of(space):
        found["over_billed"] = above(then.bill, jnp.ones(()))
    return found


def directions_of(space: tuple) -> tuple[str, ...]:
    """The directions that are told apart in a space."""
    bills = any(isinstance(c, TokenReport) for c in space)
    return (*DIRECTIONS, "over_billed") if bills else DIRECTIONS


@dataclasses.dataclass(repr=False)
class Certificate(Result):
    """The largest regret that a search found in a population, with what is behind it.

    A gain found is real; that none was found means none that this search can find.

    Attributes:
        markets, restarts, steps, seed, start, together: as asked; restarts are of each grid level
            (and way of bidding), and each provider (or pair) of each market was searched.
        space: names of its coordinates.
        regret: of every market, relative to its welfare; `largest`, `mean` and `quantile(q)`.
        worst_market: index of the market with the largest regret.
        counted: markets with a positive welfare, which the numbers below are of.
        share_profitable: share of markets with a regret above rounding; None where none counts.
        share_of_providers: share of providers (or of pairs) that gain more than rounding.
        directions: {direction: {"count": share of the providers that gain, "market_share": the
            same, weighted by market share}}; None where nobody gains (or who does has no share).
        by_direction: {direction: the regret of markets where somebody gains most that way, 0 of
            the others}, and
        share_by_direction: {direction: the share of such markets}; None where none counts.
    """

    markets: int
    restarts: int
    steps: int
    seed: int
    start: str
    together: int
    space: tuple[str, ...]
    regret: Summary
    worst_market: int
    counted: int
    share_profitable: float | None
    share_of_providers: float | None
    directions: dict[str, dict[str, float | None]]
    by_direction: dict[str, Summary]
    share_by_direction: dict[str, float | None]

    _units = {"regret": "of welfare"}  # noqa: RUF012

    def _shown(self) -> dict[str, Any]:
        largest = max(self.regret.largest, 0.0) if self.counted else None
        gains = [(name, share) for name, share in self.share_by_direction.items() if share]
        return {
            "regret": self.regret,
            "largest": None if largest is None else f"{largest:.4g} of welfare",
            "worst_market": self.worst_market,
            "counted": self.counted,
            "share_profitable": self.share_profitable,
            "share_of_providers": self.share_of_providers,
            "gained_by": ", ".join(f"{name} {share:.3g}" for name, share in gains) or "nothing",
            "searched": f"{', '.join(self.space)} from {self.start} play, {self.together} at a "
            f"time, {self.restarts} restarts of {self.steps} steps, seed {self.seed}",
        }

    def to_frame(self) -> "pd.DataFrame":
        """A row for all deviations, "any", and for each direction; regret relative to welfare.

        Columns are those of `Summary.to_frame`, and share, of markets where somebody gains most
        that way.
        """
        import pandas as pd

        rows = {"any": self.regret.row() | {"share": self.share_profitable}}
        for name, found in self.by_direction.items():
            rows[name] = found.row() | {"share": self.share_by_direction[name]}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("direction")

    def to_dict(self) -> dict[str, Any]:
        return {
            "share_profitable": self.share_profitable,
            "share_of_providers": self.share_of_providers,
            "mean_relative_gain": self.regret.mean if self.counted else None,
            "p99_relative_gain": self.regret.quantile(0.99),
            "max_relative_gain": max(self.regret.largest, 0.0) if self.counted else None,
            "direction": self.directions,
        }


def certify(
    population: Population,
    rule: Mechanism,
    markets: int,
    space: Space,
    *,
    start: str = "truthful",
    together: int = 1,
    seed: int = 0,
    restarts: int = RESTARTS,
    steps: int = STEPS,
    optimizer: optax.GradientTransformation | None = None,
    dtype: type | None = None,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Search every provider of the first markets of a population for profitable deviations.

    Runs on the devices of this process; several hosts do not share one call.

    Args:
        rule: any pricing rule.
        space: a coordinate such as `mechlab.PriceBid`, or several.
        start: what is played: see `starting_play`.
        together: 1 for deviations of one provider, 2 for those of pairs that share the gain.
        restarts, steps, optimizer: as in `search`.
        dtype: float32, or float64 for the same markets upcast, the default where x64 is on. The
            start "optimum" wants float64: at high rationality the planner asks weak providers to
            hide, which matters to them and is less than 1e-6 of welfare.
        progress: called with the number of markets done.

    Raises:
        InputError: as `search` does, and for numbers out of range.
    """
    checked_whole("markets", markets, 1, MOST)
    checked_whole("seed", seed, 0, MOST)
    _check_start(start)
    wide = bool(jax.config.read("jax_enable_x64"))
    dtype = np.dtype(dtype or (np.float64 if wide else np.float32)).type
    if dtype == np.float64 and not wide:
        raise InputError("dtype: float64 needs jax.config.update('jax_enable_x64', True)")
    if not isinstance(population, Population) or not isinstance(rule, Mechanism):
        given = f"a {type(population).__name__} and a {type(rule).__name__}"
        raise InputError(f"population, rule: {given}; give a Population, then a Mechanism")
    mechanism = rule
    chosen = coordinates(space)
    optimizer = checked_effort(restarts, steps, optimizer)
    searches = _Searches(
        population,
        seed,
        {"rule": mechanism},
        dtype=dtype,
        mechanism=mechanism,
        start=start,
        together=together,
        space=chosen,
        restarts=restarts,
        steps=steps,
        optimizer=optimizer,
    )
    n, k = check_sample(population, chosen, together, seed)
    width = restarts * math.prod(k for c in chosen if isinstance(c, DISCRETE))
    width = max(width, 2 * restarts)
    width *= n * (n - 1) // 2 if together == 2 else 1  # and everybody's offers for each pair
    searches.chunk = max(CHUNK // (n * width) // 64 * 64, 64)
    searches.chunks = min(64, -(-markets // (searches.chunk * len(searches.devices))))
    regret, worst, tally = Summary(), 0, dict.fromkeys(_tallied(chosen), 0.0)
    profitable = 0
    ways = {name: Summary() for name in directions_of(chosen)}
    gained = dict.fromkeys(ways, 0)
    for first, rows in _searched_parts(searches, markets):
        checks = Checks(**{name: rows[name][:, None] for name in _checked()})
        raise_on_fault(mechanism, chosen, checks)
        found = rows["regret"]
        if np.isfinite(found).any() and np.nanmax(found) > regret.largest:
            worst = first + int(np.nanargmax(found))
        regret.add(found)
        profitable += int(np.sum(found > NEGLIGIBLE.of(found)))
        for name, summary in ways.items():
            here = rows[f"{name}.count"] > 0
            summary.add(np.where(here | np.isnan(found), found, 0.0))
            gained[name] += int(np.sum(here & (found > NEGLIGIBLE.of(found))))
        for name in tally:
            tally[name] += float(np.nansum(rows[name], dtype=np.float64))
        if progress:
            progress(len(found))
    return Certificate(
        markets=markets,
        restarts=restarts,
        steps=steps,
        seed=seed,
        start=start,
        together=together,
        space=tuple(type(c).__name__ for c in chosen),
        regret=regret,
        worst_market=worst,
        counted=regret.count,
        share_profitable=_part(profitable, regret.count),
        share_of_providers=_part(tally["gaining"], regret.count),
        directions={
            name: {
                "count": _part(tally[f"{name}.count"], tally["count"]),
                "market_share": _part(tally[f"{name}.share"], tally["share"]),
            }
            for name in directions_of(chosen)
        },
        by_direction=ways,
        share_by_direction={name: _part(x, regret.count) for name, x in gained.items()},
    )


def _searched_parts(searches: _Searches, markets: int) -> Iterator[tuple[int, Any]]:
    try:
        yield from searches.parts(_ranges(markets, searches.part))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise_if_blind(searches.mechanism, error)
        raise


def check_sample(population: Population, space: tuple, together: int, seed: int) -> tuple[int, int]:
    """N and K; InputError where the space does not suit the first markets."""
    market, _ = population.markets(16, seed=seed)
    check_axes(space, market)
    if together == 2:
        checked_space(space, market.providers)
    elif together != 1:
        raise InputError(f"together = {together}; use 1 for single providers, 2 for pairs")
    return market.providers, market.levels


def _checked() -> list[str]:
    return [field.name for field in dataclasses.fields(Checks)]


def _tallied(space: tuple) -> list[str]:
    ways = [f"{name}.{kind}" for name in directions_of(space) for kind in ("count", "share")]
    return ["gaining", "count", "share", *ways]


def _part(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _ranges(markets: int, size: int) -> Iterator[tuple[int, int]]:
    return ((first, min(size, markets - first)) for first in range(0, markets, size))
