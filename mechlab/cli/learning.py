"""The commands of platforms that do not know how good providers are: learn and route."""

import sys
from typing import Annotated

import typer

from mechlab import data
from mechlab.cli.app import (
    Benchmark,
    Curves,
    Format,
    MarketFile,
    Method,
    Noise,
    OutputFormat,
    Plot,
    app,
    check_plot,
    checked_rationality,
    emit,
    exact,
    fast,
)
from mechlab.cli.populations import (
    PopulationName,
    named_population,
    on_one_host,
    spinner,
    whole_number,
)
from mechlab.cli.samples import Mapping, log_files
from mechlab.core.errors import InputError
from mechlab.learning import LEARNERS, named_learner
from mechlab.study import learning, tables


@app.command()
def learn(
    population: PopulationName = "published",
    markets: Annotated[str, typer.Option(help="How many markets, such as 1e4.")] = "2000",
    rounds: Annotated[str, typer.Option(help="Rounds of queries in each, such as 1e4.")] = "4096",
    queries: Annotated[int, typer.Option(help="Queries in a round, all to one provider.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the markets and answers.")] = 0,
    learner: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(LEARNERS)}, some with a number, as ucb=0.5; repeatable.",
            show_default=", ".join(learning.DEFAULT),
        ),
    ] = None,
    benchmark: Benchmark = None,
    method: Method = None,
    curves: Curves = "published",
    market: MarketFile = None,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """What it costs a market that accuracies have to be learned, by who learns how."""
    on_one_host("learn")
    fast()
    check_plot(plot)
    drawn = named_population(population, benchmark, method, curves, market, Noise.error)
    with spinner("learning") as say:
        found = learning.learn(
            drawn,
            whole_number("--markets", markets),
            {name: named_learner(name) for name in learner or learning.DEFAULT},
            whole_number("--rounds", rounds),
            queries=queries,
            seed=seed,
            progress=say,
        )
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.learning(found), plot)
    emit(found, output, tables.print_learning)


@app.command()
def route(
    samples: Annotated[
        list[str] | None,
        typer.Argument(
            help="Logs of sampled answers, sample tables, or folders of them.",
            show_default="the lab's own samples",
        ),
    ] = None,
    pilots: Annotated[
        str, typer.Option(help="Samples of each provider that predictions are made from.")
    ] = "0,1,2,4",
    market: MarketFile = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Of the samples.", show_default="the only one")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How samples make an answer: majority_voting, best_of_n, single_sample.",
            show_default="voting, where there are answers",
        ),
    ] = None,
    mapping: Mapping = None,
    rationality: Annotated[
        float, typer.Option(help="Rationality β of users at posted prices, in 1/USD.")
    ] = 1000.0,
    seed: Annotated[int, typer.Option(help="Seed of pilots, halves and bootstrap.")] = 0,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Routers, cascades and auctions question by question, on questions not learned from."""
    exact()
    check_plot(plot)
    checked_rationality([rationality])
    try:
        numbers = [int(x) for x in pilots.split(",")]
    except ValueError:
        raise InputError(f"--pilots {pilots}: give whole numbers, as in 0,1,2,4") from None
    from mechlab.evidence import importers
    from mechlab.evidence import samples as sample_table
    from mechlab.study import routing

    if samples:
        report = importers.Report(warn=lambda line: print(f"mechlab: {line}", file=sys.stderr))
        table = sample_table.table(
            importers.read(log_files(samples), mapping=mapping, report=report)
        )
    else:
        table = data.samples("lab")
    constants = data.load("lab" if not samples else "published", market).constants
    with spinner("reading") as say:
        found = routing.routing(
            table,
            constants,
            benchmark=benchmark,
            method=method,
            pilots=numbers,
            rationality=rationality,
            seed=seed,
            progress=say,
        )
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.routing(found), plot)
    emit(found, output, tables.print_routing)
