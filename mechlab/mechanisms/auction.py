"""What the reverse auctions share: scores, the winner, and the value it has to beat."""

from typing import ClassVar

import jax.numpy as jnp

from mechlab.market import Array, Offers, Users
from mechlab.mechanisms.base import Mechanism


class ReverseAuction(Mechanism):
    """The highest score (offered value) wins if it is at least v0; ties go to the lowest index.

    Honest providers bid their cost.
    """

    asking: ClassVar[str] = "cost"

    def winner_and_rival(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        """[..., N] 1 for the winner, else 0; and V₂ [..., 1], the value that it has to beat.

        V₂ is the larger of the second-highest score and v0.
        """
        score, outside = offers.offered_value, users.outside_value[..., None]
        first = jnp.argmax(score, axis=-1, keepdims=True)
        is_first = jnp.arange(score.shape[-1]) == first
        rival = jnp.max(jnp.where(is_first, -jnp.inf, score), axis=-1, keepdims=True)
        wins = is_first & (score >= outside)
        return wins.astype(score.dtype), jnp.maximum(rival, outside)
