"""What waiting costs users: taken off what an answer is worth to them, once, at the front door.

Users who lose h USD per second value an answer that takes `latency` seconds at q − h·latency. From
then on the users have no `latency_value` any more, so that nothing is taken off twice; market and
offers keep their latency, for rules that depend on it.
"""

from typing import Any

from mechlab.core.market import Array, Market, Offers
from mechlab.core.users import UserMixture


def net_of_waiting(market: Market, users: Any) -> tuple[Market, Any]:
    """Market [..., N, K] with quality q − h·latency, and users [...] without `latency_value`."""
    return _net(market, users, _seconds_worth(users, 2))


def column_net_of_waiting(market: Market, users: Any) -> tuple[Market, Any]:
    """`net_of_waiting` of a column of markets [N, K, B] and users [B], or types [T, B]."""
    return _net(market, users, users.latency_value)


def offers_net_of_waiting(offers: Offers, users: Any) -> tuple[Offers, Any]:
    """Offers [..., N] with both qualities less h·latency, and users without `latency_value`."""
    worth = _seconds_worth(users, 1)
    if worth is None:
        return offers, users
    return _changed(offers, -worth), users.replace(latency_value=None)


def offers_before_waiting(offers: Offers, users: Any) -> Offers:
    """Offers whose qualities are net of waiting, with h·latency added again."""
    worth = _seconds_worth(users, 1)
    return offers if worth is None else _changed(offers, worth)


def _changed(offers: Offers, per_second: Array) -> Offers:
    if offers.latency is None:
        return offers
    change = per_second * offers.latency
    return offers.replace(
        quality=offers.quality + change, reported_quality=offers.reported_quality + change
    )


def _seconds_worth(users: Any, axes: int) -> Any:
    """h of users [...] with that many axes of length 1 behind, or None; types bring one of them."""
    h = users.latency_value
    return h if h is None else h[(..., *[None] * (axes - isinstance(users, UserMixture)))]


def _net(market: Market, users: Any, per_second: Any) -> tuple[Market, Any]:
    if per_second is None:
        return market, users
    if market.latency is not None:
        market = market.replace(quality=market.quality - per_second * market.latency)
    return market, users.replace(latency_value=None)
