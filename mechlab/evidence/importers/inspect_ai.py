"""Eval logs of Inspect AI: `.eval` archives, and JSON; epochs are repeats.

An archive is a zip of a sample a file (the current writer compresses them with Zstandard); JSON is
one document with `eval` and `samples`. Both are read sample by sample. Tokens are those of all
generations of a sample before it was scored.
"""

import math
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import (
    BROKEN,
    Answers,
    Fault,
    Reading,
    Report,
    loads,
    of_logprobs,
    open_file,
)

if sys.version_info >= (3, 14):
    import zipfile
else:
    from backports.zstd import zipfile

_GRADES = {  # what Inspect's value_to_float takes for a grade, with its P (partial) as not right
    "c": True,
    "i": False,
    "p": False,
    "n": False,
    "correct": True,
    "incorrect": False,
    "yes": True,
    "no": False,
    "true": True,
    "false": False,
}
_UNREADABLE = (ValueError, OSError, NotImplementedError, zipfile.BadZipFile, *BROKEN)
_SCORING = {"scorer", "scorers"}


def read(
    path: pathlib.Path,
    report: Report,
    *,
    benchmark: str | None,
    model: str | None,
    texts: bool,
    reading: Reading,
) -> Iterator[Answers]:
    archive = _is_archive(path)
    head = _header(path) if archive else _head(path)
    evaluated = str(head.get("model", "model"))
    benchmark = benchmark or str(head.get("task", path.stem)).rpartition("/")[2]
    model = model or evaluated.rpartition("/")[2]
    chosen = _Chosen(reading)
    seen: dict[str, int] = {}
    where = str(path)
    for where, sample in (_archived if archive else _listed)(path, report):
        try:
            found = _answers(sample, where, model, evaluated, benchmark, texts, chosen)
        except Fault as fault:
            report.fault(where, str(fault))
            continue
        found.where = where
        epoch = sample.get("epoch")
        counted = seen.get(found.question, 0)
        found.first = epoch - 1 if isinstance(epoch, int) and epoch > 0 else counted
        seen[found.question] = counted + 1
        yield found
    if where == str(path):
        report.fault(where, "no samples; export the log with them")
    chosen.say(path, report)


class _Chosen:
    """The scorer, and of its scores the metric, that is read; the first where none is asked for."""

    def __init__(self, reading: Reading) -> None:
        self.asked = reading
        self.scorer, self.metric = reading.scorer, reading.metric
        self.scorers: dict[str, None] = {}
        self.metrics: dict[str, None] = {}

    def score(self, scores: dict[str, Any]) -> tuple[Any, Any]:
        """The value and the answer of a sample's score; raises Fault."""
        for name in scores:
            self.scorers.setdefault(name)
        self.scorer = self.scorer or next(iter(scores))
        if self.scorer not in scores:
            raise Fault(f"no score by {self.scorer}; it has {', '.join(scores)}")
        score = scores[self.scorer]
        if not isinstance(score, dict):
            raise Fault(f"{self.scorer} holds no score")
        value = score.get("value")
        if isinstance(value, dict) and value:
            for name in value:
                self.metrics.setdefault(name)
            self.metric = self.metric or next(iter(value))
            if self.metric not in value:
                raise Fault(f"{self.scorer} has no {self.metric}; it has {', '.join(value)}")
            value = value[self.metric]
        return value, score.get("answer")

    def say(self, path: pathlib.Path, report: Report) -> None:
        if self.scorer is not None and self.scorers:
            report.chosen(path, "scorer", self.asked.scorer, self.scorer, self.scorers)
        if self.metric is not None and self.metrics:
            report.chosen(path, "metric", self.asked.metric, self.metric, self.metrics)


def _is_archive(path: pathlib.Path) -> bool:
    with open_file(path) as file:
        return file.read(4) == b"PK\3\4"


def _header(path: pathlib.Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("header.json", "_journal/start.json"):  # the latter where it did not end
                if name in archive.namelist():
                    found = loads(archive.read(name))
                    if isinstance(found, dict) and isinstance(found.get("eval"), dict):
                        return found["eval"]
    except _UNREADABLE as error:
        raise InputError(f"{path}: not readable as an archive ({error}); copy it again") from None
    raise InputError(f"{path}: an archive without header.json; give an eval log of Inspect AI")


def _archived(path: pathlib.Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not (entry.filename.startswith("samples/") and entry.filename.endswith(".json")):
                continue
            where = f"{path}, {entry.filename}"
            try:
                sample = loads(archive.read(entry))
            except _UNREADABLE as error:
                report.fault(where, f"not readable ({' '.join(str(error).split())})")
                continue
            if isinstance(sample, dict):
                yield where, sample
            else:
                report.fault(where, "no sample")


def _listed(path: pathlib.Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
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
                return
            number += 1
            where = f"{path}, near line {lines.count}, sample {number}"
            if isinstance(sample, dict):
                yield where, sample
            else:
                report.fault(where, "no sample")


_OPEN = re.compile(rb"[\w\\.+-]*\Z")
_UNUSUAL = re.compile(rb"NaN|Infinity|\d{19}|\\u[dD][89a-fA-F]")
_PIECES = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|NaN|-?Infinity|(?<![\d.eE+-])-?\d{19,}(?![\d.eE])', re.S
)  # strings whole; numbers that are whole, and not the digits behind a point
_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\."
)


class _Lines:
    """A file of JSON that counts the lines it has handed out, with what Python's `json` writes and
    a strict parser refuses respelled: NaN as null, long whole numbers as floats, and half of a pair
    of surrogates as U+FFFD."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.count = file, 1
        self._rest, self._inside = b"", False

    def read(self, size: int = -1) -> bytes:
        cut = 0
        while not cut:
            piece = self._file.read(size)
            self.count += piece.count(b"\n")
            data = self._rest + piece
            if not data:
                return b""
            # hold back what an escape, a number or a name could go on from
            cut = len(data) - (len(_OPEN.search(data[-400:])[0]) if piece else 0)  # type: ignore[index]
            data, self._rest = data[:cut], data[cut:]
        inside = self._inside
        bare = data.replace(b"\\\\", b"")
        self._inside = inside ^ bool((bare.count(b'"') - bare.count(b'\\"')) % 2)
        if not _UNUSUAL.search(data):
            return data
        return _respelled(data, inside)


def _respelled(data: bytes, inside: bool) -> bytes:
    def piece(match: re.Match[bytes]) -> bytes:
        text = match[0]
        if text.startswith(b'"'):
            return _PAIR.sub(_surrogate, text)
        return b"null" if text.endswith((b"N", b"y")) else text + b".0"

    if not inside:
        return _PIECES.sub(piece, data)
    return _PIECES.sub(piece, b'"' + data)[1:]


def _surrogate(match: re.Match[bytes]) -> bytes:
    text = match[0]
    return b"\\ufffd" if len(text) == 6 and text[2:3] in b"dD" else text


def _head(path: pathlib.Path) -> dict[str, Any]:
    with open_file(path) as file:
        lines = _Lines(file)
        try:
            head = next(ijson.items(lines, "eval", use_float=True), None)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}, near line {lines.count}: not JSON ({reason}); give an eval log of "
                "Inspect AI"
            ) from None
    if not isinstance(head, dict):
        raise InputError(f"{path}: no eval section; give an eval log of Inspect AI")
    return head


def _answers(
    sample: dict[str, Any],
    where: str,
    model: str,
    evaluated: str,
    benchmark: str,
    texts: bool,
    chosen: _Chosen,
) -> Answers:
    if not isinstance(sample.get("id"), int | str):
        raise Fault("no id")
    correct, answer = None, None
    try:
        correct, answer = _scored(sample, where, chosen)
    except (Fault, InputError):
        if not texts:  # which are graded whatever the log says
            raise
    output = _dict(sample.get("output"))
    tokens, thinking = _tokens(sample, output, evaluated)
    if tokens is None and not texts:
        raise Fault("no output.usage.output_tokens")
    choice: dict[str, Any] = _dict(next(iter(output.get("choices") or ()), {}))
    stop = choice.get("stop_reason")
    if sample.get("limit") or stop in ("max_tokens", "model_length"):
        stop = "length"
    target = sample.get("target")
    target = target[0] if isinstance(target, list) and target else target
    text = _text(sample, choice) if texts else None
    if texts and text is None:
        raise Fault("no text of its answer")
    return Answers(
        model=model,
        benchmark=benchmark,
        question=str(sample["id"]),
        answer=[canonical(str(answer)) if answer is not None else None],
        correct=correct,
        tokens=[tokens],
        thinking=None if thinking is None else [thinking],
        finish=[stop],
        texts=None if text is None else [text],
        truth=None if target is None else str(target),
        **of_logprobs([_logprobs(choice)]),
    )


def _scored(sample: dict[str, Any], where: str, chosen: _Chosen) -> tuple[list[bool], Any]:
    scores = sample.get("scores")
    if not isinstance(scores, dict) or not scores:
        error = sample.get("error")
        why = error.get("message") if isinstance(error, dict) else None
        raise Fault("no scores" + (f" (error: {str(why)[:80]})" if why else ""))
    value, answer = chosen.score(scores)
    return [_grade(value, chosen.scorer, where)], answer


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _grade(value: Any, scorer: str | None, where: str) -> bool:
    if isinstance(value, str):
        known = _GRADES.get(value.strip().lower())
        if known is not None:
            return known
        try:
            value = float(value)
        except ValueError:
            raise Fault(f"score {value!r} by {scorer} is no grade") from None
    if not isinstance(value, bool | int | float) or math.isnan(value):
        raise Fault(f"score {value!r} by {scorer} is no grade")
    if not 0 <= value <= 1:
        raise InputError(
            f"{where}: score {value:g} by {scorer} is outside 0…1, and no grade; name another "
            "scorer with --scorer, or grade the texts with mechlab grade"
        )
    return value >= 0.5


def _tokens(
    sample: dict[str, Any], output: dict[str, Any], evaluated: str
) -> tuple[int | None, int | None]:
    """Tokens generated before scoring, and those of them that were thought.

    Of the sample's events where it has them; else the evaluated model's of all its usage; else
    those of its last generation.
    """
    usages, scoring, spans = [], 0, set()
    for event in sample.get("events") or ():
        event = _dict(event)
        kind, type_ = event.get("event"), event.get("type")
        if kind == "span_begin" and (type_ in _SCORING or event.get("parent_id") in spans):
            spans.add(event.get("id"))
        elif kind == "step" and type_ in _SCORING:
            scoring += 1 if event.get("action") == "begin" else -1
        elif kind == "model" and not scoring and event.get("span_id") not in spans:
            usages.append(_dict(_dict(event.get("output")).get("usage")))
    usages = [x for x in usages if isinstance(x.get("output_tokens"), int)]
    if not usages:
        by_model = _dict(sample.get("model_usage"))
        usages = [_dict(by_model.get(evaluated)), _dict(output.get("usage"))]
        usages = [x for x in usages if isinstance(x.get("output_tokens"), int)][:1]
    if not usages:
        return None, None
    thinking = [x["reasoning_tokens"] for x in usages if isinstance(x.get("reasoning_tokens"), int)]
    return sum(x["output_tokens"] for x in usages), sum(thinking) if thinking else None


def _text(sample: dict[str, Any], choice: dict[str, Any]) -> str | None:
    content = _dict(choice.get("message")).get("content")
    if isinstance(content, list):
        parts = [x.get("text", "") for x in content if isinstance(x, dict)]
        content = "".join(x for x in parts if isinstance(x, str))
    if isinstance(content, str) and content.startswith("attachment://"):
        content = _dict(sample.get("attachments")).get(content.removeprefix("attachment://"))
    return content if isinstance(content, str) else None


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    tokens = _dict(choice.get("logprobs")).get("content")
    tokens = tokens if isinstance(tokens, list) else []
    return [x.get("logprob") for x in tokens if isinstance(x, dict)]
