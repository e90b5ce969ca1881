"""Sums of two-digit numbers with written working: the lab's own benchmark and its tokenizer.

    37+45-12=82-12=70

Each step takes the total so far, copies the next operand and writes the new total; the last number
is the answer. A model may be taught three lengths of working, asked for by the first letter of the
prompt:

    s37+45-12=70             the answer alone
    m37+45-12=82>70          running totals
    l37+45-12=82-12=70       running totals with the operands copied
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

EFFORTS = {"short": "s", "medium": "m", "long": "l"}
"""Letters that ask for a length of working; a prompt without one is answered at length."""
FEWEST, MOST = 3, 4
"""Operands of a problem."""
_PAD, _END = "<pad>", "<end>"
_ALPHABET = "0123456789+-=>sml"
PAD, END = 0, 1
VOCABULARY = {token: index for index, token in enumerate([_PAD, _END, *_ALPHABET])}
LONGEST = 48
"""Tokens of a problem with its longest working, and a few to spare."""
_WEIGHTS = np.array([3, 7, 13, 29])
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

    def working(self, effort: str | None = None) -> str:
        """The right solution, in the length that was asked for."""
        if effort == "short":
            return str(self.answer)
        totals = list(itertools.accumulate(self.operands))[1:]
        if effort == "medium":
            return ">".join(map(str, totals))
        steps = [
            f"{total}{value:+d}=" for total, value in zip(totals, self.operands[2:], strict=False)
        ]
        return "".join(steps) + str(totals[-1])


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
