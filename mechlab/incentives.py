"""Who can gain by deviating, over populations of markets: certificates and the incentive report.

A gain is relative to the welfare of its market as it is played now; markets without a positive
welfare are left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mechlab.batch import Evaluator
from mechlab.deviations import (
    RESTARTS,
    STEPS,
    Checks,
    best_deviations,
    checked_effort,
    raise_on_fault,
)
from mechlab.equilibrium import better_response
from mechlab.errors import InputError
from mechlab.market import Array, Market, Offers, UserMixture, Users
from mechlab.mechanisms import (
    FirstPriceAuction,
    LogitChoice,
    Mechanism,
    PayPerCompute,
    SecondPriceAuction,
    symmetric_markup,
)
from mechlab.mechanisms.auction import ReverseAuction
from mechlab.optimum import social_optimum
from mechlab.population import Population
from mechlab.strategies import (
    ContinuousCompute,
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
    Space,
    coordinates,
)
from mechlab.summary import Summary

STARTS = ("optimum", "truthful", "equilibrium")
DIRECTIONS = (
    "more_compute", "less_compute", "overstated_quality", "understated_quality", "raised_price",
    "lowered_price",
)  # fmt: skip
# gains below this, relative to welfare, are rounding, by bytes a float
NEGLIGIBLE = {4: 1e-6, 8: 1e-9}
_MARKUPS = tuple(float(x) for x in np.linspace(0.0, 1.0, 101))
_CHUNK = 2**14  # restarts that stay in a core's cache


def starting_offers(
    mechanism: Mechanism, market: Market, users: Users | UserMixture, start: str, key: Array
) -> Offers:
    """[..., N] what is played at a start of the report, in markets [..., N, K].

    - "truthful": every provider at its level of the largest surplus, with an honest offer.
    - "optimum": the profile of the largest welfare; in an auction that is truthful play.
    - "equilibrium": of the providers' choice of level, by better response. In a second-price
      auction that is truthful play; in a first-price one the symmetric markup of the grid
      0, 0.01 … 1 that is nearest to an equilibrium, as one grid for all markets.
    """
    truthful = mechanism.offers(market, market.best_surplus_profile())
    if start == "optimum" and isinstance(mechanism, LogitChoice):
        if isinstance(users, UserMixture):
            raise InputError("start: with several types of users there is no exact optimum")
        return mechanism.offers(market, social_optimum(market, users, mechanism).profile)
    if start == "equilibrium" and isinstance(mechanism, FirstPriceAuction):
        return symmetric_markup(market, users, jnp.asarray(_MARKUPS)).offers
    if start == "equilibrium" and not isinstance(mechanism, ReverseAuction):
        reached = better_response(market, users, key, mechanism)
        return mechanism.offers(market, reached.profile)
    if start not in STARTS:
        raise InputError(f"start: {start!r} is not known; use {', '.join(STARTS)}")
    return truthful


@dataclasses.dataclass(eq=False)
class _Searches(Evaluator):
    """Rows about the best deviations from a start, one market each.

    The columns are drawn from the population; rows are `regret` (relative to welfare), `gaining`
    (share of providers), for each direction DIR the number of providers that gain that way and
    their market share, DIR.count and DIR.share, and their sums `count` and `share`.
    """

    mechanism: Mechanism = dataclasses.field(default_factory=PayPerCompute)
    start: str = "truthful"
    space: tuple = (GridLevel(),)
    restarts: int = RESTARTS
    steps: int = STEPS
    optimizer: optax.GradientTransformation | None = None

    def columns_rows(
        self, market: Market, users: Users | UserMixture, key: Array
    ) -> dict[str, Array]:
        market, users = self.cast(market, users)
        if market.available is None:
            market = market.replace(available=jnp.ones(market.quality.shape, bool))
        first = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, -1, 0))
        last = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, 0, -1))
        offers = starting_offers(self.mechanism, first(market), first(users), self.start, key)
        now = self.mechanism(offers, first(users))
        found, checks = best_deviations(
            self.mechanism, market, users, last(offers), key,
            space=self.space, restarts=self.restarts, steps=self.steps, optimizer=self.optimizer,
        )  # fmt: skip
        relative = found.gain / jnp.where(now.welfare > 0, now.welfare, jnp.nan)
        gains = relative > NEGLIGIBLE[relative.dtype.itemsize]
        shares = last(now.shares)
        rows = dict(
            regret=jnp.max(relative, axis=0),
            gaining=jnp.mean(jnp.where(now.welfare > 0, gains, jnp.nan), axis=0),
            count=jnp.sum(gains, axis=0),
            share=jnp.sum(jnp.where(gains, shares, 0.0), axis=0),
            finite=jnp.all(checks.finite, axis=0),
            sloped=jnp.any(checks.sloped, axis=0),
            flat=jnp.all(checks.flat, axis=0),
        )
        for name, moved in directions(last(offers), found.offers).items():
            rows[f"{name}.count"] = jnp.sum(gains & moved, axis=0)
            rows[f"{name}.share"] = jnp.sum(jnp.where(gains & moved, shares, 0.0), axis=0)
        return rows


def directions(now: Offers, then: Offers) -> dict[str, Array]:
    """{direction: bool [..., N]} of moves between offers; a move can have several.

    Prices are compared as price/cost, so that a bill that follows the level is no raise; quality
    is over- or understated where the report differs from the truth.
    """
    rounding = 1e-4

    def above(a: Array, b: Array) -> Array:
        return a > b + rounding * jnp.abs(b)

    def markup(offers: Offers) -> Array:
        return offers.price / jnp.where(offers.cost > 0, offers.cost, 1.0)

    return {
        "more_compute": above(then.compute, now.compute),
        "less_compute": above(now.compute, then.compute),
        "overstated_quality": above(then.reported_quality, then.quality),
        "understated_quality": above(then.quality, then.reported_quality),
        "raised_price": above(markup(then), markup(now)),
        "lowered_price": above(markup(now), markup(then)),
    }


@dataclasses.dataclass
class Certificate:
    """The largest regret that a search found in a population, with what is behind it.

    A gain found is real; that none was found means none that this search can find.

    Attributes:
        markets, restarts, steps, seed, start: as asked; restarts are of each grid level (and way
            of bidding), and each provider of each market was searched.
        space: names of its coordinates.
        regret: of every market, relative to its welfare; `largest`, `mean` and `quantile(q)`.
        worst_market: index of the market with the largest regret.
        share_profitable: share of markets with a regret above rounding.
        share_of_providers: share of providers that gain more than rounding.
        directions: {direction: {"count": share of the providers that gain, "market_share": the
            same, weighted by market share}}; None where nobody gains (or who does has no share).
    """

    markets: int
    restarts: int
    steps: int
    seed: int
    start: str
    space: tuple[str, ...]
    regret: Summary
    worst_market: int
    share_profitable: float
    share_of_providers: float
    directions: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "share_profitable": self.share_profitable,
            "share_of_providers": self.share_of_providers,
            "mean_relative_gain": self.regret.mean,
            "p99_relative_gain": self.regret.quantile(0.99),
            "max_relative_gain": max(self.regret.largest, 0.0) if self.regret.count else None,
            "direction": self.directions,
        }


def certify(
    mechanism: Mechanism,
    population: Population,
    markets: int,
    space: Space,
    *,
    start: str = "truthful",
    seed: int = 0,
    restarts: int = RESTARTS,
    steps: int = STEPS,
    optimizer: optax.GradientTransformation | None = None,
    dtype: type = np.float32,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Search every provider of the first markets of a population for profitable deviations.

    Args:
        space: of `mechlab.strategies`.
        start: what is played: see `starting_offers`.
        restarts, steps, optimizer: as in `search`.
        dtype: float32, or float64 for the same markets upcast (needs x64).
        progress: called with the number of markets done.

    Raises:
        InputError: as `search` does, and for numbers out of range.
    """
    if not (isinstance(markets, int) and 1 <= markets < 2**32):
        raise InputError(f"markets = {markets}; give a whole number from 1 to 2^32 − 1")
    if start not in STARTS:
        raise InputError(f"start: {start!r} is not known; use {', '.join(STARTS)}")
    if np.dtype(dtype) == np.float64 and not jax.config.jax_enable_x64:
        raise InputError("dtype: float64 needs jax.config.update('jax_enable_x64', True)")
    chosen = coordinates(space)
    optimizer = checked_effort(restarts, steps, optimizer)
    searches = _Searches(
        population, seed, {"rule": mechanism}, dtype=dtype, mechanism=mechanism, start=start,
        space=chosen, restarts=restarts, steps=steps, optimizer=optimizer,
    )  # fmt: skip
    market, _ = jax.eval_shape(population.columns, jax.random.key(0), jnp.zeros(1, jnp.uint32))
    n, k, _ = market.quality.shape
    width = restarts * (k if any(isinstance(c, GridLevel) for c in chosen) else 2)
    searches.chunk = max(_CHUNK // (n * width) // 64 * 64, 64)
    searches.chunks = min(64, -(-markets // (searches.chunk * len(searches.devices))))
    regret, worst, tally = Summary(), 0, dict.fromkeys(_tallied(), 0.0)
    profitable = 0
    for first, rows in searches.parts(_ranges(markets, searches.part)):
        checks = Checks(**{name: rows[name][:, None] for name in ("finite", "sloped", "flat")})
        raise_on_fault(mechanism, chosen, checks)
        found = rows["regret"]
        if np.isfinite(found).any() and np.nanmax(found) > regret.largest:
            worst = first + int(np.nanargmax(found))
        regret.add(found)
        profitable += int(np.sum(found > NEGLIGIBLE[found.dtype.itemsize]))
        for name in tally:
            tally[name] += float(np.nansum(rows[name], dtype=np.float64))
        if progress:
            progress(len(found))
    counted = max(regret.count, 1)
    return Certificate(
        markets=markets, restarts=restarts, steps=steps, seed=seed, start=start,
        space=tuple(type(c).__name__ for c in chosen), regret=regret, worst_market=worst,
        share_profitable=profitable / counted,
        share_of_providers=tally["gaining"] / counted,
        directions={
            name: {
                "count": _part(tally[f"{name}.count"], tally["count"]),
                "market_share": _part(tally[f"{name}.share"], tally["share"]),
            }
            for name in DIRECTIONS
        },
    )  # fmt: skip


def _tallied() -> list[str]:
    ways = [f"{name}.{kind}" for name in DIRECTIONS for kind in ("count", "share")]
    return ["gaining", "count", "share", *ways]


def _part(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _ranges(markets: int, size: int) -> Iterator[tuple[int, int]]:
    return ((first, min(size, markets - first)) for first in range(0, markets, size))


def default_mechanisms() -> dict[str, Mechanism]:
    """The rules of the report, by name and settlement."""
    return {
        "pay_per_compute": PayPerCompute(),
        "second_price": SecondPriceAuction(),
        "second_price, reported": SecondPriceAuction("reported"),
        "first_price": FirstPriceAuction(),
    }


def default_spaces(mechanism: Mechanism, axis: str = "compute") -> dict[str, Space]:
    """The spaces of the report: each lever by itself, and all at once.

    Where providers bid, the price is any bid; where they post one, a factor from 0.5 to 2.
    """
    price = PriceBid() if mechanism.asking == "cost" else PriceMultiplier()
    compute, report = ContinuousCompute(axis=axis), QualityReport()
    return {
        "level": GridLevel(),
        "compute": compute,
        "price": price,
        "report": report,
        "all": (compute, price, report),
    }
