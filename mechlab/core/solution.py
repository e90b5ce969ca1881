"""How a solver ended: one base for what solvers return, and a sentence for every way to end."""

import enum

import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.validation import concrete


class Status(enum.IntEnum):
    """How a solver ended; `message` says it in a sentence."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    NO_POTENTIAL = 2
    CAPPED = 3
    INDIFFERENT = 4
    NOT_EQUILIBRIUM = 5
    OUT_OF_REACH = 6
    JUMP = 7

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CONVERGED: "the solution was found",
    Status.ITERATION_LIMIT: "more steps would be needed, or the game cycles; give more rounds",
    Status.NO_POTENTIAL: (
        "some provider has no level with a profit, or users are of several types, and no pure "
        "equilibrium was reached: there may be none"
    ),
    Status.CAPPED: "exact ties allow too many profiles to check all; give a larger cap",
    Status.INDIFFERENT: (
        "some provider earns nothing at any of its levels, so that each is a best response and the "
        "profile is no prediction; give it a margin"
    ),
    Status.NOT_EQUILIBRIUM: (
        "no bid of the grid is a best response to itself; what is played is the nearest to it"
    ),
    Status.OUT_OF_REACH: "no β gives demand this elasticity; give one between lowest and 0",
    Status.JUMP: (
        "levels change at this β so that the elasticity leaps over the one wanted; the nearer side "
        "is given"
    ),
}


class NotSolved(RuntimeError):
    """A solver that was asked to `throw` did not find a solution; the message says why."""


@pytree
class Solution(Pytree):
    """What solvers return: values, and how each market of the batch ended.

    Attributes:
        status: [...] int, a `Status`.
    """

    _axes = ()
    _words = {"status": Status}  # noqa: RUF012
    _also = ("converged",)

    status: Array

    @property
    def converged(self) -> Array:
        """[...] bool, whether what is returned is a solution; not necessarily the only one."""
        return (self.status == Status.CONVERGED) | (self.status == Status.INDIFFERENT)

    @property
    def message(self) -> str:
        """The ends of a batch in words, with how many markets ended so; outside jit."""
        ends, counts = np.unique(np.asarray(self.status), return_counts=True)
        if len(ends) == 1 and counts[0] == 1:
            return Status(int(ends[0])).message
        return "; ".join(
            f"{count:,} of {counts.sum():,}: {Status(int(end)).message}"
            for end, count in zip(ends, counts, strict=True)
        )


def thrown(solution: Solution, throw: bool) -> Solution:
    """The solution; with `throw`, outside jit, NotSolved where some market has none."""
    if throw and concrete(solution.status) and not bool(jnp.all(solution.converged)):
        raise NotSolved(solution.message)
    return solution
