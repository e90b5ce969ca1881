"""The reverse second-price auction: the proposed pricing rule."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, keep, largest
from mechlab.core.users import Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.auction import ReverseAuction, best_of_others
from mechlab.mechanisms.base import values_of_tastes


class SecondPriceAuction(ReverseAuction):
    """The best value wins; the user pays the winner's marginal value over the runner-up.

    payment = q_w − V₂. Under `realised` settlement q_w is the quality delivered: the user is left
    with exactly V₂ and truth is a weakly dominant strategy. Under `reported` settlement q_w is the
    quality bid, and overstating it pays. Under `per_answer` settlement q_w is what the one answer
    is worth, right or wrong, so that a provider pays for answers worth less than V₂, and at most
    `liability`. Its mean is that of realised settlement where liability has no bound; else the
    bid that leaves nothing at V₂ equal to its own score is dominant, which is above the true
    surplus of a provider whose answers are often wrong, and the best need not win.
    Source: Velasco et al. 2026, "Test-Time Compute Games".

    Attributes:
        settlement: "realised", "reported" or "per_answer".
        liability: USD ≥ 0, the most that a provider pays for an answer.
        stake: USD, how much more a right answer is worth than a wrong one; from the market's
            curves where not given, whose quality has to be linear in accuracy then (else payments
            are NaN under jit).
    """

    settlement: str = dataclasses.field(default="realised", metadata={"static": True})
    liability: Any = jnp.inf
    stake: Any = None

    def __post_init__(self) -> None:
        known = ("realised", "reported", "per_answer")
        if self.settlement not in known:
            raise InputError(
                f"settlement: {self.settlement!r} is not known; use 'realised', 'reported' or "
                "'per_answer'"
            )
        limited = not concrete(self.liability) or bool(np.any(np.isfinite(self.liability)))
        if self.settlement != "per_answer" and (limited or self.stake is not None):
            raise InputError(
                f"settlement: liability and stake are of 'per_answer', not {self.settlement!r}"
            )
        if concrete(self.liability) and not np.all(np.asarray(self.liability) >= 0):
            raise InputError(f"liability = {self.liability}; give a number ≥ 0, in USD")

    def pay(self, offers: Offers, rival: Array) -> Array:
        if self.settlement == "per_answer":
            right, wrong = self._answers(offers, rival)
            return offers.accuracy * right + (1.0 - offers.accuracy) * wrong
        quality = offers.quality if self.settlement == "realised" else offers.reported_quality
        return quality - rival

    def _answers(self, offers: Offers, rival: Array) -> tuple[Array, Array]:
        """[..., N] USD, what the winner gets for a right answer, and for a wrong one."""
        if offers.stake is None:
            raise InputError(
                "settlement per_answer: offers have no stake; take them from the rule's `offers`"
            )
        wrong = offers.quality - offers.accuracy * offers.stake
        least = -jnp.asarray(self.liability)
        return (
            jnp.maximum(wrong + offers.stake - rival, least),
            jnp.maximum(wrong - rival, least),
        )

    def honest(self, market: Market, offers: Offers, axis: int = -1) -> Offers:
        """Offers that bid what leaves nothing where V₂ is as much as the own score.

        That is the cost where a wrong answer is within the liability, and else less.
        """
        if self.settlement != "per_answer":
            return offers
        stake = self._stake(market, axis)
        stake = stake if offers.quality.ndim == market.quality.ndim else jnp.squeeze(stake, axis)
        stake = jnp.broadcast_to(stake, offers.quality.shape)
        accuracy, cost = offers.accuracy, offers.cost
        wrong = offers.quality - accuracy * stake
        bounded = jnp.isfinite(jnp.asarray(self.liability))
        most = jnp.where(bounded, self.liability, 0.0)
        within = ~bounded | (offers.quality - cost <= wrong + most) | (accuracy <= 0)
        within |= jnp.isnan(stake)  # so that what is paid says so, and not that nobody trades
        paid = cost + (1.0 - accuracy) * most
        limit = wrong + stake - paid / jnp.where(accuracy > 0, accuracy, 1.0)
        return offers.replace(
            price=jnp.where(within, offers.price, offers.quality - limit), stake=stake
        )

    def _stake(self, market: Market, axis: int) -> Array:
        """Of a market with levels on an axis and providers on the one before, with both kept."""
        axes = (axis - 1, axis)
        if self.stake is not None:
            return jnp.full([1] * market.quality.ndim, self.stake, market.quality.dtype)
        there = True if market.available is None else market.available

        def reach(values: Array) -> Array:
            high = jnp.max(values, axis=axes, keepdims=True, initial=-jnp.inf, where=there)
            return high - jnp.min(values, axis=axes, keepdims=True, initial=jnp.inf, where=there)

        apart = reach(market.accuracy)
        stake = jnp.where(apart > 0, reach(market.quality) / jnp.where(apart > 0, apart, 1.0), 0.0)
        linear = reach(market.quality - market.accuracy * stake) <= 1e-4 * jnp.abs(stake)
        if concrete(linear) and not bool(jnp.all(linear)):
            raise InputError(
                "settlement per_answer: quality is not linear in accuracy (as with latency, or "
                "another shape); give stake, what a right answer is worth more than a wrong one"
            )
        return jnp.where(linear, stake, jnp.nan)

    def spread(self, offers: Offers, users: Users, shares: Array) -> dict[str, Array]:
        if self.settlement != "per_answer":
            return {}
        rival = best_of_others(self.score(offers))
        right, wrong = self._answers(offers, jnp.maximum(rival, self.floor(users)[..., None]))
        a = offers.accuracy
        paid = a * (right < 0) + (1.0 - a) * (wrong < 0)
        return dict(
            income_deviation=shares * jnp.sqrt(jnp.maximum(a * (1.0 - a), 0.0)) * (right - wrong),
            provider_pays=shares * paid,
        )

    def fast_metrics(self, market: Market, users: Users, profile: Array) -> dict[str, Array]:
        """Of honest offers: the winner's numbers alone are read."""
        if self.settlement == "per_answer":
            return self.offers_metrics(keep(vmapped(self.offers)(market, keep(profile))), users)
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
