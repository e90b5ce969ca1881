"""Outputs of MathArena: an answer a row, Parquet or JSON lines.

Levels of effort are models of their own there, such as "o4-mini (high)"; `as_levels` makes them the
levels of one.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report, rows

COLUMNS = {"problem_idx", "model_name", "idx_answer", "correct"}


def read(
    path: pathlib.Path, report: Report, *, benchmark: str | None, model: str | None, texts: bool
) -> Iterator[Answers]:
    for where, record in rows(path, report):
        try:
            found = _answers(record, texts)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        found.model, found.benchmark = model or found.model, benchmark or path.stem
        found.where = where
        yield found


def _answers(record: dict[str, Any], texts: bool) -> Answers:
    problem, number, name = (record.get(x) for x in ("problem_idx", "idx_answer", "model_name"))
    if problem is None or not isinstance(number, int) or not isinstance(name, str):
        raise Fault("no problem_idx, idx_answer or model_name")
    correct, tokens = record.get("correct"), record.get("output_tokens")
    if not texts and not isinstance(correct, bool):
        raise Fault(f"correct is {correct!r}; it has to be true or false")
    if not texts and not isinstance(tokens, int):
        raise Fault("no output_tokens")
    text: Any = record.get("answer")
    parsed, truth = record.get("parsed_answer"), record.get("gold_answer")
    if texts and not isinstance(text, str):
        raise Fault("no text of its answer")
    return Answers(
        model=name,
        benchmark="",
        question=str(problem),
        answer=[None if parsed is None else canonical(str(parsed))],
        correct=[correct] if isinstance(correct, bool) else None,
        tokens=[tokens if isinstance(tokens, int) else None],
        texts=[text] if texts else None,
        truth=None if truth is None else str(truth),
        first=number,
    )
