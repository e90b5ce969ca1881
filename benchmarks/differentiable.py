"""Equilibria that move with the parameters: markets per second, forwards and backwards.

    python -m benchmarks.differentiable [--markets 8192]

The continuous and the smoothed equilibrium (λ = 1e4) and the gradients of mean welfare in all
prices, on the `published` GSM8K population in float32; against central differences of mean welfare
at the pure equilibrium, two evaluations a price. Then what `optimize` learns from: an auction's
winner, with the search for misreports and without, and a tariff. Each the best of three passes,
compiled before.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import mechlab
from benchmarks import against
from benchmarks.headline import device_name
from mechlab import Family, Settings, Tariff, optimize, welfare_less_cost

PROVIDERS = (2, 9, 36, 72)
PRECISION = 1e4
FAMILIES = {
    "auction": (8192, Family(free={"mix": (0.0, 1.0), "reserve": (0.0, 0.0075)}, space=())),
    "auction_with_misreports": (1024, Family(free={"mix": (0.0, 1.0)})),
    "tariff": (4096, Family(Tariff, {"per_answer": (0.0, 0.001)})),
}


def rate(work: Callable[..., Any], markets: int, *arguments: Any) -> float:
    """Markets per second."""
    run = jax.jit(work).lower(*arguments).compile()
    jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.perf_counter() - began)
    return markets / min(seconds)


def shared(work: Callable[..., Any]) -> Callable[..., Any]:
    """Work on markets, each device with its share."""
    mesh = jax.sharding.Mesh(jax.local_devices(), ("markets",))
    spec = jax.sharding.PartitionSpec("markets")
    return jax.shard_map(work, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def continuous(market: mechlab.Market, users: mechlab.Users) -> jax.Array:
    return mechlab.continuous_equilibrium(market, users).welfare


def smoothed(market: mechlab.Market, users: mechlab.Users) -> jax.Array:
    return mechlab.smoothed_equilibrium(market, users, precision=PRECISION).welfare


def learning(batch: int, family: Family, steps: int = 10) -> float:
    """Markets per second of `optimize`, draws and optimiser included."""
    times: list[float] = []
    settings = Settings(steps=4 * steps, batch=batch, every=steps, held_out=64)
    optimize(
        mechlab.Published(),
        family,
        welfare_less_cost(1.0),
        settings=settings,
        progress=lambda row: times.append(time.perf_counter()),
    )
    return batch * steps / min(b - a for a, b in itertools.pairwise(times))


def slope(work: Callable[..., Any]) -> Callable[..., Any]:
    return lambda market, users: jax.grad(
        lambda price: jnp.sum(work(market.replace(price=price), users))
    )(market.price)


def pure(market: mechlab.Market, users: mechlab.Users) -> jax.Array:
    return mechlab.evaluate(market, users, mechlab.PayPerCompute(), certificate=False).welfare


def measure(markets: int) -> dict[str, Any]:
    market, users = mechlab.Published().markets(markets)
    found: dict[str, Any] = {"device": device_name(jax.local_devices()), "markets": markets}
    found["continuous"] = rate(shared(continuous), markets, market, users)
    found["continuous_gradient"] = rate(shared(slope(continuous)), markets, market, users)
    few = jax.tree.map(lambda x: x[: markets // 4], (market, users))
    found["smoothed"] = rate(shared(smoothed), markets // 4, *few)
    found["smoothed_gradient"] = rate(shared(slope(smoothed)), markets // 4, *few)
    found["pure"] = rate(shared(pure), markets, market, users)
    found["pure_differences"] = found["pure"] / (2 * market.providers * market.levels)
    found["gradient_to_differences"] = found["continuous_gradient"] / found["pure_differences"]
    found["smoothed_gradient_to_differences"] = (
        found["smoothed_gradient"] / found["pure_differences"]
    )
    found["optimize"] = {name: learning(*family) for name, family in FAMILIES.items()}
    found["scaling"] = []
    for providers in PROVIDERS:
        count = max(4 * markets // providers // 32 * 32, 64)
        drawn = mechlab.Published(providers=providers).markets(count)
        speed = rate(shared(slope(continuous)), count, *drawn)
        row = {"providers": providers, "markets_per_second": speed}
        found["scaling"].append(row | {"provider_markets_per_second": speed * providers})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[against.OPTIONS])
    parser.add_argument("--markets", type=int, default=8192)
    given = parser.parse_args()
    if given.against:
        return against.compare("differentiable", given, ["--markets", str(given.markets)])
    mechlab.use_all_cores()
    print(json.dumps(measure(given.markets), indent=1))


if __name__ == "__main__":
    main()
