"""Markets per second of the lab, of NumPy and of a loop, side by side in one run.

The work on one market is the better-response equilibrium under pay-per-compute, all outcome metrics
at it, the social optimum, and the second-price auction at truthful play; float32, the `published`
GSM8K population. The baselines are in `benchmarks/markets.py`.
"""

import pathlib
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import markets as baselines
from mechlab.core.errors import checked_whole
from mechlab.populations import MOST, Published
from mechlab.simulation.evaluator import Evaluator, compiler_options, visiting_orders
from mechlab.solvers import kernel

_RESIDENT = 2**18  # markets held in memory; passes repeat over them
_NUMPY = 2**17
_COMPARED = 100_000


def bench(markets: int = 1_000_000, seed: int = 0) -> dict[str, Any]:
    """Measure; the JSON of `benchmarks.headline`. Rates are the best of repeated passes."""
    checked_whole("markets", markets, 1, MOST)
    evaluator = Evaluator(Published(), seed, certificate=False)
    step = evaluator.chunk * len(evaluator.devices)
    evaluator.chunks = max(1, min(_RESIDENT, markets) // step)
    run, columns, compile_seconds = resident(evaluator)
    lab = evaluator.part / seconds_of_best(lambda: run(*columns), markets, evaluator.part)
    evaluator.compile()
    sampled = evaluator.part / seconds_of_best(lambda: evaluator.launch(0), markets, evaluator.part)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arrays = _numpy_columns(columns, _NUMPY)
    vectorised, looped = baselines.numpy_rate(arrays, seed), baselines.loop_rate(arrays, seed)
    same, error = precision(seed)
    return {
        "device": _device(evaluator.devices),
        "markets": markets,
        "lab_markets_per_second": lab,
        "lab_with_sampling_markets_per_second": sampled,
        "numpy_markets_per_second": vectorised,
        "loop_markets_per_second": looped,
        "ratio_to_numpy": lab / vectorised,
        "ratio_to_loop": lab / looped,
        "compile_seconds": compile_seconds,
        "peak_memory_bytes": memory,
        "float32_same_equilibrium": same,
        "float32_welfare_error": error,
    }


def _device(devices: Sequence[jax.Device]) -> str:
    kind = devices[0].device_kind
    if devices[0].platform == "cpu" and pathlib.Path("/proc/cpuinfo").is_file():
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        kind = names[0] if names else kind
    return f"{len(devices)} x {kind}"


def resident(evaluator: Evaluator) -> tuple[Callable[..., Any], tuple, float]:
    """The compiled work without sampling, a part's columns in memory, and the compile time."""
    key = jax.random.key(evaluator.seed)
    spec, mesh = evaluator.sharding.spec, evaluator.sharding.mesh

    def spread(work: Callable[..., Any]) -> Any:
        mapped = lambda *xs: jax.lax.map(lambda x: work(*x), xs)  # noqa: E731
        sharded = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return jax.jit(sharded, compiler_options=compiler_options(evaluator.devices[0]))

    draw = spread(lambda index: evaluator.population.columns(key, index))
    columns = jax.block_until_ready(draw(evaluator.index(0)))
    work = spread(lambda market, users: evaluator.columns_rows(market, users, key))
    began = time.perf_counter()
    compiled = work.lower(*columns).compile()
    return compiled, columns, time.perf_counter() - began


def seconds_of_best(work: Callable[[], Any], markets: int, each: int) -> float:
    """Of the fastest pass, of as many as cover the markets (at least 3) after one to warm up."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(max(3, -(-markets // each))):
        began = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _numpy_columns(columns: tuple, count: int) -> dict[str, np.ndarray]:
    """The same markets for the baselines: [N, K, B] and [B]."""
    market, users = columns

    def joined(x: jax.Array) -> np.ndarray:
        return np.concatenate(list(np.asarray(x)), axis=-1)[..., :count]

    fields = ("quality", "price", "cost", "accuracy", "tokens")
    arrays = {name: joined(getattr(market, name)) for name in fields}
    return {
        **arrays,
        "rationality": joined(users.rationality),
        "outside_value": joined(users.outside_value),
    }


def precision(seed: int = 0, markets: int = _COMPARED) -> tuple[float, float]:
    """Share of markets whose float32 equilibrium is that of float64, and among those the largest
    relative error of welfare. The markets are drawn in float32 and upcast."""
    population, orders = Published(), None
    found = {}
    with jax.enable_x64(True):
        index = jnp.arange(markets, dtype=jnp.uint32)
        drawn = jax.jit(population.columns)(jax.random.key(seed), index)
        orders = visiting_orders(seed, drawn[0].quality.shape[0])

        @jax.jit
        def solve(market: Any, users: Any) -> tuple[jax.Array, jax.Array]:
            game = kernel.games(market, users, profitable=True)
            tolerance = 1e-8 if market.quality.dtype == jnp.float64 else 1e-6
            level, _, _ = kernel.better_response(game, orders, tolerance, 100)
            return level, kernel.logit_outcome(market, users, level)["welfare"]

        for width in (np.float32, np.float64):
            cast = jax.tree.map(lambda x, width=width: x.astype(width), drawn)
            found[width] = [np.asarray(x) for x in solve(*cast)]
    (level, welfare), (exact_level, exact) = found[np.float32], found[np.float64]
    same = np.all(level == exact_level, axis=0)
    return float(same.mean()), float(np.max(np.abs(welfare / exact - 1.0)[same]))
