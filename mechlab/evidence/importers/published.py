"""The layout of the published runs: one JSONL file a model, one question a line.

The file is named MODEL--temp-T--samples-N--max-M.jsonl; a line has `qid`, and an entry a sample in
`correct`, `explanations` (which hold the parsed answer), `num_tokens` (an int, or
[thinking, total]) and, where there are, `rewards` and `answers` (the texts).
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report, entries, json_lines

NAME = re.compile(
    r"(?:reason-)?(?P<model>.+?)--temp-[^-]*--samples-\d+--max-(?P<max>\d+)\.jsonl(?:\.gz|\.zst)?\Z"
)
_VALUE = r"""(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^;]*))"""
_PARSED = re.compile(rf"\s*(?:parsed|boxed|extracted|pred)\s*=\s*{_VALUE}", re.S)
_NONE = re.compile(r"\s*(?:no\b.*\bfound\b|none\b|empty\b|\Z)", re.S | re.I)
_QUESTION = re.compile(r"(?P<benchmark>[A-Za-z][\w.]*?)[-_ ]?\d+\Z")
_SPELLING = {"gsm8k": "GSM8K", "gpqa": "GPQA", "aime": "AIME"}
_UNKNOWN = object()


def read(
    path: pathlib.Path, report: Report, *, benchmark: str | None, model: str | None, texts: bool
) -> Iterator[Answers]:
    name = NAME.match(path.name)
    limit = int(name["max"]) if name else None
    model = model or (name["model"] if name else path.name.removesuffix(".jsonl"))
    parsed: dict[str, Any] = {}  # explanations repeat
    for where, record in json_lines(path, report):
        try:
            yield _answers(record, where, model, benchmark, limit, texts, parsed)
        except Fault as fault:
            report.fault(where, str(fault))


def _answers(
    record: dict[str, Any],
    where: str,
    model: str,
    benchmark: str | None,
    limit: int | None,
    texts: bool,
    parsed: dict[str, Any],
) -> Answers:
    question = record.get("qid")
    if not isinstance(question, str | int) or isinstance(question, bool) or question == "":
        raise Fault("no qid that names the question")
    raw = entries(record, "answers") if texts else None
    if raw is not None and not set(map(type, raw)) <= {str}:
        raise Fault("answers have to be texts")
    correct = None if texts and "correct" not in record else entries(record, "correct")
    count = len(raw if correct is None else correct)  # type: ignore[arg-type]
    if correct is not None and (not count or not set(map(type, correct)) <= {bool}):
        raise Fault("correct has to be a list of true and false")
    if raw is not None and len(raw) != count:
        raise Fault(f"answers has {len(raw)} entries where there are {count} samples")
    answer: list[Any] = [None] * count if texts else []
    for explanation in () if texts else entries(record, "explanations", count):
        if explanation not in parsed:
            parsed[explanation] = _parsed(explanation)
        answer.append(parsed[explanation])
    if _UNKNOWN in answer:
        which = answer.index(_UNKNOWN)
        raise Fault(
            f"explanations[{which}] holds no answer in a known form: "
            f"{str(record['explanations'][which])[:80]!r}"
        )
    counted = not texts or "num_tokens" in record
    tokens: list[Any] = entries(record, "num_tokens", count) if counted else [0] * count
    thinking = None
    if list in set(map(type, tokens)):
        if not all(isinstance(x, list) and len(x) == 2 for x in tokens):
            raise Fault("num_tokens mixes forms; give whole numbers, or [thinking, total]")
        thinking, tokens = ([x[i] for x in tokens] for i in (0, 1))
    for counts in (tokens, thinking or [0]):
        if not set(map(type, counts)) <= {int} or min(counts) < 0 or max(counts) >= 2**31:
            raise Fault("num_tokens have to be whole numbers, not negative")
    reward = record.get("rewards")
    if reward is not None:
        reward = entries(record, "rewards", count)
        if not set(map(type, reward)) <= {int, float, type(None)}:
            raise Fault("rewards have to be numbers, or null")
    named = benchmark
    if named is None:
        match = _QUESTION.match(str(question))
        if match is None:
            raise Fault(f"qid {question!r} names no benchmark; name it with --benchmark")
        named = match["benchmark"]
        named = _SPELLING.get(named.lower(), named)
    finish: list[str | None] | None = None
    if limit is not None and counted:
        finish = ["length" if x >= limit else "stop" for x in tokens]
    truths = record.get("ground_truths")
    return Answers(
        model=model,
        benchmark=named,
        question=str(question),
        answer=answer,
        correct=correct,
        tokens=tokens if counted else [None] * count,
        reward=reward,
        thinking=thinking,
        finish=finish,
        texts=raw,
        truth=str(truths[0]) if isinstance(truths, list) and truths else None,
        where=where,
    )


def _parsed(explanation: Any) -> Any:
    """The canonical answer of an explanation, None where it says that there is none."""
    if explanation is None:
        return None
    if not isinstance(explanation, str):
        return _UNKNOWN
    found = _PARSED.match(explanation)
    if found is None:
        return None if _NONE.match(explanation) else _UNKNOWN
    quoted, double, bare = found.groups()
    if bare is not None:
        return None if bare.strip() in ("", "None", "null") else canonical(bare)
    return canonical(re.sub(r"\\(.)", r"\1", quoted if quoted is not None else double))
