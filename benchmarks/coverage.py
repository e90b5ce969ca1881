"""How often the intervals of `mechlab compare --uncertainty` hold the truth.

    python -m benchmarks.coverage [--datasets 300] [--worlds tied clear] [--format json]

Each data set is simulated from a world whose market is known, and goes the way of a user's: sample
table, curves with 1,000 replicates, a Parquet, `compare`. A question's difficulty is normal, a
model is right with probability sigmoid(ability − 1.5 · difficulty), its wrong answers are all
different, and its tokens are log-normal; 1,000 questions, 16 samples, majority voting of 1, 4, 8
and 16. Printed is the share of data sets whose 95 % interval holds what the world's market gives.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from mechlab import data
from mechlab.core.errors import checked_whole
from mechlab.data import NamedMarket
from mechlab.evidence import samples
from mechlab.evidence.curves import estimate
from mechlab.study.comparison import Comparison, compare

QUESTIONS, SAMPLES, SIZES, REPLICATES = 1000, 16, (1, 4, 8, 16), 1000
TOKENS, SPREAD, DIFFICULTY, WORTH = 100.0, 0.5, 1.5, 0.01
WORLDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # abilities; USD per million
    "clear": ((-0.8, 0.0, 1.0), (1.0, 2.0, 2.5)),
    "tied": ((0.0, 0.0, 0.0), (2.0, 2.0, 2.0)),
    "two_tied": ((-0.8, 0.0, 0.0), (2.0, 2.0, 2.0)),
    "close": ((-0.1, 0.0, 0.1), (2.0, 2.0, 2.0)),
}
RULES = {
    "pay_per_compute": ("welfare", "user_cost", "provider_utility", "price_of_anarchy"),
    "auction": ("welfare", "user_cost", "provider_utility", "user_value"),
}


def right(p: np.ndarray, n: int) -> np.ndarray:
    """Expected accuracy of n votes where each is right with p and wrong answers all differ."""
    none, one = (1 - p) ** n, n * p * (1 - p) ** (n - 1)
    return 1 - none - one * (1 - 1 / n)


def world(abilities: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] true accuracy and tokens."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    p = 1 / (1 + np.exp(DIFFICULTY * nodes - np.array(abilities)[:, None]))
    accuracy = np.stack([right(p, n) @ weights / weights.sum() for n in SIZES], axis=-1)
    return accuracy, np.broadcast_to(TOKENS * np.array(SIZES, float), accuracy.shape)


def sampled(rng: np.random.Generator, abilities: tuple[float, ...]) -> pa.Table:
    """One data set: the same questions for all models."""
    shape = len(abilities), QUESTIONS, SAMPLES
    difficulty = DIFFICULTY * rng.standard_normal(QUESTIONS)
    p = 1 / (1 + np.exp(difficulty - np.array(abilities)[:, None]))
    correct = rng.random(shape) < p[..., None]
    model, question, sample = (x.ravel() for x in np.indices(shape))
    noise = SPREAD * rng.standard_normal(shape) - SPREAD**2 / 2
    tokens = np.floor(TOKENS * np.exp(noise) + rng.random(shape)).astype(int)
    columns: dict[str, Any] = dict.fromkeys(samples.SCHEMA.names)
    columns |= {
        "model": [f"m{i}" for i in model],
        "benchmark": ["b"] * model.size,
        "question_id": [f"q{i}" for i in question],
        "sample": sample,
        "answer": np.where(correct.ravel(), "right", np.char.add("w", sample.astype(str))),
        "correct": correct.ravel(),
        "tokens": tokens.ravel(),
        "finish_reason": ["stop"] * model.size,
    }
    return pa.table(
        {
            field.name: pa.nulls(model.size, field.type)
            if columns[field.name] is None
            else pa.array(columns[field.name]).cast(field.type)
            for field in samples.SCHEMA
        },
        schema=samples.SCHEMA,
    )


def constants(folder: pathlib.Path, prices: tuple[float, ...]) -> str:
    path = folder / "market.toml"
    each = "".join(f"m{i} = {price}\n" for i, price in enumerate(prices))
    path.write_text(
        f"margin = 0.25\nrationality = [1000.0]\n[value_per_answer]\nb = {WORTH}\n"
        f"[price_per_million_tokens]\n{each}"
    )
    return str(path)


def market(folder: pathlib.Path, table: pa.Table, constants: str) -> NamedMarket:
    path = str(folder / "curves.parquet")
    estimate(table, ["majority_voting"], sizes=list(SIZES), replicates=REPLICATES).save(path)
    return data.load(path, constants).select("b", "majority_voting")


def numbers(found: Comparison) -> dict[str, dict[str, Any]]:
    return {"pay_per_compute": found.pay_per_compute[0], "auction": found.auction}


def coverage(name: str, datasets: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """{rule: {metric: share of the data sets whose interval holds the truth}}."""
    abilities, prices = WORLDS[name]
    rng = np.random.default_rng([seed, list(WORLDS).index(name)])
    held = {rule: dict.fromkeys(metrics, 0) for rule, metrics in RULES.items()}
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        file = constants(folder, prices)
        truth = None
        for _ in range(datasets):
            named = market(folder, sampled(rng, abilities), file)
            if truth is None:
                truth = numbers(compare(true(named, abilities, prices)))
            for rule, row in numbers(compare(named, uncertainty=0.95)).items():
                for metric in RULES[rule]:
                    low, high = row["intervals"][metric]
                    slack = 1e-12 * abs(truth[rule][metric])
                    held[rule][metric] += low - slack <= truth[rule][metric] <= high + slack
    return {
        rule: {metric: times / datasets for metric, times in each.items()}
        for rule, each in held.items()
    }


def true(
    named: NamedMarket, abilities: tuple[float, ...], prices: tuple[float, ...]
) -> NamedMarket:
    """The world's own market, with the labels of one of its data sets."""
    accuracy, tokens = world(abilities)
    exact = data.Market.from_curves(
        accuracy,
        tokens,
        np.array(prices) / 1e6,
        value_per_answer=WORTH,
        margin=0.25,
        compute=np.array(SIZES),
    )
    return dataclasses.replace(named, market=exact, replicates=None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=300)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    checked_whole("datasets", given.datasets, 1, 10**6)
    jax.config.update("jax_enable_x64", True)
    found = {name: coverage(name, given.datasets) for name in given.worlds}
    if given.format == "json":
        print(json.dumps({"datasets": given.datasets, "coverage": found}, indent=1))
        return 0
    for name, rules in found.items():
        for rule, metrics in rules.items():
            shares = ", ".join(f"{metric} {100 * x:.1f} %" for metric, x in metrics.items())
            print(f"{name}, {rule}: {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
