"""The reverse second-price auction: the proposed pricing rule."""

import dataclasses

import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, Users, keep, largest
from mechlab.mechanisms.auction import ReverseAuction
from mechlab.mechanisms.base import values_of_tastes


class SecondPriceAuction(ReverseAuction):
    """The best value wins; the user pays the winner's marginal value over the runner-up.

    payment = q_w − V₂. Under `realised` settlement q_w is the quality delivered: the user is left
    with exactly V₂ and truth is a weakly dominant strategy. Under `reported` settlement q_w is the
    quality bid, and overstating it pays.
    Source: Velasco et al. 2026, "Test-Time Compute Games".
    """

    settlement: str = dataclasses.field(default="realised", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.settlement not in ("realised", "reported"):
            raise InputError(
                f"settlement: {self.settlement!r} is not known; use 'realised' or 'reported'"
            )

    def pay(self, offers: Offers, rival: Array) -> Array:
        quality = offers.quality if self.settlement == "realised" else offers.reported_quality
        return quality - rival

    def fast_metrics(self, market: Market, users: Users, profile: Array) -> dict[str, Array]:
        """Of honest offers, under either settlement: the winner's numbers alone are read."""
        n, k, batch = market.quality.shape
        offered = jnp.take_along_axis(market.surplus, profile[:, None], axis=1)[:, 0]
        outside = users.outside_value
        winner = keep(jnp.argmax(offered, axis=0))
        wins = jnp.arange(n)[:, None] == winner
        best = largest(offered, 0)
        rival = largest(jnp.where(wins, -jnp.inf, offered), 0)
        second = jnp.maximum(rival, outside)
        trade = keep(best >= outside)
        at = winner * k + jnp.take_along_axis(profile, winner[None], axis=0)[0]

        def won(values: Array) -> Array:
            flat = values.reshape(n * k, batch)
            return jnp.where(trade, jnp.take_along_axis(flat, at[None], axis=0)[0], 0.0)

        quality, cost = won(market.quality), won(market.cost)
        kept = jnp.where(trade, second, 0.0)
        held = jnp.where(trade, outside, 0.0)
        earned = quality - kept - cost
        if users.taste is None:
            worth = dict(
                welfare=quality - cost,
                net_welfare=quality - cost - held,
                user_value=kept,
                net_user_value=kept - held,
            )
        else:  # of mean 0 to whoever is assigned a provider
            worth = values_of_tastes(jnp.where(trade, kept, outside), earned, outside)
        return dict(
            **worth,
            user_cost=quality - kept,
            quality=quality,
            provider_utility=earned,
            accuracy=won(market.accuracy),
            tokens=won(market.tokens),
        )
