"""What providers offer against compute: the best point for users, for profit, and in equilibrium.

A line is the value offered, V = quality − price. A star is its highest point, where users would
want the provider; a cross is the level with the largest profit per query, price − cost, where the
provider would go if demand stayed; a ring is the equilibrium at the rationality below.
"""

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import mechlab
from experiments.output import Output
from mechlab.study import plots

RATIONALITY, SEED = 1000.0, 0
MARKS = {"best_for_users": ("*", 13), "most_profit": ("x", 8), "equilibrium": ("o", 10)}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out, rows = Output("value_curves"), []
    dataset = mechlab.data.load()
    users = mechlab.Users.create(RATIONALITY)
    for benchmark in dataset.benchmarks:
        figure = Figure(figsize=(14, 5.6), layout="constrained")
        figure.suptitle(f"{benchmark}: value offered, equilibrium at β = {RATIONALITY:g} per USD")
        methods, drawn = dataset.methods(benchmark), {}
        for axis, method in zip(figure.subplots(1, len(methods)), methods, strict=True):
            named = dataset.select(benchmark, method)
            market = named.market
            reached = mechlab.better_response(market, users, key=jax.random.key(SEED))
            there = np.asarray(market.available)
            levels = {
                "best_for_users": np.where(there, market.offered_value, -np.inf).argmax(1),
                "most_profit": np.where(there, market.unit_profit, -np.inf).argmax(1),
                "equilibrium": np.asarray(reached.profile),
            }
            for i, (name, style) in enumerate(plots.styles(named.names).items()):
                compute, value = (
                    np.asarray(x[i])[there[i]]
                    for x in (market.compute, 1000 * market.offered_value)
                )
                (drawn[name],) = axis.plot(compute, value, ms=3, lw=1.4, label=name, **style)
                for kind, (mark, size) in MARKS.items():
                    at = levels[kind][i]
                    axis.plot(
                        compute[at],
                        value[at],
                        mark,
                        ms=size,
                        mfc="none",
                        mew=1.5,
                        color=style["color"],
                    )
                    rows.append(
                        {
                            "benchmark": benchmark,
                            "method": method,
                            "provider": name,
                            "point": kind,
                            "compute": compute[at],
                            "offered_value": value[at] / 1000,
                            "unit_profit": float(market.unit_profit[i, at]),
                        }
                    )
            plots.compute_axis(axis, np.asarray(market.compute)[there])
            effort = method == "reasoning_effort"
            axis.set(
                title=method.replace("_", " "),
                ylabel="USD per 1,000 queries",
                xlabel="effort level" if effort else "samples n",
            )
            axis.grid(alpha=0.25)
        shared = dict(ls="none", mfc="none", color="0.2")
        marks = [
            Line2D([], [], marker=mark, ms=size, label=kind.replace("_", " "), **shared)
            for kind, (mark, size) in MARKS.items()
        ]
        figure.legend(handles=[*drawn.values(), *marks], loc="outside lower center", ncols=8)
        out.figure(figure, f"value_curves_{benchmark}")
    out.table(rows, f"β = {RATIONALITY:g} per USD, seed {SEED}")


if __name__ == "__main__":
    main()
