"""Posted prices that a platform may regulate: a cap per token, a price per answer, or both."""

import math

import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array
from mechlab.mechanisms.logit import LogitChoice


class Tariff(LogitChoice):
    """A two-part tariff: per_answer + pass_through · min(own price, token_cap · tokens).

    With all defaults it is pay-per-compute; with pass_through 0 a fixed price per answer.

    Attributes:
        per_answer: USD per query, whatever its tokens.
        pass_through: share of the provider's own price that it may charge.
        token_cap: USD per token, the most that it may charge.
    """

    per_answer: Array | float = 0.0
    pass_through: Array | float = 1.0
    token_cap: Array | float = math.inf

    def __post_init__(self) -> None:
        for name in ("per_answer", "pass_through", "token_cap"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= 0:
                raise InputError(f"{name} = {value}: give a number ≥ 0")

    def ask(self, price: Array, tokens: Array) -> Array:
        # no cap, or no tokens that it could be of; infinity enters no product, whose slope is none
        capped = jnp.isfinite(self.token_cap) & (tokens > 0)
        most = jnp.where(capped, self.token_cap, 0.0) * tokens
        charged = jnp.where(capped, jnp.minimum(price, most), price)
        return self.per_answer + self.pass_through * charged
