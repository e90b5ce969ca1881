"""Populations made of others: mixtures, and several types of users in each market."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.users import UserMixture, Users
from mechlab.populations.base import Population, Words, is_number


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture(Population):
    """Each market comes from one of several populations of the same N and K.

    Attributes:
        parts: the populations.
        weights: how often each is drawn; they need not sum to 1.
    """

    parts: tuple[Population, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        good = len(self.parts) == len(self.weights) > 0 and all(
            is_number(w) and w >= 0 for w in self.weights
        )
        if not good or not 0 < sum(self.weights) < math.inf:
            raise InputError("mixture: give each population one weight ≥ 0, not all of them 0")

    def columns(self, key: Array, index: Array) -> tuple[Market, Users | UserMixture]:
        share = np.cumsum(self.weights) / np.sum(self.weights)
        draw = Words.draw(jax.random.fold_in(key, len(self.parts)), index, 1).uniform[0]
        chosen: Any = None
        for i, part in enumerate(self.parts):
            market, users = part.columns(jax.random.fold_in(key, i), index)
            drawn = (market.with_mask(), users)
            if chosen is None:
                chosen = drawn
                continue
            later = draw >= share[i - 1]
            try:
                chosen = jax.tree.map(
                    lambda a, b, later=later: jnp.where(later, b, a), chosen, drawn
                )
            except (TypeError, ValueError):
                raise InputError(
                    "mixture: the populations differ in providers, levels, user types or noise"
                ) from None
        return chosen

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "mixture",
            "weights": list(self.weights),
            "parts": [part.describe() for part in self.parts],
        }

    def fingerprint(self) -> Any:
        return {**super().fingerprint(), "parts": [part.fingerprint() for part in self.parts]}


@dataclasses.dataclass(frozen=True, eq=False)
class WithUserTypes(Population):
    """A population whose markets each serve several types of users.

    Attributes:
        part: draws the markets, and the rationality and outside value that the factors multiply.
        weights: share of each type; they need not sum to 1.
        rationality_factor: of each type, on β.
        value_factor: of each type, on what an answer is worth.
    """

    part: Population
    weights: tuple[float, ...] = (0.5, 0.5)
    rationality_factor: tuple[float, ...] = (0.2, 1.0)
    value_factor: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.part, WithUserTypes):
            raise InputError("user types: the part has user types already; give them once")
        sizes = {len(self.weights), len(self.rationality_factor), len(self.value_factor)}
        if len(sizes) > 1 or not self.weights:
            raise InputError("user types: give each one weight, rationality and value factor")
        positive = (*self.weights, *self.rationality_factor, *self.value_factor)
        if not all(0 < x < math.inf for x in positive):
            raise InputError("user types: weights and factors must be finite and above 0")

    def columns(self, key: Array, index: Array) -> tuple[Market, UserMixture]:
        market, users = self.part.columns(key, index)
        weights = np.asarray(self.weights) / np.sum(self.weights)

        def types(values: Any) -> Array:
            column = jnp.asarray(values, jnp.float32)[:, None]
            return jnp.broadcast_to(column, (len(self.weights), index.shape[0]))

        return market, UserMixture(
            weight=types(weights),
            rationality=users.rationality * types(self.rationality_factor),
            outside_value=users.outside_value * types(np.ones(len(weights))),
            value_scale=types(self.value_factor),
            taste=None if users.taste is None else types(np.ones(len(weights))),
            latency_value=None if users.latency_value is None else users.latency_value[None],
        )

    def describe(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": "user_types", **fields, "part": self.part.describe()}

    def fingerprint(self) -> Any:
        return {**super().fingerprint(), "part": self.part.fingerprint()}


@dataclasses.dataclass(frozen=True, eq=False)
class WithTastes(Population):
    """A population in which the noise in users' choices is their taste; see `Users.create`.

    Attributes:
        part: draws the markets and the users, who make the same choices.
    """

    part: Population

    def columns(self, key: Array, index: Array) -> tuple[Market, Users | UserMixture]:
        market, users = self.part.columns(key, index)
        return market, users.replace(taste=jnp.ones_like(users.rationality))

    def describe(self) -> dict[str, Any]:
        return {"kind": "tastes", "part": self.part.describe()}

    def fingerprint(self) -> Any:
        return {**super().fingerprint(), "part": self.part.fingerprint()}
