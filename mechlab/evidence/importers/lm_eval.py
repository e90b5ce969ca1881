"""Sample logs of lm-evaluation-harness: MODEL/samples_TASK_TIME.jsonl, a document a line.

Repeats of a document, in one line or in several, are its samples; a document stands once for every
filter, of which one is read. `filtered_resps` hold the answer, a metric whether it is right. The
harness counts no tokens: `num_tokens` of a line is taken where it is there, and otherwise the
responses are tokenised by the file given with --tokenizer.
"""

import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Reading, Report, json_lines

NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:\-]+)?\.jsonl(?:\.gz|\.zst)?\Z")
METRICS = ("exact_match", "acc", "acc_norm")


def read(
    path: pathlib.Path,
    report: Report,
    *,
    benchmark: str | None,
    model: str | None,
    texts: bool,
    reading: Reading,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
) -> Iterator[Answers]:
    name = NAME.match(path.name)
    benchmark = benchmark or (name["task"] if name else path.name.removesuffix(".jsonl"))
    model = model or path.resolve().parent.name.rpartition("__")[2] or "model"
    seen: dict[str, int] = {}
    lines: dict[tuple, str] = {}
    filters: dict[str, None] = {}
    metrics: dict[str, None] = {}
    wanted = reading.filter
    for where, record in json_lines(path, report):
        here = record.get("filter")
        if here is not None:
            filters.setdefault(str(here))
            wanted = str(here) if wanted is None else wanted
            if str(here) != wanted:
                continue
        key = _identity(record)
        if key in lines:
            if texts:  # another reading of texts that were read already
                continue
            raise InputError(
                f"{where}: a second reading of document {record.get('doc_id')!r}, whose texts are "
                f"those of {lines[key]}, and the log names no filter: filters and repeats cannot "
                "be told apart; leave one reading's lines, or grade the texts with mechlab grade"
            )
        if key is not None:
            lines[key] = where
        try:
            metric = None if texts else _metric(record, reading.metric, metrics, where)
            found = _answers(record, metric, model, benchmark, texts, count_tokens)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        found.where, found.first = where, seen.get(found.question, 0)
        seen[found.question] = found.first + len(found.answer)
        yield found
    if reading.filter is not None and filters and reading.filter not in filters:
        raise InputError(
            f"{path}: no filter {reading.filter!r}; it has {', '.join(map(repr, filters))}"
        )
    if filters and wanted is not None and not texts:
        report.chosen(path, "filter", reading.filter, wanted, filters)
    if metrics:
        report.chosen(path, "metric", reading.metric, next(iter(metrics)), metrics)


def _identity(record: dict[str, Any]) -> tuple | None:
    """What two lines share that are readings of the same texts."""
    if record.get("doc_hash") is None:
        return None
    return record.get("doc_id"), record["doc_hash"], hash(tuple(_flat(record.get("resps"))))


def _metric(record: dict[str, Any], asked: str | None, metrics: dict[str, None], where: str) -> Any:
    """The grade of a line, by the metric that is asked for or the first that grades answers."""
    named = record.get("metrics")
    named = [x for x in named if x in record] if isinstance(named, list) else []
    there = [x for x in METRICS if x in record]
    for name in (*there, *named):
        metrics.setdefault(name)
    if asked is not None and asked not in record:
        raise Fault(f"no metric {asked}; it has {', '.join((*there, *named)) or 'none'}")
    taken = asked or next(iter(metrics), None)
    if taken is None or taken not in record:
        raise Fault(f"none of {', '.join(METRICS)}; name its grade with --metric")
    value = record[taken]
    for x in value if isinstance(value, list) else [value]:
        if not isinstance(x, bool | int | float):
            raise Fault(f"{taken} is {x!r}, which is no grade; name another with --metric")
        if not 0 <= x <= 1:
            raise InputError(
                f"{where}: metric {taken} is {x}, outside 0…1, and no grade; name another with "
                "--metric"
            )
    return value


def _answers(
    record: dict[str, Any],
    metric: Any,
    model: str,
    benchmark: str,
    texts: bool,
    count_tokens: Callable[[list[str]], list[int]] | None,
) -> Answers:
    question = record.get("doc_id")
    if not isinstance(question, int | str) or isinstance(question, bool):
        raise Fault("no doc_id")
    responses = _flat(record.get("resps"))
    if _likelihoods(record) or not responses:
        raise Fault("resps hold no text; log likelihoods are not sampled answers")
    target = record.get("target")
    truth = None if target is None else str(target).rpartition("####")[2].strip()
    shared: dict[str, Any] = dict(
        model=model, benchmark=benchmark, question=str(question), truth=truth
    )
    if texts:
        tokens = _tokens(record, responses, count_tokens, needed=False)
        return Answers(
            answer=[None] * len(responses), correct=None, tokens=tokens, texts=responses, **shared
        )
    filtered = _flat(record.get("filtered_resps"))
    if len(responses) != len(filtered):
        raise Fault(
            f"{len(responses)} resps, and its filter kept {len(filtered)}: grades of the others "
            "are not in the log; grade their texts with mechlab grade"
        )
    answer = [canonical(x) if x and x != "[invalid]" else None for x in filtered]
    if isinstance(metric, list) and len(metric) == len(filtered):
        correct = [x >= 0.5 for x in metric]
    elif len(filtered) == 1 and not isinstance(metric, list):
        correct = [metric >= 0.5]
    elif truth is not None:  # one number for several repeats: each is checked by itself
        right = canonical(truth)
        correct = [x is not None and x == right for x in answer]
    else:
        raise Fault(f"{len(filtered)} repeats, one metric for all, and no target to check them by")
    tokens = _tokens(record, responses, count_tokens, needed=True)
    return Answers(answer=answer, correct=correct, tokens=tokens, **shared)


def _tokens(
    record: dict[str, Any],
    responses: list[str],
    count_tokens: Callable[[list[str]], list[int]] | None,
    *,
    needed: bool,
) -> list[int | None]:
    tokens = record.get("num_tokens")
    tokens = tokens if isinstance(tokens, list) else [tokens] * len(responses)
    if all(isinstance(x, int) for x in tokens) and len(tokens) == len(responses):
        return list(tokens)
    if count_tokens is not None:
        return list(count_tokens(responses))
    if needed:
        raise Fault(
            "no num_tokens; the harness counts none: give the model's tokenizer.json with "
            "--tokenizer"
        )
    return [None] * len(responses)


def _likelihoods(record: dict[str, Any]) -> bool:
    """Whether a line holds log likelihoods of given continuations."""
    asked = record.get("arguments")
    first = next(iter(asked.values()), None) if isinstance(asked, dict) else None
    return isinstance(first, dict) and isinstance(first.get("arg_1"), str)


def _flat(value: Any) -> list[str]:
    """The texts of nested lists; pairs (log likelihood, is greedy) are not texts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in _flat(part)]
    return []
