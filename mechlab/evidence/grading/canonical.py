"""Answers in one form, so that equal answers are one vote: numbers as numbers, letters as capitals.

Nothing here evaluates text: numbers are matched by patterns and read by `fractions.Fraction`.
"""

import functools
import re
from fractions import Fraction

_LONGEST = 400  # characters of a number; longer ones are no answer to anything
_SPACE = r"(?:[ \u00a0\u202f]|\\[ ,;!]|~)"
_DIGITS = r"\d{1,3}(?:(?:,|\{,\}|\\,|[ \u00a0\u202f](?=\d{3}(?!\d)))\d{3})+(?!\d)|\d+"
_PLAIN = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_POWER = (
    r"(?:[eE][+-]?\d{1,3}(?!\d)|\s?(?:\\times|\\cdot|×|\*)\s?10\s?(?:\^|\*\*)\s?\{?[+-]?\d{1,3}\}?)"
)
_FRACTION = (
    r"\\[dt]?frac\s?\{\s?-?\d{1,200}\s?\}\s?\{\s?\d{1,200}\s?\}|\d{1,200}\s?[/⁄]\s?\d{1,200}(?!\d)"
)
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w\d)}}])[-−–]\s?)?(?:\\?\$|[€£¥])?\s?(?P<sign2>(?<![\w\d)}}])[-−–])?"
    rf"(?:(?P<whole>\d{{1,200}}){_SPACE}?(?P<mixed>\\[dt]?frac\s?\{{\s?\d{{1,200}}\s?\}}\s?\{{\s?\d{{1,200}}\s?\}})"
    rf"|(?P<whole2>\d{{1,200}}){_SPACE}(?P<mixed2>\d{{1,200}}[/⁄]\d{{1,200}}(?!\d))"
    rf"|(?P<fraction>{_FRACTION})"
    rf"|(?P<plain>{_PLAIN})(?P<power>{_POWER})?)"
)
_INTEGERS = re.compile(r"-?\d+")
_UNIT = re.compile(
    r"\s*(?:\\?%|°|\\text\s?\{[^{}]*\}|\\mathrm\s?\{[^{}]*\}|[A-Za-z\\^_{}°²³ ./]*)\s*[.\s$]*\Z"
)
_LETTER = re.compile(r"\s*[({\[*]*\s*([A-Za-z])\s*[)}\]*.:]*\s*\Z")


def number(match: re.Match[str]) -> Fraction | None:
    """The value of a match of `NUMBER`; None where it is too long or divides by zero."""
    if match.end() - match.start() > _LONGEST:
        return None
    part = match.groupdict()
    whole = part["whole"] or part["whole2"] or "0"
    ratio = part["mixed"] or part["mixed2"] or part["fraction"]
    if ratio:
        top, bottom = (int(x) for x in _INTEGERS.findall(ratio)[:2])
        if not bottom:
            return None
        value = int(whole) + Fraction(top, bottom)
    else:
        value = Fraction(re.sub(r"[^\d.]", "", part["plain"]))
        if part["power"]:
            value *= Fraction(10) ** int(_INTEGERS.findall(part["power"].replace("+", ""))[-1])
    return -value if part["sign"] or part["sign2"] else value


@functools.lru_cache(maxsize=2**16)
def canonical(answer: str) -> str | None:
    """The one form of an answer; None where there is nothing in it.

    Numbers (with thousands separators, currency, percent sign, unit, as fraction or mixed number)
    become the fraction in lowest terms, as `18` or `3/4`; single letters, also in brackets, become
    capitals; anything else loses outer white space, dollar signs and a full stop.
    """
    text = answer.strip()
    if letter := _LETTER.match(text):
        return letter[1].upper()
    match = NUMBER.match(text.lstrip("$= "))
    if match and _UNIT.match(match.string, match.end()):
        value = number(match)
        if value is not None:
            return str(value)
    plain = " ".join(text.strip("$ ").rstrip(".").split())
    return plain or None
