"""The commands of platforms that do not know how good providers are: learn."""

from typing import Annotated

import typer

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
    emit,
    fast,
)
from mechlab.cli.populations import PopulationName, named_population, spinner, whole_number
from mechlab.learning import LEARNERS, named_learner
from mechlab.study import tables
from mechlab.study.learning import DEFAULT


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
            show_default=", ".join(DEFAULT),
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
    fast()
    check_plot(plot)
    from mechlab.study import learning

    drawn = named_population(population, benchmark, method, curves, market, Noise.error)
    with spinner("learning") as say:
        found = learning.learn(
            drawn,
            whole_number("--markets", markets),
            {name: named_learner(name) for name in learner or DEFAULT},
            whole_number("--rounds", rounds),
            queries=queries,
            seed=seed,
            progress=say,
        )
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.learning(found), plot)
    emit(found, output, tables.print_learning)
