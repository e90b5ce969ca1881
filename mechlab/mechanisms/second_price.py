"""The reverse second-price auction: the proposed pricing rule."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, keep, largest
from mechlab.core.users import Users
from mechlab.core.validation import checked, concrete
from mechlab.mechanisms.auction import ReverseAuction, best_of_others
from mechlab.mechanisms.base import compiled, never, values_of_tastes
from mechlab.mechanisms.verifier import (
    Verifier,
    announced,
    measured_accuracy,
    measured_quality,
    stake_of,
    with_stake,
)


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

    Among several types of users one bid is made for all, by what answers are worth to a type of
    value_scale 1: where liability is limited or providers are averse it is no longer dominant.

    With a `verifier` that errs, what is delivered is what it measures, and an honest provider
    announces that: to announce less or more only loses. A provider with absolute risk aversion r
    is paid worth −log E[exp(−r·payment)]/r (CARA; Pratt 1964) and bids where that covers its cost;
    the rest of the mean is a premium that the risk costs, and counts as a cost in welfare.

    Attributes:
        settlement: "realised", "reported" or "per_answer".
        liability: USD ≥ 0, the most that a provider pays for an answer.
        stake: USD, how much more a right answer is worth than a wrong one; from the market's
            curves where not given, whose quality has to be linear in accuracy then (else payments
            are NaN under jit).
        verifier: who says which answers are right; one that never errs where None.
        risk_aversion: r ≥ 0, per USD, of providers whose answers are settled one by one.
    """

    settlement: str = dataclasses.field(default="realised", metadata={"static": True})
    liability: Any = jnp.inf
    stake: Any = None
    verifier: Verifier | None = None
    risk_aversion: Any = 0.0

    def __post_init__(self) -> None:
        known = ("realised", "reported", "per_answer")
        if self.settlement not in known:
            raise InputError(
                f"settlement: {self.settlement!r} is not known; use 'realised', 'reported' or "
                "'per_answer'"
            )
        limited = not concrete(self.liability) or bool(np.any(np.isfinite(self.liability)))
        averse = not concrete(self.risk_aversion) or bool(np.any(np.asarray(self.risk_aversion)))
        if self.settlement != "per_answer" and (limited or averse):
            raise InputError(
                "settlement: liability and risk_aversion are of 'per_answer', not "
                f"{self.settlement!r}"
            )
        if self.settlement == "reported" and self.verifier is not None:
            raise InputError("settlement: a verifier is of 'realised' and 'per_answer'")
        if not isinstance(self.verifier, Verifier | None):
            raise InputError(
                f"verifier: a {type(self.verifier).__name__}; give mechlab.Verifier(…)"
            )
        if not self._measures and self.stake is not None:
            raise InputError("stake: nothing is settled by it; give a verifier, or 'per_answer'")
        if concrete(self.liability) and not np.all(np.asarray(self.liability) >= 0):
            raise InputError(f"liability = {self.liability}; give a number ≥ 0, in USD")
        checked("risk_aversion", self.risk_aversion, minimum=0.0, why="nobody here seeks risk")

    @property
    def _measures(self) -> bool:
        """Whether it matters what a right answer is worth more than a wrong one."""
        return self.settlement == "per_answer" or self.verifier is not None

    def pay(self, offers: Offers, rival: Array) -> Array:
        if self.settlement == "per_answer":
            a = measured_accuracy(self.verifier, offers)
            right, wrong = self._answers(offers, rival)
            return a * right + (1.0 - a) * wrong
        if self.settlement == "reported":
            return offers.reported_quality - rival
        return measured_quality(self.verifier, offers) - rival

    def worth_to(self, offers: Offers, rival: Array) -> Array:
        if self.settlement != "per_answer":
            return self.pay(offers, rival)
        a = measured_accuracy(self.verifier, offers)
        return certain(a, *self._answers(offers, rival), self.risk_aversion)

    def risk_premium(self, offers: Offers, users: Users) -> Array | float:
        if self.settlement != "per_answer":
            return 0.0
        rival = self._rival(offers, users)
        return self.pay(offers, rival) - self.worth_to(offers, rival)

    def _rival(self, offers: Offers, users: Users) -> Array:
        """[..., N] V₂ of each as the winner."""
        return jnp.maximum(best_of_others(self.score(offers)), self.floor(users)[..., None])

    def _answers(self, offers: Offers, rival: Array) -> tuple[Array, Array]:
        """[..., N] USD, what the winner gets for an answer taken as right, and as wrong."""
        stake = stake_of(offers)
        wrong = offers.quality - offers.accuracy * stake
        least = -jnp.asarray(self.liability)
        return jnp.maximum(wrong + stake - rival, least), jnp.maximum(wrong - rival, least)

    def staked(self, market: Market, offers: Offers, axis: int = -1) -> Offers:
        return with_stake(market, offers, self.stake, axis) if self._measures else offers

    def honest(self, offers: Offers) -> Offers:
        """Offers that bid what leaves nothing where V₂ is as much as the own score.

        That is the cost and the quality measured, where a wrong answer is within the liability;
        else the price asked is less.
        """
        return _break_even(self, offers) if self._measures else offers

    def spread(self, offers: Offers, users: Users, shares: Array) -> dict[str, Array]:
        if self.settlement != "per_answer":
            return {}
        right, wrong = self._answers(offers, self._rival(offers, users))
        a = measured_accuracy(self.verifier, offers)
        paid = a * (right < 0) + (1.0 - a) * (wrong < 0)
        return dict(
            income_deviation=shares * jnp.sqrt(jnp.maximum(a * (1.0 - a), 0.0)) * (right - wrong),
            provider_pays=shares * paid,
        )

    def fast_metrics(self, market: Market, users: Users, profile: Array) -> dict[str, Array]:
        """Of honest offers: the winner's numbers alone are read."""
        if self._measures:
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


@compiled
def _break_even(rule: SecondPriceAuction, offers: Offers) -> Offers:
    """`honest`, where something is measured."""
    offers = announced(rule.verifier, offers)
    if rule.settlement != "per_answer":
        return offers
    stake, cost, r = stake_of(offers), offers.cost, jnp.asarray(rule.risk_aversion)
    accuracy = measured_accuracy(rule.verifier, offers)
    wrong = offers.quality - offers.accuracy * stake
    bounded = jnp.isfinite(jnp.asarray(rule.liability))
    most = jnp.where(bounded, rule.liability, 0.0)
    unlimited = certain(accuracy, wrong + stake, wrong, r) - cost
    within = ~bounded | (unlimited <= wrong + most) | (accuracy <= 0)
    within |= jnp.isnan(stake)  # so that what is paid says so, and not that nobody trades
    likely = jnp.where(accuracy > 0, accuracy, 1.0)
    lost = (1.0 - accuracy) / likely * (cost + most)  # by the wrong answers to one right one
    averse, dread = r > 0, jnp.where(r > 0, r, 1.0)
    left = -(1.0 - accuracy) / likely * jnp.expm1(jnp.minimum(dread * (cost + most), 80.0))
    never_enough = averse & (left <= -1.0)
    loss = jnp.where(averse, -jnp.log1p(jnp.where(left > -1.0, left, 0.0)) / dread, lost)
    limit = wrong + stake - cost - jnp.where(never_enough, never(loss), loss)
    score = jnp.where(within, unlimited, limit)
    exact = within & ~averse  # the cost itself, and not what is left of a difference
    return offers.replace(price=jnp.where(exact, offers.price, offers.reported_quality - score))


def certain(chance: Array, high: Array, low: Array, risk_aversion: Array) -> Array:
    """[...] USD, the certainty equivalent of `high` with a chance and else `low`, under CARA.

    −log E[exp(−r·x)]/r, which is the mean where r is 0 (Pratt 1964).
    """
    mean, apart = chance * high + (1.0 - chance) * low, high - low
    r = jnp.asarray(risk_aversion, mean.dtype)
    averse = (r * apart > 1e-5) & (chance < 1)
    rate = jnp.where(averse, r, 1.0)
    p = jnp.where(averse, chance, 0.0)
    little = mean - r / 2 * chance * (1.0 - chance) * jnp.square(apart)  # to the second order
    return jnp.where(averse, low - jnp.log1p(p * jnp.expm1(-rate * apart)) / rate, little)
