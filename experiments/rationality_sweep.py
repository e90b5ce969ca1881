"""Waste of pay-per-compute against rationality, for all nine published markets in one figure."""

import jax
import pandas as pd
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output

STYLE = {"majority_voting": "-", "best_of_n": "--", "reasoning_effort": ":"}
COLOUR = {"GSM8K": "#004488", "AIME": "#DDAA33", "GPQA": "#BB5566"}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out = Output("rationality_sweep")
    dataset = mechlab.data.load()
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axis = figure.subplots()
    tables = []
    for benchmark in dataset.benchmarks:
        for method in dataset.methods(benchmark):
            table = pd.DataFrame(mechlab.sweep(dataset.select(benchmark, method)).points)
            tables.append(table.assign(benchmark=benchmark, method=method))
            axis.plot(
                table["rationality"],
                100 * table["inefficiency"],
                STYLE[method],
                lw=2,
                color=COLOUR[benchmark],
                label=f"{benchmark}, {method.replace('_', ' ')}",
            )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set(
        xlabel="rationality of users, β (1/USD)",
        ylabel="optimal welfare over welfare reached, − 1 (%)",
        title="Welfare wasted under pay-per-compute, nine published markets",
    )
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    out.figure(figure)
    out.table(pd.concat(tables))


if __name__ == "__main__":
    main()
