"""The published curves at the prices of a price list, with a provider for every host.

Prices are those in force on a stated date. β is the one at which demand in the equilibrium of
pay-per-compute has an own-price elasticity of −1.1, as is reported for the market of LLM inference.
A row is one market, rule, value of time and reading of the noise in users' choices. The margin
over cost stays an assumption; a column has the cost that prices imply where they are a
Bertrand–Nash equilibrium. No list says how fast hosts are: times are those of a bound, tokens at
the rate at which one H100 reads the model's bfloat16 weights, the same for every host of a model.
"""

import dataclasses
import itertools
import pathlib
import tempfile

import jax
import numpy as np
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output

LIST, DATE, ELASTICITY, INPUT_TOKENS = "genai-prices", "2026-10-01", -1.1, 150
MARKETS = (("GSM8K", "majority_voting"), ("GSM8K", "best_of_n"))
RULES = {
    "pay_per_compute": "#BB5566",
    "second_price_auction": "#004488",
    "personal_auction": "#DDAA33",
}
READINGS = {"error": "", "taste": "//"}
LATENCY_VALUE = 1e-3  # USD per second, 3.60 an hour
BANDWIDTH = 3.35e12  # bytes per second, of an H100 SXM (NVIDIA's data sheet)
PARAMETERS = {  # 10^9, of the models' cards
    "Llama-3-8B": 8.03,
    "Llama-3.1-8B": 8.03,
    "Llama-3.2-1B": 1.24,
    "Llama-3.2-3B": 3.21,
    "Qwen2-0.5B": 0.494,
    "Qwen2-1.5B": 1.54,
    "Qwen2-7B": 7.62,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.62,
}


def todays(dataset: mechlab.data.Dataset, folder: str) -> mechlab.data.Dataset:
    """The data set with the prices of the list."""
    models = list(dict.fromkeys(dataset.curves["model"]))
    found = mechlab.data.prices(
        models, LIST, date=DATE, input_tokens=INPUT_TOKENS, missing="skip", near=True
    )
    sold = {one.model for one in found}
    path = pathlib.Path(folder) / "market.toml"
    left = [name for name in models if name not in sold]
    path.write_text(
        mechlab.data.market_toml(
            found, dataset.constants, leave_out=left, input_tokens=INPUT_TOKENS
        ),
        encoding="utf-8",
    )
    return mechlab.data.load("published", str(path))


def with_times(dataset: mechlab.data.Dataset, latency_value: float) -> mechlab.data.Dataset:
    """The data set with the speeds that the bound allows, for users who value their time so."""
    names = dataset.constants.price_per_million_tokens
    speeds = {
        name: BANDWIDTH / (2e9 * PARAMETERS[model])
        for name in names
        if (model := name.partition("@")[0]) in PARAMETERS
    }
    constants = dataclasses.replace(
        dataset.constants, tokens_per_second=speeds, latency_value=latency_value
    )
    return dataclasses.replace(dataset, constants=constants)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out, study = Output("todays_market"), mechlab.data.load()
    with tempfile.TemporaryDirectory() as folder:
        datasets = {"prices of the study": study, f"prices of {DATE}": todays(study, folder)}
    rows = []
    for prices, plain in datasets.items():
        for latency_value in (0.0, LATENCY_VALUE):
            dataset = with_times(plain, latency_value)
            for benchmark, method in MARKETS:
                named = dataset.select(benchmark, method)
                power = mechlab.power.calibrated(named, ELASTICITY)
                found = mechlab.compare(named, [power.rationality])
                implied = sum(p["share"] * p["implied_cost"] for p in power.providers)
                assumed = sum(p["share"] * p["cost"] for p in power.providers)
                for row in found.readings:
                    rule = row["rule"]
                    paid, seconds = (found.pay_per_compute[0][x] for x in ("user_cost", "latency"))
                    if rule == "second_price_auction":
                        paid, seconds = found.auction["user_cost"], found.auction["latency"]
                    asked_each = rule == "personal_auction"
                    for noise in READINGS:
                        rows.append(
                            {
                                "prices": prices,
                                "benchmark": benchmark,
                                "method": method,
                                "providers": len(named.names),
                                "latency_value": latency_value,
                                "rationality": power.rationality,
                                "elasticity": power.elasticity,
                                "hhi": power.hhi,
                                "cost_assumed": assumed,
                                "cost_implied": implied,
                                "rule": rule,
                                "noise": noise,
                                "welfare": row[f"welfare_{noise}"],
                                "user_value": row[f"user_value_{noise}"],
                                "user_cost": None if asked_each else paid,
                                "seconds": None if asked_each else seconds,
                            }
                        )
    listed = mechlab.data.prices(["Llama-3.1-8B"], LIST, date=DATE, near=True)[0].source.rsplit(
        ", ", 1
    )[0]
    table = out.table(rows, f"prices by {listed}")
    figure = Figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(
        f"Welfare at the β of an own-price elasticity of {ELASTICITY:g}, by what the noise in "
        "users' choices is"
    )
    axes = figure.subplots(2, len(MARKETS), sharey=True)
    for (row, latency_value), (column, (benchmark, method)) in itertools.product(
        enumerate((0.0, LATENCY_VALUE)), enumerate(MARKETS)
    ):
        axis = axes[row, column]
        some = table[
            (table["benchmark"] == benchmark)
            & (table["method"] == method)
            & (table["latency_value"] == latency_value)
        ]
        for group, prices in enumerate(datasets):
            here = some[some["prices"] == prices]
            for i, (rule, colour) in enumerate(RULES.items()):
                for j, (noise, hatch) in enumerate(READINGS.items()):
                    one = here[(here["rule"] == rule) & (here["noise"] == noise)].iloc[0]
                    axis.bar(
                        group + 0.13 * (2 * i + j - 2.5),
                        1000 * one["welfare"],
                        0.12,
                        color=colour,
                        hatch=hatch,
                        edgecolor="white",
                        label=f"{rule.replace('_', ' ')}, noise is {noise}" if not group else None,
                    )
        about = [
            f"{prices}\n{int(x['providers'])} providers, β = {x['rationality']:,.0f}, "
            f"HHI {x['hhi']:,.0f}"
            for prices, x in ((p, some[some["prices"] == p].iloc[0]) for p in datasets)
        ]
        axis.set_xticks(np.arange(len(datasets)), about)
        time = f"waiting costs {3600 * latency_value:.2f} USD an hour" if row else "time is free"
        axis.set_title(f"{benchmark}, {method.replace('_', ' ')}: {time}")
        axis.grid(axis="y", alpha=0.25)
        if not column:
            axis.set_ylabel("welfare (USD per 1,000 queries)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    out.figure(figure)


if __name__ == "__main__":
    main()
