"""Our own market, the whole path from the weights of networks to pricing rules.

    python -m experiments lab_market           100 problems, 16 samples each
    python -m experiments.lab_market --full    500 and 64: what ships as data set `lab`

Samples the checkpoints of `models/lab` on held-out sums and scores the samples with the reward
model. Beside figure and table there are lab_samples.parquet and lab_curves.parquet
(with the replicates behind the intervals); those of the full run are what `mechlab/data` holds. A
run that was stopped goes on with the same command.
"""

import argparse
import functools
from pathlib import Path

import jax
import pyarrow as pa

from experiments.output import Output
from mechlab import data
from mechlab.evidence import samples as sample_table
from mechlab.evidence.curves import as_levels, estimate, joined
from mechlab.study import comparison, plots, tables
from models import load, sample
from models.score import score

LAB = Path(__file__).parents[1] / "models" / "lab"
PROVIDERS = ("Lab-0.3M", "Lab-0.7M", "Lab-0.8M", "Lab-0.9M", "Lab-1.8M")
LEVER, EFFORTS = "Lab-0.8M", ("short", "medium", "long")  # the one that works as long as asked
SIZES = {"reduced": (100, 16), "full": (500, 64)}  # problems, samples of each
TEMPERATURE, SEED = 1.4, 0


def sampled(out: Path, provider: str, effort: str | None, problems: int, n: int) -> Path:
    """The folder of a provider's samples; with less than the longest working it has a suffix."""
    name = provider if effort in (None, EFFORTS[-1]) else f"{provider}/{effort}"
    folder = out / "runs" / name.replace("/", "-")
    options = {} if effort is None else {"effort": effort}
    config = sample.Config(
        out=str(folder),
        model=sample.ModelConfig(spec=str(LAB / provider), name=name, dtype="float32"),
        benchmark=sample.BenchmarkConfig("arithmetic", "sums", questions=problems, options=options),
        sampling=sample.SamplingConfig(
            n, temperature=TEMPERATURE, max_tokens=40, seed=SEED, batch=256
        ),
    )
    with sample.telling(name) as tell:
        sample.sample(config, tell=tell)
    return folder


def scored(folder: Path) -> pa.Table:
    score(judge(), folder)
    return sample_table.read(folder / "samples.parquet")


@functools.cache
def judge():
    return load(LAB / "Lab-reward", dtype="float32")


def main(size: str = "reduced") -> None:
    problems, n = SIZES[size]
    output = Output("lab_market")
    if size == "full":
        command = "python -m experiments.lab_market --full"
        output = Output("lab_market", "lab_market_full", command)
    out = output.folder
    asked = [(p, effort) for p in PROVIDERS for effort in (EFFORTS if p == LEVER else (None,))]
    folders = {(p, effort): sampled(out, p, effort, problems, n) for p, effort in asked}
    runs = {key: scored(folder) for key, folder in folders.items()}
    whole = {key: run for key, run in runs.items() if key[1] in (None, EFFORTS[-1])}
    sample_table.write(out / "lab_samples.parquet", pa.concat_tables(runs.values()).to_batches())
    voting = estimate(pa.concat_tables(whole.values()), ["majority_voting", "best_of_n"])
    single = estimate(pa.concat_tables(runs.values()), ["single_sample"])
    # Who has no lever works at length, whatever is asked
    levels = {provider: {3: provider} for provider in PROVIDERS}
    levels[LEVER] |= {1: f"{LEVER}/short", 2: f"{LEVER}/medium"}
    found = joined(voting, as_levels(single, levels))
    found.save(str(out / "lab_curves.parquet"))

    jax.config.update("jax_enable_x64", True)
    dataset = data.load(str(out / "lab_curves.parquet"), "lab")
    results = [
        comparison.compare(dataset.select("sums", method), uncertainty=0.95)
        for method in dataset.methods("sums")
    ]
    for result in results:
        tables.print_comparison(result)
    output.figure(plots.curves_and_charges(found.table, results))
    rows = [row for result in results for row in result.flat_rows()]
    output.table(rows, f"{problems} problems, {n} samples, temperature {TEMPERATURE}, seed {SEED}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="what ships, in place of a part of it")
    main("full" if parser.parse_args().full else "reduced")
