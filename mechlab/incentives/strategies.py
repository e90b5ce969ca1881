"""What a provider could do instead: strategy spaces, made of coordinates.

A space is one coordinate or a tuple of them, such as `(ContinuousCompute(), QualityReport())`. Each
has bounds. Points of a space have every coordinate in [0, 1], from the low to the high bound.
"""

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax.numpy as jnp

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.interpolation import fields_of, log_axis, monotone_cubic
from mechlab.core.market import Array, Market, Offers
from mechlab.mechanisms.base import Mechanism


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One thing that a provider chooses, between two bounds."""

    def _check(self, low: float | None, high: float | None, least: float = 0.0) -> None:
        name = type(self).__name__
        bounds = [x for x in (low, high) if x is not None]
        numeric = all(isinstance(x, Real) for x in bounds)
        if not (numeric and all(math.isfinite(x) and x >= least for x in bounds)):
            raise InputError(f"{name}: bounds ({low}, {high}): give finite numbers ≥ {least:g}")
        if len(bounds) == 2 and not bounds[0] < bounds[1]:
            raise InputError(f"{name}: bounds ({low}, {high}) are empty; low has to be below high")


@dataclasses.dataclass(frozen=True)
class GridLevel(Coordinate):
    """Any compute level of the grid."""


@dataclasses.dataclass(frozen=True)
class ContinuousCompute(Coordinate):
    """Any compute between the levels: quality, price and cost are monotone cubics through them.

    Attributes:
        low, high: bounds of compute (or tokens); the provider's own levels where not given.
        axis: "compute" interpolates in log2 compute; "tokens" in log2 tokens, for curves whose
            compute only counts levels, as reasoning effort does.
    """

    low: float | None = None
    high: float | None = None
    axis: str = "compute"

    def __post_init__(self) -> None:
        self._check(self.low, self.high)
        if self.high == 0:
            raise InputError("ContinuousCompute: high = 0; compute is above 0")
        if self.axis not in ("compute", "tokens"):
            raise InputError(f"ContinuousCompute: axis = {self.axis!r}; use 'compute' or 'tokens'")


@dataclasses.dataclass(frozen=True)
class PriceMultiplier(Coordinate):
    """The price asked, times a factor between the bounds."""

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        self._check(*_both(self))


@dataclasses.dataclass(frozen=True)
class PriceBid(Coordinate):
    """Any price between the bounds, USD per query.

    Where `high` is not given, it is the largest quality that the provider can report (its best, or
    the report's upper bound times that) − min(v0, 0), or twice its highest price where that is
    more. A higher bid can still be taken where a rule scores otherwise than by quality − price, or
    users value answers more than the market's quality says: give `high` there.
    """

    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        self._check(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class QualityReport(Coordinate):
    """The quality that is reported: the true one, times a factor between the bounds."""

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        self._check(*_both(self))


@dataclasses.dataclass(frozen=True)
class TokenReport(Coordinate):
    """The tokens that are billed: those announced, times a factor between the bounds.

    Users choose by the price announced, and pay for the tokens on the bill.
    Source: Velasco et al. 2025, "Is your LLM overcharging you?".
    """

    low: float = 1.0
    high: float = 2.0

    def __post_init__(self) -> None:
        self._check(*_both(self))
        if not self.low <= 1 <= self.high:
            raise InputError(
                f"TokenReport: bounds ({self.low}, {self.high}) hold no truth, which is 1; give "
                "low ≤ 1 ≤ high"
            )


@dataclasses.dataclass(frozen=True)
class Substitution(Coordinate):
    """Another level is served than the one announced, whose price and quality users are told.

    Source: Cai et al. 2025, "Are You Getting What You Pay For?".

    Attributes:
        to: number of the provider whose model is served; the own where not given.
        level: the only level that is served, from 0; any where not given.
    """

    to: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        for name in ("to", "level"):
            value = getattr(self, name)
            if value is not None:
                checked_whole(f"Substitution: {name}", value, 0, 10**6)


DISCRETE = (GridLevel, Substitution)
"""Coordinates with a list of choices; those of the others are between two bounds."""


def _both(coordinate: "PriceMultiplier | QualityReport | TokenReport") -> tuple[float, float]:
    """The bounds of a factor, neither of which can be left out."""
    if coordinate.low is None or coordinate.high is None:
        raise InputError(f"{type(coordinate).__name__}: bounds: give both low and high")
    return coordinate.low, coordinate.high


Space = Coordinate | Sequence[Coordinate]


def coordinates(space: Space) -> tuple[Coordinate, ...]:
    """The coordinates of a space; InputError where they do not go together."""
    found = tuple(space) if isinstance(space, Sequence) else (space,)
    names = [type(c).__name__ for c in found]
    if not found or not all(isinstance(c, Coordinate) for c in found):
        raise InputError(
            f"space: {names}: give at least one coordinate, such as mechlab.PriceBid()"
        )
    for group in (
        {GridLevel, ContinuousCompute},
        {PriceMultiplier, PriceBid},
        {QualityReport},
        {TokenReport},
        {Substitution},
    ):
        clash = [type(c).__name__ for c in found if type(c) in group]
        if len(clash) > 1:
            raise InputError(f"space: {' and '.join(clash)} move the same thing; give one of them")
    return found


@dataclasses.dataclass(frozen=True)
class Strategies:
    """A space laid out for many providers at once; S stands for the axes that count them.

    Some choices are discrete, and are alternatives on an axis A: the grid level, the level that is
    served instead of the one announced, and under rules where providers bid, whether a new level
    comes with a truthful bid or with the bid held.

    Attributes:
        now: [*S] the offers played.
        fields: quality, price, cost, …, as announced: arrays [A, 1, *S], or curves over continuous
            compute.
        served: the same as served, [A, 1, *S]; None where it is what is announced.
        low, high: [*S] bounds, one for each continuous coordinate.
        held: [A, 1, ...] bool, whether the bid is held, or None.
        possible: [A, 1, *S] bool, alternatives that exist.
        kinds: the continuous coordinates (static).
        axis: of continuous compute (static).
        moves: whether the level that is announced can change (static).
    """

    now: Offers
    fields: dict[str, Any]
    low: tuple[Array, ...]
    high: tuple[Array, ...]
    held: Array | None
    possible: Array
    kinds: tuple[type, ...]
    axis: str | None
    rule: Mechanism
    served: dict[str, Any] | None = None
    moves: bool = False

    @property
    def alternatives(self) -> int:
        """A."""
        return self.possible.shape[0]

    def start(self, offers: Offers | None = None) -> tuple[Array, ...]:
        """[*S] the point of the space that is nearest to offers [*S], by coordinate; to what is
        played now where none are given."""
        offers = self.now if offers is None else offers
        values = {
            ContinuousCompute: jnp.log2(jnp.maximum(getattr(offers, self.axis or "tokens"), 1e-30)),
            PriceMultiplier: jnp.ones_like(offers.price),
            PriceBid: offers.price,
            QualityReport: _ratio(offers.reported_quality, offers.quality),
            TokenReport: offers.billing,
        }
        return tuple(
            jnp.clip((values[kind] - low) / jnp.where(high > low, high - low, 1.0), 0.0, 1.0)
            for kind, low, high in zip(self.kinds, self.low, self.high, strict=True)
        )

    def level(self, point: tuple[Array, ...]) -> dict[str, Array]:
        """What is announced at points [A, R, *S]: quality, price, cost, … whatever is bid."""
        if self.axis is None:
            return dict(self.fields)
        z = self._at(point)[ContinuousCompute]
        chosen = {name: curve(z) for name, curve in self.fields.items()}
        return chosen | {self.axis: jnp.exp2(z)}

    def _at(self, point: tuple[Array, ...]) -> dict[type, Array]:
        return {
            kind: low + (high - low) * x
            for kind, low, high, x in zip(self.kinds, self.low, self.high, point, strict=True)
        }

    def offers(self, point: tuple[Array, ...], level: dict[str, Array] | None = None) -> Offers:
        """[A, R, *S] the offers at points [A, R, *S], one array for each continuous coordinate.

        `level` is that of the same compute, where it is known already.
        """
        at, chosen = self._at(point), self.level(point) if level is None else level
        price, reported = self.now.price, self.now.reported_quality
        if self.moves:
            asked = chosen["cost"] if self.rule.asking == "cost" else chosen["price"]
            honest = self.rule.honesty.honest(
                Offers(
                    **{**chosen, "price": asked, "reported_quality": chosen["quality"]},
                    stake=self.now.stake,
                )
            )
            price, reported = honest.price, honest.reported_quality
        if self.moves and self.held is not None:
            price = jnp.where(self.held, self.now.price, price)
            reported = jnp.where(self.held, self.now.reported_quality, reported)
        if PriceMultiplier in at:
            price = price * at[PriceMultiplier]
        price = at.get(PriceBid, price)
        if QualityReport in at:
            reported = chosen["quality"] * at[QualityReport]
        served = chosen if self.served is None else self.served
        also: dict[str, Array] = {}
        if self.now.bill is not None:  # as `spelt` has it
            also["bill"] = at.get(TokenReport, self.now.bill)
            announced = chosen["tokens"] if self.moves else self.now.posted_tokens
            also["announced_tokens"] = announced
        if self.now.stake is not None:
            also["stake"] = self.now.stake
        return Offers(**{**served, "price": price, "reported_quality": reported, **also})


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1.0), 1.0)


def spelt(space: tuple[Coordinate, ...], offers: Offers) -> Offers:
    """Offers that say what is announced and billed, where they or a space move either."""
    moved = any(isinstance(c, TokenReport | Substitution) for c in space)
    if offers.billed_as_generated and not moved:
        return offers
    return offers.replace(bill=offers.billing, announced_tokens=offers.posted_tokens)


def lay_out(
    space: Space,
    curves: Market,
    now: Offers,
    outside: Array,
    rule: Mechanism,
    every: Market | None = None,
) -> Strategies:
    """The strategies of providers [*S] with curves [K, *S] (`available` may be None).

    Args:
        now: [*S] what is played; `spelt` for the space.
        every: [K, N, ...] the curves of all providers, which `Substitution` may serve from; those
            of `curves` where not given.
        outside: [*S] v0.
        rule: says what an honest provider asks.
    """
    chosen: dict[type, Any] = {type(c): c for c in coordinates(space)}
    shape = now.quality.shape
    there = curves.available
    there = jnp.ones(curves.quality.shape, bool) if there is None else there
    kinds = tuple(kind for kind in chosen if kind not in DISCRETE)
    bids = rule.asking == "cost" and bool({GridLevel, ContinuousCompute} & set(chosen))
    # with both the price and the report free, holding the bid is a point of the space
    prices, reports = {PriceMultiplier, PriceBid} & set(chosen), QualityReport in chosen
    bids = bids and not (prices and reports)
    axis = None
    if GridLevel in chosen:
        fields = {name: getattr(curves, name)[:, None] for name in fields_of(curves)}
        possible = there[:, None]
        held = None
        if bids:
            fields = {name: jnp.concatenate([x, x]) for name, x in fields.items()}
            possible = jnp.concatenate([possible, possible])
            held = jnp.arange(len(possible)) >= len(there)
            held = held.reshape(-1, 1, *[1] * len(shape))
    elif ContinuousCompute in chosen:
        axis = chosen[ContinuousCompute].axis
        knots = log_axis(curves, axis)
        reachable = _reaches(chosen[ContinuousCompute], knots, there)
        fields = {
            name: monotone_cubic(knots, getattr(curves, name), there)
            for name in fields_of(curves)
            if name != axis
        }
        ways = 2 if bids else 1
        possible = jnp.broadcast_to(reachable, (ways, 1, *shape))
        held = jnp.arange(ways).reshape(ways, 1, *[1] * len(shape)) > 0 if bids else None
    else:
        fields = {name: getattr(now, name) for name in fields_of(now)}
        possible, held = jnp.ones((1, 1, *shape), bool), None
    served = None
    if Substitution in chosen:
        served, can = _served(chosen[Substitution], curves if every is None else every, curves)
        ways, levels = len(possible), len(can)

        def times(x: Array) -> Array:
            return jnp.tile(x, (ways, *[1] * (x.ndim - 1)))

        if GridLevel in chosen:
            fields = {name: jnp.repeat(x, levels, axis=0) for name, x in fields.items()}
        held = None if held is None else jnp.repeat(held, levels, axis=0)
        served = {name: times(x) for name, x in served.items()}
        possible = jnp.repeat(possible, levels, axis=0) & times(can)
    low, high = [], []
    for kind in kinds:
        ends = bounds(chosen[kind], curves, outside, chosen.get(QualityReport))
        low.append(jnp.broadcast_to(ends[0], shape))
        high.append(jnp.broadcast_to(ends[1], shape))
    return Strategies(
        now=now,
        fields=fields,
        low=tuple(low),
        high=tuple(high),
        held=held,
        possible=possible,
        kinds=kinds,
        axis=axis,
        rule=rule,
        served=served,
        moves=bool({GridLevel, ContinuousCompute} & set(chosen)),
    )


def _served(
    coordinate: Substitution, every: Market, curves: Market
) -> tuple[dict[str, Array], Array]:
    """[K, 1, *S] the levels that may be served, and bool: which there are."""
    source = curves if coordinate.to is None else every

    def of(values: Array) -> Array:
        if coordinate.to is not None:
            values = values[:, coordinate.to][:, None]
        values = jnp.broadcast_to(values, curves.quality.shape)
        return values[:, None] if coordinate.level is None else values[coordinate.level][None, None]

    there = jnp.ones(source.quality.shape, bool) if source.available is None else source.available
    return {name: of(getattr(source, name)) for name in fields_of(source)}, of(there)


def _reaches(coordinate: ContinuousCompute, knots: Array, there: Array) -> Array:
    """[*S] whether a provider with knots [K, *S] has any compute between the bounds."""
    last = jnp.max(jnp.where(there, knots, -jnp.inf), axis=0)
    low, high = coordinate.low or 0.0, coordinate.high
    enough = jnp.ones(last.shape, bool) if not low else last >= math.log2(low)
    return enough if high is None else enough & (knots[0] <= math.log2(high))


def bounds(
    coordinate: Any, curves: Market, outside: Array, report: QualityReport | None
) -> tuple[Array, Array]:
    """[*S] the ends of a continuous coordinate of providers with curves [K, *S]."""
    there = True if curves.available is None else curves.available
    if isinstance(coordinate, ContinuousCompute):
        knots = log_axis(curves, coordinate.axis)
        first, last = knots[0], jnp.max(jnp.where(there, knots, -jnp.inf), axis=0)
        low = first if not coordinate.low else jnp.clip(math.log2(coordinate.low), first, last)
        high = (
            last if coordinate.high is None else jnp.clip(math.log2(coordinate.high), first, last)
        )
        return low, high
    if isinstance(coordinate, PriceBid) and coordinate.high is None:
        best = jnp.max(jnp.where(there, curves.quality, -jnp.inf), axis=0)
        dearest = jnp.max(jnp.where(there, curves.price, 0.0), axis=0)
        best = best if report is None else jnp.maximum(best, report.high * best)
        high = jnp.maximum(best - jnp.minimum(outside, 0.0), 2 * dearest)
        return jnp.asarray(coordinate.low), jnp.maximum(high, coordinate.low)
    return jnp.asarray(coordinate.low), jnp.asarray(coordinate.high)
