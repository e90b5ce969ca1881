"""Who gains by deviating from the optimum, from truth and from equilibrium, under each rule."""

import jax

import mechlab
from experiments.output import Output
from mechlab.populations import Published
from mechlab.study import plots, tables
from mechlab.study import survey as incentives

MARKETS, SEED = 1_000, 0


def main() -> None:
    mechlab.use_all_cores()
    jax.config.update("jax_enable_x64", True)
    out = Output("incentives")
    found = incentives.report(
        Published(),
        MARKETS,
        seed=SEED,
        progress=lambda row: print(f"  {row['mechanism']}, {row['start']}, {row['space']}"),
    )
    tables.print_incentives(found)
    out.figure(plots.incentives(found))
    out.table(found.flat_rows(), f"{MARKETS} markets, seed {SEED}")


if __name__ == "__main__":
    main()
