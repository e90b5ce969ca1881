"""The command line: `mechlab compare`, `sweep`, `simulate` and `bench`."""

import contextlib
import csv
import enum
import json
import os
import pathlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mechlab import comparison, data, simulation
from mechlab import population as population_module
from mechlab.errors import InputError
from mechlab.mechanisms import (
    FirstPriceAuction,
    FixedPrice,
    Mechanism,
    PayPerCompute,
    SecondPriceAuction,
)

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
def _commands() -> None:
    """A mechanism lab for the market of LLM inference."""


def _exact() -> None:
    """Figures of one market are computed in float64 on the CPU."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")


def _fast() -> None:
    """Batches run in float32 on every device; each core of a CPU is one."""
    # once JAX has started its devices they stay as they are
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


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
    _exact()
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
    _exact()
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


@app.command()
def simulate(
    population: Annotated[
        str, typer.Option(help="published, parametric, or a TOML file that describes one.")
    ] = "published",
    markets: Annotated[str, typer.Option(help="How many markets, such as 1e6.")] = "1e6",
    seed: Annotated[int, typer.Option(help="Seed of the markets.")] = 0,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            help="pay_per_compute, second_price, first_price or fixed_price=USD; repeatable.",
            show_default="pay_per_compute and second_price",
        ),
    ] = None,
    benchmark: Benchmark = "GSM8K",
    method: Method = "majority_voting",
    curves: Curves = "published",
    market: MarketFile = None,
    out: Annotated[
        str | None,
        typer.Option(help="Directory for every market's row; a rerun continues it."),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Markets evaluated at once on a device.", show_default=False)
    ] = None,
    output: OutputFormat = Format.table,
    plot: Plot = None,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, with several processes.")
    ] = None,
    processes: Annotated[int, typer.Option(help="How many processes share the markets.")] = 1,
    process: Annotated[int, typer.Option(help="Number of this process, from 0.")] = 0,
) -> None:
    """How often, and by how much, each pricing rule wastes money over a population of markets."""
    _fast()
    _check_plot(plot)
    count = _markets(markets)
    if coordinator is not None:
        _join(coordinator, processes, process)
    elif processes != 1:
        raise InputError("--processes: name the process to join with --coordinator HOST:PORT")
    drawn = _population(population, benchmark, method, curves, market)
    with _progress(count) as advance:
        result = simulation.simulate(
            drawn,
            count,
            seed=seed,
            mechanisms=dict(_mechanism(name) for name in mechanism or simulation.DEFAULT),
            out=out,
            chunk=chunk,
            progress=advance,
            warn=lambda line: print(f"mechlab: {line}", file=sys.stderr),
        )
    if jax.process_index() > 0:
        return
    if plot is not None:
        from mechlab import plots

        plots.save(plots.population(result), plot)
    found = result.to_dict()
    if output is Format.json:
        print(json.dumps(found, allow_nan=False))
    elif output is Format.csv:
        _print_csv(
            [
                {"mechanism": rule, "metric": metric, **summary}
                for rule, metrics in found["mechanisms"].items()
                for metric, summary in metrics.items()
            ]
        )
    else:
        _print_simulation(found)


@app.command()
def bench(
    markets: Annotated[str, typer.Option(help="How many markets to time.")] = "1e6",
    seed: Annotated[int, typer.Option(help="Seed of the markets.")] = 0,
    output: OutputFormat = Format.table,
) -> None:
    """Markets per second of the lab, of NumPy and of a loop, side by side in one run."""
    _fast()
    from mechlab.bench import bench as measure

    found = measure(_markets(markets), seed)
    if output is Format.json:
        print(json.dumps(found, allow_nan=False))
    elif output is Format.csv:
        _print_csv([found])
    else:
        console = Console(highlight=False, width=100_000)
        table = Table(box=None, padding=(0, 1), show_header=False)
        for name, value in found.items():
            shown = value if isinstance(value, str) else f"{value:,.6g}"
            table.add_row(name.replace("_", " "), shown)
        console.print(table)


def _markets(text: str) -> int:
    try:
        count = float(text)
    except ValueError:
        count = 0.5
    if not 1 <= count < 2**32 or count % 1:
        raise InputError(f"--markets {text}: give a whole number from 1 to 4294967295, as in 1e6")
    return int(count)


def _mechanism(text: str) -> tuple[str, Mechanism]:
    rules: dict[str, Callable[[], Mechanism]] = {
        "pay_per_compute": PayPerCompute,
        "second_price": SecondPriceAuction,
        "first_price": FirstPriceAuction,
    }
    if text in rules:
        return text, rules[text]()
    name, _, price = text.partition("=")
    if name == "fixed_price":
        try:
            return text, FixedPrice(float(price))
        except ValueError:
            raise InputError(
                f"--mechanism {text}: give a price ≥ 0, as in fixed_price=0.001"
            ) from None
    raise InputError(f"--mechanism {text}: use {', '.join(rules)} or fixed_price=USD")


def _population(
    name: str, benchmark: str, method: str, curves: str, market: str | None
) -> population_module.Population:
    if name == "published":
        return population_module.Published(benchmark, method, curves, market)
    if not name.endswith(".toml"):
        return population_module.named(name)
    try:
        spec = tomllib.loads(pathlib.Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; give a TOML file of a population") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not readable as TOML: {error}") from None
    try:
        return population_module.from_dict(spec)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _join(coordinator: str, processes: int, process: int) -> None:
    if processes < 1:
        raise InputError(f"--processes {processes}: give a whole number above 0")
    if not 0 <= process < processes:
        raise InputError(f"--process {process}: give a number from 0 to {processes - 1}")
    # gloo, which the processes talk through on CPUs, announces itself on stdout at any time
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)
    try:
        jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--coordinator {coordinator}: {error}") from None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar with markets a second and time left, where stdout is a terminal."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} markets"),
        BarColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate=0.0)

        def advance(count: int) -> None:
            bar.advance(task, count)
            bar.update(task, rate=bar.tasks[task].speed or 0.0)

        yield advance


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


def _print_simulation(found: dict[str, Any]) -> None:
    console = Console(highlight=False, width=100_000)
    kind = found["population"]["kind"]
    console.print(f"[bold]{found['markets']:,} {kind} markets[/bold], seed {found['seed']}\n")
    names = list(found["mechanisms"])
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("USD per 1,000 queries: mean ± s.e. (5 %, 50 %, 95 %)", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for metric in simulation.REPORTED:
        ratio = metric == "price_of_anarchy"

        def cell(rule: str, metric: str = metric, ratio: bool = ratio) -> str:
            summary = found["mechanisms"][rule].get(metric)
            if summary is None or summary["mean"] is None:
                return "–"
            scale, digits = (1, 4) if ratio else (1000, 3)
            mean, error, *tails = (scale * summary[x] for x in
                                   ("mean", "standard_error", "p05", "p50", "p95"))  # fmt: skip
            ends = ", ".join(f"{x:.{digits}f}" for x in tails)
            return f"{mean:.{digits + 1}f} ± {error:.{digits + 2}f} ({ends})"

        table.add_row(metric.replace("_", " "), *(cell(rule) for rule in names))
    console.print(table)
    console.print()
    for side, share in found["auction_better_for"].items():
        if share:
            console.print(
                f"The auction is better for {side} in {100 * share['mean']:.2f} % of markets "
                f"(± {100 * share['standard_error']:.2f})"
            )
    if found["share_unique"] is not None:
        console.print(
            f"The equilibrium is unique in {100 * found['share_unique']:.3f} % of markets; "
            "elsewhere the price of anarchy is a lower bound"
        )
    if found["share_converged"] is not None:
        console.print(f"The dynamics converged in {100 * found['share_converged']:.4f} %")
    if found["markets_per_second"]:
        console.print(f"{found['markets_per_second']:,.0f} markets per second")


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
