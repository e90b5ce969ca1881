"""Other people's logs of sampled answers, read as a stream into the sample table.

Records that are broken, and samples that stand twice, are reported with their place and left out;
with `strict` the first of them ends the import.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa

from mechlab.core.errors import InputError
from mechlab.evidence.importers import columns, inspect_ai, lm_eval, published
from mechlab.evidence.importers.records import Answers, Report, open_file
from mechlab.evidence.samples import SCHEMA, Batches
from mechlab.evidence.samples import read as read_samples

FORMATS = ("published", "lm-eval", "inspect", "table", "samples")

__all__ = ["FORMATS", "Answers", "Report", "answers", "batched", "detect", "read"]


def detect(path: str | os.PathLike[str]) -> str:
    """The format of a file, by its content; raises InputError where it is none that is known."""
    file = pathlib.Path(path)
    with open_file(file) as opened:
        head = opened.read(2**16)
        first = head.split(b"\n", 1)[0]
        if len(first) == len(head):
            first += opened.readline(2**28)
    if head[:4] == b"PAR1":
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(file).names
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: not readable as Parquet ({error})") from None
        return "samples" if set(SCHEMA.names) <= set(names) else "table"
    if not head.strip():
        raise InputError(f"{path}, line 1: the file is empty; give a log of sampled answers")
    if b"\0" in head:
        raise InputError(f"{path}, line 1: binary, and not Parquet; give a log of sampled answers")
    try:
        record = orjson.loads(first)
    except orjson.JSONDecodeError:
        record = None
    if isinstance(record, dict):
        if "qid" in record and "correct" in record:
            return "published"
        if "doc_id" in record:
            return "lm-eval"
    if head.lstrip()[:1] == b"{" and (b'"eval"' in head or (record and "samples" in record)):
        return "inspect"
    if published.NAME.match(file.name):
        return "published"
    if lm_eval.NAME.match(file.name):
        return "lm-eval"
    if b"," in first and not head.lstrip().startswith((b"{", b"[")):
        return "table"
    raise InputError(
        f"{path}, line 1: not a format that is known; say which with --from "
        "published, lm-eval, inspect or table"
    )


def answers(
    paths: Sequence[str | os.PathLike[str]],
    *,
    source: str | None = None,
    benchmark: str | None = None,
    model: str | None = None,
    mapping: str | None = None,
    tokenizer: str | None = None,
    texts: bool = False,
    report: Report | None = None,
) -> Iterator[Answers]:
    """The samples of each question, as the files hold them; arguments as in `read`."""
    report = report or Report()
    for path in map(pathlib.Path, paths):
        kind = source or detect(path)
        options: dict[str, Any] = dict(benchmark=benchmark, model=model, texts=texts)
        if kind == "published":
            found = published.read(path, report, **options)
        elif kind == "lm-eval":
            found = lm_eval.read(path, report, count_tokens=_tokenizer(tokenizer), **options)
        elif kind == "inspect":
            found = inspect_ai.read(path, report, **options)
        elif kind == "table":
            if mapping is None:
                raise InputError(f"{path}: a table needs --mapping FILE.toml, which names columns")
            named, constants = columns.mapping(mapping)
            constants |= {k: v for k, v in (("benchmark", benchmark), ("model", model)) if v}
            named = {field: column for field, column in named.items() if field not in constants}
            found = columns.read(path, report, columns=named, constants=constants, texts=texts)
        else:
            raise InputError(f"--from {kind}: use {', '.join(FORMATS)}")
        yield from _once(found, report)


def read(
    paths: Sequence[str | os.PathLike[str]],
    *,
    source: str | None = None,
    benchmark: str | None = None,
    model: str | None = None,
    mapping: str | None = None,
    tokenizer: str | None = None,
    report: Report | None = None,
) -> Iterator[pa.RecordBatch]:
    """Sample-table batches of files, read as a stream: memory does not grow with the files.

    Args:
        paths: logs, or sample tables in Parquet.
        source: "published", "lm-eval", "inspect", "table" or "samples"; by content where not given.
        benchmark, model: names to use in place of the file's.
        mapping: TOML file of columns, for "table": see `mechlab.evidence.importers.columns`.
        tokenizer: a tokenizer.json, for "lm-eval" logs, which hold no token counts.
        report: receives the faults; `Report(strict=True)` raises InputError at the first.

    Raises:
        InputError: a file that is not there, not of its format, or has no samples at all.
    """
    report = report or Report()
    for path in map(pathlib.Path, paths):
        before = report.samples
        if (source or detect(path)) == "samples":
            table = read_samples(path)
            report.samples += table.num_rows
            yield from table.to_batches()
        else:
            found = answers(
                [path], source=source, benchmark=benchmark, model=model, mapping=mapping,
                tokenizer=tokenizer, report=report,
            )  # fmt: skip
            yield from batched(found)
        if report.samples == before:
            raise InputError(f"{path}: no sample could be read")


def batched(found: Iterator[Answers]) -> Iterator[pa.RecordBatch]:
    """Sample-table batches of the samples of questions."""
    batches = Batches()
    for record in found:
        count = len(record.answer)
        batches.add(
            count,
            model=record.model, benchmark=record.benchmark, question_id=record.question,
            sample=list(range(record.first, record.first + count)),
            answer=record.answer, correct=record.correct, reward=record.reward,
            tokens=record.tokens, thinking_tokens=record.thinking, finish_reason=record.finish,
        )  # fmt: skip
        if batches.full:
            yield batches.take()
    if len(batches):
        yield batches.take()


def _once(found: Iterator[Answers], report: Report) -> Iterator[Answers]:
    """The samples, each question's numbers once: a second record of the same ones is a fault."""
    taken: dict[tuple[str, str, str], _Numbers] = {}
    for record in found:
        numbers = taken.setdefault((record.model, record.benchmark, record.question), _Numbers())
        if not numbers.add(record.first, len(record.answer)):
            report.fault(
                record.where, f"a second record of question {record.question!r} by {record.model}"
            )
            continue
        report.records += 1
        report.samples += len(record.answer)
        yield record


class _Numbers:
    """Sample numbers that were seen: all below `end`, and `others`."""

    def __init__(self) -> None:
        self.end, self.others = 0, set[int]()

    def add(self, first: int, count: int) -> bool:
        """Whether all of them were new."""
        if first < self.end or not self.others.isdisjoint(range(first, first + count)):
            return False
        if first == self.end:
            self.end += count
        else:
            self.others.update(range(first, first + count))
        while self.end in self.others:
            self.others.remove(self.end)
            self.end += 1
        return True


@functools.lru_cache
def _tokenizer(path: str | None) -> Callable[[list[str]], list[int]] | None:
    if path is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("--tokenizer: install mechlab[models], which has tokenizers") from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"--tokenizer {path}: {' '.join(str(error).split())[:200]}") from None
    return lambda texts: [
        len(x.ids) for x in tokenizer.encode_batch(texts, add_special_tokens=False)
    ]
