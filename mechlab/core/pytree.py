"""Frozen dataclasses that are pytrees: those of chex, with what type checkers need to know."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import chex
import jax

from mechlab.core.results import Batch

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class Pytree(Batch):
    """The base of every `pytree`."""

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "Self":
            """A copy with other values of some fields."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass of arrays, constructed by keywords."""
    made = chex.dataclass(cls, frozen=True, kw_only=True, repr=False, mappable_dataclass=False)
    for name in ("from_tuple", "to_tuple"):  # of classes that are built by position
        delattr(made, name)
    return made


def register_by_class(cls: type[Any]) -> None:
    """Make a dataclass a pytree whose structure names its class.

    Those of `jax.tree_util.register_dataclass` compare equal where classes have the same fields,
    and a compiled function can then be that of another class.
    """
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    data = [field.name for field in fields if field.name not in static]

    def flatten(made: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(jax.tree_util.GetAttrKey(name), getattr(made, name)) for name in data]
        return children, (cls, *(getattr(made, name) for name in static))

    def unflatten(structure: tuple[Any, ...], children: Any) -> Any:
        made = object.__new__(cls)  # what was checked once is not checked again
        values = zip((*static, *data), (*structure[1:], *children), strict=True)
        for name, value in values:
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
