"""Symbolic answers, compared by the math-verify library in a process that is killed in time."""

import json
import os
import pathlib
import re
import selectors
import subprocess
import sys
import time

from mechlab.core.errors import InputError
from mechlab.evidence.grading import finder
from mechlab.evidence.grading.canonical import canonical, read_number
from mechlab.evidence.grading.verifiers import FinalNumber, Grade, Verifier, number_next_to

_WORKER = pathlib.Path(__file__).with_name("math_worker.py")
_START = 120.0  # seconds to import the library
_LONGEST = 2_000  # characters of an answer
_PROSE = re.compile(r"[^\W\d_]{3,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_NAMES = re.compile(r"\b(?:sqrt|pi|sin|cos|tan|log|ln|exp|inf|mod|max|min)\b")


class SymbolicMath(Verifier):
    """The last box, else what stands next to the last mark, else the last formula or number.

    Numbers are compared by value, anything else by `math_verify`. A text that takes longer than the
    limit is wrong, and without an answer.
    """

    name = "math"
    waits = True

    def __init__(self, time_limit: float = 5.0) -> None:
        self.time_limit = time_limit
        self._worker: _Worker | None = None

    def __call__(self, text: str, truth: str) -> Grade:
        answer, right = self.find(text), _right(truth)
        if answer is None or right is None or len(answer) > _LONGEST:
            return Grade(None, False)
        same = self._compared(answer, right)
        if same is None:
            return Grade(None, False)
        return Grade(canonical(right if same else answer), same)

    def find(self, text: str) -> str | None:
        """The answer of a text, as it is written there."""
        place = finder.find(text)
        if place.how == "box":
            return place.text.strip() or None
        if place.how == "mark":
            return _next_to(place.text)
        whole = place.text.strip()
        if read_number(whole) is not None or _is_formula(whole):
            return whole
        if formulas := finder.formulas(whole):
            return finder.inside(formulas[-1])
        return FinalNumber().find(whole)

    def same(self, one: str, other: str) -> bool:
        return one == other or bool(self._compared(one, other))

    def _compared(self, answer: str, right: str) -> bool | None:
        """Whether two answers are the same; None where finding out takes too long."""
        if canonical(answer) == canonical(right):
            return True
        numbers = read_number(answer), read_number(right)
        if numbers[0] is not None and numbers[1] is not None and numbers[0].same(numbers[1]):
            return True
        if self._worker is None:
            self._worker = _Worker()
        reply = self._worker.ask([answer, right], self.time_limit)
        if reply is None:
            self.close()
            return None
        return bool(reply[0])

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def _right(truth: str) -> str | None:
    """What a truth says: its box, what stands next to its mark, or all of it."""
    place = finder.find(truth)
    return _next_to(place.text) if place.how == "mark" else place.text.strip() or None


def _next_to(phrase: str) -> str | None:
    """The formula, number, or expression that a phrase gives."""
    formulas = finder.formulas(phrase)
    if formulas and not re.search(r"\d", phrase[: formulas[0].start()]):
        return finder.inside(formulas[0])
    found = number_next_to(phrase)
    if found is not None:
        return found.form
    plain = phrase.strip(" .*_`")
    return plain if _is_formula(plain) or len(plain) <= 40 else None


def _is_formula(text: str) -> bool:
    """Whether a text is one expression, and no prose."""
    if not text or len(text) > 200 or "\n" in text:
        return False
    bare = _NAMES.sub("", _COMMAND.sub("", re.sub(r"\\text\w*\s?\{[^{}]*\}", "", text)))
    return not _PROSE.search(bare) and re.search(r"[\d\\^=+*/()-]|\A[^\W\d_]\Z", text) is not None


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin and self._process.stdout  # pipes, as asked
        self._asked, self._told = self._process.stdin, self._process.stdout
        os.set_blocking(self._told.fileno(), False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._told, selectors.EVENT_READ)
        if self._read(_START) is None:
            self.kill()
            raise InputError(
                "verifier math: math-verify cannot be loaded: pip install math-verify"
            ) from None

    def ask(self, question: list[str], limit: float) -> list | None:
        """The reply, or None where it does not come in time or the process dies."""
        try:
            self._asked.write(json.dumps(question).encode() + b"\n")
            self._asked.flush()
        except OSError:
            return None
        return self._read(limit)

    def _read(self, limit: float) -> list | None:
        ends, line = time.monotonic() + limit, b""
        while not line.endswith(b"\n"):
            left = ends - time.monotonic()
            if left <= 0 or not self._ready.select(left):
                return None
            piece = self._told.read()
            if not piece:
                return None
            line += piece
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._ready.close()
        self._asked.close()
        self._told.close()
