"""What the reverse auctions share: scores, the winner, and the value it has to beat."""

import abc
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, Offers, Outcome, largest
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms.base import Allocated, Field, Mechanism, compiled
from mechlab.mechanisms.logit import mean_best


@pytree
class AuctionRivals(Pytree):
    """What a bidder faces.

    Attributes:
        best: [..., N] the best score of the others; −inf where there are none.
        wins_ties: [..., N] bool: its index is below those of all others with that score.
        floor: [..., N] the lowest score that can win.
    """

    best: Array
    wins_ties: Array
    floor: Array


class ReverseAuction(Mechanism, abc.ABC):
    """The highest score wins if it is at least the floor; ties go to the lowest index.

    A rule says what the winner is paid (`pay`), and may score otherwise than by offered value.
    Honest providers bid their cost.
    """

    asking: ClassVar[str] = "cost"
    play: ClassVar[str] = "truthful"

    @abc.abstractmethod
    def pay(self, offers: Offers, rival: Array) -> Array:
        """[..., N] what each would be paid as the winner over a rival score V₂ [..., N]."""

    def worth_to(self, offers: Offers, rival: Array) -> Array:
        """[..., N] USD, the sure payment that is worth as much to the winner as what it is paid."""
        return self.pay(offers, rival)

    def score(self, offers: Offers) -> Array:
        """[..., N] what bids are ranked by: the value offered."""
        return offers.offered_value

    def floor(self, users: Users) -> Array:
        """[...] the lowest score that can win: v0."""
        return users.outside_value

    def ranking(self, offers: Offers) -> Array:
        return self.score(offers)

    def threshold(self, users: Users) -> Array:
        return self.floor(users)

    def best_assignment(self, market: Market, users: Users) -> Array:
        return best_assignment(market, users)

    def staked(self, market: Market, offers: Offers, axis: int = -1) -> Offers:
        """Offers that hold what else of the market a settlement depends on: nothing here.

        Levels of the market are on the last axis, or on another, counted from the end.
        """
        return offers

    def offers(self, market: Market, profile: Array) -> Offers:
        return self.honest(self.staked(market, market.at(profile, asking=self.asking)))

    def truthful_profile(self, market: Market, axis: int = -1) -> Array:
        """[..., N] int, the level whose honest offer scores best (the lowest on a tie)."""
        every = Offers(
            quality=market.quality,
            reported_quality=market.quality,
            price=market.cost,
            cost=market.cost,
            accuracy=market.accuracy,
            tokens=market.tokens,
            compute=market.compute,
        )
        return _best_level(self, self.staked(market, every, axis), market.available, axis=axis)

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score, floor = self.score(offers), self.floor(users)[..., None]
        wins = _first(score) & (score >= floor)
        rival = jnp.maximum(best_of_others(score), floor)
        return wins.astype(score.dtype), jnp.where(wins, self.pay(offers, rival), 0.0)

    def overcharge(self, offers: Offers) -> Array:
        """0: what a winner is paid is of no bill."""
        return jnp.zeros_like(offers.price)

    def rivals(self, offers: Offers, users: Users | UserMixture) -> Any:
        if isinstance(users, UserMixture):
            return super().rivals(offers, users)
        score = self.score(offers)
        best = best_of_others(score)
        index = jnp.arange(score.shape[-1])
        holder = jnp.where(score[..., None, :] == best[..., :, None], index, score.shape[-1])
        holder = jnp.where(index == index[:, None], score.shape[-1], holder)
        return AuctionRivals(
            best=best,
            wins_ties=index < jnp.min(holder, axis=-1),
            floor=jnp.broadcast_to(self.floor(users)[..., None], score.shape),
        )

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        if isinstance(rivals, Field):
            return super().utility_against(rivals, own)
        score = self.score(own)
        ahead = (score > rivals.best) | ((score == rivals.best) & rivals.wins_ties)
        profit = self.worth_to(own, jnp.maximum(rivals.best, rivals.floor)) - own.cost
        return jnp.where(ahead & (score >= rivals.floor), profit, 0.0)

    def leads(self, rivals: Any, own: Offers) -> Array:
        if isinstance(rivals, Field):
            return super().leads(rivals, own)
        return (self.score(own) - jnp.maximum(rivals.best, rivals.floor))[None]

    def smoothed(self, temperature: Array) -> Mechanism:
        return SoftWinner(self, temperature)


class SoftWinner(Mechanism):
    """An auction in which everybody wins a little: shares are a softmax of scores/temperature.

    Each is paid for its share what the rule would pay it as the winner.
    """

    rule: ReverseAuction
    temperature: Array

    asking: ClassVar[str] = "cost"

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score, floor = self.rule.score(offers), self.rule.floor(users)[..., None]
        floor = jnp.broadcast_to(floor, (*score.shape[:-1], 1))
        all_ = jnp.concatenate([score, floor], axis=-1)
        shares = jax.nn.softmax(all_ / jnp.asarray(self.temperature)[..., None], axis=-1)[..., :-1]
        return shares, self.rule.pay(offers, jnp.maximum(best_of_others(score), floor))

    def _mixed(self, offers: Offers, users: UserMixture) -> tuple[Outcome, Allocated]:
        wide = SoftWinner(self.rule, jnp.asarray(self.temperature)[..., None])  # the axis of types
        return Mechanism._mixed(wide, offers, users)

    def rivals(self, offers: Offers, users: Users | UserMixture) -> Any:
        return self.rule.rivals(offers, users)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        if isinstance(rivals, Field):
            return super().utility_against(rivals, own)
        to_beat = jnp.maximum(rivals.best, rivals.floor)
        lead = (self.rule.score(own) - to_beat) / self.temperature
        return jax.nn.sigmoid(lead) * (self.rule.worth_to(own, to_beat) - own.cost)


@functools.partial(compiled, static="axis")
def _best_level(rule: ReverseAuction, offers: Offers, available: Array, axis: int) -> Array:
    score = rule.score(rule.honest(offers))
    return jnp.argmax(jnp.where(available, score, -jnp.inf), axis=axis)


def best_assignment(market: Market, users: Users) -> Array:
    """[...] the largest surplus of all, 0 where not trading is worth more; where noise is taste,
    the mean of what is best for each user."""
    surplus = largest(jnp.where(market.available, market.surplus, -jnp.inf))
    if users.taste is not None:
        return mean_best(surplus, users)
    best = largest(surplus)
    return jnp.where(best >= users.outside_value, best, 0.0)


def _first(score: Array) -> Array:
    return jnp.arange(score.shape[-1]) == jnp.argmax(score, axis=-1, keepdims=True)


def best_of_others(score: Array) -> Array:
    """[..., N] for each provider the best score of the others; −inf where there are none."""
    first = _first(score)
    second = largest(jnp.where(first, -jnp.inf, score), -1, True)
    return jnp.where(first, second, largest(score, -1, True))
