"""Waiting, taken off what answers are worth before anything is solved."""

from typing import Any

from mechlab.core.market import Market, Offers
from mechlab.core.users import UserMixture


def felt(market: Market, users: Any) -> tuple[Market, Any]:
    """Market [..., N, K] and users [...] with waiting taken off what answers are worth.

    Quality becomes q − h·latency, and neither has a latency any more: what every solver works on,
    so that V = q − p − h·latency in every rule.
    """
    return _felt(market, users, _waits(users, 2))


def felt_columns(market: Market, users: Any) -> tuple[Market, Any]:
    """`felt` of a column of markets [N, K, B] and users [B], or types [T, B]."""
    return _felt(market, users, users.latency_value)


def felt_offers(offers: Offers, users: Any) -> tuple[Offers, Any]:
    """`felt` of offers [..., N] and users [...]."""
    waits = _waits(users, 1)
    if offers.latency is not None and waits is not None:
        lost = waits * offers.latency
        offers = offers.replace(
            quality=offers.quality - lost, reported_quality=offers.reported_quality - lost
        )
    if offers.latency is not None:
        offers = offers.replace(latency=None)
    return offers, users if waits is None else users.replace(latency_value=None)


def _waits(users: Any, axes: int) -> Any:
    """h of users [...] with that many axes of length 1 behind, or None; types bring one of them."""
    h = users.latency_value
    return h if h is None else h[(..., *[None] * (axes - isinstance(users, UserMixture)))]


def _felt(market: Market, users: Any, waits: Any) -> tuple[Market, Any]:
    if market.latency is not None and waits is not None:
        market = market.replace(quality=market.quality - waits * market.latency)
    if market.latency is not None:
        market = market.replace(latency=None)
    return market, users if waits is None else users.replace(latency_value=None)
