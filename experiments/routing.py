"""Routers, cascades and auctions on the lab's own samples, question by question."""

import jax

import mechlab
from experiments.output import Output
from mechlab.study import plots, tables
from mechlab.study.routing import routing

SEED = 0


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out, lab = Output("routing"), mechlab.data.load("lab")
    found = routing(
        mechlab.data.samples("lab"), lab.constants, seed=SEED, progress=lambda x: print(f"  {x}")
    )
    tables.print_routing(found)
    out.figure(plots.routing(found))
    out.table(found.flat_rows(), f"{found.questions} questions, seed {SEED}")


if __name__ == "__main__":
    main()
