"""Markets per second on an accelerator, with the share of its limits that this is.

    python -m benchmarks.accelerator > benchmarks/results/VERSION/DEVICE.json

The work is that of `benchmarks.headline`, sampling excluded and included. Limits are the makers'
figures for float32 without tensor cores and for memory bandwidth.
"""

import json

import jax

from benchmarks.headline import resident, seconds_of_best
from mechlab.populations import Published
from mechlab.simulation.evaluator import Evaluator

# name in the device's kind: (bytes/s, float32 flop/s), from NVIDIA's data sheets
LIMITS = {"H200": (4.8e12, 67e12), "H100": (3.35e12, 67e12), "A100": (2.04e12, 19.5e12)}
FLOPS = 3000  # of arithmetic a market needs at the least
BYTES = 4 * (5 * 9 * 6 + 2 + 18)  # five fields of 9 × 6 and the users read, 18 rows written
MARKETS = 2**24


def main() -> None:
    evaluator = Evaluator(Published(), 0, certificate=False)
    device = evaluator.devices[0]
    evaluator.chunks = max(1, 2**20 // (evaluator.chunk * len(evaluator.devices)))
    run, columns, compile_seconds = resident(evaluator)
    rate = evaluator.part / seconds_of_best(lambda: run(*columns), MARKETS, evaluator.part)
    evaluator.compile()
    sampled = evaluator.part / seconds_of_best(lambda: evaluator.launch(0), MARKETS, evaluator.part)
    limits = next((x for name, x in LIMITS.items() if name in device.device_kind), None)
    print(
        json.dumps(
            {
                "device": f"{len(evaluator.devices)} x {device.device_kind}",
                "jax": jax.__version__,
                "markets_per_second": rate,
                "with_sampling_markets_per_second": sampled,
                "compile_seconds": compile_seconds,
                "share_of_bandwidth": limits and rate * BYTES / limits[0],
                "share_of_arithmetic": limits and rate * FLOPS / limits[1],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
