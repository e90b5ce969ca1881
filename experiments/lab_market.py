"""Our own market, the whole path from the weights of networks to pricing rules.

    python -m experiments lab_market           100 problems, 16 samples each
    python -m experiments.lab_market --full    500 and 64: what ships as data set `lab`

Samples the checkpoints of `models/lab` on held-out sums, as they are usually asked, greedily and by
beam searches over the reward model, which scores the samples too. Beside figure and table there are
lab_samples.parquet and lab_curves.parquet (with the replicates behind the intervals); those of the
full run are what `mechlab/data` holds. A run that was stopped goes on with the same command.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa
import pyarrow.compute as pc

from experiments.output import Output
from mechlab import data
from mechlab.evidence import samples as sample_table
from mechlab.evidence.curves import Curves, as_levels, estimate, joined
from mechlab.study import comparison, plots, tables
from models import load, sample
from models.score import score

LAB = Path(__file__).parents[1] / "models" / "lab"
PROVIDERS = ("Lab-0.3M", "Lab-0.7M", "Lab-0.8M", "Lab-0.9M", "Lab-1.8M")
JUDGE = "Lab-reward"
LEVER, EFFORTS = "Lab-0.8M", ("short", "medium", "long")  # the one that works as long as asked
SIZES = {"reduced": (100, 16, 1), "full": (500, 64, 1)}  # problems, samples of each, searches
TEMPERATURE, SEED = 0.7, 0
METHODS = (
    "majority_voting",
    "best_of_n",
    "most_probable_of_n",
    "confidence_majority",
    "adaptive_consistency",
)
SHOWN = ("majority_voting", "best_of_n", "adaptive_consistency", "beam_search")  # in the figure
BEAMS = {2: 1, 4: 2}  # kept of as many continuations, two of each


@dataclasses.dataclass(frozen=True)
class Run:
    """One way in which a provider is asked; its name is the provider's alone for the usual one."""

    provider: str
    effort: str | None = None
    greedy: bool = False
    continuations: int | None = None
    """Of a beam search over the reward model, at each step."""

    @property
    def name(self) -> str:
        if self.greedy:
            return f"{self.provider}/greedy"
        if self.continuations:
            return f"{self.provider}/beam-{self.continuations}"
        return self.provider if self.effort in (None, "long") else f"{self.provider}/{self.effort}"


def runs(provider: str) -> list[Run]:
    effort = "long" if provider == LEVER else None
    shorter = [Run(provider, one) for one in EFFORTS[:-1]] if provider == LEVER else []
    searched = [Run(provider, effort, continuations=count) for count in BEAMS]
    return [Run(provider, effort), *shorter, Run(provider, effort, greedy=True), *searched]


def sampled(out: Path, run: Run, size: tuple[int, int, int]) -> Path:
    """The folder of a run's samples."""
    problems, n, searches = size
    folder = out / "runs" / run.name.replace("/", "-")
    search = run.continuations and sample.SearchConfig(
        BEAMS[run.continuations], 2, ("=",), judge=str(LAB / JUDGE)
    )
    config = sample.Config(
        out=str(folder),
        model=sample.ModelConfig(spec=str(LAB / run.provider), name=run.name, dtype="float32"),
        benchmark=sample.BenchmarkConfig(
            "arithmetic",
            "sums",
            questions=problems,
            options={"effort": run.effort} if run.effort else {},
        ),
        sampling=sample.SamplingConfig(
            1 if run.greedy else searches if search else n,
            temperature=0.0 if run.greedy else TEMPERATURE,
            max_tokens=48,
            seed=SEED,
            batch=256,
        ),
        search=search or None,
    )
    with sample.telling(run.name) as tell:
        sample.sample(config, tell=tell)
    return folder


def scored(run: Run, folder: Path) -> pa.Table:
    if not run.continuations:  # a search has asked the reward model
        score(judge(), folder)
    return sample_table.read(folder / "samples.parquet")


@functools.cache
def judge():
    return load(LAB / JUDGE, dtype="float32")


def main(size: str = "reduced") -> None:
    problems, n, _ = SIZES[size]
    output = Output("lab_market")
    if size == "full":
        command = "python -m experiments.lab_market --full"
        output = Output("lab_market", "lab_market_full", command)
    out = output.folder
    samples = pa.concat_tables(
        scored(run, sampled(out, run, SIZES[size])) for one in PROVIDERS for run in runs(one)
    )
    sample_table.write(out / "lab_samples.parquet", samples.to_batches())
    found = curves(samples)
    found.save(str(out / "lab_curves.parquet"))

    jax.config.update("jax_enable_x64", True)
    dataset = data.load(str(out / "lab_curves.parquet"), "lab")
    results = [
        comparison.compare(dataset.select("sums", method), uncertainty=0.95)
        for method in dataset.methods("sums")
    ]
    for result in results:
        tables.print_comparison(result)
    shown = found.table[found.table["method"].isin(SHOWN)]
    drawn = [result for result in results if result.named.method in SHOWN]
    output.figure(plots.curves_and_charges(shown, drawn))
    rows = [row for result in results for row in result.flat_rows()]
    output.table(rows, f"{problems} problems, {n} samples, temperature {TEMPERATURE}, seed {SEED}")


def curves(samples: pa.Table, methods: Sequence[str] = METHODS, **options: Any) -> Curves:
    """Of these methods and the levers, from the samples of all runs."""
    names = samples["model"].cast(pa.string())

    def of(*chosen: str) -> pa.Table:
        return samples.filter(pc.is_in(names, pa.array(chosen)))

    usual = estimate(of(*PROVIDERS), methods, **options)
    single = estimate(samples, ["single_sample"], sizes=[1], **options)
    searched = [run.name for one in PROVIDERS for run in runs(one) if run.continuations]
    # of one search the best is itself, with what the judge has read
    search = estimate(of(*searched), ["best_of_n"], sizes=[1], **options)
    # Who has no lever works at length, whatever is asked
    efforts = {provider: {3: provider} for provider in PROVIDERS}
    efforts[LEVER] |= {1: f"{LEVER}/short", 2: f"{LEVER}/medium"}
    greedy = {provider: {1: f"{provider}/greedy"} for provider in PROVIDERS}
    beams = {
        provider: {count: f"{provider}/beam-{count}" for count in BEAMS} for provider in PROVIDERS
    }
    return joined(
        usual,
        as_levels(search, beams, "beam_search", of="best_of_n"),
        as_levels(single, greedy, "greedy"),
        as_levels(single, efforts),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="what ships, in place of a part of it")
    main("full" if parser.parse_args().full else "reduced")
