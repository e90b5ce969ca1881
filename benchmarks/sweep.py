"""The rationality sweep against a straightforward program that enumerates every profile.

    python -m benchmarks.sweep

Both find the better-response equilibrium and the social optimum of a published GSM8K market. The
straightforward program is timed on 6 of the 9 providers (6^6 profiles instead of 6^9) and a few
rationalities; the lab on the same work, on the full 100-point sweep, and as a cold process.
"""

import itertools
import json
import subprocess
import sys
import time

import jax
import numpy as np

from mechlab import data
from mechlab.study import comparison

PROVIDERS = 6
RATIONALITIES = (200.0, 1000.0, 100000.0)


def enumerate_all(quality, price, cost, beta, rng):
    """(welfare at a better-response equilibrium, best welfare of all profiles), by plain loops."""
    n, k = quality.shape
    value, profit, surplus = quality - price, price - cost, quality - cost

    def shares(profile):
        chosen = value[range(n), profile]
        top = max(chosen.max(), 0.0)
        weight = np.exp(beta * (chosen - top))
        return weight / (weight.sum() + np.exp(-beta * top))

    def welfare(profile):
        return float(shares(profile) @ surplus[range(n), profile])

    profile, moved = [0] * n, True
    while moved:
        moved = False
        for i in rng.permutation(n):
            utility = []
            for level in range(k):
                trial = profile.copy()
                trial[i] = level
                utility.append(shares(trial)[i] * profit[i, level])
            for level in sorted(range(k), key=lambda x: (abs(x - profile[i]), x)):
                if np.log(utility[level]) > np.log(utility[profile[i]]) + 1e-8:
                    profile[i], moved = level, True
                    break
    best = max(welfare(list(p)) for p in itertools.product(range(k), repeat=n))
    return welfare(profile), best


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    named = data.published("GSM8K", "majority_voting")
    small = named.__class__(
        jax.tree.map(lambda x: x[:PROVIDERS], named.market),
        named.names[:PROVIDERS],
        named.benchmark,
        named.method,
        named.constants,
    )
    arrays = [np.asarray(getattr(small.market, x)) for x in ("quality", "price", "cost")]
    rng = np.random.default_rng(0)
    loop_seconds, by_hand = timed(
        lambda: [enumerate_all(*arrays, beta, rng) for beta in RATIONALITIES]
    )
    comparison.sweep(small, RATIONALITIES)
    small_seconds, points = timed(lambda: comparison.sweep(small, RATIONALITIES).points)
    for (reached, best), point in zip(by_hand, points, strict=True):
        assert abs(reached - point["welfare"]) < 1e-12
        assert abs(best - point["optimal_welfare"]) < 1e-12
    compile_seconds, _ = timed(lambda: comparison.sweep(named))
    full_seconds = min(timed(lambda: comparison.sweep(named))[0] for _ in range(5))
    cold_seconds, _ = timed(
        lambda: subprocess.run(
            [sys.executable, "-m", "mechlab.cli", "sweep", "--format", "json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    )
    print(
        json.dumps(
            {
                "enumeration_seconds": loop_seconds,
                "lab_seconds_same_work": small_seconds,
                "ratio": loop_seconds / small_seconds,
                "sweep_100_points_seconds": full_seconds,
                "sweep_first_call_seconds": compile_seconds,
                "sweep_cold_process_seconds": cold_seconds,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
