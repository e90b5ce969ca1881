"""Rounds of auctions that learn: provider-rounds per second, against NumPy along markets.

    python -m benchmarks.learning > benchmarks/results/VERSION/learning_2_cores.json

A provider-round is one provider in one round of one market. Both simulate the same markets in one
run, NumPy in float32 in columns that fit a core's cache, on one core, and the lab on every core.
"""

import argparse
import json
import time
from typing import Any

import jax
import numpy as np

import mechlab
from benchmarks import against
from mechlab.core.devices import cores
from mechlab.learning import named_learner, repeated
from mechlab.populations import Published
from mechlab.study.learning import DEFAULT

MARKETS, ROUNDS, COLUMN, MILLION = 16_384, 1_000, 1_024, 1_000_000


def by_numpy(market: mechlab.Market, rounds: int, seed: int = 0) -> np.ndarray:
    """[M] regret of UCB1 in plain array code."""
    profile = np.asarray(market.best_surplus_profile())[..., None]

    def at(name: str) -> np.ndarray:
        return np.take_along_axis(np.asarray(getattr(market, name)), profile, -1)[..., 0].T.copy()

    accuracy, cost, quality = at("accuracy"), at("cost"), at("quality")
    low, high = np.asarray(market.accuracy), np.asarray(market.quality)
    stake = np.ptp(high, axis=(1, 2)) / np.ptp(low, axis=(1, 2))
    wrong = quality - stake * accuracy
    surplus, generator = quality - cost, np.random.default_rng(seed)
    asked, right = np.zeros_like(accuracy), np.zeros_like(accuracy)
    regret, place = np.zeros(accuracy.shape[1], np.float32), np.arange(accuracy.shape[1])
    for t in range(rounds):
        tries = np.maximum(asked, 1)
        mean = np.where(asked > 0, right / tries, 1)
        score = wrong + stake * (mean + np.sqrt(np.float32(2 * np.log(t + 1)) / tries)) - cost
        winner = score.argmax(0)
        correct = generator.random(len(place), np.float32) < accuracy[winner, place]
        asked[winner, place] += 1
        right[winner, place] += correct
        regret += surplus.max(0) - surplus[winner, place]
    return regret


def timed(call: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    found = jax.block_until_ready(call())
    return time.perf_counter() - began, found


def main() -> None:
    given = argparse.ArgumentParser(parents=[against.OPTIONS]).parse_args()
    if given.against:
        return against.compare("learning", given)
    mechlab.use_all_cores()
    market, users = Published().markets(MARKETS)
    work = MARKETS * ROUNDS * market.providers
    rates, regret = {}, {}
    for name in DEFAULT:
        learner = named_learner(name)
        repeated(market, users, learner, ROUNDS)
        best = min(
            timed(
                lambda k=k, learner=learner: repeated(
                    market, users, learner, ROUNDS, key=jax.random.key(k)
                )
            )[0]
            for k in range(3)
        )
        rates[name] = work / best
        regret[name] = float(np.mean(repeated(market, users, learner, ROUNDS).regret))
    few = jax.tree.map(lambda x: x[:COLUMN], market)
    seconds, by_hand = min(
        (timed(lambda k=k: by_numpy(few, ROUNDS, k)) for k in range(3)), key=lambda x: x[0]
    )
    numpy_rate = COLUMN * ROUNDS * market.providers / seconds
    many = Published().markets(MILLION)
    longest, _ = timed(lambda: repeated(*many, named_learner("ucb"), ROUNDS).regret)
    print(
        json.dumps(
            {
                "cores": cores(),
                "devices": len(jax.local_devices()),
                "jax": jax.__version__,
                "device": jax.devices()[0].device_kind,
                "markets": MARKETS,
                "rounds": ROUNDS,
                "provider_rounds_per_second": rates,
                "numpy_ucb": numpy_rate,
                "ratio_ucb": rates["ucb"] / numpy_rate,
                "regret": regret,
                "numpy_regret_ucb": float(by_hand.mean()),
                "million_markets_ucb_seconds": longest,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
