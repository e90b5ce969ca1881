"""The one error that bad input raises, and the check that most parameters need."""

import operator
from typing import Any


class InputError(ValueError):
    """Bad input, said in one line: what is wrong, where, and what to do about it.

    The command line prints the line and exits with status 2.
    """


def checked_whole(name: str, value: Any, low: int, high: int) -> None:
    """InputError unless `value` is a whole number from `low` to `high`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InputError(f"{name} = {value!r}; give a whole number from {low} to {high}")
