"""Verifiers of sampled texts: what answer a text gives, and whether it is right.

One interface: `verifier(text, truth)` → `Grade`. No verifier executes or evaluates model text, and
a pathological text costs at most the verifier's time limit and is wrong.
"""

import abc
import dataclasses
import re
from typing import ClassVar

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import NUMBER, canonical, number

_TAIL = 20_000  # characters at the end of a text that are searched for its answer


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a text answers.

    Attributes:
        answer: in canonical form; None where none was found.
        correct: whether it is right.
    """

    answer: str | None
    correct: bool


class Verifier(abc.ABC):
    """Finds the answer in a text and compares it with the truth."""

    name: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, text: str, truth: str) -> Grade:
        """The grade of a text against the right answer, itself a text."""

    def close(self) -> None:  # noqa: B027 — most hold nothing
        """Let go of what the verifier holds, such as processes."""


class FinalNumber(Verifier):
    """The number in the last box, else after the last `####` or "answer is", else the last number.

    Thousands separators, currencies, percent signs, units, fractions, mixed numbers and powers of
    ten are read; 50 % is the number 50. Numbers are compared exactly.
    """

    name = "number"

    def __call__(self, text: str, truth: str) -> Grade:
        answer, right = self.find(text), self.find(truth)
        return Grade(answer, answer is not None and answer == right)

    def find(self, text: str) -> str | None:
        """The answer of a text, canonical."""
        box = last_box(text)
        if box is not None:
            return _last_number(box)
        tail = text[-_TAIL:]
        _, mark, after = tail.rpartition("####")
        return _last_number(after if mark else tail)


class Choice(Verifier):
    """The letter after the last "Answer:" (or "answer is"), else in the last box."""

    name = "choice"
    _after = re.compile(
        r"answer(?:\s+is)?\s*(?:\*{1,2}|_)?\s*[:=]?\s*(?:\*{1,2}|_)?\s*(?:is\s*)?[:]?\s*"
        r"(?:\*{1,2})?\s*\$?(?:\\boxed\s?\{\s*)?(?:\\text\s?\{\s*)?[(\[]?\s*"
        r"([A-Z])(?![A-Za-z'])",
        re.I,
    )
    _alone = re.compile(r"\W*(?:\\text\s?\{|\\mathrm\s?\{)?\W*([A-Za-z])\W*\Z")

    def __call__(self, text: str, truth: str) -> Grade:
        answer = self.find(text)
        right = self._alone.match(truth.strip()[:100])
        return Grade(
            answer, answer is not None and right is not None and answer == right[1].upper()
        )

    def find(self, text: str) -> str | None:
        letters = self._after.findall(text[-_TAIL:])
        if letters:
            return letters[-1].upper()
        box = last_box(text)
        alone = self._alone.match(box[:100]) if box is not None else None
        return alone[1].upper() if alone else None


def last_box(text: str) -> str | None:
    r"""What is inside the last `\boxed{…}`; None where there is none, or it does not close."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for match in re.finditer(r"[{}]", text[start : start + _TAIL]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start : start + match.start()]
    return None


def _last_number(text: str) -> str | None:
    whole = canonical(text) if len(text) < 200 else None
    last = NUMBER.fullmatch(whole) if whole is not None else None
    if last is not None:
        return None if number(last) is None else whole
    for match in NUMBER.finditer(text[-_TAIL:]):
        last = match
    value = number(last) if last is not None else None
    return None if value is None else str(value)


def named(name: str, *, time_limit: float = 5.0) -> Verifier:
    """The verifier of a name: "number", "choice" or "math".

    Args:
        name: of the registry.
        time_limit: seconds that one text may take, for "math".

    Raises:
        InputError: where there is no such verifier.
    """
    from mechlab.evidence.grading.symbolic import SymbolicMath

    registry = {"number": FinalNumber, "choice": Choice, "math": SymbolicMath}
    if name not in registry:
        raise InputError(f"verifier {name!r} is not known; use {', '.join(registry)}")
    if not 0 < time_limit < 3600:
        raise InputError(f"time_limit = {time_limit}; give seconds above 0")
    return SymbolicMath(time_limit) if name == "math" else registry[name]()
