"""Quality-versus-compute curves and market constants, shipped or the user's own.

Curve tables have the columns benchmark, model, method, level, compute, accuracy, tokens (one row
per benchmark, model, method and level) and may have intervals; constants are a TOML file like
`published_market.toml`. `PROVENANCE.md` beside this file says where the shipped data come from.
"""

import dataclasses
import math
import pathlib
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core import quality
from mechlab.core.errors import InputError
from mechlab.core.market import Market
from mechlab.core.results import Result
from mechlab.core.users import Users
from mechlab.core.waiting import net_of_waiting
from mechlab.data import replicates
from mechlab.data.price_lists import Price as Price
from mechlab.data.price_lists import constants_toml as constants_toml
from mechlab.data.price_lists import market_toml as market_toml
from mechlab.data.price_lists import near_names as near_names
from mechlab.data.price_lists import prices as prices

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = ("benchmark", "model", "method", "level", "compute", "accuracy", "tokens")
OPTIONAL = ("input_tokens", "thinking_tokens", "judged_tokens", "latency")  # per query
TOKEN_CLASSES = ("input", "cached_input", "reasoning")  # beside what is generated
LARGEST = 1e12  # no price, value or rationality is larger: products stay finite
_HERE = pathlib.Path(__file__).parent
SHIPPED = {
    "published": ("published_curves.csv", "published_market.toml"),
    "lab": ("lab_curves.parquet", "lab_market.toml"),
}
"""Data sets by name: their curves and constants, beside this file."""


@dataclasses.dataclass(frozen=True)
class Constants:
    """What turns curves into a market; `quality_shape` is a name of `mechlab.quality.named`.

    Attributes:
        value_per_answer: USD, by benchmark.
        price_per_million_tokens: USD, by model, or by `model@host` where several sell one.
        input_price_per_million_tokens: USD, by the same names; where there is none, input is free.
        cached_input_price_per_million_tokens: that of input where there is none.
        reasoning_price_per_million_tokens: that of answers where there is none.
        price_per_thousand_requests: USD, by the same names, beside that of tokens; methods that
            sample n answers make n requests. Requests are free where there is none.
        input_tokens, cached_input_tokens: of a prompt, and what of it the host has in its cache;
            methods that sample n answers send the prompt n times.
        first_token_seconds, tokens_per_second: of providers, by the same names; the samples of a
            level are drawn at once and take as long as one.
        latency_value: h of users, USD per second.
        price_source: where each price is from, by the same names.
        leave_out: models of the curves that are no providers here; `load` drops their rows.
        baseline: worth of a wrong answer relative to a right one, in [0, 1].
        margin: price = cost·(1 + margin), > −1.
        outside_value: v0, USD.
        rationality: β values to report at, 1/USD.
        quality_shape: linear, power or exponential; its γ or κ is `quality_parameter`.
        source: the file they were read from.
    """

    value_per_answer: dict[str, float]
    price_per_million_tokens: dict[str, float]
    input_price_per_million_tokens: dict[str, float]
    cached_input_price_per_million_tokens: dict[str, float]
    reasoning_price_per_million_tokens: dict[str, float]
    price_per_thousand_requests: dict[str, float]
    input_tokens: float
    cached_input_tokens: float
    first_token_seconds: dict[str, float]
    tokens_per_second: dict[str, float]
    judge_price_per_million_tokens: float | None
    latency_value: float
    price_source: dict[str, str]
    leave_out: tuple[str, ...]
    baseline: float
    margin: float
    outside_value: float
    rationality: tuple[float, ...]
    quality_shape: str
    quality_parameter: float | None
    source: str


@dataclasses.dataclass(frozen=True, repr=False)
class NamedMarket(Result):
    """A market with its labels and the constants that made it.

    Attributes:
        market: [N, K].
        names: of the N providers.
        benchmark, method: what the curves measure.
        constants: the numbers behind prices and qualities.
        replicates: [B, N, K] markets that the uncertainty of the curves allows, equally likely;
            None where the table has no replicates. See `mechlab.data.replicates`.
        has_token_classes: whether prices have other parts than that of generated tokens.
        generated_price: [N, K] USD, the part of prices that is for generated tokens, where thinking
            has a price of its own; None where it is tokens · price per token.
    """

    market: Market
    names: tuple[str, ...]
    benchmark: str
    method: str
    constants: Constants
    replicates: Market | None = None
    has_token_classes: bool = False
    generated_price: np.ndarray | None = None

    def _headline(self) -> list[str]:
        return [f"{self.benchmark}, {self.method}"]

    def _shown(self) -> dict[str, Any]:
        levels = self.market.quality.shape[-1]
        return {
            "providers": f"{len(self.names)} with up to {levels} levels: {', '.join(self.names)}",
            "margin": self.constants.margin,
            "outside_value": self.constants.outside_value,
            "replicates": None if self.replicates is None else len(self.replicates.quality),
        }

    def net_of_waiting(self) -> "NamedMarket":
        """The same with waiting, at the constants' latency_value, taken off quality."""
        waits = Users.create(1.0, latency_value=self.constants.latency_value)
        drawn = None if self.replicates is None else net_of_waiting(self.replicates, waits)[0]
        return dataclasses.replace(
            self, market=net_of_waiting(self.market, waits)[0], replicates=drawn
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A table of curves with its constants.

    Attributes:
        curves: one row per benchmark, model, method and level; checked.
        constants: see `Constants`.
        source: the table's file name.
    """

    curves: "pd.DataFrame"
    constants: Constants
    source: str

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.curves["benchmark"]))

    def methods(self, benchmark: str) -> tuple[str, ...]:
        rows = self.curves["benchmark"] == benchmark
        return tuple(dict.fromkeys(self.curves["method"][rows]))

    def select(self, benchmark: str | None = None, method: str | None = None) -> NamedMarket:
        """The market of a benchmark and method; the table's first where not given.

        Raises:
            InputError: it has no such rows, values or prices; the line names what is known.
        """
        table, constants = self.curves, self.constants
        benchmark = self.benchmarks[0] if benchmark is None else benchmark
        if benchmark not in self.benchmarks:
            raise InputError(
                f"{self.source}: no benchmark {benchmark!r}; it has {_list(self.benchmarks)}"
            )
        method = self.methods(benchmark)[0] if method is None else method
        if method not in self.methods(benchmark):
            raise InputError(
                f"{self.source}: no method {method!r} for {benchmark}; "
                f"it has {_list(self.methods(benchmark))}"
            )
        if benchmark not in constants.value_per_answer:
            raise InputError(
                f"{constants.source}: no value for benchmark {benchmark!r} under "
                f"[value_per_answer], which has {_list(constants.value_per_answer)}; add it there "
                "or pass a file that has it with --market"
            )
        rows = table[(table["benchmark"] == benchmark) & (table["method"] == method)]
        models, known = tuple(dict.fromkeys(rows["model"])), constants.price_per_million_tokens
        sold: dict[str, str] = {}  # model, or model@host: model
        by_host = _hosts(known)
        for name in models:
            hosts = by_host.get(name)
            if not hosts:
                raise InputError(
                    f"{constants.source}: no price for model {name!r} under "
                    f"[price_per_million_tokens], which knows {_list(known)}; add it there or "
                    "pass a file that has it with --market"
                )
            sold |= dict.fromkeys(hosts, name)
        names = tuple(sold)
        curves = dict(iter(rows.sort_values("level").groupby("model", sort=False)))
        by_model = [curves[name] for name in sold.values()]

        def columns(field: str) -> list[list[float]]:
            return [list(map(float, curve[field])) for curve in by_model]

        classes = self._token_classes(names, method, columns)

        def market(accuracy: Any, tokens: Any, **options: Any) -> Market:
            if "thinking_tokens" in classes:  # the same part of what replicates have generated
                part = np.asarray(_filled(classes["thinking_tokens"])) / _filled(columns("tokens"))
                options["thinking_tokens"] = part * _filled(tokens)
            if (latency := self._latency(names, method, columns, tokens)) is not None:
                options["latency"] = latency
            return Market.from_curves(
                accuracy,
                tokens,
                np.array([known[name] / 1e6 for name in names]),
                value_per_answer=constants.value_per_answer[benchmark],
                baseline=constants.baseline,
                margin=constants.margin,
                shape=quality.named(constants.quality_shape, constants.quality_parameter),
                **(classes | options),
            )

        point = market(columns("accuracy"), columns("tokens"), compute=columns("compute"))
        drawn, joint = replicates.drawn(by_model), None
        if drawn is not None:
            compute, there = np.asarray(point.compute), np.asarray(point.available)
            joint = market(*drawn, compute=compute, available=there)
        generated = None
        if "thinking_tokens" in classes:
            thinking, rate = (
                _filled(classes["thinking_tokens"]),
                classes["price_per_thinking_token"],
            )
            answer = np.asarray(_filled(columns("tokens"))) - thinking
            own = np.array([known[name] / 1e6 for name in names])
            generated = answer * own[:, None] + thinking * rate[:, None]
        return NamedMarket(
            point, names, benchmark, method, constants, joint, bool(classes), generated
        )

    def _latency(
        self,
        names: tuple[str, ...],
        method: str,
        columns: Callable[[str], list[list[float]]],
        tokens: Any,
    ) -> np.ndarray | None:
        """[..., N, K] seconds: what the constants say of each provider, or a column; or None."""
        constants = self.constants
        first, rate = constants.first_token_seconds, constants.tokens_per_second
        if not rate:
            if "latency" in self.curves:
                return np.broadcast_to(_filled(columns("latency")), np.shape(_filled(tokens)))
            if constants.latency_value:
                raise InputError(
                    f"{constants.source}: latency_value without latencies; give the curves a "
                    "column latency, or the file a table [tokens_per_second]"
                )
            return None
        for name in names:
            if name not in rate:
                raise InputError(
                    f"{constants.source}: no tokens_per_second.{name}; give one for every "
                    "provider, or for none"
                )
        at_once = np.ones(1) if method == "reasoning_effort" else _filled(columns("compute"))
        each = _filled(tokens) / at_once
        start = np.array([first.get(name, 0.0) for name in names])
        return start[:, None] + each / np.array([rate[name] for name in names])[:, None]

    def _token_classes(
        self, names: tuple[str, ...], method: str, columns: Callable[[str], list[list[float]]]
    ) -> dict[str, Any]:
        """What `Market.from_curves` takes for the classes that the table or the constants have."""
        constants = self.constants
        found: dict[str, Any] = {}

        def rates(of: dict[str, float], default: Callable[[str], float]) -> np.ndarray:
            return np.array([of.get(name, default(name)) / 1e6 for name in names])

        output = constants.price_per_million_tokens
        into = constants.input_price_per_million_tokens
        if "thinking_tokens" in self.curves:
            found["thinking_tokens"] = columns("thinking_tokens")
            found["price_per_thinking_token"] = rates(
                constants.reasoning_price_per_million_tokens, lambda name: output[name]
            )
        calls = columns("compute")
        if method == "reasoning_effort":
            calls = [[1.0] * len(levels) for levels in calls]
        if by_request := constants.price_per_thousand_requests:
            found["requests"] = _filled(calls)
            found["price_per_request"] = np.array([by_request.get(x, 0.0) / 1e3 for x in names])
        if "input_tokens" in self.curves or constants.input_tokens:
            if "input_tokens" in self.curves:
                asked = columns("input_tokens")
            else:
                asked = [[constants.input_tokens * n for n in levels] for levels in calls]
            found["input_tokens"] = _filled(asked)
            found["price_per_input_token"] = rates(into, lambda name: 0.0)
            if constants.cached_input_tokens:
                held = np.asarray(_filled(calls)) * constants.cached_input_tokens
                found["cached_input_tokens"] = np.minimum(held, _filled(asked))
                found["price_per_cached_input_token"] = rates(
                    constants.cached_input_price_per_million_tokens,
                    lambda name: into.get(name, 0.0),
                )
        if "judged_tokens" in self.curves:
            judged = np.asarray(_filled(columns("judged_tokens")))
            price = constants.judge_price_per_million_tokens
            if price is None and judged.any():
                raise InputError(
                    f"{constants.source}: {self.source} has judged_tokens, and the file no "
                    "judge_price_per_million_tokens; give it in USD, 0 where judges are free"
                )
            if price is not None:
                found["judged_tokens"], found["price_per_judged_token"] = judged, price / 1e6
        return found


def _hosts(priced: Iterable[str]) -> dict[str, list[str]]:
    """{model: names of the form MODEL or MODEL@HOST}, in order."""
    found: dict[str, list[str]] = {}
    for name in priced:
        for model in (name, *(name[: at.start()] for at in re.finditer("@", name))):
            found.setdefault(model, []).append(name)
    return found


def _filled(rows: Any) -> np.ndarray:
    """Rows of different lengths as [..., N, K], the last entry of each repeated."""
    if isinstance(rows, np.ndarray):
        return rows
    most = max(map(len, rows))
    return np.array([[*row, *[row[-1]] * (most - len(row))] for row in rows])


def load(curves: str = "published", market: str | None = None) -> Dataset:
    """Read a data set.

    Args:
        curves: the name of a shipped data set ("published", "lab"), or a CSV or Parquet file.
        market: a TOML file of constants, or the name of a shipped data set; those of the shipped
            data set where not given (the published ones for a file of curves).

    Raises:
        InputError: one line that names the file, the row and the remedy.
    """
    table_file, constants_file = SHIPPED.get(curves, (None, SHIPPED["published"][1]))
    path = _HERE / table_file if table_file else pathlib.Path(curves)
    if market in SHIPPED:
        constants_file, market = SHIPPED[market][1], None
    constants = _read_constants(_HERE / constants_file if market is None else pathlib.Path(market))
    table = _read_curves(path, shipped=bool(table_file))
    if constants.leave_out:
        table = table[~table["model"].isin(constants.leave_out)]
        if table.empty:
            raise InputError(
                f"{constants.source}: leave_out has every model of {path.name}; keep one"
            )
    return Dataset(table, constants, path.name)


def samples(name: str = "lab") -> "pa.Table":
    """The sampled answers behind a shipped data set; `lab` has them. See `mechlab.samples`."""
    from mechlab.evidence.samples import read

    path = _HERE / f"{name}_samples.parquet"
    if name not in SHIPPED or not path.exists():
        raise InputError(f"data set {name!r} ships no samples; lab does")
    return read(path)


def published(benchmark: str = "GSM8K", method: str = "majority_voting") -> NamedMarket:
    """A market of the published curves with the published constants."""
    return load().select(benchmark, method)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _list(names: Any) -> str:
    return ", ".join(map(str, names))


def _read_curves(path: pathlib.Path, shipped: bool) -> "pd.DataFrame":
    import pandas as pd

    where = path.name if shipped else str(path)
    if not _is_file(path):
        what = "is a folder" if path.is_dir() else "no such file"
        raise InputError(
            f"{where}: {what}; give a CSV or Parquet file, or a data set: {_list(SHIPPED)}"
        )
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
            first_row, unit = 0, "row"
        else:
            with warnings.catch_warnings():  # more cells than columns, which pandas would drop
                warnings.simplefilter("error", pd.errors.ParserWarning)
                table = pd.read_csv(
                    path,
                    dtype=str,
                    skip_blank_lines=False,
                    keep_default_na=False,
                    index_col=False,
                    compression=None,
                    encoding="utf-8-sig",
                )
            first_row, unit = 2, "line"
    except pd.errors.EmptyDataError:
        raise InputError(f"{where}: the file is empty; give the columns {_list(COLUMNS)}") from None
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: not a readable table ({reason}); give CSV or Parquet") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"{where}: missing column {_list(missing)}; the columns are {_list(COLUMNS)}"
        )
    twice = [c for c in COLUMNS if f"{c}.1" in table.columns]
    if twice or isinstance(table.columns, pd.MultiIndex):
        raise InputError(f"{where}: column {_list(twice)} stands twice; keep one of each")
    for name in ("level", "compute", "accuracy", "tokens"):
        kind = table[name].dtype
        if pd.api.types.is_bool_dtype(kind) or not (
            pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_string_dtype(kind)
        ):
            raise InputError(f"{where}: column {name} holds {kind} values; give numbers")
    table = table.reset_index(drop=True)
    text = table[list(COLUMNS)].astype(str).apply(lambda column: column.str.strip())
    table = table[~(text == "").all(axis=1)]
    if table.empty:
        raise InputError(f"{where}: no rows below the header; give one row per level")

    def fail(row: Any, message: str) -> None:
        raise InputError(f"{where}, {unit} {row + first_row}: {message}")

    for name in ("benchmark", "model", "method"):
        blank = table[name].isna() | (text.loc[table.index, name] == "")
        if blank.any():
            fail(blank.idxmax(), f"{name} is empty; write its name")
    table = table.assign(
        **{name: text.loc[table.index, name] for name in ("benchmark", "model", "method")}
    )
    bounds = {
        "level": (0, math.inf, "levels count up from 0"),
        "compute": (0, math.inf, "compute is not negative"),
        "accuracy": (0, 1, "accuracy is a fraction; divide percents by 100"),
        "tokens": (1e-9, math.inf, "an answer has tokens"),
    }
    for name, (low, high, why) in bounds.items():
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = ~np.isfinite(numbers.astype(float))
        if bad.any():
            row: Any = bad.idxmax()
            fail(row, f"{name} is {table[name][row]!r}; write a finite number")
        bad = (numbers < low) | (numbers > high)
        if bad.any():
            row = bad.idxmax()
            fail(row, f"{name} = {numbers[row]:g}: {why}")
        table = table.assign(**{name: numbers})
    if (table["level"] % 1 != 0).any():
        fail((table["level"] % 1 != 0).idxmax(), "level is not a whole number")
    table["level"] = table["level"].astype(int)
    for name in OPTIONAL:
        if name in table:
            numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
            bad = ~(np.isfinite(numbers) & (numbers >= 0))
            if bad.any():
                row = bad.idxmax()
                fail(row, f"{name} is {table[name][row]!r}; write a number ≥ 0")
            table = table.assign(**{name: numbers})
    if "thinking_tokens" in table:
        bad = table["thinking_tokens"] > table["tokens"] * (1 + 1e-12)
        if bad.any():
            fail(bad.idxmax(), "thinking_tokens are more than tokens, which they are part of")
    table = replicates.checked(table, where, fail)
    curve = ["benchmark", "model", "method"]
    again = table.duplicated([*curve, "level"])
    if again.any():
        row = again.idxmax()
        fail(row, f"a second row for level {table['level'][row]} of {table['model'][row]}; drop it")
    for _, rows in table.groupby(curve, sort=False):
        rows = rows.sort_values("level")
        gaps = rows["level"].to_numpy() != np.arange(len(rows))
        if gaps.any():
            fail(
                rows.index[int(gaps.argmax())],
                f"{rows['model'].iloc[0]} has no level {gaps.argmax()}; count up from 0",
            )
        falls = np.diff(rows["compute"].to_numpy()) <= 0
        if falls.any():
            fail(
                rows.index[int(falls.argmax()) + 1],
                f"compute of {rows['model'].iloc[0]} does not rise with its level; reorder them",
            )
    return table


def _read_constants(path: pathlib.Path) -> Constants:
    where = path.name if path.parent == _HERE else str(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{where}: {error.strerror or error}; give a TOML file of market constants"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not readable as TOML: {error}; docs/commands.md shows a market file"
        ) from None

    def number(
        key: str, value: Any, low: float, high: float = LARGEST, *, above: bool = False
    ) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and (value > low if above else value >= low)
        if not (good and value <= high):
            sign, shown = ">" if above else "≥", repr(value)[:40]
            raise InputError(
                f"{where}: {key} = {shown}; give a number {sign} {low:g} and ≤ {high:g}"
            )
        return float(value)

    def table(key: str, *, above: bool, needed: bool = True) -> dict[str, float]:
        values = raw.get(key)
        if values is None and not needed:
            return {}
        if not isinstance(values, dict) or not values:
            raise InputError(f"{where}: no table [{key}]; add it, one line per name, in USD")
        return {
            name.strip(): number(f"{key}.{name}", value, 0.0, above=above)
            for name, value in values.items()
        }

    rationality = raw.get("rationality", [200.0, 1000.0, 100000.0])
    if not isinstance(rationality, list) or not rationality:
        raise InputError(f"{where}: rationality = {rationality!r}; give a list of numbers ≥ 0")
    shape = raw.get("quality", "linear")
    parameter = raw.get("quality_parameter")
    try:
        quality.named(str(shape))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if parameter is not None:
        low = 0.0 if shape == "power" else -LARGEST
        parameter = number("quality_parameter", parameter, low, above=True)
    known = {
        "baseline",
        "margin",
        "outside_value",
        "rationality",
        "quality",
        "quality_parameter",
        "value_per_answer",
        "price_per_million_tokens",
        "input_price_per_million_tokens",
        "cached_input_price_per_million_tokens",
        "reasoning_price_per_million_tokens",
        "price_per_thousand_requests",
        "input_tokens",
        "cached_input_tokens",
        "price_source",
        "leave_out",
        "first_token_seconds",
        "tokens_per_second",
        "latency_value",
        "judge_price_per_million_tokens",
    }
    for key in raw:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; the keys are {_list(sorted(known))}")
    by_name = table("price_per_million_tokens", above=True)
    classes = {
        key: table(key, above=False, needed=False)
        for key in (
            *(f"{name}_price_per_million_tokens" for name in TOKEN_CLASSES),
            "price_per_thousand_requests",
        )
    }
    time = {
        "first_token_seconds": table("first_token_seconds", above=False, needed=False),
        "tokens_per_second": table("tokens_per_second", above=True, needed=False),
    }
    judge_key = "judge_price_per_million_tokens"
    judge = raw.get(judge_key)
    source = raw.get("price_source", {})
    if not isinstance(source, dict) or not all(isinstance(x, str) for x in source.values()):
        raise InputError(f'{where}: price_source is no table of texts; give name = "where from"')
    leave_out = raw.get("leave_out", [])
    if not isinstance(leave_out, list) or not all(isinstance(x, str) for x in leave_out):
        raise InputError(f"{where}: leave_out = {leave_out!r}; give a list of models")
    for key, names in (*classes.items(), *time.items(), ("price_source", source)):
        for name in names:
            if name not in by_name:
                raise InputError(
                    f"{where}: {key}.{name}: no such name under [price_per_million_tokens]"
                )
    return Constants(
        value_per_answer=table("value_per_answer", above=False),
        price_per_million_tokens=by_name,
        **classes,
        **time,
        judge_price_per_million_tokens=None if judge is None else number(judge_key, judge, 0.0),
        latency_value=number("latency_value", raw.get("latency_value", 0.0), 0.0),
        input_tokens=number("input_tokens", raw.get("input_tokens", 0.0), 0.0),
        cached_input_tokens=number("cached_input_tokens", raw.get("cached_input_tokens", 0.0), 0.0),
        price_source=source,
        leave_out=tuple(leave_out),
        baseline=number("baseline", raw.get("baseline", 0.0), 0.0, 1.0),
        margin=number("margin", raw.get("margin", 0.0), -1.0, above=True),
        outside_value=number("outside_value", raw.get("outside_value", 0.0), -LARGEST),
        rationality=tuple(number("rationality", beta, 0.0) for beta in rationality),
        quality_shape=shape,
        quality_parameter=parameter,
        source=where,
    )
