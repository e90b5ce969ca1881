r"""Where a text gives its answer: one finder for all verifiers.

By its mark, not by its place: the last box; else what stands next to the last mark ("the answer
is", "Answer:", `####`; where a text runs on into another question, the first question's); else the
whole text, if it is nothing but an answer. What a model thought before `</think>` is not searched.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

TAIL = 20_000  # characters at the end of a text that are searched for its answer
_PHRASE = 400  # characters after a mark
_BOXES = 8  # of the last boxes, those that are tried: one that does not close is none

_BOX = re.compile(r"\\f?boxed\s?\{|\\fbox\s?\{")
_RUN_ON = re.compile(r"\n[ \t*#]*(?:Question|Problem|Exercise|Q)\s?\d*\s?[*]{0,2}[:.]", re.I)
_ANSWER = re.compile(
    r"(?:answers?(?:\s+(?:choice|option|value|letter))?|correct\s+(?:choice|option|statement))"
    r"(?:\s+to\s+th(?:e|is)\s+(?:question|problem))?"
    r"[*_\s]{0,6}"
    r"(?:(?:is|are|was|would\s+be|will\s+be|should\s+be|must\s+be|has\s+to\s+be|equals)\b"
    r"(?!\s+(?:not|wrong|incorrect|correct|right|given\s+by|found\s+by|in\s+the\s+form)\b)"
    r"|[:：=](?!=))"
    r"\s*(?:is\b)?[*_:\s]*",
    re.I,
)
_HEADING = re.compile(r"answers?\W{0,6}\n\s*", re.I)  # a line of its own
_BEFORE_HEADING = re.compile(r"(?:^|\n)(?:\W|final\b|the\b|my\b|correct\b)*\Z", re.I)
_HASHES = re.compile(r"####(?!#)[ \t*]*(?!\W*(?!(?:USD|US|EUR|Rs|minus|negative)\b)[^\W\d_]{2,})")
_MATH = re.compile(
    r"\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]|\$\$(?P<double>[^$]+)\$\$"
    r"|(?<![\\$])\$(?P<single>(?![\s$])(?:\\.|[^$\\\n])*?(?:\\.|[^\s\\$]))\$(?![\d$])",
    re.S,
)


class Found(NamedTuple):
    """What a text gives as its answer.

    Attributes:
        how: "box": all of `text` is the answer; "mark": it begins with it, more or less; "none":
            `text` is the whole text, which may be nothing but an answer, or have one anywhere.
        text: where the answer is.
        after: what follows a box.
    """

    how: str
    text: str
    after: str = ""


def find(text: str, read: Callable[[str], Any] = lambda phrase: phrase) -> Found:
    """The place of the answer.

    Args:
        text: as sampled.
        read: says of a phrase after a mark whether it can be one at all; None: it is no mark.
    """
    text = _answered(text[-TAIL:])
    end = _first_question(text)
    text = text[:end]
    if (box := last_box(text)) is not None:
        return Found("box", box[0], text[box[1] :])
    for start in _marks(text):
        phrase = phrase_at(text, start)
        if phrase and read(phrase) is not None:
            return Found("mark", phrase)
    return Found("none", text)


def _answered(text: str) -> str:
    """What follows the thinking."""
    thought, mark, after = text.rpartition("</think>")
    return after if mark and after.strip() else thought if mark else text


def _first_question(text: str) -> int:
    """The end of the first question's answer, where the text runs on into another question."""
    for heading in _RUN_ON.finditer(text):
        before = text[: heading.start()]
        if last_box(before) is not None or next(_marks(before), None) is not None:
            return heading.start()
    return len(text)


def last_box(text: str) -> tuple[str, int] | None:
    r"""What is inside the last `\boxed{…}` that closes, and where it ends; None where none does."""
    stop = len(text)
    for _ in range(_BOXES):
        start = max(text.rfind("boxed", 0, stop), text.rfind("fbox", 0, stop))
        if start < 0:
            return None
        stop = start
        opened = _BOX.match(text, max(start - 2, 0)) or _BOX.match(text, max(start - 1, 0))
        if opened is None:
            continue
        depth = 1
        for match in re.finditer(r"[{}]", text[opened.end() : opened.end() + TAIL]):
            depth += 1 if match[0] == "{" else -1
            if depth == 0:
                end = opened.end() + match.start()
                return text[opened.end() : end], end + 1
    return None


def _marks(text: str) -> Iterator[int]:
    """Where the phrases after marks begin, from the last mark on."""
    lower = text.lower()
    if len(lower) != len(text):  # some letters have longer lower forms
        lower = text
    stops = {word: len(text) for word in ("answer", "####", "correct")}
    while True:
        places = {word: lower.rfind(word, 0, stop) for word, stop in stops.items() if stop >= 0}
        place = max(places.values(), default=-1)
        if place < 0:
            return
        for word, found in places.items():
            stops[word] = place if found == place else found + len(word) if found >= 0 else -1
        if lower.startswith("####", place):
            match = None if text[place - 1 : place] == "#" else _HASHES.match(text, place)
        else:
            match = _ANSWER.match(text, place)
            if match is None and (heading := _HEADING.match(text, place)):
                line = text[max(place - 40, 0) : place]
                match = heading if _BEFORE_HEADING.search(line) else None
        if match:
            yield match.end()


def phrase_at(text: str, start: int) -> str:
    """The line, or the sentence, that begins somewhere."""
    line = text[start : start + _PHRASE].lstrip("\n\r").split("\n", 1)[0]
    for stop in re.finditer(r"[.!?](?=\s+[^\W\d]|\s*\Z)", line):
        before = line[: stop.start()]
        if before.count("$") % 2 == 0 or "\\" not in before:
            return before.strip()
    return line.strip()


def formulas(text: str) -> list[re.Match[str]]:
    """The formulas of a text, in LaTeX; dollars that are money open none."""
    return [match for match in _MATH.finditer(text) if not _money(inside(match), match)]


def inside(match: re.Match[str]) -> str:
    """What stands between the delimiters of a formula."""
    return next(x for x in match.groups() if x is not None).strip()


def _money(formula: str, match: re.Match[str]) -> bool:
    """Whether `$5 each, so $` is prose between two prices."""
    if match["single"] is None or not formula[:1].isdigit():
        return False
    bare = re.sub(r"\\[a-zA-Z]+\s?(?:\{[^{}]*\})?", "", formula)
    return re.search(r"[^\W\d_]{3,}", bare) is not None
