"""The incentive report: who can gain by deviating, how and by how much, under each rule."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mechlab.core.errors import InputError
from mechlab.core.users import UserMixture
from mechlab.incentives.certificates import STARTS, certify, check_sample
from mechlab.incentives.strategies import (
    ContinuousCompute,
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
    Space,
)
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.catalogue import named_rule
from mechlab.populations import Population

DEFAULT = ("pay_per_compute", "second_price", "second_price=reported", "first_price")
"""The rules of the report."""


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


@dataclasses.dataclass
class Report:
    """Who can gain under each rule; `to_dict` is the JSON of `mechlab incentives`.

    Attributes:
        population: its description.
        markets, seed: as asked.
        rows: a dict for each mechanism, start and space, with the fields of the JSON.
    """

    population: dict[str, Any]
    markets: int
    seed: int
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "population": self.population,
            "markets": self.markets,
            "seed": self.seed,
            "rows": self.rows,
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: the rows with the directions as columns of their own."""
        flat = []
        for row in self.rows:
            plain = {name: value for name, value in row.items() if name != "direction"}
            for name, part in row["direction"].items():
                plain |= {f"{name}.{kind}": value for kind, value in part.items()}
            flat.append(plain)
        return flat


def report(
    population: Population,
    markets: int,
    rules: Mapping[str, Mechanism] | None = None,
    *,
    seed: int = 0,
    axis: str = "compute",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Report:
    """Who can gain by deviating, how, and by how much, under each rule and from each start.

    Rows are of single providers in the spaces of `default_spaces`, and of pairs that move their
    prices together ("pair"). A start that is the same play as another repeats its rows. Left out
    are continuous levels where a curve does not ascend along the axis, pairs where there is one
    provider, and the optimum of posted prices where there are several types of users.

    Args:
        rules: name → rule; those of `DEFAULT` where not given.
        axis: of continuous compute; "tokens" where compute only counts levels.
        progress: called with each new row.
    """
    market, users = population.markets(1, seed=seed)
    mixed, providers = isinstance(users, UserMixture), market.providers
    try:
        check_sample(population, (ContinuousCompute(axis=axis),), 1, seed)
        smooth = True
    except InputError:
        smooth = False
    rows: list[dict[str, Any]] = []
    rules = rules or {name: named_rule(name) for name in DEFAULT}
    for name, rule in rules.items():
        same: dict[str, list[dict[str, Any]]] = {}
        for start in STARTS:
            posted = rule.posted_logit is not None
            if start == "optimum" and mixed and posted:
                continue
            play = _same_play(rule, start, posted)
            if play not in same:
                same[play] = []
                for space, coordinates_, together in _searched(rule, axis, smooth, providers):
                    effort: dict[str, Any] = dict(restarts=4, steps=30) if together == 2 else {}
                    found = certify(
                        population,
                        rule,
                        markets,
                        coordinates_,
                        start=start,
                        together=together,
                        seed=seed,
                        **effort,
                    )
                    row = {
                        "mechanism": name.partition("=")[0] if _settles(rule) else name,
                        "settlement": getattr(rule, "settlement", None),
                        "start": start,
                        "space": space,
                        **found.to_dict(),
                    }
                    same[play].append(row)
                    if progress:
                        progress(row)
            rows += [{**row, "start": start} for row in same[play]]
    return Report(population=population.describe(), markets=markets, seed=seed, rows=rows)


def _searched(
    rule: Mechanism, axis: str, smooth: bool, providers: int
) -> Iterator[tuple[str, Space, int]]:
    spaces = default_spaces(rule, axis)
    if not smooth:
        del spaces["compute"]
        price = PriceBid() if rule.asking == "cost" else PriceMultiplier()
        spaces["all"] = (GridLevel(), price, QualityReport())
    yield from ((name, space, 1) for name, space in spaces.items())
    if providers > 1:
        yield "pair", spaces["price"], 2


def _settles(rule: Mechanism) -> bool:
    return hasattr(rule, "settlement")


def _same_play(rule: Mechanism, start: str, posted: bool) -> str:
    """The name of what is played at a start: starts of the same name share their rows."""
    if start == "optimum":
        return "optimum" if posted else "truthful"
    return rule.play if start == "equilibrium" else start


def words(direction: dict[str, dict[str, float | None]]) -> str:
    """Where the gains lie, weighted by market share (by count where those who gain have none)."""
    found = []
    for name, part in direction.items():
        weight = part["count"] if part["market_share"] is None else part["market_share"]
        if weight is not None and weight >= 0.005:
            found.append(f"{name.replace('_', ' ')} {100 * weight:.0f} %")
    return ", ".join(found)


def merged(rows: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """(rule, starts, row), with starts that have the same rows in one."""
    blocks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        rule = row["mechanism"].replace("_", " ")
        rule += f", {row['settlement']}" if row["settlement"] else ""
        blocks.setdefault(rule, {}).setdefault(row["start"], []).append(row)
    merged = []
    for rule, starts in blocks.items():
        alike: list[tuple[list[str], list[dict[str, Any]]]] = []
        for start, block in starts.items():
            plain = [{**row, "start": ""} for row in block]
            for names, other in alike:
                if plain == other:
                    names.append(start)
                    break
            else:
                alike.append(([start], plain))
        merged += [(rule, ", ".join(names), row) for names, block in alike for row in block]
    return merged
