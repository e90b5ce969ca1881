"""Sums of two-digit numbers with written working: the lab's own benchmark and its tokenizer.

    61-12+45+37=61+45=106-12=94+37=131

Operands are added up in an order of the solver's choice, which begins with the first: each step
takes the total so far, copies one of the operands that are left and writes the new total; the last
number is the answer. A model may be taught three lengths of working, asked for by the first letter
of the prompt:

    s61-12+45+37=131                     the answer alone
    m61-12+45+37=106>94>131              running totals
    l61-12+45+37=61+45=106-12=94+37=131  running totals with the operands copied
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

    def working(self, effort: str | None = None, order: Sequence[int] | None = None) -> str:
        """A right solution in the length that was asked for.

        Args:
            effort: Of `EFFORTS`, or None for the longest.
            order: In which the operands after the first are added; default, as they come.
        """
        if effort == "short":
            return str(self.answer)
        order = self.operands[1:] if order is None else order
        totals = list(itertools.accumulate(order, initial=self.operands[0]))
        if effort == "medium":
            return ">".join(map(str, totals[1:]))
        steps = [f"{value:+d}={total}" for value, total in zip(order, totals[1:], strict=True)]
        return "".join([str(totals[0]), *steps])

    def orders(self) -> Iterator[tuple[int, ...]]:
        """Those in which no total on the way is negative, each once."""
        for order in set(itertools.permutations(self.operands[1:])):
            if min(itertools.accumulate(order, initial=self.operands[0])) >= 0:
                yield order

    def drawn_order(self, random: np.random.Generator) -> tuple[int, ...]:
        """One of `orders`, drawn at random."""
        while True:
            order = random.permutation(self.operands[1:])
            if (self.operands[0] + order.cumsum()).min() >= 0:
                return tuple(order.tolist())

    def right_so_far(self, effort: str | None, tokens: Sequence[int]) -> list[bool]:
        """After each token of a solution, whether a right one begins so."""
        left = {(*encode(self.working(effort, order)), END) for order in self.orders()}
        right = []
        for place, token in enumerate(tokens):
            left = {one for one in left if place < len(one) and one[place] == token}
            right.append(bool(left))
        return right


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
