"""A family of reverse auctions, from first to second price, to design within (Che 1993)."""

import dataclasses

import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers
from mechlab.core.users import Users
from mechlab.mechanisms.auction import ReverseAuction


class ScoringAuction(ReverseAuction):
    """The best score ω·q̂ − f·t − p wins if it is at least v0 and the reserve.

    The winner is paid the mean, weighted by `mix`, of the price at which it would have tied with
    the runner-up (or the reserve), ω·q − f·t − S₂, and of its own bid. q and t are the quality and
    the tokens delivered under `realised` settlement, else those announced. With all defaults it is
    the second-price auction, with mix 0 the first-price auction.

    Attributes:
        mix: weight in [0, 1] of the runner-up's price in the payment; the rest is the own bid's.
        reserve: USD, no lower score is bought.
        report_weight: ω, of quality in the score.
        fee: f, USD per token that a provider is charged, or with a minus paid, through the score.
        settlement: "realised" or "reported".
    """

    mix: Array | float = 1.0
    reserve: Array | float = -jnp.inf
    report_weight: Array | float = 1.0
    fee: Array | float = 0.0
    settlement: str = dataclasses.field(default="realised", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.settlement not in ("realised", "reported"):
            raise InputError(
                f"settlement: {self.settlement!r} is not known; use 'realised' or 'reported'"
            )
        if isinstance(self.mix, int | float) and not 0 <= self.mix <= 1:
            raise InputError(f"mix = {self.mix}: give a weight from 0 (own bid) to 1 (runner-up)")

    def score(self, offers: Offers) -> Array:
        return self._worth(offers.reported_quality, offers.posted_tokens) - offers.price

    def floor(self, users: Users) -> Array:
        return jnp.maximum(users.outside_value, self.reserve)

    def pay(self, offers: Offers, rival: Array) -> Array:
        if self.settlement == "realised":
            worth = self._worth(offers.quality, offers.tokens)
        else:
            worth = self._worth(offers.reported_quality, offers.posted_tokens)
        return self.mix * (worth - rival) + (1 - self.mix) * offers.price

    def _worth(self, quality: Array, tokens: Array) -> Array:
        return self.report_weight * quality - self.fee * tokens
