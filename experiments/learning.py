"""What learning costs a market, and who gains by gaming it.

The table is of published markets; gains are those of the best plan of each provider in the nine
published markets: a bid held over all rounds, or another level served from some round on.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output
from mechlab.learning import named_learner
from mechlab.populations import Published
from mechlab.study import plots, tables
from mechlab.study.learning import learn

MARKETS, ROUNDS, SEED = 2_000, 16_384, 0
GAMED = ("explore_then_commit", "ucb", "thompson", "greedy")
HORIZON, SEEDS = 1_000, 200
LEVERS = {"bid": "bids another price", "served": "serves another level"}


def games() -> list[dict[str, object]]:
    """A row for each market, learner, lever and provider."""
    dataset = mechlab.data.load("published")
    rows = []
    for benchmark, method in ((b, m) for b in dataset.benchmarks for m in dataset.methods(b)):
        named = dataset.select(benchmark, method)
        users = mechlab.Users.create(0.0, named.constants.outside_value)
        rule = mechlab.SecondPriceAuction()
        best = float(rule(rule.truthful(named.market, users), users).welfare)
        for name in GAMED:
            found = mechlab.gaming(
                named.market,
                users,
                named_learner(name),
                HORIZON,
                key=jax.random.key(SEED),
                levers=list(LEVERS),
                seeds=SEEDS,
            )
            for lever, one in found.items():
                for i, provider in enumerate(named.names):
                    rows.append(
                        {
                            "benchmark": benchmark,
                            "method": method,
                            "learner": name,
                            "lever": lever,
                            "provider": provider,
                            "gain": one.gain[i],
                            "error": one.error[i],
                            "relative_gain": one.gain[i] / best,
                            "honest": one.honest[i],
                            "factor": one.factor[i],
                            "level": int(one.level[i]),
                            "turn": int(one.turn[i]),
                        }
                    )
        print(f"  {benchmark}, {method}")
    return rows


def main() -> None:
    mechlab.use_all_cores()
    out = Output("learning")
    found = learn(
        Published(), MARKETS, rounds=ROUNDS, seed=SEED, progress=lambda x: print(f"  {x}")
    )
    tables.print_learning(found)
    out.figure(plots.learning(found))
    out.table(found.flat_rows(), f"{MARKETS} markets, {ROUNDS} rounds, seed {SEED}")
    table = out.table(
        games(),
        f"{HORIZON} rounds, {SEEDS} seeds, half to choose and half to measure",
        name="gaming",
    )
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"Playing for what is learned: gains over {HORIZON:,} rounds")
    for axis, (lever, words) in zip(
        figure.subplots(1, 2, sharey=True), LEVERS.items(), strict=True
    ):
        for x, name in enumerate(GAMED):
            some = table[(table["lever"] == lever) & (table["learner"] == name)]
            height = 100 * some["relative_gain"]
            spread = np.linspace(-0.25, 0.25, len(some))
            axis.errorbar(
                x + spread,
                height,
                yerr=200
                * some["error"]
                * some["relative_gain"].abs()
                / some["gain"].abs().where(some["gain"] != 0, 1.0),
                fmt="o",
                ms=3,
                lw=0.8,
                color=plots.LEARNER_COLOURS[name],
            )
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_yticks(
            [-10, -1, -0.1, 0, 0.1, 1, 10], ["−10", "−1", "−0.1", "0", "0.1", "1", "10"]
        )
        axis.set_xticks(range(len(GAMED)), [name.replace("_", " ") for name in GAMED])
        axis.axhline(0, color="0.4", lw=0.8)
        axis.set_title(f"a provider {words}", fontsize=11)
        axis.grid(alpha=0.25, axis="y")
        if lever == "bid":
            axis.set_ylabel("gain, % of the market's welfare\n(bars: two standard errors)")
    out.figure(figure, name="gaming")


if __name__ == "__main__":
    main()
