"""What waiting, tastes and nests cost, calibration, and a market file, side by side in one run.

    python -m benchmarks.today

Seconds of 50,000 `published` GSM8K markets in memory under both rules, float32, certificate
included; of the calibration of 100,000; and of `mechlab market` as a whole process.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import mechlab
from benchmarks import against
from benchmarks.headline import device_name

MARKETS, CALIBRATED, REPEATS = 50_000, 100_000, 5


def best_of(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The least seconds of each, in turns, after one that compiles."""
    seconds: dict[str, float] = {}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:
                took = time.perf_counter() - began
                seconds[name] = min(seconds.get(name, took), took)
    return seconds


def evaluations() -> dict[str, float]:
    market, users = mechlab.Published().markets(MARKETS)
    waits = users.replace(latency_value=jnp.full_like(users.rationality, 1e-5))
    both = {"today": mechlab.PayPerCompute(), "auction": mechlab.SecondPriceAuction()}
    alone = {"today": mechlab.PayPerCompute()}
    nested = {"nested": mechlab.NestedLogit(("a", "a", "a", "b", "b", "b", "c", "c", "c"), 0.5)}
    personal = {"personal": mechlab.PersonalAuction()}
    tastes = users.replace(taste=jnp.ones_like(users.rationality))
    cases = {
        "plain": (both, market, users),
        "latency": (both, market.replace(latency=market.tokens / 50), waits),
        "taste": (both, market, tastes),
        "pay_per_compute": (alone, market, users),
        "nested_logit": (nested, market, users),
        "personal_auction": (personal, market, tastes),
    }
    runs = {}
    for name, (rules, of, crowd) in cases.items():
        run = jax.jit(lambda m, u, rules=rules: mechlab.evaluate(m, u, rules))
        runs[name] = lambda run=run, of=of, crowd=crowd: run(of, crowd)
    return best_of(runs)


def main() -> None:
    given = argparse.ArgumentParser(parents=[against.OPTIONS]).parse_args()
    if given.against:
        return against.compare("today", given)
    found: dict[str, Any] = {
        "device": device_name(jax.devices()),
        "evaluate_seconds": evaluations(),
    }
    market, _ = mechlab.Published().markets(CALIBRATED)
    found["calibrate_seconds"] = best_of({"it": lambda: mechlab.demand.calibrate(market)})["it"]
    with tempfile.TemporaryDirectory() as folder:
        out = str(pathlib.Path(folder) / "market.toml")
        program = [sys.executable, "-m", "mechlab.cli", "market", "--curves", "published"]
        began = time.perf_counter()
        subprocess.run([*program, "--skip-missing", "--out", out], check=True, capture_output=True)
        found["market_seconds"] = time.perf_counter() - began
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
