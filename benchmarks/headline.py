"""Markets per second of the lab, of NumPy and of a loop, side by side in one run.

    python -m benchmarks.headline [--markets 1e6] [--format json] [--scaling FILE.png]
                                   [--against 0.3.0]

The work on one market is the pay-per-compute equilibrium, all outcome metrics at it, the social
optimum, and the second-price auction at truthful play; float32, the `published` GSM8K population.
With the certificate also what the worst equilibrium costs. Rates are of the best of repeated passes
over markets in memory on all cores; the baselines, in `benchmarks/markets.py`, do the first work.
"""

import argparse
import functools
import json
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mechlab
from benchmarks import against
from benchmarks import markets as baselines
from mechlab.core.errors import checked_whole
from mechlab.populations import MOST, Published
from mechlab.simulation.evaluator import Evaluator, compiler_options

_RESIDENT = 2**18  # markets held in memory; passes repeat over them
_NUMPY = 2**17
_COMPARED = 100_000
PROVIDERS = (2, 4, 9, 18, 36, 72, 144)


def bench(markets: int = 1_000_000, seed: int = 0) -> dict[str, Any]:
    """Measure; what `--format json` prints."""
    checked_whole("markets", markets, 1, MOST)
    evaluator = sized(Evaluator(Published(), seed, certificate=False), markets)
    run, columns, compile_seconds = resident(evaluator)
    lab = evaluator.part / seconds_of_best(lambda: run(*columns), markets, evaluator.part)
    evaluator.compile()
    sampled = evaluator.part / seconds_of_best(lambda: evaluator.launch(0), markets, evaluator.part)
    certified = sized(Evaluator(Published(), seed), markets)
    run, _, certificate_seconds = resident(certified)
    whole = certified.part / seconds_of_best(lambda: run(*columns), markets, certified.part)
    arrays = _numpy_columns(columns, _NUMPY)
    script = own_arrays(min(markets, _RESIDENT), seed)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vectorised, looped = baselines.numpy_rate(arrays, seed), baselines.loop_rate(arrays, seed)
    same, error = precision(seed)
    return {
        "device": device_name(evaluator.devices),
        "markets": markets,
        "lab_markets_per_second": lab,
        "lab_with_sampling_markets_per_second": sampled,
        "lab_with_certificate_markets_per_second": whole,
        **script,
        "script_to_lab": script["script_markets_per_second"] / whole,
        "numpy_markets_per_second": vectorised,
        "loop_markets_per_second": looped,
        "ratio_to_numpy": lab / vectorised,
        "ratio_to_loop": lab / looped,
        "compile_seconds": compile_seconds,
        "compile_seconds_with_certificate": certificate_seconds,
        "peak_memory_bytes": memory,
        "float32_same_equilibrium": same,
        "float32_welfare_error": error,
    }


def sized(evaluator: Evaluator, markets: int) -> Evaluator:
    """The evaluator with as many markets in a part as are held in memory."""
    step = evaluator.chunk * len(evaluator.devices)
    evaluator.chunks = max(1, min(_RESIDENT, markets) // step)
    return evaluator


def device_name(devices: Sequence[jax.Device]) -> str:
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = platform.processor() or kind
        if pathlib.Path("/proc/cpuinfo").is_file():
            lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
            kind = names[0] if names else kind
    return f"{len(devices)} x {kind}"


def resident(evaluator: Evaluator) -> tuple[Callable[..., Any], tuple, float]:
    """The compiled work without sampling, a part's columns in memory, and the compile time."""
    spec, mesh = evaluator.sharding.spec, evaluator.sharding.mesh

    def spread(work: Callable[..., Any]) -> Any:
        sharded = jax.shard_map(work, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return jax.jit(sharded, compiler_options=compiler_options(evaluator.devices[0]))

    columns = jax.block_until_ready(spread(evaluator.drawn)(evaluator.index(0)))
    work = spread(evaluator.rows)
    began = time.perf_counter()
    compiled = work.lower(*columns).compile()
    return compiled, columns, time.perf_counter() - began


def own_arrays(markets: int, seed: int) -> dict[str, float]:
    """`jax.jit(mechlab.evaluate)` on arrays [M, N, K] of a script's own, and its gradient."""
    market, users = mechlab.Published().markets(markets, seed=seed)
    rules = {
        "pay_per_compute": mechlab.PayPerCompute(),
        "second_price": mechlab.SecondPriceAuction(),
    }
    mesh = jax.make_mesh((len(jax.local_devices()),), ("markets",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("markets"))
    each = len(jax.local_devices()) * (markets // len(jax.local_devices()))
    market, users = jax.device_put(jax.tree.map(lambda x: x[:each], (market, users)), spread)
    with jax.set_mesh(mesh):
        forward = jax.jit(functools.partial(mechlab.evaluate, rules=rules))

        def mean(price: jax.Array) -> jax.Array:
            found = mechlab.evaluate(market.replace(price=price), users, rules)
            return jnp.mean(found["pay_per_compute"].welfare + found["second_price"].user_cost)

        value, slope = jax.jit(mean), jax.jit(jax.grad(mean))
        seconds = seconds_of_best(lambda: forward(market, users), markets, markets)
        plain = seconds_of_best(lambda: value(market.price), markets, markets)
        graded = seconds_of_best(lambda: slope(market.price), markets, markets)
    return {
        "script_markets_per_second": each / seconds,
        "gradient_markets_per_second": each / graded,
        "gradient_to_forward": graded / plain,
    }


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
    rule = mechlab.PayPerCompute()
    found = []
    with jax.enable_x64(True):
        drawn = Published().markets(markets, seed=seed)
        for width in (np.float32, np.float64):
            cast = jax.tree.map(
                lambda x, width=width: x if x.dtype == bool else x.astype(width), drawn
            )
            one = mechlab.evaluate(*cast, rule, certificate=False)
            found.append([np.asarray(one.profile), np.asarray(one.welfare)])
    (level, welfare), (exact_level, exact) = found
    same = np.all(level == exact_level, axis=-1)
    return float(same.mean()), float(np.max(np.abs(welfare / exact - 1.0)[same]))


def providers_row(providers: int, seed: int = 0) -> dict[str, float]:
    """Rate and cold compile time with that many providers, certificate included."""
    markets = max(2**17 * 9 // (9 * providers) // 8, 2**11)
    evaluator = sized(Evaluator(Published(providers=providers), seed), markets)
    run, columns, compile_seconds = resident(evaluator)
    seconds = seconds_of_best(lambda: run(*columns), 3 * evaluator.part, evaluator.part)
    rate = evaluator.part / seconds
    return {
        "providers": providers,
        "markets_per_second": rate,
        "provider_markets_per_second": rate * providers,
        "compile_seconds": compile_seconds,
    }


def scaling() -> list[dict[str, float]]:
    """`providers_row` at every size, each in a process of its own: nothing is compiled before."""
    rows = []
    for providers in PROVIDERS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.headline", "--providers", str(providers)],
            capture_output=True,
            check=True,
            text=True,
        )
        rows.append(json.loads(done.stdout))
    return rows


def draw_scaling(rows: list[dict[str, float]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    n = [row["providers"] for row in rows]
    axes[0].plot(
        n, [row["provider_markets_per_second"] / 1e6 for row in rows], "o-", color="#004488"
    )
    axes[0].set(ylabel="million providers × markets per second")
    axes[1].plot(n, [row["compile_seconds"] for row in rows], "s-", color="#BB5566")
    axes[1].set(ylabel="seconds to compile, cold")
    for axis in axes:
        axis.set_ylim(0, 1.08 * float(np.max(axis.get_lines()[0].get_ydata())))
        axis.set_xscale("log")
        axis.set_xticks(n, [str(x) for x in n])
        axis.minorticks_off()
        axis.set_xlabel("providers")
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[against.OPTIONS])
    parser.add_argument("--markets", type=float, default=1e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--scaling", metavar="PNG", help="also measure and draw over providers")
    parser.add_argument("--providers", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.against:
        work = ["--markets", str(given.markets), "--seed", str(given.seed), "--format", "json"]
        return against.compare("headline", given, work)
    mechlab.use_all_cores()
    if given.providers:
        print(json.dumps(providers_row(given.providers, given.seed)))
        return
    found = bench(int(given.markets), given.seed)
    if given.scaling:
        found["scaling"] = scaling()
        draw_scaling(found["scaling"], given.scaling)
    if given.format == "json":
        print(json.dumps(found))
        return
    for name, value in found.items():
        if name == "scaling":
            for row in value:
                print("  ", ", ".join(f"{k.replace('_', ' ')} {v:,.5g}" for k, v in row.items()))
        else:
            shown = value if isinstance(value, str) else f"{value:,.6g}"
            print(f"{name.replace('_', ' '):45} {shown}")


if __name__ == "__main__":
    main()
