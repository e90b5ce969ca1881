"""A price per character of the answer: what users can count themselves."""

import math

import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array
from mechlab.mechanisms.logit import LogitChoice


class PayPerCharacter(LogitChoice):
    """Every provider is paid by the characters of the answer that users see.

    The answer is as long whatever was spent on it, and everybody can count: neither tokens that
    are not shown nor tokens that never were are billed. U_i = σ_i(price · characters − c_i).
    Source: Velasco et al. 2025, "Is your LLM overcharging you?".

    Attributes:
        price: USD per character.
        characters: of an answer; with 1 it is a price per answer, as `FixedPrice`.
    """

    price: Array | float
    characters: Array | float = 1.0

    def __post_init__(self) -> None:
        for name in ("price", "characters"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise InputError(f"{name} = {value}: give a finite number ≥ 0")

    def ask(self, price: Array, tokens: Array) -> Array:
        asked = jnp.asarray(self.price, price.dtype) * self.characters
        return jnp.broadcast_to(asked, price.shape)
