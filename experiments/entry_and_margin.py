"""What the conclusions are sensitive to, one thing at a time, over sampled markets.

The number of providers, their margin, the worth of an answer, users of two kinds, noise in the
platform's estimates of quality (the auction then picks a wrong winner at times) and capacity (a
provider serves one of the queries that come together). Markets resample the published providers of
GSM8K; curves are means over markets, with the standard errors of welfare in the table.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import mechlab
from experiments.output import Output
from mechlab import MultiUnitAuction, NoisyAuction, Published, WithUserTypes
from mechlab.study import plots

MARKETS, FEW, SEED = 20_000, 4_096, 0  # few where a market takes the general path
PROVIDERS, MARGINS = (2, 3, 5, 9, 15, 25, 50), (0.05, 0.1, 0.25, 0.5, 1, 2)
WORTH = (0.25, 0.5, 1, 2, 4)
SPREAD, QUERIES = (1.0, 3.0, 10.0, 100.0), (1, 2, 3, 5, 7, 9)
NOISE = (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # USD; an answer is worth 0.008
LABELS = {
    "providers": "number of providers",
    "margin": "margin, price / cost − 1",
    "worth": "worth of an answer, relative",
    "users": "rationality of half the users, times less",
    "noise": "noise of estimated quality (USD per 1,000)",
    "queries": "queries at once, capacity 1",
}
RULES = {"pay_per_compute": (plots.RULE, "-"), "second_price": (plots.AUCTION, "--")}


def settings():
    """(factor, value, population, markets, rules) of each call; None are the two usual rules."""
    yield from (("providers", n, Published(providers=n), MARKETS, None) for n in PROVIDERS)
    yield from (("margin", m, Published(margin=(m, m)), MARKETS, None) for m in MARGINS)
    yield from (("worth", w, Published(value_factor=(w, w)), MARKETS, None) for w in WORTH)
    for h in SPREAD:
        population = WithUserTypes(Published(), rationality_factor=(1 / h, 1.0))
        yield "users", h, population, FEW, None
    yield "noise", NOISE, Published(), FEW, {str(x): NoisyAuction(x) for x in NOISE}
    yield "queries", QUERIES, Published(), FEW, {str(k): MultiUnitAuction(k) for k in QUERIES}


def main() -> None:
    mechlab.use_all_cores()
    out, rows = Output("entry_and_margin"), []
    for factor, value, population, markets, rules in settings():
        found = mechlab.simulate(population, markets, seed=SEED, rules=rules)
        for name in found.mechanisms:
            row = {
                "factor": factor,
                "value": float(name) if rules else value,
                "markets": markets,
                "rule": "second_price" if rules else name,
            }
            for metric in ("welfare", "user_cost", "user_value", "provider_utility"):
                row[metric] = found.summaries[f"{name}.{metric}"].mean
            row["welfare_error"] = found.summaries[f"{name}.welfare"].standard_error
            rows.append(row)
        print(f"    {factor} {value}", flush=True)
    out.figure(drawn(out.table(rows, f"seed {SEED}")))


def drawn(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(15, 8.6), layout="constrained")
    for axis, factor in zip(figure.subplots(2, 3).ravel(), LABELS, strict=True):
        for rule, (colour, line) in RULES.items():
            some = table[(table["factor"] == factor) & (table["rule"] == rule)]
            scale = 1000 if factor == "noise" else 1
            for metric, mark in (("welfare", "o"), ("user_cost", "s")):
                words = f"{rule.replace('_', ' ')}, {metric.replace('user_cost', 'users pay')}"
                axis.plot(
                    scale * some["value"],
                    1000 * some[metric],
                    line,
                    marker=mark,
                    ms=4,
                    color=colour,
                    label=words if len(some) else None,
                )
        ticks = sorted(scale * table["value"][table["factor"] == factor].unique())
        if factor == "noise":
            axis.set_xscale("symlog", linthresh=0.01)
        elif factor != "queries":
            axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.axhline(0, color="0.4", lw=0.8)
        axis.set(xlabel=LABELS[factor], ylabel="USD per 1,000 queries")
        axis.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
