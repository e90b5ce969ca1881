"""The page: its parts are computed here and laid out by `page.html`."""

import base64
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.io
from plotly.offline import get_plotlyjs

from mechlab.core.errors import InputError
from mechlab.core.files import appearing
from mechlab.data import Dataset, NamedMarket
from mechlab.study import comparison, power
from mechlab.study.report import figures, findings

_PLAYS = {
    "pay_per_compute": "pay per compute, equilibrium",
    "pay_per_compute_optimum": "pay per compute, optimum",
    "second_price": "second-price auction",
    "personal_auction": "auction for each user's taste",
    "first_price": "first-price auction, cost + {markup:.0f} %",
}
_COLUMNS = (
    ("user_cost", "users pay", 1000, ".3f"),
    ("user_value", "users keep", 1000, ".3f"),
    ("provider_utility", "providers earn", 1000, ".3f"),
    ("welfare", "welfare", 1000, ".3f"),
    ("accuracy", "accuracy", 100, ".1f"),
    ("tokens", "tokens", 1, ",.0f"),
)
_MOST_ROWS = 60
_MOST_COLUMNS = 16


def build(
    dataset: Dataset,
    command: str,
    *,
    rationality: Sequence[float] | None = None,
    noise: str = "error",
    results: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """The HTML of a report on every market of a data set.

    Args:
        command: what makes this report again, to be shown.
        rationality: β values, 1/USD; those of the data set's constants where not given.
        noise: what the noise in users' choices is; see `Users.create`.
        results: a folder as `experiments` fill it, to be shown as well.
        progress: called with the market in hand.

    Raises:
        InputError: the data set has no price or value for a market, or `results` no experiment.
    """
    from mechlab import __version__

    shown = experiments(results) if results is not None else []
    markets: list[dict[str, Any]] = []
    for benchmark in dataset.benchmarks:
        for method in dataset.methods(benchmark):
            if progress:
                progress(f"{benchmark}, {method}")
            named, anchor = dataset.select(benchmark, method), f"market-{len(markets) + 1}"
            markets.append(_market(named, anchor, rationality, noise))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent), autoescape=True
    )
    environment.filters["shown"] = _shown
    return environment.get_template("page.html").render(
        source=dataset.source,
        constants=dataset.constants,
        command=command,
        markets=markets,
        noise=noise,
        columns=_COLUMNS,
        experiments=shown,
        version=__version__,
        plotly=get_plotlyjs(),
    )


def write(page: str, path: str) -> None:
    """Write the page whole, or not at all."""
    with appearing(path) as hidden:
        pathlib.Path(hidden).write_text(page, encoding="utf-8")


def _market(
    named: NamedMarket, anchor: str, rationality: Sequence[float] | None, noise: str
) -> dict[str, Any]:
    uncertainty = 0.95 if named.replicates is not None else None
    result = comparison.compare(named, rationality, uncertainty=uncertainty, noise=noise)
    swept = comparison.sweep(named, noise=noise)
    betas = [row["rationality"] for row in result.pay_per_compute]
    middle = betas[len(betas) // 2]
    title = f"{named.benchmark}, {named.method.replace('_', ' ')}"
    table: dict[float, list[dict[str, Any]]] = {}
    for row in comparison.mechanism_table(named, betas, noise=noise):
        table.setdefault(row["rationality"], []).append(
            row | {"words": _PLAYS[row["play"]].format(markup=100 * (row["markup"] or 0))}
        )
    curve = figures.curves(result)
    tokens, accuracy = (np.asarray(x) for x in (named.market.tokens, named.market.accuracy))
    there = np.asarray(named.market.available)
    providers = [
        {
            "name": name,
            "price": named.constants.price_per_million_tokens[name],
            "levels": int(there[i].sum()),
            "tokens": (tokens[i][there[i]].min(), tokens[i][there[i]].max()),
            "accuracy": (100 * accuracy[i][there[i]].min(), 100 * accuracy[i][there[i]].max()),
        }
        for i, name in enumerate(named.names)
    ]
    return {
        "title": title,
        "anchor": anchor,
        "value": named.constants.value_per_answer[named.benchmark],
        "providers": providers,
        "table": table,
        "note": curve.layout.meta,
        "figures": [
            _html(curve, f"curves-{anchor}"),
            _html(figures.charges(result, swept), f"charges-{anchor}"),
        ],
        "winner": result.auction["winner"],
        "compute": result.auction["compute"],
        "runner_up": result.auction["runner_up"],
        "rationality": middle,
        "readings": _readings(result),
        "power": power.market_power(named, middle),
        "concentration": [(row["mean_elasticity"], row["hhi"]) for row in result.pay_per_compute],
        "findings": findings.findings(named, middle),
    }


def _readings(result: comparison.Comparison) -> dict[str, list[tuple[Any, Any]]]:
    """{rule in words: [(welfare if noise is error, if taste) at each rationality]}."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for row in result.readings:
        both = (row["welfare_error"], row["welfare_taste"])
        found.setdefault(comparison.READ_RULES[row["rule"]], []).append(both)
    return found


def _html(figure: Any, name: str) -> str:
    config = {"displaylogo": False, "responsive": True}
    return plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, div_id=name, config=config
    )


def experiments(folder: str) -> list[dict[str, Any]]:
    """Figures and tables of each experiment in a results folder.

    Raises:
        InputError: there is none.
    """
    root, found = pathlib.Path(folder), []
    for place in sorted(x for x in root.glob("*") if x.is_dir()):
        tables = [_table(path) for path in sorted(place.glob("*.csv"))]
        images = [_image(path) for path in sorted(place.glob("*.png"))]
        if tables or images:
            found.append({"name": place.name, "tables": tables, "images": images})
    if not found:
        raise InputError(
            f"--results {folder}: no experiment there (a folder with PNG or CSV files); make some "
            "with python -m experiments"
        )
    return found


def _image(path: pathlib.Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InputError(
            f"{path}: not a readable picture ({error.strerror}); remove or remake it"
        ) from None


def _shown(value: float, form: str) -> str:
    """A number by a format, without the sign of what rounds to zero."""
    text = format(value, form)
    return text.lstrip("-") if not float(text.replace(",", "")) else text


def _short(value: float) -> str:
    return f"{value:.5g}".replace("inf", "∞")


def _table(path: pathlib.Path) -> dict[str, Any]:
    """The first rows, and the line that says how to remake it."""
    try:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        table = pd.read_csv(path, comment="#")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error}); remove or remake it") from None
    head = table.head(_MOST_ROWS)
    return {
        "file": path.name,
        "made": first.lstrip("# ") if first.startswith("#") else "",
        "rows": len(table),
        "shown": len(head),
        "html": "".join(
            part.to_html(index=False, border=0, float_format=_short, na_rep="–")
            for part in _parts(head)
        ),
    }


def _parts(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """A table of many columns as several that fit a page, each with those that tell rows apart."""
    columns = list(table)
    if len(columns) <= _MOST_COLUMNS:
        yield table
        return
    few = range(1, _MOST_COLUMNS // 2)
    keys = next((k for k in few if not table[columns[:k]].duplicated().any()), 0)
    room = _MOST_COLUMNS - keys
    for start in range(keys, len(columns), room):
        yield table[columns[:keys] + columns[start : start + room]]
