"""Details of lighteval: details/MODEL/TIME/details_TASK_TIME.parquet, a document a row.

Newer versions nest `doc`, `model_response` and `metric`; older ones have `predictions`, `gold` and
`metrics` side by side. Several responses of a document are its samples; a metric grades it as a
whole, so that grades of several responses are not in the log (`mechlab grade` reads their texts).
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import (
    Answers,
    Fault,
    LogProbs,
    Reading,
    Report,
    of_logprobs,
    rows,
)

NAME = re.compile(r"details_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.:\-]+\.parquet\Z")
COLUMNS = ({"doc", "model_response", "metric"}, {"predictions", "metrics", "full_prompt"})


def read(
    path: pathlib.Path,
    report: Report,
    *,
    benchmark: str | None,
    model: str | None,
    texts: bool,
    reading: Reading,
) -> Iterator[Answers]:
    name = NAME.match(path.name)
    task = name["task"] if name else path.stem
    benchmark = benchmark or (task.split("|")[1] if task.count("|") > 1 else task)
    model = model or (path.resolve().parent.parent.name if name else "") or "model"
    metrics: dict[str, None] = {}
    for row, (where, record) in enumerate(rows(path, report)):
        try:
            correct = None if texts else _correct(record, where, reading.metric, metrics)
            found = _answers(record, str(row), model, benchmark, texts)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        if correct is not None and len(found.answer) > 1:
            report.fault(
                where,
                f"{len(found.answer)} responses, and one metric for all: grades of each are not in "
                "the log; grade their texts with mechlab grade",
            )
            continue
        found.correct, found.where = correct, where
        yield found
    if metrics:
        report.chosen(path, "metric", reading.metric, next(iter(metrics)), metrics)


def _answers(record: dict[str, Any], row: str, model: str, benchmark: str, texts: bool) -> Answers:
    doc, response = record.get("doc"), record.get("model_response")
    if isinstance(doc, dict) and isinstance(response, dict):
        responses, counted = _list(response.get("text")), _list(response.get("output_tokens"))
        logs, choices = _list(response.get("logprobs")), _list(doc.get("choices"))
        gold, question, parsed = doc.get("gold_index"), doc.get("id"), None
    else:
        responses, counted = _list(record.get("predictions")), _list(record.get("cont_tokens"))
        logs, choices, gold = [], _list(record.get("gold")), 0
        question = record.get("hash")
        special = record.get("specifics")
        parsed = special.get("extracted_predictions") if isinstance(special, dict) else None
    if not responses or not all(isinstance(x, str) for x in responses):
        raise Fault("no text of its answer; log likelihoods are not sampled answers")
    count = len(responses)
    if isinstance(counted, list) and len(counted) == 1 < count and isinstance(counted[0], list):
        counted = counted[0] if len(counted[0]) == count else []
    tokens = [len(x) if isinstance(x, list) else x for x in counted]
    if len(tokens) != count or not all(isinstance(x, int) for x in tokens):
        if not texts:
            raise Fault("no output tokens of its answers; grade the texts with --tokenizer")
        tokens = [None] * count
    gold = gold[0] if isinstance(gold, list) and gold else gold
    truth = choices[gold] if isinstance(gold, int) and 0 <= gold < len(choices) else None
    answer = [str(x) for x in parsed] if isinstance(parsed, list) and len(parsed) == count else None
    sure = of_logprobs(_list(x) for x in logs) if len(logs) == count else LogProbs()
    return Answers(
        model=model,
        benchmark=benchmark,
        question=str(row if question in (None, "") else question),
        answer=[None] * count if answer is None else [canonical(x) for x in answer],
        correct=None,
        tokens=tokens,
        texts=responses if texts else None,
        truth=None if truth is None else str(truth).strip(),
        **sure,
    )


def _correct(
    record: dict[str, Any], where: str, asked: str | None, metrics: dict[str, None]
) -> list[bool]:
    """The grade of a document; raises Fault, and InputError where a metric is no grade."""
    grades = record.get("metric", record.get("metrics"))
    there = {k: x for k, x in grades.items() if x is not None} if isinstance(grades, dict) else {}
    for name in there:
        metrics.setdefault(name)
    taken = asked or next(iter(metrics), None)
    if taken not in there:
        raise Fault(f"no metric {taken or ''}; it has {', '.join(there) or 'none'}")
    value = there[taken]
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise InputError(
            f"{where}: metric {taken} is {value!r}, outside 0…1, and no grade; name another with "
            "--metric"
        )
    return [value >= 0.5]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
