"""Verifiers of sampled texts: what answer a text gives, and whether it is right.

One interface: `verifier(text, truth)` → `Grade`. No verifier executes or evaluates model text, and
a pathological text costs at most the verifier's time limit and is wrong.
"""

import abc
import dataclasses
import functools
import re
from typing import ClassVar

from mechlab.core.errors import InputError
from mechlab.evidence.grading import finder
from mechlab.evidence.grading.canonical import NUMBER, Number, number, plain, read_number

_LAST = 80  # characters before the last digit where the number begins that it belongs to
_DIGIT = re.compile(r"\d")


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a text answers.

    Attributes:
        answer: in canonical form, that of the truth where it is right; None where none was found.
        correct: whether it is right.
    """

    answer: str | None
    correct: bool


class Verifier(abc.ABC):
    """Finds the answer in a text and compares it with the truth.

    Attributes:
        name: in the registry.
        waits: whether it waits for a process of its own, so that several work side by side.
    """

    name: ClassVar[str]
    waits: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, text: str, truth: str) -> Grade:
        """The grade of a text against the right answer, itself a text."""

    def same(self, one: str, other: str) -> bool:
        """Whether two answers that are not right are one: by the equality that grades."""
        return one == other

    def close(self) -> None:  # noqa: B027 — most hold nothing
        """Let go of what the verifier holds, such as processes."""


class FinalNumber(Verifier):
    """The number in the last box, else next to the last mark, else the last number of the text.

    Thousands separators, currencies, percent signs, units, fractions, mixed numbers and powers of
    ten are read; a box or a mark that holds no number has none. Numbers are compared exactly; of
    50 % and 1/2 as of 50 % and 50 one value is meant.
    """

    name = "number"

    def __call__(self, text: str, truth: str) -> Grade:
        found, right = self.number(text), _right(truth)
        if found is None or right is None:
            return Grade(None if found is None else found.form, False)
        correct = found.same(right)
        return Grade((right if correct else found).form, correct)

    def find(self, text: str) -> str | None:
        """The answer of a text, canonical."""
        found = self.number(text)
        return None if found is None else found.form

    def number(self, text: str) -> Number | None:
        """The number that a text answers."""
        place = finder.find(text)
        if place.how == "box":
            return read_number(place.text)
        if place.how == "mark":
            return number_next_to(place.text)
        return read_number(place.text.strip()) or _last_number(place.text)


@functools.lru_cache(maxsize=2**12)  # a truth is that of many samples
def _right(truth: str) -> Number | None:
    """The number that a truth is."""
    place = finder.find(truth)
    return number_next_to(place.text) if place.how == "mark" else read_number(place.text)


class Choice(Verifier):
    """The letter in the last box, else next to the last mark, else alone on the last line."""

    name = "choice"

    def __call__(self, text: str, truth: str) -> Grade:
        answer, right = self.find(text), self.find(truth)
        return Grade(answer, answer is not None and answer == right)

    def find(self, text: str) -> str | None:
        """The letter of a text."""
        place = finder.find(text, letter_next_to)
        if place.how == "box":
            found = letter_next_to(place.text)
            if found is None:  # the box holds the value: the letter may come after it
                place = finder.find(place.after, letter_next_to)
                found = letter_next_to(place.text) if place.how == "mark" else None
            return found
        if place.how == "mark":
            return letter_next_to(place.text)
        before, _, last = place.text.strip().rpartition("\n")
        # an option's text behind its letter is an answer by itself, and may end a list of options
        alone = (_ALONE if before else _OPTION).match(last[:400])
        return alone[1].upper() if alone else None


_OPEN = r"(?:[\s*_$`\"'“‘]|\\boxed\s?\{|\\(?:text|textbf|mathrm|mathbf)\s?\{|\\\(|\\\[)*"
_LINE = rf"{_OPEN}[(\[{{]?\s*([A-Za-z])\s*[)\]}}*_$.:`\"'”’]*\s*"
_ALONE, _OPTION = re.compile(rf"{_LINE}\Z"), re.compile(rf"{_LINE}(?:(?<=[)\].:*}}])\s.*|\Z)")
_NEXT = re.compile(
    rf"(?P<open>{_OPEN})(?:(?:the\s+)?(?:option|choice|letter|statement)\s+)?(?P<open2>{_OPEN})"
    r"(?P<bracket>[(\[{]?)\s*(?:\\text(?:bf)?\s?\{\s*[(\[]?)?(?P<letter>[A-Za-z])"
    r"(?P<after>\s*[)\]}]|\s?[*_$`\"”]|\s*\Z|[.:,;](?!\w)|\s+[-–—:]\s|\\|\n|(?P<space>\s)|(?=/))"
)
_LATER = re.compile(
    r"\b(?:option|choice|letter|statement)\s+[(*\"]*([A-Z])\b(?!')|\(([A-Z])\)|\*\*\(?([A-Z])[).]?\*\*"
)
_REASON = re.compile(r"\s*(?:because|since|as|which|and|with|for|given|due|so|is|based|from)\b")
_SEVERAL = re.compile(r"[)\]*]*\s?(?:,|/|&|and|or)\s?(?:and\s|or\s)?[(*]*[A-Z](?![\w'])")


def letter_next_to(phrase: str) -> str | None:
    """The letter that a phrase begins with, where it stands alone; an article is none."""
    match = _NEXT.match(phrase)
    if match is not None:
        letter, rest = match["letter"], phrase[match.end("letter") :]
        marked = bool(match["bracket"]) or bool(re.search(r"[*\\]", match["open"] + match["open2"]))
        if _SEVERAL.match(rest):
            return None
        if match["space"] is None:
            return letter.upper()
        named = bool(re.search(r"option|choice|letter|statement", match[0]))
        if letter.isupper() and (letter not in "AI" or named or marked or _REASON.match(rest)):
            return letter
    later = _LATER.search(phrase)
    return next((x for x in later.groups() if x), None) if later else None


_OPERATOR = r"\s?(?:[-+*/×÷·]|\\times|\\cdot|\\div|x(?=\s?\d))\s?"
_CHAIN = re.compile(rf"(?:\s?%)?\s?[)]?(?:{_OPERATOR}\(?-?[\d.,/]*\d\)?%?)*\s?[=≈]\s?")
_ATTACHED = re.compile(  # what makes a number part of something else
    r"\s?(?:\^|_|π|√|\\[a-zA-Z]|\{)|[a-zA-Z](?![a-zA-Z])(?<![mgshLlkVWNJKCFM])"
    r"|\s(?:[xyzn]|pi|sqrt|squared|cubed|factorial)(?!\w)|!(?=\s?[-+*/=])"
    r"|\s?[*×÷·]\s?[\w\\(]|\s[-+/]\s(?=[\w\\(])|[-+/](?=[\w\\(])|,\s?-?\d|\s(?:and|or)\s-?\d|:\d|\((?=\w{1,3}[-+)])"
    r"|\s[a-z]+,?\s(?:and\s)?\d+\s(?:min|sec|cent|inch|ounce)"  # of several units
)
_BEFORE = re.compile(r"(?:\\[a-zA-Z]+\s?\{?|[\^_{\[π√]\s?|[^\W\d_]|\d[.,:/])\Z")


def number_next_to(phrase: str) -> Number | None:
    """The number that a phrase after a mark gives: the first, or what an equation comes to."""
    formula = next(iter(finder.formulas(phrase)), None)
    if formula is not None and not re.search(r"\d", phrase[: formula.start()]):
        return read_number(finder.inside(formula))
    for bold in re.finditer(r"\*\*([^*]+)\*\*", phrase):
        if (found := read_number(bold[1])) is not None:
            return found
    text = plain(phrase)
    match = NUMBER.search(text)
    if match is None or _BEFORE.search(text[: match.start()]):
        return None
    if re.search(r"[<>≤≥]\s?\Z", text[: match.start()]):
        return None
    if re.match(r"[^()]*,[^()]*\)", text[match.end() :]) and text[: match.start()].endswith("("):
        return None
    while chain := _CHAIN.match(text, match.end()):
        right = NUMBER.match(text, chain.end())
        if right is None or (
            _ATTACHED.match(text, right.end()) and not _CHAIN.match(text, right.end())
        ):
            if re.match(r"(?:\s?%)?\s?[=≈]", text[match.end() :]):
                return number(match)[0]  # 18 = 9·2
            return None
        match = right
    if _ATTACHED.match(text, match.end()):
        return None
    return number(match)[0]


def _last_number(text: str) -> Number | None:
    last = _DIGIT.search(text[-finder.TAIL :][::-1])
    if last is None:
        return None
    tail = text[-last.start() - _LAST :]
    tail = plain(tail.partition(" ")[2] if len(tail) < len(text) else tail)
    found = None
    for found in NUMBER.finditer(tail):  # noqa: B007 — the last is wanted
        pass
    if (
        found is None
        or _BEFORE.search(tail[max(found.start() - 20, 0) : found.start()])
        or _ATTACHED.match(tail, found.end())
    ):
        return None
    return number(found)[0]


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
