"""The reverse second-price auction: the proposed pricing rule."""

import dataclasses

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers
from mechlab.mechanisms.auction import ReverseAuction


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
