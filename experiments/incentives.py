"""Who gains by deviating from the optimum, from truth and from equilibrium, under each rule.

    python -m experiments.incentives

writes results/incentives/incentives.{png,pdf,csv}, in about five minutes on two cores.
"""

import os
import pathlib

import jax
import pandas as pd

from mechlab import incentives, plots, tables
from mechlab.population import Published

OUT = pathlib.Path("results/incentives")
MARKETS, SEED = 10_000, 0


def main() -> None:
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    jax.config.update("jax_enable_x64", True)
    OUT.mkdir(parents=True, exist_ok=True)
    found = incentives.report(
        Published(),
        MARKETS,
        seed=SEED,
        progress=lambda row: print(f"  {row['mechanism']}, {row['start']}, {row['space']}"),
    )
    tables.print_incentives(found)
    figure = plots.incentives(found)
    for suffix in ("png", "pdf"):
        figure.savefig(OUT / f"incentives.{suffix}", dpi=150)
    with (OUT / "incentives.csv").open("w") as file:
        file.write(f"# remade by: python -m experiments.incentives ({MARKETS} markets)\n")
        pd.DataFrame(incentives.flat_rows(found)).to_csv(file, index=False)
    print(f"wrote {OUT}/incentives.png, .pdf and .csv")


if __name__ == "__main__":
    main()
