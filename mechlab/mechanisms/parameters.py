"""Parameters of rules: a number, a number for each provider, or one for each market of a batch.

A rule is written for one market, in which a parameter is a number, or an array [N] where it was
given through `per_provider`. All other axes of a parameter are axes of the batch: they broadcast
against those of offers, markets and users, and the rule is called once for each market.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array
from mechlab.core.users import UserMixture

Shape = tuple[int, ...]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(eq=False, repr=False)
class PerProvider:
    """A parameter [..., N] of a rule with a value for each provider: an array that says so."""

    values: Any

    def __repr__(self) -> str:
        return f"per_provider({self.values})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerProvider) and self.values is other.values

    __hash__ = None  # type: ignore[assignment]  # as arrays

    def __jax_array__(self) -> Array:
        return jnp.asarray(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.values, dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "values":
            raise AttributeError(name)
        return getattr(jnp.asarray(self.values), name)

    def __getitem__(self, index: Any) -> Array:
        return jnp.asarray(self.values)[index]

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        return ((jax.tree_util.GetAttrKey("values"), self.values),), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "PerProvider":
        return cls(*children)


def _as_array(name: str) -> Callable[..., Any]:
    def operator(self: PerProvider, *other: Any) -> Any:
        return getattr(jnp.asarray(self.values), name)(*other)

    return operator


_TWO = ("add", "sub", "mul", "truediv", "pow", "radd", "rsub", "rmul", "rtruediv", "rpow")
for _name in (*_TWO, "neg", "abs", "lt", "le", "gt", "ge"):
    setattr(PerProvider, f"__{_name}__", _as_array(f"__{_name}__"))


def per_provider(values: Any) -> Any:
    """A parameter with a value for each provider, [..., N]: `Tariff(token_cap=per_provider(caps))`.

    Axes before the last are those of a batch of markets.

    Raises:
        InputError: for a single number.
    """
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.ndim < 1:
        raise InputError("per_provider: a single number; give one for each provider, [..., N]")
    return PerProvider(values)


def _is_per_provider(x: Any) -> bool:
    return isinstance(x, PerProvider)


def has_per_provider(rule: Any) -> bool:
    """Whether a rule has a parameter with a value for each provider."""
    return any(map(_is_per_provider, jax.tree.leaves(rule, is_leaf=_is_per_provider)))


def providers_of(rule: Any) -> int | None:
    """Of how many providers a market has to be for a rule; None where it takes any."""
    leaves = jax.tree.leaves(rule, is_leaf=_is_per_provider)
    sizes = {np.shape(x.values)[-1] for x in leaves if _is_per_provider(x)}
    if rule.posted is not None and rule.posted.nests is not None:
        sizes.add(len(rule.posted.nests.of))
    return max(sizes, default=None)


def own_axes(tree: Any) -> Any:
    """How many of the last axes of each parameter are the market's own: a tree of 0 and 1."""
    return jax.tree.map(
        lambda x: PerProvider(1) if _is_per_provider(x) else 0, tree, is_leaf=_is_per_provider
    )


def parameter_batch(rule: Any) -> Shape:
    """The batch axes that the parameters of a rule have."""
    pairs = zip(jax.tree.leaves(rule), jax.tree.leaves(own_axes(rule)), strict=True)
    return _broadcast([np.shape(x)[: np.ndim(x) - axes] for x, axes in pairs])


def _broadcast(batches: list[Shape]) -> Shape:
    try:
        return np.broadcast_shapes(*batches)
    except ValueError:
        said = ", ".join(str(one) for one in dict.fromkeys(batches) if one)
        raise InputError(
            f"batch axes {said} do not fit each other; give markets, offers, users and parameters "
            "of a rule as many markets each, or 1 (a value for each provider of a market: "
            "mechlab.per_provider)"
        ) from None


def over_batch(work: Callable[..., Any], *given: tuple[Any, Any]) -> Any:
    """work(*trees), written for one market, of trees with any batch axes in front.

    Args:
        work: of pytrees to a pytree of arrays; pure.
        given: pairs of a pytree and how many of the last axes of its leaves are the market's own,
            a number or a tree of numbers.

    Returns:
        What the work returns, with the batch axes first.

    Raises:
        InputError: where batch axes do not fit each other.
    """
    leaves: list[Any] = []
    own: list[int] = []
    structures: list[tuple[Any, int]] = []
    for tree, axes in given:
        some, structure = jax.tree.flatten(tree)
        leaves += some
        own += [axes] * len(some) if isinstance(axes, int) else jax.tree.leaves(axes)
        structures.append((structure, len(some)))
    batches = [np.shape(x)[: np.ndim(x) - axes] for x, axes in zip(leaves, own, strict=True)]
    shape = _broadcast(batches)
    if shape == ():
        return work(*(tree for tree, _ in given))
    mapped = [i for i, batch in enumerate(batches) if batch]

    def flat(i: int) -> Array:
        kept = np.shape(leaves[i])[np.ndim(leaves[i]) - own[i] :]
        return jnp.broadcast_to(leaves[i], (*shape, *kept)).reshape(-1, *kept)

    def one(*here: Array) -> Any:
        filled = list(leaves)
        for i, x in zip(mapped, here, strict=True):
            filled[i] = x
        trees = []
        for structure, count in structures:
            trees.append(jax.tree.unflatten(structure, filled[:count]))
            filled = filled[count:]
        return work(*trees)

    found = jax.vmap(one)(*(flat(i) for i in mapped))
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)


def types_axes(users: Any) -> int:
    """Axes that users have beside those of the batch: that of types."""
    return 1 if isinstance(users, UserMixture) else 0


def provider_last(rule: Any, axis: int, work: Callable[..., Any], *trees: Any) -> Any:
    """work(*trees) with the providers' axis last, where a rule has a parameter for each provider.

    The results have the axis where it was. Elementwise work of a rule whose parameters are numbers
    needs no such move.
    """
    if not has_per_provider(rule):
        return work(*trees)
    moved = work(*jax.tree.map(lambda x: jnp.moveaxis(x, axis, -1), trees))
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, axis), moved)
