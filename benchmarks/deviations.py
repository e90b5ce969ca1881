"""Gradient search for deviations against dense grids, and a certificate of a million markets.

    python -m benchmarks.deviations > benchmarks/results/VERSION/deviations_2_cores.json

Each pair is timed in one run, on the same markets and rule, compiled, with every core. The grids
are evaluated by the same library code, vectorised.
"""

import argparse
import functools
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mechlab
from benchmarks import against
from mechlab import Market, Offers, PayPerCompute, SecondPriceAuction, Users, social_optimum
from mechlab.core.devices import cores
from mechlab.core.interpolation import monotone_cubic
from mechlab.incentives.certificates import certify
from mechlab.incentives.deviations import search
from mechlab.incentives.strategies import (
    ContinuousCompute,
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
)
from mechlab.mechanisms import Mechanism
from mechlab.populations import Published
from mechlab.simulation.evaluator import compiler_options

RESTARTS, STEPS = 8, 50
MARKETS, MARKETS_3D = 20_000, 640
MATERIAL = 1e-6  # gains below this share of the market's best quality are left out


def on_grid(rule: Mechanism, now: Offers, market: Market, users: Users, axes: int, points: int):
    """[B, N] the best utility on a grid of compute, or of compute × price × report."""
    rivals = rule.facing.rivals(now, users)
    curves = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), market)
    knots, unit = jnp.log2(curves.compute), jnp.linspace(0.0, 1.0, points)
    factor = 0.5 + 1.5 * unit
    z = knots[0] + (knots[-1] - knots[0]) * unit.reshape(-1, *[1] * (axes + 1))
    at = {
        name: monotone_cubic(knots, getattr(curves, name))(z)
        for name in ("quality", "price", "cost", "tokens")
    }
    at["reported_quality"] = at["quality"]
    if axes == 3:
        at["price"] = at["cost"] * factor.reshape(-1, 1, 1, 1)
        at["reported_quality"] = at["quality"] * factor.reshape(-1, 1, 1)
    utility = rule.facing.utility_against(rivals, Offers(accuracy=z, compute=z, **at))
    return jnp.max(utility, axis=tuple(range(axes)))


def dense(rule: Mechanism, axes: int, points: int, chunk: int, parts: int) -> Callable:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("markets",))
    spec = jax.sharding.PartitionSpec("markets")

    def chunked(now: Offers, market: Market, users: Users) -> jax.Array:
        data = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (now, market, users))
        one = functools.partial(on_grid, rule, axes=axes, points=points)
        best = jax.lax.map(lambda x: one(*x), data)
        return best.reshape(-1, best.shape[-1])

    run = jax.shard_map(chunked, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(run, compiler_options=compiler_options(jax.local_devices()[0]))


def seconds(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())

    def once() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - began

    return min(once() for _ in range(repeats))


def compare(rule: Mechanism, space: Any, count: int, axes: int, points: int, chunk: int) -> dict:
    market, users = Published().markets(count)
    if isinstance(rule, PayPerCompute):
        profile = social_optimum(market, users).profile
    else:
        profile = market.best_surplus_profile()
    now = rule.offers(market, profile)
    key = jax.random.key(1)
    options = dict(restarts=RESTARTS, steps=STEPS)
    run = functools.partial(search, rule, market, users, profile, space, key, **options)
    searched = seconds(run, 3)
    grid = functools.partial(dense(rule, axes, points, chunk, 2), now, market, users)
    gridded = seconds(grid, 1)
    found = run()
    gain, best = np.asarray(found.gain), np.asarray(grid() - found.utility)
    material = best > MATERIAL * np.asarray(market.quality).max((1, 2))[:, None]
    return {
        "searches": count * market.providers,
        "searches_per_second": count * market.providers / searched,
        "search_seconds": searched,
        "grid_points": points**axes,
        "grid_seconds": gridded,
        "grid_over_search": gridded / searched,
        "share_with_99_percent_of_the_grids_gain": float(
            np.mean(gain[material] >= 0.99 * best[material])
        ),
        "compared": int(material.sum()),
    }


def certificate(markets: int, dtype: type) -> dict:
    began = time.perf_counter()
    space = (PriceBid(), QualityReport(), GridLevel())
    found = certify(Published(), SecondPriceAuction(), markets, space, dtype=dtype)
    return {
        "markets": markets,
        "dtype": np.dtype(dtype).name,
        "restarts": found.restarts,
        "steps": found.steps,
        "max_relative_regret": max(found.regret.largest, 0.0),
        "p99_relative_regret": found.regret.quantile(0.99),
        "share_profitable": found.share_profitable,
        "seconds_compilation_included": time.perf_counter() - began,
    }


def main() -> None:
    given = argparse.ArgumentParser(parents=[against.OPTIONS]).parse_args()
    if given.against:
        return against.compare("deviations", given)
    mechlab.use_all_cores()
    result = {
        "cores": cores(),
        "jax": jax.__version__,
        "one_dimension": compare(PayPerCompute(), ContinuousCompute(), MARKETS, 1, 1024, 500),
        "three_dimensions": compare(
            SecondPriceAuction("reported"),
            (ContinuousCompute(), PriceMultiplier(), QualityReport()),
            MARKETS_3D,
            3,
            64,
            16,
        ),
        "certificate": certificate(10**6, np.float32),
    }
    with jax.enable_x64(True):
        result["certificate_float64"] = certificate(10**5, np.float64)
    result["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
