"""Populations of markets: how often, and by how much, each pricing rule wastes money."""

import base64
import dataclasses
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import checked_whole
from mechlab.core.fingerprint import code, described
from mechlab.core.results import Result
from mechlab.mechanisms import Mechanism
from mechlab.populations import MOST, Population
from mechlab.simulation.evaluate import default_rules
from mechlab.simulation.evaluator import Evaluator, Metric, Rows
from mechlab.simulation.hosts import Hosts, of_jax
from mechlab.simulation.part_files import CorruptPart, RunDirectory
from mechlab.simulation.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

REPORTED = ("welfare", "user_cost", "user_value", "provider_utility", "price_of_anarchy")
_SIDES = {"users": "net_user_value", "society": "net_welfare", "providers": "provider_utility"}
PART = 2**16  # markets in a part file
DEFAULT = tuple(default_rules())


@dataclasses.dataclass(repr=False)
class Simulation(Result):
    """What `simulate` found; `to_dict` is the JSON of `mechlab simulate`.

    Attributes:
        population: its description.
        markets, seed: as asked.
        mechanisms: the rules' names.
        summaries: every row's summary by name, such as "pay_per_compute.welfare"; shares of markets
            are means of 0 and 1. Each rule but the first has "RULE.better_for.users" (and society,
            providers): the markets in which it is better than the first; ties are not better.
        markets_per_second: of those computed by this process, compilation and reading excluded.
        computed: markets computed now rather than read from part files, by this process.
    """

    population: dict[str, Any]
    markets: int
    seed: int
    mechanisms: tuple[str, ...]
    summaries: dict[str, Summary]
    markets_per_second: float
    computed: int

    def share(self, name: str) -> dict[str, float] | None:
        """Mean and standard error of a row of 0 and 1."""
        if name not in self.summaries:
            return None
        found = self.summaries[name]
        return {"mean": found.mean, "standard_error": found.standard_error}

    def to_dict(self) -> dict[str, Any]:
        def mean(name: str) -> float | None:
            return self.summaries[name].mean if name in self.summaries else None

        return {
            "population": self.population,
            "markets": self.markets,
            "seed": self.seed,
            "mechanisms": {
                rule: {
                    metric: self.summaries[f"{rule}.{metric}"].to_dict()
                    for metric in REPORTED
                    if f"{rule}.{metric}" in self.summaries
                }
                for rule in self.mechanisms
            },
            "better_than": self.mechanisms[0],
            "better_for": {
                rule: {side: self.share(f"{rule}.better_for.{side}") for side in _SIDES}
                for rule in self.mechanisms[1:]
            },
            "share_unique": mean(f"{self.mechanisms[0]}.unique"),
            "share_converged": mean(f"{self.mechanisms[0]}.converged"),
            "markets_per_second": self.markets_per_second,
        }

    def _shown(self) -> dict[str, Any]:
        first = [f"{rule}.{metric}" for metric in REPORTED for rule in self.mechanisms]
        return {name: self.summaries[name] for name in first if name in self.summaries} | (
            {name: found for name, found in self.summaries.items() if name not in first}
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row per summary, such as "second_price.welfare", with the columns of
        `Summary.to_frame`; money in USD per query."""
        import pandas as pd

        rows = {name: found.row() for name, found in self.summaries.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: a row for each rule and metric."""
        return [
            {"mechanism": rule, "metric": metric, **summary}
            for rule, metrics in self.to_dict()["mechanisms"].items()
            for metric, summary in metrics.items()
        ]


def simulate(
    population: Population,
    markets: int,
    *,
    seed: int = 0,
    rules: Mapping[str, Mechanism] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    out: str | None = None,
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    hosts: Hosts | None = None,
) -> Simulation:
    """Evaluate markets 0 … markets − 1 of a population under every rule.

    With several processes, each takes every R-th part, and all return the merged summaries. With
    `out`, rows go to part files, and a rerun of the same call continues.

    Args:
        population: see `mechlab.populations`.
        rules: name → rule; pay-per-compute and the second-price auction where not given.
        metrics: name → metric(market [B, N, K], users, rows) → [B], for rows of your own.
        out: a directory; see `mechlab.simulation.part_files`.
        chunk: markets evaluated at once on one device.
        progress: called with the number of markets done, after each part.
        warn: called with a line about each part file that has to be computed again.
        hosts: the processes that share the markets, as `mechlab.simulation.hosts.join` returns
            them; those of `jax.distributed` where not given.

    Raises:
        InputError: for bad arguments, a directory that cannot be used, or processes that were
            given different runs.
        LostHost: another process ended before the run was complete.
    """
    checked_whole("markets", markets, 1, MOST)
    checked_whole("seed", seed, 0, MOST)
    rules = dict(rules or default_rules())
    evaluator = Evaluator(
        population,
        seed,
        rules,
        dict(metrics or {}),
        chunk,  # type: ignore[arg-type]
    )
    hosts = hosts or of_jax()
    # parts that files hold or processes share are the same whatever devices there are
    fixed = out is not None or hosts.processes > 1
    size = min(PART if fixed else evaluator.part, markets)
    devices = len(evaluator.devices)
    evaluator.chunk = min(evaluator.chunk, -(-size // devices))
    evaluator.chunks = min(evaluator.chunks, -(-size // (evaluator.chunk * devices)))
    manifest = _manifest(population, markets, seed, rules, metrics or {}, size) if fixed else {}
    try:
        hosts.agree(manifest, out)
        directory = _shared_directory(out, manifest, evaluator, hosts)
        summaries, computed, seconds = _own(
            evaluator, directory, size, markets, hosts, progress, warn
        )
        merged = _merged(summaries, hosts)
    except BaseException:
        hosts.close()  # the others do not wait for a process that failed
        raise
    result = Simulation(
        population=population.describe(),
        markets=markets,
        seed=seed,
        mechanisms=tuple(rules),
        summaries=merged,
        markets_per_second=computed / seconds if seconds else 0.0,
        computed=computed,
    )
    if directory is not None and hosts.process == 0:
        directory.write_json("summary.json", result.to_dict())
    return result


def _shared_directory(
    out: str | None, manifest: dict[str, Any], evaluator: Evaluator, hosts: Hosts
) -> RunDirectory | None:
    """Opened by process 0 before the others, as it writes the manifest."""
    if out is None:
        return None
    directory = None
    if hosts.process == 0:
        directory = RunDirectory(out, manifest, 0, evaluator.columns())
    hosts.combine(None, lambda _: None)
    return directory or RunDirectory(out, manifest, hosts.process, evaluator.columns())


def _own(
    evaluator: Evaluator,
    directory: RunDirectory | None,
    size: int,
    markets: int,
    hosts: Hosts,
    progress: Callable[[int], None] | None,
    warn: Callable[[str], None] | None,
) -> tuple[dict[str, Summary], int, float]:
    """Summaries of this process's parts, markets computed now, and the seconds that took."""
    summaries: dict[str, Summary] = {}
    ranges = [
        (part, part * size, min(size, markets - part * size)) for part in range(-(-markets // size))
    ][hosts.process :: hosts.processes]
    missing = [part for part in ranges if not _is_there(directory, part, warn)]
    computed = sum(count for _, _, count in missing)
    is_missing = set(missing)
    seconds = 0.0
    fresh = _whole(evaluator, missing)
    if missing:
        evaluator.compile()
    # in the order of the parts, so that a continued run sums up as an unbroken one does
    for part, start, count in ranges:
        began = time.perf_counter()
        if (part, start, count) in is_missing:
            rows = next(fresh)
            if directory is not None:
                directory.write(part, start, rows)
        else:
            assert directory is not None  # else every part is missing
            rows = directory.read(part, start, count) or {}
        _add(summaries, rows, evaluator.rules)
        if (part, start, count) in is_missing:
            seconds += time.perf_counter() - began
        hosts.check()
        if progress:
            progress(count)
    return summaries, computed, seconds


def _is_there(
    directory: RunDirectory | None, part: tuple[int, int, int], warn: Callable[[str], None] | None
) -> bool:
    if directory is None:
        return False
    try:
        return directory.read(*part) is not None
    except CorruptPart as error:
        if warn:
            warn(f"{error}; computing it again")
        return False


def _manifest(
    population: Population,
    markets: int,
    seed: int,
    rules: Mapping[str, Mechanism],
    metrics: Mapping[str, Metric],
    size: int,
) -> dict[str, Any]:
    from mechlab import __version__

    return {
        "mechlab": __version__,
        "population": population.fingerprint(),
        "markets": markets,
        "seed": seed,
        "mechanisms": {name: [described(rule), code(rule)] for name, rule in rules.items()},
        "metrics": {
            name: [code(metric), described(getattr(metric, "__dict__", {}))]
            for name, metric in sorted(metrics.items())
        },
        "markets_per_part": size,
    }


def _whole(evaluator: Evaluator, parts: list[tuple[int, int, int]]) -> Iterator[Rows]:
    """Rows of each part, from as many calls as it takes."""
    calls = [
        (at, min(evaluator.part, start + count - at))
        for _, start, count in parts
        for at in range(start, start + count, evaluator.part)
    ]
    found = evaluator.parts(iter(calls))
    for _, start, count in parts:
        pieces = [next(found)[1] for _ in range(start, start + count, evaluator.part)]
        yield {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _add(summaries: dict[str, Summary], rows: Rows, rules: Iterable[str]) -> None:
    first, *others = rules
    better = {
        f"{rule}.better_for.{side}": rows[f"{rule}.{metric}"] > rows[f"{first}.{metric}"]
        for rule in others
        for side, metric in _SIDES.items()
    }
    for name, values in {**rows, **better}.items():
        summaries.setdefault(name, Summary()).add(values)


def _merged(summaries: dict[str, Summary], hosts: Hosts) -> dict[str, Summary]:
    """Of all processes; one with no part of its own has none."""
    if hosts.processes == 1:
        return summaries

    def merge(packed: list[dict[str, str]]) -> dict[str, str]:
        merged: dict[str, Summary] = {}
        for one in packed:
            for name, text in one.items():
                merged.setdefault(name, Summary()).merge(_unpacked(text))
        return {name: _packed(summary) for name, summary in merged.items()}

    own = {name: _packed(summary) for name, summary in summaries.items()}
    return {name: _unpacked(text) for name, text in hosts.combine(own, merge).items()}


def _packed(summary: Summary) -> str:
    return base64.b85encode(zlib.compress(summary.pack().tobytes(), 1)).decode()


def _unpacked(text: str) -> Summary:
    return Summary.unpack(np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8))
