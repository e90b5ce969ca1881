"""A flat price per answer: a baseline that takes compute out of the bill."""

import math

import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array
from mechlab.mechanisms.logit import LogitChoice


class FixedPrice(LogitChoice):
    """Every provider is paid `price` (USD) per answer; users choose by logit on quality − price.

    U_i = σ_i(price − c_i): a provider pays for its own compute.
    """

    price: Array | float

    def __post_init__(self) -> None:
        if isinstance(self.price, int | float) and not 0 <= self.price < math.inf:
            raise InputError(f"price = {self.price}: a fixed price is a finite number ≥ 0, in USD")

    def ask(self, price: Array, tokens: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(self.price, price.dtype), price.shape)
