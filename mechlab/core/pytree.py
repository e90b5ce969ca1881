"""Frozen dataclasses that are pytrees: those of chex, with what type checkers need to know."""

from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import chex

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class Pytree:
    """The base of every `pytree`."""

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "Self":
            """A copy with other values of some fields."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass of arrays, constructed by keywords."""
    made = chex.dataclass(cls, frozen=True, kw_only=True, mappable_dataclass=False)
    for name in ("from_tuple", "to_tuple"):  # of classes that are built by position
        delattr(made, name)
    return made
