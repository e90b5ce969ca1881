"""The commands that work on sampled answers: curves and grade."""

import contextlib
import csv
import dataclasses
import enum
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mechlab.cli.app import Format, OutputFormat, Plot, app, check_plot, emit, exact
from mechlab.core.errors import InputError
from mechlab.core.files import check_out
from mechlab.study import tables

if TYPE_CHECKING:
    from mechlab.evidence.curves import Curves
    from mechlab.evidence.grading.regrade import Changes
    from mechlab.evidence.importers import Answers, Report


class Source(enum.StrEnum):
    published = "published"
    lm_eval = "lm-eval"
    inspect = "inspect"
    lighteval = "lighteval"
    search_and_learn = "search-and-learn"
    matharena = "matharena"
    table = "table"
    samples = "samples"


Runs = Annotated[
    list[str], typer.Argument(help="Logs of sampled answers, sample tables, or folders of them.")
]
From = Annotated[
    Source | None, typer.Option("--from", help="Format of the logs.", show_default="by content")
]
Named = Annotated[str | None, typer.Option(help="Name in place of the log's.", show_default=False)]
Mapping = Annotated[
    str | None,
    typer.Option(help="TOML file that names the columns of a table.", show_default=False),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="tokenizer.json for logs without token counts.", show_default=False),
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter", help="Of a log with several, the filter to read.", show_default="the first"
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(help="Of a log with several, the metric to read.", show_default="the first"),
]
Scorer = Annotated[
    str | None,
    typer.Option(help="Of a log with several, the scorer to read.", show_default="the first"),
]
Pool = Annotated[
    bool, typer.Option("--pool", help="Take samples that stand twice for further samples.")
]
_SUFFIXES = (".jsonl", ".json", ".eval", ".parquet", ".pq", ".csv", ".tsv")
_ZIPPED = (".gz", ".zst")
Strict = Annotated[bool, typer.Option(help="Stop at the first broken or duplicate record.")]


@dataclasses.dataclass(frozen=True)
class _Estimated:
    """Curves, from how many samples, and how many records were left out."""

    found: "Curves"
    samples: int
    faults: int

    def to_dict(self) -> dict[str, Any]:
        return {"curves": self.flat_rows(), "samples": self.samples, "faults": self.faults}

    def flat_rows(self) -> list[dict[str, Any]]:
        return [
            {str(name): x for name, x in row.items()} for row in self.found.table.to_dict("records")
        ]


@dataclasses.dataclass(frozen=True)
class _Graded:
    """What grading again changed, and how many records were left out."""

    changes: "Changes"
    faults: int

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.changes) | {"faults": self.faults}

    def flat_rows(self) -> list[dict[str, Any]]:
        return [self.to_dict()]


@app.command()
def curves(
    runs: Runs,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="majority_voting, best_of_n, weighted_majority, pass_at_n, single_sample, "
            "reasoning_effort, adaptive_consistency, most_probable_of_n or confidence_majority; "
            "repeatable.",
            show_default="those that the samples have data for",
        ),
    ] = None,
    n: Annotated[
        list[int] | None,
        typer.Option("-n", help="Samples of a level; repeatable.", show_default="1, 2, 4 … 64"),
    ] = None,
    bins: Annotated[int, typer.Option(help="Levels of reasoning effort.")] = 5,
    by_question: Annotated[
        bool, typer.Option(help="Average effort by question first, in place of pooling samples.")
    ] = False,
    weights: Annotated[
        str, typer.Option(help="Of weighted_majority: reward or confidence.")
    ] = "reward",
    decided: Annotated[
        float, typer.Option(help="Confidence at which adaptive_consistency stops drawing.")
    ] = 0.95,
    replicates: Annotated[int, typer.Option(help="Of the bootstrap over questions.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            help="Write the curves: CSV, or Parquet, which also keeps the bootstrap's replicates.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="Write the sample table (Parquet).", show_default=False)
    ] = None,
    source: From = None,
    filter_: Filter = None,
    metric: Metric = None,
    scorer: Scorer = None,
    pool: Pool = False,
    mapping: Mapping = None,
    tokenizer: Tokenizer = None,
    benchmark: Named = None,
    model: Named = None,
    strict: Strict = False,
    output: OutputFormat = Format.table,
    plot: Plot = None,
) -> None:
    """Quality-versus-compute curves, with intervals, from logs of sampled answers."""
    exact()
    check_plot(plot)
    check_out(out, (".csv", ".parquet", ".pq"))
    check_out(samples, (".parquet", ".pq"), "--samples")
    from mechlab.evidence import importers
    from mechlab.evidence import samples as samples_module
    from mechlab.evidence.curves import estimate

    report = importers.Report(strict=strict, warn=_warn)
    with _status("reading") as say:
        batches = importers.read(
            log_files(runs),
            source=source and source.value,
            benchmark=benchmark,
            model=model,
            mapping=mapping,
            tokenizer=tokenizer,
            pool=pool,
            report=report,
            reading=importers.Reading(filter_, metric, scorer),
        )
        if samples is not None:
            samples_module.write(samples, batches)
            table = samples_module.read(samples)
        else:
            table = samples_module.table(batches)
        found = estimate(
            table,
            method,
            sizes=n,
            bins=bins,
            by_question=by_question,
            weights=weights,
            decided=decided,
            replicates=replicates,
            confidence=confidence,
            seed=seed,
            progress=say,
        )
    for note in found.notes:
        _warn(note)
    if out is not None:
        found.save(out)
    if plot is not None:
        from mechlab.study import plots

        plots.save(plots.curves(found.table), plot)
    result = _Estimated(found, table.num_rows, report.faults)
    emit(result, output, lambda result: tables.print_curves(result.found, confidence))


@app.command()
def grade(
    runs: Runs,
    out: Annotated[str, typer.Option(help="Sample table to write (Parquet).")],
    verifier: Annotated[
        str, typer.Option(help="number, choice or math: how answers are found and compared.")
    ] = "number",
    time_limit: Annotated[
        float, typer.Option(help="Seconds that one text may take, for math.")
    ] = 5.0,
    truths: Annotated[
        str | None,
        typer.Option(
            help="CSV with columns question_id and answer, in place of the log's right answers.",
            show_default=False,
        ),
    ] = None,
    source: From = None,
    pool: Pool = False,
    mapping: Mapping = None,
    tokenizer: Tokenizer = None,
    benchmark: Named = None,
    model: Named = None,
    strict: Strict = False,
    output: OutputFormat = Format.table,
) -> None:
    """Grade the texts of logs again, and write the sample table."""
    check_out(out, (".parquet", ".pq"))
    from mechlab.evidence import grading, importers
    from mechlab.evidence import samples as samples_module
    from mechlab.evidence.grading.regrade import Changes, regrade

    make = functools.partial(grading.named, verifier, time_limit=time_limit)
    make()  # an unknown name ends here
    report, changes = importers.Report(strict=strict, warn=_warn), Changes()
    right = None if truths is None else _truths(truths)
    with _status("grading") as say:
        found = importers.answers(
            log_files(runs),
            source=source and source.value,
            benchmark=benchmark,
            model=model,
            mapping=mapping,
            tokenizer=tokenizer,
            pool=pool,
            texts=True,
            report=report,
        )
        graded = _some(regrade(found, make, changes, truths=right, progress=say), report)
        samples_module.write(out, importers.batched(graded))
    result = _Graded(changes, report.faults)
    emit(result, output, lambda result: tables.print_grades(result.changes, out))


def _warn(line: str) -> None:
    print(f"mechlab: {line}", file=sys.stderr)


def _some(graded: Iterator["Answers"], report: "Report") -> Iterator["Answers"]:
    """The records; InputError where there is none."""
    record = None
    for record in graded:
        yield record
    if record is None:
        why = f" (first: {report.first})" if report.first else ""
        raise InputError(f"no text could be read{why}")


def log_files(runs: list[str]) -> list[pathlib.Path]:
    """The files of logs, sample tables and folders of them."""
    files: list[pathlib.Path] = []
    for run in map(pathlib.Path, runs):
        if (run / "samples.parquet").is_file():  # a run of models.sample; its other files are logs
            files.append(run / "samples.parquet")
        elif run.is_dir():
            inside = sorted(x for x in run.rglob("*") if _is_log(x, run))
            if not inside:
                raise InputError(f"{run}: no {', '.join(_SUFFIXES)} file in this folder")
            files += inside
        else:
            files.append(run)
    return files


def _is_log(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a file of a folder may be a log: neither hidden, nor the harness's summary."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    name = path.name.lower()
    for zipped in _ZIPPED:
        name = name.removesuffix(zipped)
    summary = name.startswith("results_") and name.endswith(".json")
    return path.is_file() and name.endswith(_SUFFIXES) and not hidden and not summary


def _truths(path: str) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return {row["question_id"]: row["answer"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--truths {path}: not a CSV with columns question_id and answer ({error})"
        ) from None


@contextlib.contextmanager
def _status(first: str) -> Iterator[Callable[[str], None] | None]:
    """What is being done, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status(first) as status:
        yield status.update
