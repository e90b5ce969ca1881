"""Sample logs of lm-evaluation-harness: MODEL/samples_TASK_TIME.jsonl, a document a line.

Repeats of a document, in one line or in several, are its samples. `filtered_resps` hold the answer,
`exact_match`, `acc` or `acc_norm` whether it is right. The harness counts no tokens: `num_tokens`
of a line is taken where it is there, and otherwise the responses are tokenised by the file given
with --tokenizer.
"""

import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report, json_lines

NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:\-]+)?\.jsonl\Z")
METRICS = ("exact_match", "acc", "acc_norm")


def read(
    path: pathlib.Path,
    report: Report,
    *,
    benchmark: str | None,
    model: str | None,
    texts: bool,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
) -> Iterator[Answers]:
    name = NAME.match(path.name)
    benchmark = benchmark or (name["task"] if name else path.name.removesuffix(".jsonl"))
    model = model or path.resolve().parent.name.rpartition("__")[2] or "model"
    seen: dict[str, int] = {}
    only = None  # a file holds each document once for every filter: the first filter is taken
    for where, record in json_lines(path, report):
        only = record.get("filter") if only is None else only
        if record.get("filter") != only:
            continue
        try:
            found = _answers(record, model, benchmark, texts, count_tokens)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        found.where, found.first = where, seen.get(found.question, 0)
        seen[found.question] = found.first + len(found.answer)
        yield found


def _answers(
    record: dict[str, Any],
    model: str,
    benchmark: str,
    texts: bool,
    count_tokens: Callable[[list[str]], list[int]] | None,
) -> Answers:
    question = record.get("doc_id")
    if not isinstance(question, int | str) or isinstance(question, bool):
        raise Fault("no doc_id")
    responses = _flat(record.get("resps"))
    filtered = _flat(record.get("filtered_resps"))
    if not filtered:
        raise Fault("filtered_resps hold no text; log likelihoods are not sampled answers")
    target = record.get("target")
    truth = None if target is None else str(target).rpartition("####")[2].strip()
    metric = next((record[name] for name in METRICS if name in record), None)
    if metric is None:
        raise Fault(f"none of {', '.join(METRICS)}")
    answer = [canonical(x) if x and x != "[invalid]" else None for x in filtered]
    if isinstance(metric, list) and len(metric) == len(filtered):
        correct = [bool(x) for x in metric]
    elif len(filtered) == 1 and isinstance(metric, int | float):
        correct = [metric >= 0.5]
    elif truth is not None:  # one number for several repeats: each is checked by itself
        right = canonical(truth)
        correct = [x is not None and x == right for x in answer]
    else:
        raise Fault(f"{len(filtered)} repeats, one metric for all, and no target to check them by")
    tokens = record.get("num_tokens")
    tokens = tokens if isinstance(tokens, list) else [tokens] * len(filtered)
    if all(isinstance(x, int) for x in tokens) and len(tokens) == len(filtered):
        pass
    elif len(responses) != len(filtered):
        raise Fault(
            f"{len(responses)} resps for {len(filtered)} filtered_resps: tokens are unknown"
        )
    elif count_tokens is not None:
        tokens = count_tokens(responses)
    else:
        raise Fault("no num_tokens; the harness counts none: give the model's tokenizer.json with "
                    "--tokenizer")  # fmt: skip
    return Answers(
        model=model, benchmark=benchmark, question=str(question), answer=answer, correct=correct,
        tokens=list(tokens), texts=responses if texts and len(responses) == len(filtered) else None,
        truth=truth,
    )  # fmt: skip


def _flat(value: Any) -> list[str]:
    """The texts of nested lists; pairs (log likelihood, is greedy) are not texts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in _flat(part)]
    return []
