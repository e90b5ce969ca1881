"""Other people's logs of sampled answers, read as a stream into the sample table.

Records that are broken, and samples that stand twice, are reported with their place and left out;
with `strict` the first of them ends the import.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mechlab.core.errors import InputError
from mechlab.evidence.importers import (
    columns,
    inspect_ai,
    lighteval,
    lm_eval,
    matharena,
    published,
    search_and_learn,
)
from mechlab.evidence.importers.records import (
    BROKEN,
    Answers,
    Reading,
    Report,
    broken,
    loads,
    open_file,
)
from mechlab.evidence.samples import NEEDED, Batches
from mechlab.evidence.samples import read as read_samples

FORMATS = (
    "published",
    "lm-eval",
    "inspect",
    "lighteval",
    "search-and-learn",
    "matharena",
    "table",
    "samples",
)

__all__ = ["FORMATS", "Answers", "Reading", "Report", "answers", "batched", "detect", "read"]


def detect(path: str | os.PathLike[str]) -> str:
    """The format of a file, by its content; raises InputError where it is none that is known."""
    file = pathlib.Path(path)
    try:
        with open_file(file) as opened:
            head = opened.read(2**16).removeprefix(b"\xef\xbb\xbf")
            first = head.split(b"\n", 1)[0]
            if len(first) == len(head):
                first += opened.readline(2**28)
    except BROKEN as error:
        raise broken(file, error) from None
    if head[:4] == b"PAR1":
        return _detect_columns(file)
    if head[:4] == b"PK\3\4":
        return "inspect"
    if not head.strip():
        raise InputError(f"{path}, line 1: the file is empty; give a log of sampled answers")
    if b"\0" in head:
        raise InputError(f"{path}, line 1: binary, and not Parquet; give a log of sampled answers")
    try:
        record = loads(first)
    except ValueError:
        record = None
    if isinstance(record, dict):
        keys = record.keys()
        if "qid" in keys and ("correct" in keys or "answers" in keys):
            return "published"
        if "doc_id" in keys:
            return "lm-eval"
        if {"completions", "scores"} <= keys or {"completions", "completion_tokens"} <= keys:
            return "search-and-learn"
        if matharena.COLUMNS <= keys:
            return "matharena"
    if head.lstrip()[:1] == b"{" and (b'"eval"' in head or (record and "samples" in record)):
        return "inspect"
    if published.NAME.match(file.name):
        return "published"
    if lm_eval.NAME.match(file.name):
        return "lm-eval"
    jsonl = isinstance(record, dict) and b"\n" in head
    if jsonl or (
        any(x in first for x in (b",", b"\t", b";")) and head.lstrip()[:1] not in (b"{", b"[")
    ):
        return "table"
    raise InputError(
        f"{path}, line 1: not a format that is known; say which with --from {', '.join(FORMATS)}"
    )


def _detect_columns(path: pathlib.Path) -> str:
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet ({error})") from None
    if set(NEEDED) <= names:
        return "samples"
    if any(names >= known for known in lighteval.COLUMNS):
        return "lighteval"
    if {"completions", "scores"} <= names:
        return "search-and-learn"
    return "matharena" if matharena.COLUMNS <= names else "table"


def answers(
    paths: Sequence[str | os.PathLike[str]],
    *,
    source: str | None = None,
    benchmark: str | None = None,
    model: str | None = None,
    mapping: str | None = None,
    tokenizer: str | None = None,
    reading: Reading | None = None,
    pool: bool = False,
    texts: bool = False,
    report: Report | None = None,
) -> Iterator[Answers]:
    """The samples of each question, as the files hold them; arguments as in `read`."""
    numbered = _Numbered(report or Report(), pool)
    for path in map(pathlib.Path, paths):
        yield from numbered.once(
            _answers(
                path,
                source or detect(path),
                benchmark=benchmark,
                model=model,
                mapping=mapping,
                tokenizer=tokenizer,
                reading=reading or Reading(),
                texts=texts,
                report=numbered.report,
            )
        )


def _answers(
    path: pathlib.Path,
    kind: str,
    *,
    mapping: str | None,
    tokenizer: str | None,
    reading: Reading,
    report: Report,
    **options: Any,
) -> Iterator[Answers]:
    count = _tokenizer(tokenizer)
    if kind == "published":
        found = published.read(path, report, **options)
    elif kind == "lm-eval":
        found = lm_eval.read(path, report, reading=reading, count_tokens=count, **options)
    elif kind == "inspect":
        found = inspect_ai.read(path, report, reading=reading, **options)
    elif kind == "lighteval":
        found = lighteval.read(path, report, reading=reading, **options)
    elif kind == "search-and-learn":
        found = search_and_learn.read(path, report, **options)
    elif kind == "matharena":
        found = matharena.read(path, report, **options)
    elif kind == "table":
        found = _table(path, report, mapping, **options)
    elif kind == "samples":
        raise InputError(
            f"{path}: a sample table holds no texts; give the logs that it was made of"
        )
    else:
        raise InputError(f"--from {kind}: use {', '.join(FORMATS)}")
    try:
        for record in found:
            if count is not None and record.texts is not None and None in record.tokens:
                record.tokens = list(count(record.texts))
            yield record
    except BROKEN as error:
        raise broken(path, error) from None


def _table(
    path: pathlib.Path,
    report: Report,
    mapping: str | None,
    *,
    benchmark: str | None,
    model: str | None,
    texts: bool,
) -> Iterator[Answers]:
    given = {k: v for k, v in (("benchmark", benchmark), ("model", model)) if v}
    prices = None
    if mapping is not None:
        named, constants, prices = columns.mapping(mapping, given, texts)
    else:
        there = columns.header(path)
        named = {x: x for x in there if x in columns.FIELDS and x not in given}
        constants = given
        missing = [x for x in columns.needed(texts) if x not in named and x not in constants]
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(missing)} among {', '.join(there) or 'none'}; say "
                'what is what with --mapping FILE.toml ([columns], field = "column")'
            )
    return columns.read(
        path, report, columns=named, constants=constants, texts=texts, prices=prices
    )


def read(
    paths: Sequence[str | os.PathLike[str]],
    *,
    source: str | None = None,
    benchmark: str | None = None,
    model: str | None = None,
    mapping: str | None = None,
    tokenizer: str | None = None,
    reading: Reading | None = None,
    pool: bool = False,
    report: Report | None = None,
) -> Iterator[pa.RecordBatch]:
    """Sample-table batches of files, read as a stream: memory does not grow with the files.

    Args:
        paths: logs, or sample tables in Parquet.
        source: one of `FORMATS`; by content where not given.
        benchmark, model: names to use in place of the file's.
        mapping: TOML file of columns, for "table": see `mechlab.evidence.importers.columns`.
        tokenizer: a tokenizer.json, for logs without token counts.
        reading: which filter, metric or scorer is read, where a log holds several.
        pool: samples that stand twice, in one file or in several, are further samples, and are
            numbered on; they are left out otherwise.
        report: receives the faults; `Report(strict=True)` raises InputError at the first.

    Raises:
        InputError: a file that is not there, not of its format, or has no samples at all.
    """
    report = report or Report()
    numbered = _Numbered(report, pool)
    for path in map(pathlib.Path, paths):
        before, kind = report.samples + numbered.doubles, source or detect(path)
        if kind == "samples":
            yield from numbered.table(path)
        else:
            found = _answers(
                path,
                kind,
                benchmark=benchmark,
                model=model,
                mapping=mapping,
                tokenizer=tokenizer,
                reading=reading or Reading(),
                texts=False,
                report=report,
            )
            yield from batched(numbered.once(found))
        if report.samples + numbered.doubles == before:
            why = f" (first: {report.first})" if report.first else ""
            raise InputError(f"{path}: no sample could be read{why}")


def batched(found: Iterator[Answers]) -> Iterator[pa.RecordBatch]:
    """Sample-table batches of the samples of questions."""
    batches = Batches()
    for record in found:
        count = len(record.answer)
        batches.add(
            count,
            model=record.model,
            benchmark=record.benchmark,
            question_id=record.question,
            sample=list(range(record.first, record.first + count)),
            answer=record.answer,
            correct=record.correct,
            reward=record.reward,
            confidence=record.confidence,
            tokens=record.tokens,
            thinking_tokens=record.thinking,
            finish_reason=record.finish,
            logprob_sum=record.logprob_sum,
            logprob_mean=record.logprob_mean,
            judged_tokens=record.judged_tokens,
        )
        if batches.full:
            yield batches.take()
    if len(batches):
        yield batches.take()


class _Numbered:
    """Each question's sample numbers once, over all files."""

    def __init__(self, report: Report, pool: bool) -> None:
        self.report, self.pool, self.doubles = report, pool, 0
        self._taken: dict[tuple[str, str, str], _Numbers] = {}

    def once(self, found: Iterator[Answers]) -> Iterator[Answers]:
        """The samples; a second record of the same ones is a fault, or numbered on."""
        for record in found:
            key = record.model, record.benchmark, record.question
            numbers = self._taken.setdefault(key, _Numbers(record.where))
            if not numbers.add(record.first, len(record.answer)):
                if not self.pool:
                    self.doubles += 1
                    self.report.fault(
                        record.where,
                        f"a second record of question {record.question!r} by {record.model}, whose "
                        f"first stands in {numbers.where}; --pool takes it for further samples",
                    )
                    continue
                record.first = numbers.past
                numbers.add(record.first, len(record.answer))
            self.report.records += 1
            self.report.samples += len(record.answer)
            yield record

    def table(self, path: pathlib.Path) -> Iterator[pa.RecordBatch]:
        """The rows of a sample table, with the same care."""
        found = read_samples(path)
        keys = ["model", "benchmark", "question_id"]
        samples = found.select([*keys, "sample"]).to_pandas()
        kept, number = np.ones(len(samples), bool), samples["sample"].to_numpy().copy()
        for key, rows in samples.groupby(keys, observed=True, sort=False).indices.items():
            model, benchmark, question = map(str, key)
            numbers = self._taken.setdefault((model, benchmark, question), _Numbers(str(path)))
            one = np.unique(number[rows])
            if one[-1] - one[0] + 1 == len(rows) == len(one) and numbers.add(int(one[0]), len(one)):
                continue  # a run of numbers, none of them seen
            for row in rows:
                if numbers.add(int(number[row]), 1):
                    continue
                if self.pool:
                    number[row] = numbers.past
                    numbers.add(numbers.past, 1)
                    continue
                self.doubles += 1
                self.report.fault(
                    f"{path}, row {row}",
                    f"a second sample {number[row]} of question {question!r} by {model}, whose "
                    f"first stands in {numbers.where}; --pool takes it for a further one",
                )
                kept[row] = False
        found = found.set_column(
            found.column_names.index("sample"),
            found.schema.field("sample"),
            pa.array(number, pa.int32()),
        ).filter(pa.array(kept))
        self.report.samples += found.num_rows
        yield from found.to_batches()


class _Numbers:
    """Sample numbers that were seen: all below `end`, and `others`; and where the first stood."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.end, self.others = 0, set[int]()

    @property
    def past(self) -> int:
        """Past all that were seen."""
        return max(self.others, default=self.end - 1) + 1

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
        raise InputError("--tokenizer needs tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"--tokenizer {path}: {' '.join(str(error).split())[:200]}") from None
    return lambda texts: [
        len(x.ids) for x in tokenizer.encode_batch(texts, add_special_tokens=False)
    ]
