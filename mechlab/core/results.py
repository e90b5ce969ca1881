"""How results are printed, and how they become tables: one mechanism for all of them.

A result is a dataclass. Its numbers are described by two things: a unit, by the name of the field,
and the axes that a field has beside those of the batch. Printing reads arrays on the host, and
compiles nothing.
"""

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from mechlab.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_LINES = 9  # fields that are printed
_NUMBERS = 12  # of a single market that are printed each
PER_THOUSAND = "USD per 1,000 queries"
_MONEY = """
    welfare net_welfare optimal_welfare optimal_welfare_bound best_welfare worst_welfare potential
    user_value net_user_value user_cost consumer_surplus provider_utility level_utility utility
    quality reported_quality price cost payment stake gain grid_gain regret gap outside_value
    markups costs income_deviation objective objective_error honest without
"""
_UNITS = dict.fromkeys(_MONEY.split(), PER_THOUSAND) | {
    "rationality": "1/USD",
    "latency": "s",
    "latency_value": "USD/s",
    "tokens": "tokens",
}


class Result:
    """A dataclass that prints what a person wants to see.

    `_axes` are the axes of the first field beside those of the batch; None for what is no batch of
    markets. Other fields have the same axes first, then providers and levels; metadata {"axes":
    (...)} of a field says otherwise. `_units` are of fields whose name means something else in
    other results. `_main` are the fields to print first, and alone where the result is part of
    another.
    """

    _axes: ClassVar[tuple[str, ...] | None] = None
    _units: ClassVar[Mapping[str, str]] = {}
    _main: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        entries = list(_lines(self, self._shown()))
        left = [name for name, _ in entries[_LINES:]]
        width = max((len(name) for name, _ in entries[:_LINES]), default=0)
        rows = [f"  {name:<{width}}  {text}" for name, text in entries[:_LINES]]
        if left:
            rows.append(f"  and {len(left)} more: {_cut(', '.join(left))}")
        headline = "; ".join(self._headline())
        return "\n".join([type(self).__name__ + (headline and f": {headline}"), *rows])

    def _headline(self) -> list[str]:
        """What follows the name of the class: how many markets, and how they ended."""
        batch, markets, said = _batch(self), getattr(self, "markets", None), []
        if batch is not None:
            said.append("one market" if batch == () else f"{_sizes(batch)} markets")
        elif isinstance(markets, int):
            said.append(f"{markets:,} markets")
        status = getattr(self, "status", None)
        if isinstance(status, enum.Enum):
            said.append(getattr(status, "message", status.name))
        elif (ends := _host(status)) is not None and ends.size:
            said.append(getattr(self, "message", ""))
        return said

    def _shown(self) -> dict[str, Any]:
        """What is printed below the first line: values by name."""
        fields = {name: x for name, x in _fields(self).items() if name not in ("status", "markets")}
        return {name: fields[name] for name in dict.fromkeys((*self._main, *fields))}


class Batch(Result):
    """A result for each market of a batch: a pytree of arrays with the batch axes first.

    `_words` are the enumerations behind fields of whole numbers, and `_also` properties that have
    a column.
    """

    _words: ClassVar[Mapping[str, type[enum.IntEnum]]] = {}
    _also: ClassVar[tuple[str, ...]] = ()

    def to_frame(self, by: str | None = None) -> "pd.DataFrame":
        """The numbers as a DataFrame, money in USD per query.

        A row per market, numbered along all batch axes. Where every field has a value for each
        provider (or each level of each provider, each pair, each type of users), as those of
        `Offers` and `Deviations` have, a row per market and provider. What has more axes than the
        row has a column for each entry: `profile[0]`, `profile[1]`, … `status` is in words, and
        `converged` stands beside it. Fields that are None have no column; parts have columns such
        as `outcome.welfare`. A market, or a history, within a result has a frame of its own.

        Args:
            by: "market" for a row per market; "provider" for a row per market and provider, in
                which the market's numbers repeat. Chosen as above where not given.

        Returns:
            With an index of "market", or of "market" and "provider" (…).

        Raises:
            InputError: for another `by`, and under jit.
        """
        return _frame(self, by)


def _fields(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def _batch(result: Any) -> tuple[int, ...] | None:
    """The batch axes: those of the first field but its own; None of what has none."""
    axes = getattr(result, "_axes", None)
    shape = getattr(next(iter(_fields(result).values()), None), "shape", None)
    if axes is None or not isinstance(shape, tuple) or len(shape) < len(axes):
        return None
    return shape[: len(shape) - len(axes)]


def _host(value: Any) -> np.ndarray | None:
    """An array on the host; None under jit, of random keys, and of what is elsewhere."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
        return None
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    return None if value.is_deleted() or not value.is_fully_addressable else np.asarray(value)


# ---- printed


def _lines(result: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and what is printed of them; parts are named part.field."""
    batch = _batch(result) or ()
    for name, value in values.items():
        whole = prefix + name
        if isinstance(value, Mapping):
            yield from _lines(result, value, f"{whole}.")
        elif isinstance(value, Result) and value._main:
            main = {x: getattr(value, x) for x in value._main}
            yield from _lines(value, main, f"{whole}.")
        elif value is not None:
            unit = result._units.get(name, _UNITS.get(name.rpartition(".")[2], ""))
            yield whole, _text(value, len(batch), unit)


def _text(value: Any, batch_axes: int = 0, unit: str = "") -> str:
    if isinstance(value, Result):
        return value.inline(unit) if hasattr(value, "inline") else type(value).__name__
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and not isinstance(value, enum.Enum):
        return numbers([value], unit)
    array = _host(value)
    if array is not None and array.dtype.kind in "biuf":
        return _array_text(array, batch_axes, unit)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        if len(value) > _NUMBERS or any(isinstance(x, list | tuple | dict) for x in value):
            return f"{type(value).__name__} of {len(value):,}"
        if value and all(type(x) in (int, float) for x in value):
            return numbers(value, unit)
        return _cut(", ".join(map(_text, value))) or "none"
    return _cut(value if isinstance(value, str) else repr(value))


def _array_text(array: np.ndarray, batch_axes: int, unit: str) -> str:
    """The numbers of one market; mean and range of many."""
    if not array.size:
        return "none"
    if array.size <= (1 if batch_axes else _NUMBERS):
        found = array.reshape(-1).tolist()
        return ", ".join(map(_text, found)) if array.dtype.kind == "b" else numbers(found, unit)
    each = array.shape[batch_axes:]
    more = (
        f" ({_sizes(each)} each)" if each and batch_axes else f" ({_sizes(each)})" if each else ""
    )
    if array.dtype.kind == "b":
        return f"yes in {100 * array.mean():.4g} %{more}"
    if array.dtype.kind in "iu":
        return numbers([array.min().item(), array.max().item()], unit, "{} to {}") + more
    finite = array[np.isfinite(array)].astype(np.float64)
    lost = array.size - finite.size
    more += f"; {lost:,} not finite" if lost else ""
    if not finite.size:
        return f"no finite number{more}"
    low, high = finite.min(), finite.max()
    if low == high:
        return f"all {numbers([low], unit)}{more}"
    return numbers([finite.mean(), low, high], unit, "mean {}, {} to {}") + more


def numbers(values: Sequence[float], unit: str = "", form: str = "") -> str:
    """Numbers, given in USD per query where the unit is per 1,000, with their unit."""
    scale = 1e3 if unit == PER_THOUSAND else 1
    text = (form or ", ".join("{}" for _ in values)).format(*(_number(x * scale) for x in values))
    return f"{text} {unit}" if unit else text


def _number(x: float) -> str:
    if isinstance(x, int) or (1e4 <= abs(x) < 1e9):
        return f"{x:,.0f}"
    return f"{x:.4g}"


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size:,}" for size in shape)


def _cut(text: str, most: int = 76) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


# ---- tables


def _frame(result: Any, by: str | None) -> "pd.DataFrame":
    import pandas as pd

    name, batch = type(result).__name__, _batch(result)
    if by not in (None, "market", "provider"):
        raise InputError(f"by = {by!r}; give 'market' or 'provider'")
    if batch is None:
        raise InputError(f"{name}: has no frame under jit or vmap; call to_frame outside")
    columns = dict(_columns(result, batch))
    if by == "market":
        rows: tuple[str, ...] = ()
    elif by == "provider":
        rows = ("provider",)
    else:
        rows = _shared([axes for axes, _ in columns.values()])
    end = len(rows)
    sizes = [x.shape[1 : 1 + end] for axes, x in columns.values() if axes[:end] == rows]
    if not sizes:
        raise InputError(f"{name}: no field has a value for each provider; give by='market'")
    size, table = np.broadcast_shapes(*sizes), {}
    markets = math.prod(batch)
    for column, (axes, values) in columns.items():
        here = axes[:end] == rows
        if not here:
            values = values.reshape(markets, *(1 for _ in rows), *values.shape[1:])
        rest = values.shape[1 + end :]
        flat = np.broadcast_to(values, (markets, *size, *rest)).reshape(-1, *rest)
        for index in np.ndindex(*rest):
            label = f"{column}[{', '.join(map(str, index))}]" if index else column
            table[label] = flat[(slice(None), *index)]
    if not rows:
        return pd.DataFrame(table, index=pd.RangeIndex(markets, name="market"))
    names, counts = ["market", *rows], [range(n) for n in (markets, *size)]
    return pd.DataFrame(table, index=pd.MultiIndex.from_product(counts, names=names))


def _columns(
    result: Any, batch: tuple[int, ...], prefix: str = "", order: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[tuple[str, ...], np.ndarray]]]:
    """Names of fields with their own axes and values [M, ...]; of parts as well."""
    first = result._axes or ()
    order = order or (*first, *(x for x in ("provider", "level", "other") if x not in first))
    said = {field.name: field.metadata for field in dataclasses.fields(result)}
    for name, values in _fields(result).items():
        for label, value in _leaves(name, values):
            if isinstance(value, Result):
                if len(value._axes or ()) <= 1:
                    part = order if first else ()
                    yield from _columns(value, batch, f"{prefix}{label}.", part)
                continue
            array = _host(value)
            if array is None:
                raise InputError(
                    f"{type(result).__name__}.{label}: has no number under jit, or on this host; "
                    "call to_frame outside jit"
                )
            own = max(array.ndim - len(batch), 0)
            axes = said[name].get("axes", order[:own])
            shape = array.shape[array.ndim - len(axes) :]
            array = np.broadcast_to(array, (*batch, *shape)).reshape(math.prod(batch), *shape)
            if name in result._words:
                kinds, codes = np.unique(array, return_inverse=True)
                words = np.array([result._words[name](x).name for x in kinds.tolist()], object)
                array = words[codes].reshape(array.shape)
            yield f"{prefix}{label}", (axes, array)
    for name in result._also:
        array = np.broadcast_to(np.asarray(getattr(result, name)), batch)
        yield f"{prefix}{name}", ((), array.reshape(-1))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A field, or what it holds by name; nothing where it is None."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
    elif value is not None:
        yield name, value


def _shared(axes: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The first axes that all have."""
    common = []
    for names in zip(*axes, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return tuple(common)
