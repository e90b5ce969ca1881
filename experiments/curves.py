"""Accuracy and tokens against test-time compute: every provider, method and benchmark.

The lab's own curves have intervals; the published ones were read off figures and have none.
"""

import mechlab
from experiments.output import Output
from mechlab.data import replicates
from mechlab.study import plots

DATASETS = ("published", "lab")


def main() -> None:
    out = Output("curves")
    rows = []
    for name in DATASETS:
        dataset = mechlab.data.load(name)
        for benchmark in dataset.benchmarks:
            table = dataset.curves[dataset.curves["benchmark"] == benchmark]
            out.figure(plots.curves(table), f"curves_{benchmark}")
            table = table.drop(columns=list(replicates.LISTS), errors="ignore")
            rows += table.assign(dataset=name).to_dict("records")
    out.table(rows)


if __name__ == "__main__":
    main()
