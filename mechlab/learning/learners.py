"""How a platform learns accuracies that it does not know: one small class each."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array
from mechlab.core.pytree import Pytree, pytree, register_by_class
from mechlab.core.validation import checked
from mechlab.populations.base import Words


@pytree
class Seen(Pytree):
    """What a platform knows before a round. ... are markets, on the last axis.

    Attributes:
        asked: [N, ...] answers of each provider that were judged.
        right: [N, ...] of those that were right.
        round: the round, from 0.
        rounds: T, of the whole run.
        truth: [N, ...] the accuracies, which a learner that has to learn does not look at.
        index: [...] the number of each market, and
        key: of the round, for `uniform`.
    """

    asked: Array
    right: Array
    round: Array
    rounds: Array
    truth: Array
    index: Array
    key: Array

    @property
    def mean(self) -> Array:
        """[N, ...] the share of right answers; 1 of a provider that was never asked."""
        return jnp.where(self.asked > 0, self.right / jnp.maximum(self.asked, 1.0), 1.0)

    def uniform(self) -> Array:
        """[N, ...] random numbers in (0, 1), new in every round, the same for the same key."""
        words = Words.draw(self.key, self.index, self.asked.shape[0])
        return words.uniform[: self.asked.shape[0]].astype(self.asked.dtype)


@dataclass_transform(frozen_default=True)
class Learner(abc.ABC):
    """A way to learn: learner.accuracy(seen) is what the auction of a round takes for true.

    One of your own subclasses this; annotated fields become parameters of a frozen dataclass, which
    is a pytree. Methods are pure and work along markets on the last axis.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_by_class(dataclasses.dataclass(frozen=True)(cls))

    @abc.abstractmethod
    def accuracy(self, seen: Seen) -> Array:
        """[N, ...] accuracies by which offers are scored and paid in this round; bounds may be
        above 1."""

    def asks(self, seen: Seen) -> Array:
        """The provider that serves this round whatever was bid, which is paid what its answers
        are worth; −1 where the auction decides, as here."""
        return jnp.full((), -1)

    def learns(self, seen: Seen) -> Array:
        """Whether answers of this round are judged; always, here."""
        return jnp.full((), True)


class Known(Learner):
    """Knows the accuracies: what others are measured against."""

    def accuracy(self, seen: Seen) -> Array:
        return seen.truth


class Greedy(Learner):
    """Takes the share of right answers for true, and 1 of who was never asked."""

    def accuracy(self, seen: Seen) -> Array:
        return seen.mean


class UCB(Learner):
    """Upper confidence bounds, mean + √(width·log(t)/asked) (UCB1: Auer et al. 2002).

    They may lie above 1: cut there, those of all who were asked a few times would be alike, and the
    first of them be asked for long.

    Attributes:
        width: 2 in UCB1.
    """

    width: Any = 2.0

    def __post_init__(self) -> None:
        checked("width", self.width, minimum=0.0, why="0 is Greedy")

    def accuracy(self, seen: Seen) -> Array:
        reach = self.width * jnp.log(seen.round + 1.0) / jnp.maximum(seen.asked, 1.0)
        return seen.mean + jnp.sqrt(reach)


class Thompson(Learner):
    """A draw from what is believed of each accuracy (Thompson 1933).

    Beliefs start uniform; the Beta distribution after `right` of `asked` is drawn as a normal one
    of its mean and variance, within [0, 1].
    """

    def accuracy(self, seen: Seen) -> Array:
        mean = (seen.right + 1.0) / (seen.asked + 2.0)
        deviation = jnp.sqrt(mean * (1.0 - mean) / (seen.asked + 3.0))
        return jnp.clip(mean + deviation * jax.scipy.special.ndtri(seen.uniform()), 0.0, 1.0)


class ExploreThenCommit(Learner):
    """Asks all in turn, then holds auctions by what it saw, and learns no more.

    Whom it asks and what it believes do not depend on bids, so that bidding the cost is dominant
    (Babaioff, Sharma & Slivkins 2014; Devanur & Kakade 2009), for regret of order T^{2/3}.

    Attributes:
        each: rounds in which each provider is asked; (T/N)^{2/3} where None.
    """

    each: Any = None

    def __post_init__(self) -> None:
        if self.each is not None:
            checked("each", self.each, minimum=1.0, why="every provider is asked at least once")

    def _explored(self, seen: Seen) -> Array:
        n = seen.asked.shape[0]
        own = jnp.ceil((seen.rounds / n) ** (2 / 3)) if self.each is None else self.each
        return own * n

    def accuracy(self, seen: Seen) -> Array:
        return seen.mean

    def asks(self, seen: Seen) -> Array:
        n = seen.asked.shape[0]
        return jnp.where(seen.round < self._explored(seen), seen.round % n, -1)

    def learns(self, seen: Seen) -> Array:
        return seen.round < self._explored(seen)


LEARNERS: dict[str, Callable[..., Learner]] = {
    "known": Known,
    "explore_then_commit": ExploreThenCommit,
    "ucb": UCB,
    "thompson": Thompson,
    "greedy": Greedy,
}
"""Learners by name."""


def named_learner(text: str) -> Learner:
    """The learner of a name, or of name=number for its parameter, such as ucb=0.5.

    Raises:
        InputError: names what is known.
    """
    name, given, number = text.partition("=")
    if name in LEARNERS and not given:
        return LEARNERS[name]()
    if name in ("explore_then_commit", "ucb"):
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return LEARNERS[name](value)
        raise InputError(f"{text}: give a number, as in {name}=2")
    raise InputError(f"{text}: no such learner; use {', '.join(LEARNERS)}")
