"""Symbolic answers, checked by the math-verify library in a process that is killed in time.

The process is this file run by itself: it reads a JSON line [text, final number, truth] and writes
one [answer, correct]. Only LaTeX is parsed, by a grammar: the library's other extractor, of plain
arithmetic, goes through SymPy's `parse_expr`, which evaluates.
"""

import json
import os
import selectors
import subprocess
import sys
import time

from mechlab.core.errors import InputError
from mechlab.evidence.grading.verifiers import FinalNumber, Grade, Verifier

_START = 120.0  # seconds to import the library
_MEMORY = 4 * 2**30  # bytes of address space
_TEXT = 200_000  # characters at the end of a text that are looked at


class SymbolicMath(Verifier):
    """The last LaTeX expression of a text, else its final number, compared by `math_verify`.

    A text that takes longer than the limit is wrong, and without an answer.
    """

    name = "math"

    def __init__(self, time_limit: float = 5.0) -> None:
        self.time_limit = time_limit
        self._worker: _Worker | None = None

    def __call__(self, text: str, truth: str) -> Grade:
        if self._worker is None:
            self._worker = _Worker()
        number = FinalNumber().find(text)
        reply = self._worker.ask([text[-_TEXT:], number, truth], self.time_limit)
        if reply is None:
            self.close()
            return Grade(None, False)
        return Grade(*reply)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout  # pipes, as asked
        self._asked, self._told = self._process.stdin, self._process.stdout
        os.set_blocking(self._told.fileno(), False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._told, selectors.EVENT_READ)
        if self._read(_START) is None:
            self.kill()
            raise InputError(
                "verifier math: math-verify cannot be loaded; install mechlab[grade]"
            ) from None

    def ask(self, question: list[str | None], limit: float) -> list | None:
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


def _serve() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import LatexExtractionConfig, parse, verify

    # the library announces and raises at will: the pipe is kept for replies alone
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = dict(
        extraction_config=[LatexExtractionConfig()], parsing_timeout=None, raise_on_error=False
    )

    def reply(message: list) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    reply(["ready"])
    for line in sys.stdin:
        text, number, truth = json.loads(line)
        try:
            given = parse(text, **options) or (number and parse(f"${number}$", **options))
            right = parse(truth, **options) or parse(f"${truth}$", **options)
            correct = bool(given and right) and verify(right, given, timeout_seconds=None)
            answer = str(given[0])[:1000] if given else None
        except Exception:  # whatever a text provokes, it is wrong
            answer, correct = None, False
        reply([answer, bool(correct)])


if __name__ == "__main__":
    _serve()
