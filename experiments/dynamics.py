"""Better-response dynamics of pay-per-compute on every published market, visit by visit.

A figure is one market, its columns three rationalities of users.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output
from mechlab.study import plots

RATIONALITIES, SEED = (200.0, 1000.0, 1e5), 0
ROWS = ("samples chosen", "share of queries (%)", "waste (%)", "potential Φ")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out, rows = Output("dynamics"), []
    dataset = mechlab.data.load()
    for benchmark in dataset.benchmarks:
        for method in dataset.methods(benchmark):
            figure, found = market(dataset.select(benchmark, method))
            out.figure(figure, f"dynamics_{benchmark}_{method}")
            rows += [{"benchmark": benchmark, "method": method, **row} for row in found]
    out.table(rows, f"visiting orders of seed {SEED}")


def market(named: mechlab.NamedMarket) -> tuple[Figure, list[dict]]:
    compute = np.asarray(named.market.compute)
    effort, rows = named.method == "reasoning_effort", []
    figure = Figure(figsize=(14, 11), layout="constrained")
    axes = figure.subplots(4, len(RATIONALITIES), sharex="col")
    title = f"{named.benchmark}, {named.method.replace('_', ' ')}"
    figure.suptitle(f"{title}: providers answer each other")
    for column, beta in zip(axes.T, RATIONALITIES, strict=True):
        users = mechlab.Users.create(beta)
        reached = mechlab.better_response(
            named.market, users, key=jax.random.key(SEED), history=True, max_rounds=50
        )
        best = float(mechlab.social_optimum(named.market, users).welfare)
        rounds = int(reached.iterations)
        flat = {
            name: np.asarray(getattr(reached.history, name))[:rounds].reshape(
                rounds * len(named.names), -1
            )
            for name in ("provider", "profile", "shares", "welfare", "potential")
        }
        steps = np.arange(1, len(flat["welfare"]) + 1)
        chosen = np.take_along_axis(compute, flat["profile"].T, 1).T
        waste = 100 * (best / flat["welfare"][:, 0] - 1)
        for i, (name, style) in enumerate(plots.styles(named.names).items()):
            column[0].step(steps, chosen[:, i], where="post", color=style["color"], label=name)
            column[1].plot(steps, 100 * flat["shares"][:, i], color=style["color"])
        if not effort:
            column[0].set_yscale("log", base=2)
        ticks = np.unique(compute[np.asarray(named.market.with_mask().available)])
        column[0].set_yticks(ticks, [f"{x:g}" for x in ticks])
        column[2].plot(steps, waste, color=plots.RULE)
        column[2].set_ylim(bottom=0)
        column[3].plot(steps, flat["potential"][:, 0], color="#004488")
        column[0].set_title(f"β = {beta:g} per USD")
        column[3].set_xlabel("visit")
        rows += [
            {
                "rationality": beta,
                "visit": int(step),
                "provider": named.names[who],
                "compute": chosen[step - 1, who],
                "share": flat["shares"][step - 1, who],
                "inefficiency": waste[step - 1] / 100,
                "potential": flat["potential"][step - 1, 0],
            }
            for step, who in zip(steps, flat["provider"][:, 0], strict=True)
        ]
    labels = ("effort level" if effort else ROWS[0], *ROWS[1:])
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    for axis in axes.ravel():
        axis.grid(alpha=0.25)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure, rows


if __name__ == "__main__":
    main()
