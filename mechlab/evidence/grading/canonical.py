r"""Answers in one form, so that equal ones are one vote: numbers as numbers, letters as capitals.

Nothing here evaluates text: spellings of LaTeX are respelled plainly (`plain`), numbers are matched
by patterns and read by `fractions.Fraction`. A number with a unit is the number; one with a
variable, π, i, a root, a power or a factorial is none.
"""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 400  # characters of an answer; longer ones are no number

_GROUP = r"\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d{1,3}(?:[ '’]\d{3})+(?!\d)"
_PLAIN = rf"(?:(?:{_GROUP}|\d+)(?:\.\d+|\.(?!\d))?|\.\d+)"
_POWER = (
    r"(?:[eE][+-]?\d{1,3}(?![\d.])"
    r"|\s?(?:\\times|\\cdot|×|·|\*)\s?10\s?(?:\^|\*\*)\s?\{?\s?[+-]?\d{1,3}\s?\}?)"
)
NUMBER = re.compile(
    r"(?P<sign>(?<![\w)}%])-\s?)?"
    r"(?:(?P<whole>\d{1,200}) ?(?P<mixed>(?<= )\d{1,200}/\d{1,200}(?![\d/]))"
    rf"|(?P<top>(?:{_GROUP}|\d{{1,200}})) ?/ ?(?P<bottom>\d{{1,200}})(?![\d/]|\.\d)"
    r"|(?P<comma>\d+,\d{1,2}(?![\d,]))"
    rf"|(?P<plain>{_PLAIN})(?P<power>{_POWER})?)"
)
"""A number in plain spelling. `comma`: 7,50, which may be a decimal or two numbers."""

_SCALE = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"\s({'|'.join(_SCALE)})\b")
_MATH = (  # words after a number that make it something else
    r"pi|sqrt|root|roots|squared|cubed|factorial|choose|mod|modulo|infinity|infty|times|divided|"
    r"plus|minus|sin|cos|tan|log|ln|exp"
)
_UNIT_LETTERS = "mgshdLlVWNJKCFAT"
_WORD = rf"(?!(?:{_MATH})\b)[^\W\d_]{{2,}}(?:['’-][^\W\d_]+)*"
_EXPONENT = r"(?:\s?\^\s?\{?\s?-?[1-4]\s?\}?|[²³])?"
_UNIT = re.compile(
    rf"(?:\s*%|\s*°\s?[CFK]?(?!\w)"
    rf"|(?![abcxyzn]+(?!\w)){_WORD}{_EXPONENT}"  # 5km, but not 5xy
    rf"|\s+(?:{_WORD}|[{_UNIT_LETTERS}aI](?!\w)){_EXPONENT}"
    rf"|\s?[/·]\s?(?:{_WORD}|[{_UNIT_LETTERS}](?!\w)){_EXPONENT}"
    r"|\s*\([^()\d]*\)|\s*[.,;:?](?=\s|\Z)|(?<=[^\W\d])!)*\s*\Z"
)
_PREFIX = re.compile(
    rf"(?:\s*(?:(?:{_WORD})|[aI](?=\s))[,:.]?)*\s*[:≈~]?\s*", re.I
)  # words before a number
_LETTER = re.compile(r"\s*[({\[*]*\s*([A-Za-z])\s*[)}\]*.:]*\s*\Z")

_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|normal)|mbox|hbox|boldsymbol|bm|"
    r"operatorname|underline|emph|bf|rm)\s?\{([^{}]*)\}"
)
_BRACES = r"\s?\{\s?([^{}]*?)\s?\}"
_FRACTION = re.compile(rf"\\[dtc]?frac\s?(?:{_BRACES}|\s?(\d))\s?(?:{_BRACES}|\s?(\d))(?![\d])")
_INTEGER = re.compile(r"-?\s?(?:\d{1,3}(?:,\d{3})+|\d{1,200})")
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RESPELLED = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\left|\\right|\\displaystyle|\\q?quad|\\textdollar|\\pounds|\\euro|\\\$|\$", " "),
        (r"€\s?(\d+),(\d\d?)(?![\d,])", r" \1.\2"),
        (r"[€£¥₹]|\b(?:US|USD|EUR|GBP)(?=\s?\d)|\bRs\.?(?=\s?\d)", " "),
        (r"(\d)(?:\{,\}|,?\\[,!;: ]|[~\u00a0\u2009\u202f]|,?\\thinspace)\s?(?=\d)", r"\1 "),
        (r"\\[,!;: ]|[~\u00a0\u2009\u202f]", " "),
        (r"\\%|％", "%"),
        (r"\\percent|\bpercent\b|\bper cent\b", "%"),
        (r"\^\s?\{?\s?(?:\\circ|∘|\\degree)\s?\}?|\\degree|º", "°"),
        (r"\\approx|\\simeq|≃", "≈"),
        (r"\{-\}|[−–]|\\minus|(?<!\w)(?:minus|negative)\s(?=\d)", "-"),
        (r"⁄", "/"),
        (r"(?<!\d)\*\*|\*\*(?!\d)|__|`", ""),
        (r"\\\(|\\\)|\\\[|\\\]", " "),
        (r"[ \t]{2,}", " "),
    )
)


_SPELLED = re.compile(  # that there is something to respell
    r"[\\{$€£¥₹~\u00a0\u2009\u202f％º≃−–⁄*_`\u2070-\u2079²³¹⁻]"
    r"|  |per ?cent|minus|negative|US|EUR|GBP|Rs"
)


@dataclass(frozen=True)
class Number:
    """A number that a text gives: its value, and whether it is written in percent of 1."""

    value: Fraction
    percent: bool = False

    @property
    def form(self) -> str:
        """The fraction in lowest terms, as `18` or `3/4`."""
        return str(self.value)

    def same(self, truth: "Number") -> bool:
        """Whether one value is meant. Where only one of the two has a percent sign, the other may
        count percents or be the fraction."""
        if self.value == truth.value:
            return True
        return self.percent != truth.percent and (
            self.value * 100 == truth.value if self.percent else self.value == truth.value * 100
        )


def plain(text: str) -> str:
    """A short text with the spellings of LaTeX and of currencies respelled plainly."""
    if not _SPELLED.search(text):
        return text
    for _ in range(2):  # one inside another
        text = _WRAPPED.sub(r" \1 ", text)
    for pattern, by in _RESPELLED:
        text = pattern.sub(by, text)
    text = re.sub(
        r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+(?<=[⁰¹⁴⁵⁶⁷⁸⁹])|(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+",
        lambda m: "^" + m[0].translate(_SUPERSCRIPT),
        text,
    )
    return _FRACTION.sub(_as_ratio, text)


def _as_ratio(match: re.Match[str]) -> str:
    top, bottom = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    if not (_INTEGER.fullmatch(top) and _INTEGER.fullmatch(bottom)):
        return match[0]
    sign = "-" if top.startswith("-") != bottom.startswith("-") else ""
    top, bottom = (x.lstrip("- ").replace(",", "") for x in (top, bottom))
    return f" {sign}{top}/{bottom} " if match.start() else f"{sign}{top}/{bottom} "


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a match of `NUMBER`; None where it is too long, divides by zero, or may be two
    numbers."""
    if match.end() - match.start() > _LONGEST or match["comma"]:
        return None
    if match["bottom"] or match["mixed"]:
        top, bottom = (match["mixed"] or f"{match['top']}/{match['bottom']}").split("/")
        if not int(bottom):
            return None
        found = int(match["whole"] or 0) + Fraction(int(re.sub(r"\D", "", top)), int(bottom))
    else:
        found = Fraction(re.sub(r"[^\d.]", "", match["plain"]))
        if match["power"]:
            exponent = re.sub(r"[^\d+-]", "", match["power"].rpartition("10")[2] or match["power"])
            found *= Fraction(10) ** int(exponent)
    return -found if match["sign"] else found


def number(match: re.Match[str]) -> tuple[Number | None, str]:
    """What a match of `NUMBER` is, with a word such as "million" or a percent sign after it; and
    the text that follows."""
    found, rest = _value(match), match.string[match.end() :]
    if found is None:
        return None, rest
    if word := _SCALED.match(rest):
        found, rest = found * 10 ** _SCALE[word[1]], rest[word.end() :]
    percent = rest.lstrip().startswith("%")
    return Number(found / 100 if percent else found, percent), rest


def read_number(answer: str) -> Number | None:
    """The number that a text is, and nothing but: with words before and a unit behind it.

    Of an equation the right side counts; inequalities, lists and expressions are no numbers.
    """
    if not answer or len(answer) > _LONGEST:
        return None
    text = plain(answer).strip()
    while (inner := re.fullmatch(r"\{(.*)\}|\((-?[^(),;]*)\)|\[([^\[\],;]*)\]", text)) is not None:
        text = next(x for x in inner.groups() if x is not None).strip()
    if re.search(r"[<>≤≥≠]|\\(?:le|ge|leq|geq|neq|ne|lt|gt)\b", text):
        return None
    sides = re.split(r"[=≈]", text)
    if len(sides) > 2 and any(re.search(r"[,;]\s|\b(?:and|or)\b", side) for side in sides[1:-1]):
        return None
    text = sides[-1].strip()
    start = _PREFIX.match(text)
    match = NUMBER.match(text, start.end() if start else 0)
    if match is None:
        return None
    found, rest = number(match)
    return found if _UNIT.match(rest) else None


@functools.lru_cache(maxsize=2**16)
def canonical(answer: str) -> str | None:
    """The one form of an answer; None where there is nothing in it.

    Numbers (with thousands separators, currency, percent sign, unit, as fraction or mixed number,
    as the right side of an equation) become the fraction in lowest terms, as `18` or `3/4`, and
    50 % is `1/2`; single letters, also in brackets, become capitals; anything else loses outer
    white space, dollar signs and a full stop.
    """
    if letter := _LETTER.match(answer):
        return letter[1].upper()
    if (found := read_number(answer)) is not None:
        return found.form
    rest = " ".join(answer.strip("$ \n\t").rstrip(".").split())
    return rest or None
