"""Long sums with written working: the lab's own benchmark and its tokenizer.

    37+45-12+61=61+45=106-12=94+37=131

The operands are added up one at a time in an order of the solver's choice: each step writes the
total so far, the operand and the new total; the last number is the answer. That the order is free
makes thinking worth something: other orders fail at other steps, so that answers that agree are
more often right. A model may be taught three lengths of working, asked for by the first letter of
the prompt:

    s37+45-12+61=131                        the answer alone
    m37+45-12+61=82>70>131                  running totals, in the order of the problem
    l37+45-12+61=61+45=106-12=94+37=131     every step, in any order
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

EFFORTS = {"short": "s", "medium": "m", "long": "l"}
"""Letters that ask for a length of working; a prompt without one is answered at length."""
FEWEST, MOST = 4, 6
"""Operands of a problem."""
_PAD, _END = "<pad>", "<end>"
_ALPHABET = "0123456789+-=>sml"
PAD, END = 0, 1
VOCABULARY = {token: index for index, token in enumerate([_PAD, _END, *_ALPHABET])}
LONGEST = 64
"""Tokens of a problem with its longest working, and a few to spare."""
_WEIGHTS = np.array([3, 7, 13, 29, 31, 47])
_FOLDS = 11


class Problem(NamedTuple):
    operands: tuple[int, ...]
    """Signed; no total on the way is negative."""

    @property
    def text(self) -> str:
        return "".join(f"{value:+d}" for value in self.operands).removeprefix("+")

    @property
    def answer(self) -> int:
        return sum(self.operands)

    def prompt(self, effort: str | None = None) -> str:
        return (EFFORTS[effort] if effort else "") + self.text + "="

    def working(self, effort: str | None = None, random: np.random.Generator | None = None) -> str:
        """A right solution, in the length that was asked for.

        Args:
            random: draws the order of the steps; that of the problem when left out.
        """
        if effort == "short":
            return str(self.answer)
        if effort == "medium":
            return ">".join(map(str, list(itertools.accumulate(self.operands))[1:]))
        left, total, written = list(self.operands), 0, ""
        while left:
            # as in the problem, no total on the way is negative
            possible = [place for place, value in enumerate(left) if total + value >= 0]
            place = possible[0] if random is None else int(random.choice(possible))
            value = left.pop(place)
            total += value
            written += f"{value:+d}={total}" if written else str(value)
        return written

    def right(self, effort: str | None, tokens: Sequence[int]) -> list[bool]:
        """Which tokens of a solution, its end included, some right solution has begun with."""
        steps = effort not in ("short", "medium")
        # the operands left, the total, and what is still to be written of the step
        begun = {(self.operands, 0, "") if steps else ((), self.answer, self.working(effort))}
        found = []
        for token in tokens:
            ended = token == END and ((), self.answer, "") in begun
            begun = {
                (left, total, text[1:])
                for state in begun
                for left, total, text in self._steps(*state)
                if VOCABULARY[text[0]] == token
            }
            found.append(ended or bool(begun))
        return found

    def _steps(self, left: tuple[int, ...], total: int, text: str):
        """What may be written next, as the same triples."""
        if text:
            yield left, total, text
            return
        for place, value in enumerate(left):
            if total + value >= 0:
                first = len(left) == len(self.operands)
                step = str(value) if first else f"{value:+d}={total + value}"
                yield left[:place] + left[place + 1 :], total + value, step


def problems(seed: int, *, held_out: bool) -> Iterator[Problem]:
    """An endless stream of problems; those of training and those held out have none in common.

    A checksum of the signed operands puts one problem in eleven among the held-out.
    """
    random = np.random.default_rng([seed, int(held_out)])
    while True:
        size = 1024
        values = random.integers(10, 100, (size, MOST))
        minus, totals = random.random((size, MOST)) < 0.5, values[:, 0].copy()
        for place in range(1, MOST):
            column = values[:, place]
            column[minus[:, place] & (column <= totals)] *= -1
            totals += column
        counts = random.integers(FEWEST, MOST + 1, size)
        values[np.arange(MOST) >= counts[:, None]] = 0
        mine = ((values @ _WEIGHTS + counts) % _FOLDS == 0) == held_out
        for row, count in zip(values[mine].tolist(), counts[mine], strict=True):
            yield Problem(tuple(row[:count]))


def encode(text: str) -> list[int]:
    return [VOCABULARY[letter] for letter in text]


def save_tokenizer(folder: Path) -> None:
    """`tokenizer.json` and its config: a token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=_PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END, model_max_length=LONGEST
    ).save_pretrained(folder)
