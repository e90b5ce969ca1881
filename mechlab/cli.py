"""The command line: `mechlab compare` and `mechlab sweep`."""

import csv
import enum
import json
import os
import sys
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mechlab import comparison, data
from mechlab.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A mechanism lab for the market of LLM inference.",
)


class Format(enum.StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


Benchmark = Annotated[str, typer.Option(help="Benchmark of the curves.")]
Method = Annotated[str, typer.Option(help="How test-time compute is spent.")]
Rationality = Annotated[
    list[float] | None,
    typer.Option(help="Rationality β of users, in 1/USD; repeatable.", show_default=False),
]
Curves = Annotated[str, typer.Option(help="A data set that ships (published), or a CSV/Parquet.")]
MarketFile = Annotated[
    str | None, typer.Option(help="TOML file of prices and constants.", show_default=False)
]
OutputFormat = Annotated[Format, typer.Option("--format", help="What to print.")]
Plot = Annotated[
    str | None,
    typer.Option(help="Write a figure to this file (PNG, PDF or SVG).", show_default=False),
]


@app.callback()
def _exact() -> None:
    """Figures that leave the lab are computed in float64 on the CPU."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")


@app.command()
def compare(
    benchmark: Benchmark = "GSM8K",
    method: Method = "majority_voting",
    rationality: Rationality = None,
    curves: Curves = "published",
    market: MarketFile = None,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Pay-per-compute against the reverse second-price auction on one market."""
    _check_plot(plot)
    named = data.load(curves, market).select(benchmark, method)
    result = comparison.compare(named, _rationality(rationality))
    if plot is not None:
        from mechlab import plots

        plots.save(plots.comparison(result, comparison.sweep(named)), plot)
    if output is Format.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    elif output is Format.csv:
        rows = [_flat("pay_per_compute", row) for row in result.pay_per_compute]
        _print_csv([*rows, _flat("second_price_auction", result.auction)])
    else:
        _print_comparison(result)


@app.command()
def sweep(
    benchmark: Benchmark = "GSM8K",
    method: Method = "majority_voting",
    rationality: Rationality = None,
    curves: Curves = "published",
    market: MarketFile = None,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Inefficiency of pay-per-compute over rationality (100 points from 1 to 1e6 by default)."""
    _check_plot(plot)
    named = data.load(curves, market).select(benchmark, method)
    result = comparison.sweep(named, _rationality(rationality) or comparison.RATIONALITIES)
    if plot is not None:
        from mechlab import plots

        plots.save(plots.sweep(result), plot)
    if output is Format.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    elif output is Format.csv:
        _print_csv(result.points)
    else:
        _print_sweep(result)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and status 2."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without β still shows its numbers
    try:
        status = app(args=arguments, prog_name="mechlab", standalone_mode=False) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who reads has seen enough
        return 0
    except InputError as error:
        message = str(error)
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
    except OSError as error:
        message = f"cannot write: {error.strerror or error}; free some space or write elsewhere"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if message:
        print(f"mechlab: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _rationality(values: list[float] | None) -> list[float] | None:
    for value in values or ():
        if not 0 <= value <= data.LARGEST:
            raise InputError(f"--rationality {value:g}: give a number ≥ 0 and ≤ 1e12, in 1/USD")
    return values or None


def _check_plot(path: str | None) -> None:
    if path is not None:
        from mechlab import plots

        plots.check_path(path)


def _flat(rule: str, row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"rule": rule}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{model}": entry for model, entry in value.items()})
        else:
            flat[name] = value
    return flat


def _print_csv(rows: list[dict[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(sys.stdout, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _milli(usd: float) -> str:
    return f"{1000 * usd:.3f}"


def _heading(named: data.NamedMarket) -> Console:
    """A console that never cuts or wraps, with the market named on its first line."""
    console = Console(highlight=False, width=100_000)
    market, title = named.market, escape(f"{named.benchmark} · {named.method}")
    console.print(
        f"[bold]{title}[/bold]: {market.providers} providers, up to {market.levels} compute levels"
    )
    return console


def _table(first: str, rows: list[dict[str, Any]], last: str) -> Table:
    """A column per rationality, then the auction's."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column(first, no_wrap=True)
    for row in rows:
        table.add_column(f"β = {row['rationality']:g}", justify="right", no_wrap=True)
    table.add_column(last, justify="right", style="green", no_wrap=True)
    return table


def _print_comparison(result: comparison.Comparison) -> None:
    rows, auction = result.pay_per_compute, result.auction
    console = _heading(result.named)
    console.print("Pay-per-compute, by the rationality β of users (1/USD), against the auction\n")
    table = _table("USD per 1,000 queries", rows, "auction")
    for label, name in (
        ("users pay", "user_cost"),
        ("quality", "quality"),
        ("users keep", "user_value"),
        ("providers earn", "provider_utility"),
        ("welfare", "welfare"),
    ):
        table.add_row(label, *(_milli(row[name]) for row in [*rows, auction]))
    table.add_row("best possible welfare", *(_milli(row["optimal_welfare"]) for row in rows), "")
    table.add_row("waste", *(_waste(row) for row in rows), "")
    table.add_row("accuracy", *(f"{100 * row['accuracy']:.1f} %" for row in [*rows, auction]))
    table.add_row("tokens per query", *(f"{row['tokens']:,.0f}" for row in [*rows, auction]))
    console.print(table)
    console.print()
    table = _table("compute chosen (share)", rows, "auction")
    for name in result.named.names:
        cells = [f"{row['levels'][name]:g} ({100 * row['shares'][name]:.0f} %)" for row in rows]
        wins = name == auction["winner"]
        table.add_row(escape(name), *cells, f"{auction['compute']:g} (100 %)" if wins else "")
    console.print(table)
    console.print()
    for row in rows:
        if not row["converged"]:
            console.print(f"[yellow]β = {row['rationality']:g}: no equilibrium reached.[/yellow]")
    if auction["winner"] is None:
        console.print("No trade in the auction: no offer is worth as much as buying nothing.")
        return
    winner, runner_up = (escape(auction[role] or "") for role in ("winner", "runner_up"))
    rival = f"ahead of {runner_up}" if runner_up else "without a rival"
    console.print(
        f"[bold green]{winner} wins the auction[/bold green] at compute "
        f"{auction['compute']:g}, {rival}. Against pay-per-compute,"
    )
    for row in rows:
        console.print(f"  at β = {row['rationality']:g}: {_change(row, auction)}")


def _waste(row: dict[str, Any]) -> str:
    reached = row["welfare"]
    return f"{100 * (row['optimal_welfare'] / reached - 1):.1f} %" if reached > 0 else "–"


def _change(row: dict[str, Any], auction: dict[str, Any]) -> str:
    def relative(name: str, more: str, less: str) -> str:
        if not row[name] > 0:
            return f"{name} from {_milli(row[name])} to {_milli(auction[name])}"
        change = 100 * (auction[name] / row[name] - 1)
        return f"{abs(change):.1f} % {more if change >= 0 else less}"

    return (
        f"users pay [bold]{relative('user_cost', 'more', 'less')}[/bold], quality is "
        f"{relative('quality', 'higher', 'lower')}, and welfare is "
        f"{relative('welfare', 'higher', 'lower')}"
    )


def _print_levels(console: Console, result: comparison.Comparison) -> None:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("compute chosen (share of queries)")
    for row in result.pay_per_compute:
        table.add_column(f"β = {row['rationality']:g}", justify="right")
    table.add_column("auction", justify="right", style="green")
    for name in result.named.names:
        cells = [
            f"{row['levels'][name]:g} ({100 * row['shares'][name]:4.1f} %)"
            for row in result.pay_per_compute
        ]
        wins = name == result.auction["winner"]
        table.add_row(name, *cells, f"{result.auction['compute']:g} (100 %)" if wins else "")
    console.print(table)


def _print_sweep(result: comparison.Sweep) -> None:
    console = _heading(result.named)
    console.print("Pay-per-compute by the rationality β of users; USD per 1,000 queries\n")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("β (1/USD)", "waste", "welfare", "best possible", "users pay", "converged"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in result.points:
        lost = point["inefficiency"]
        table.add_row(
            f"{point['rationality']:.4g}",
            "–" if lost is None else f"{100 * lost:.2f} %",
            _milli(point["welfare"]),
            _milli(point["optimal_welfare"]),
            _milli(point["user_cost"]),
            "yes" if point["converged"] else "no",
        )
    console.print(table)
    valid = [point for point in result.points if point["inefficiency"] is not None]
    if valid:
        worst = max(valid, key=lambda point: point["inefficiency"])
        console.print(
            f"\nThe most waste: {100 * worst['inefficiency']:.1f} % of the welfare reached, at "
            f"β = {worst['rationality']:.4g}"
        )


if __name__ == "__main__":
    sys.exit(main())
