"""Pay-per-compute against the auctions on every published market: what the study is about.

A row is one market, rationality and play: the pay-per-compute equilibrium and optimum, the
second-price auction at truthful play and the first-price auction at its symmetric markup. The
columns NAME_change are relative to the equilibrium.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output

SEED = 0
PLAYS = {
    "second_price": ("#004488", "o"),
    "first_price": ("#DDAA33", "s"),
    "pay_per_compute_optimum": ("#BB5566", "D"),
}
SHOWN = {
    "user_cost": "users pay",
    "user_value": "users keep",
    "accuracy": "accuracy",
    "welfare": "welfare",
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out, dataset = Output("mechanisms"), mechlab.data.load()
    markets = [(b, m) for b in dataset.benchmarks for m in dataset.methods(b)]
    chosen = [dataset.select(*market) for market in markets]
    rows = [row for named in chosen for row in mechlab.mechanism_table(named, seed=SEED)]
    table = out.table(rows, f"visiting orders of seed {SEED}")
    rationalities = sorted(table["rationality"].unique())
    figure = Figure(figsize=(15, 9.5), layout="constrained")
    figure.suptitle("Change against the pay-per-compute equilibrium")
    axes = figure.subplots(len(rationalities), len(SHOWN), sharey=True, sharex="col")
    labels = [f"{b}, {m.replace('_', ' ')}" for b, m in markets]
    for line, beta in zip(axes, rationalities, strict=True):
        for axis, (name, words) in zip(line, SHOWN.items(), strict=True):
            for offset, (play, (colour, mark)) in zip((-0.2, 0, 0.2), PLAYS.items(), strict=True):
                some = table[(table["rationality"] == beta) & (table["play"] == play)]
                axis.plot(
                    100 * some[f"{name}_change"],
                    np.arange(len(some)) + offset,
                    mark,
                    ms=6,
                    color=colour,
                    label=play.replace("_", " "),
                )
            axis.axvline(0, color="0.4", lw=0.8)
            axis.set_xscale("symlog", linthresh=10)
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.grid(alpha=0.25)
            axis.set_yticks(range(len(labels)), labels)
            if beta == rationalities[0]:
                axis.set_title(words)
            if beta == rationalities[-1]:
                axis.set_xlabel("change (%; linear to ±10)")
        line[0].set_ylabel(f"β = {beta:g} per USD")
    axes[0, 0].invert_yaxis()
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    out.figure(figure)


if __name__ == "__main__":
    main()
