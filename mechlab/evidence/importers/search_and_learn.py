"""Completions of search-and-learn: a question a row, with lists of `completions` and `scores`.

Its reward is the score of a completion's last step. Whether a completion is right is not in the
file: `mechlab grade` reads the texts, and `answer` is the truth.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from mechlab.evidence.importers.records import Answers, Fault, Report, entries, rows


def read(
    path: pathlib.Path, report: Report, *, benchmark: str | None, model: str | None, texts: bool
) -> Iterator[Answers]:
    for row, (where, record) in enumerate(rows(path, report)):
        try:
            found = _answers(record, str(row), texts)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        found.model, found.benchmark = model or path.stem, benchmark or path.stem
        found.where = where
        yield found


def _answers(record: dict[str, Any], row: str, texts: bool) -> Answers:
    if not texts:
        raise Fault("completions are not graded in the file; grade their texts with mechlab grade")
    completions = entries(record, "completions")
    count = len(completions)
    if not count or not all(isinstance(x, str) for x in completions):
        raise Fault("completions have to be texts")
    tokens = record.get("completion_tokens")
    if not (isinstance(tokens, list) and len(tokens) == count):
        tokens = [None] * count
    scores = record.get("scores")
    reward = None
    if isinstance(scores, list):
        last = [x[-1] if isinstance(x, list) and x else x for x in entries(record, "scores", count)]
        reward = [float(x) if isinstance(x, int | float) else None for x in last]
    question, truth = record.get("unique_id"), record.get("answer")
    return Answers(
        model="",
        benchmark="",
        question=str(row if question is None else question),
        answer=[None] * count,
        correct=None,
        tokens=list(tokens),
        reward=reward,
        texts=completions,
        truth=None if truth is None else str(truth),
    )
