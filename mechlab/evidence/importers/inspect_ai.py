"""Eval logs of Inspect AI in JSON: one document with `eval` and `samples`, epochs as repeats."""

import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report, open_file

_RIGHT = {"C": True, "I": False, "P": False, "N": False}  # correct, incorrect, partial, no answer


def read(
    path: pathlib.Path, report: Report, *, benchmark: str | None, model: str | None, texts: bool
) -> Iterator[Answers]:
    with open_file(path) as file:
        head = _head(path, _Lines(file))
    benchmark = benchmark or str(head.get("task", path.stem)).rpartition("/")[2]
    model = model or str(head.get("model", "model")).rpartition("/")[2]
    seen: dict[str, int] = {}
    number = 0
    with open_file(path) as file:
        lines = _Lines(file)
        samples = ijson.items(lines, "samples.item", use_float=True, buf_size=2**16)
        while True:
            try:
                sample = next(samples, None)
            except (ijson.JSONError, UnicodeDecodeError) as error:
                report.fault(
                    f"{path}, near line {lines.count}",
                    f"the JSON breaks off after sample {number} ({' '.join(str(error).split())}); "
                    "the samples from there on are lost",
                )
                return
            if sample is None:
                break
            number += 1
            where = f"{path}, near line {lines.count}, sample {number}"
            try:
                found = _answers(sample, model, benchmark, texts)
            except Fault as fault:
                report.fault(where, str(fault))
                continue
            found.where, found.first = where, seen.get(found.question, 0)
            seen[found.question] = found.first + 1
            yield found
    if not number:
        report.fault(f"{path}, near line {lines.count}", "no samples; export the log with them")


class _Lines:
    """A file that counts the lines it has handed out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.count = file, 1

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += data.count(b"\n")
        return data


def _head(path: pathlib.Path, lines: _Lines) -> dict[str, Any]:
    try:
        head = next(ijson.items(lines, "eval", use_float=True), None)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}, near line {lines.count}: not JSON ({reason}); give an eval log of Inspect AI"
        ) from None
    if not isinstance(head, dict):
        raise InputError(f"{path}: no eval section; give an eval log of Inspect AI in JSON")
    return head


def _answers(sample: Any, model: str, benchmark: str, texts: bool) -> Answers:
    if not isinstance(sample, dict) or not isinstance(sample.get("id"), int | str):
        raise Fault("no id")
    scores = sample.get("scores")
    if not isinstance(scores, dict) or not scores:
        raise Fault("no scores")
    score = next(iter(scores.values()))
    value = score.get("value") if isinstance(score, dict) else None
    if isinstance(value, str) and value in _RIGHT:
        correct = _RIGHT[value]
    elif isinstance(value, bool | int | float):
        correct = value >= 0.5
    else:
        raise Fault(f"score {value!r} is neither C, I, P, N nor a number")
    output = sample.get("output")
    output = output if isinstance(output, dict) else {}
    usage = output.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens, thinking = usage.get("output_tokens"), usage.get("reasoning_tokens")
    if not isinstance(tokens, int):
        raise Fault("no output.usage.output_tokens")
    choice: dict[str, Any] = next(iter(output.get("choices") or ()), {})
    stop = choice.get("stop_reason")
    content = choice.get("message", {}).get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    answer, target = score.get("answer"), sample.get("target")
    target = target[0] if isinstance(target, list) and target else target
    return Answers(
        model=model, benchmark=benchmark, question=str(sample["id"]),
        answer=[canonical(str(answer)) if answer is not None else None], correct=[correct],
        tokens=[tokens], thinking=None if thinking is None else [thinking],
        finish=["length" if stop in ("max_tokens", "model_length") else stop],
        texts=[content] if texts and isinstance(content, str) else None,
        truth=None if target is None else str(target),
    )  # fmt: skip
