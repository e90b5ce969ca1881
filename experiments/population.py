"""A million sampled markets: distributions in place of points, and who wins from switching rules.

Markets resample the published providers of GSM8K with random prices, tokens, accuracies, margins,
rationality and value per answer (`mechlab.Published`).
"""

import mechlab
from experiments.output import Output
from mechlab.study import plots, tables

MARKETS, SEED = 1_000_000, 0


def main() -> None:
    mechlab.use_all_cores()
    out = Output("population")
    found = mechlab.simulate(mechlab.Published(), MARKETS, seed=SEED)
    tables.print_simulation(found)
    out.figure(plots.population(found))
    described = found.to_dict()
    rows = [
        {"rule": rule, "metric": metric, **summary}
        for rule, metrics in described["mechanisms"].items()
        for metric, summary in metrics.items()
    ]
    rows += [
        {"rule": rule, "metric": f"better_for.{side}", **share}
        for rule, sides in described["better_for"].items()
        for side, share in sides.items()
    ]
    out.table(rows, f"{MARKETS} markets, seed {SEED}")


if __name__ == "__main__":
    main()
