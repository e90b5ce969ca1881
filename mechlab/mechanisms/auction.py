"""What the reverse auctions share: scores, the winner, and the value it has to beat."""

import abc
import functools
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, Offers, largest
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import Users
from mechlab.mechanisms.base import Mechanism, compiled
from mechlab.mechanisms.capabilities import Accounts, Facing, Honesty
from mechlab.mechanisms.logit import mean_best
from mechlab.mechanisms.parameters import provider_last


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
        """[..., N] USD, the winner's certainty equivalent of what it is paid."""
        return self.pay(offers, rival)

    def score(self, offers: Offers) -> Array:
        """[..., N] what bids are ranked by: the value offered."""
        return offers.offered_value

    def floor(self, users: Users) -> Array:
        """[...] the lowest score that can win: v0."""
        return users.outside_value

    @final
    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score, floor = self.score(offers), self.floor(users)[..., None]
        wins = _first(score) & (score >= floor)
        rival = jnp.maximum(best_of_others(score), floor)
        return wins.astype(score.dtype), jnp.where(wins, self.pay(offers, rival), 0.0)

    @final
    def smoothed(self, temperature: Array) -> Mechanism:
        return SoftWinner(self, temperature)

    @property
    def honesty(self) -> "BidHonesty":
        return BidHonesty(self)

    @property
    def accounts(self) -> "BidAccounts":
        return ScoreAccounts(self)

    @property
    def facing(self) -> "ScoreFacing":
        return ScoreFacing(self)


class BidHonesty(Honesty):
    """Of rules in which providers bid: the best level is the one whose honest offer ranks best."""

    def staked(self, market: Market, offers: Offers, axis: int = -1) -> Offers:
        """Offers that hold what else of the market a settlement depends on: nothing here.

        Levels of the market are on the last axis, or on another, counted from the end.
        """
        return offers

    def offers(self, market: Market, profile: Array) -> Offers:
        return self.honest(self.staked(market, market.at(profile, asking="cost")))

    def profile(self, market: Market, axis: int = -1) -> Array:
        every = Offers(
            quality=market.quality,
            reported_quality=market.quality,
            price=market.cost,
            cost=market.cost,
            accuracy=market.accuracy,
            tokens=market.tokens,
            compute=market.compute,
            latency=market.latency,
        )
        return _best_level(self.rule, self.staked(market, every, axis), market.available, axis=axis)


@functools.partial(compiled, static="axis")
def _best_level(rule: Mechanism, offers: Offers, available: Array, axis: int) -> Array:
    score = provider_last(
        rule, axis - 1, lambda bids: rule.accounts.ranking(rule.honesty.honest(bids)), offers
    )
    return jnp.argmax(jnp.where(available, score, -jnp.inf), axis=axis)


class BidAccounts(Accounts):
    """Of rules in which providers bid: no bill is paid, and welfare is that of an assignment."""

    knows_overcharge: ClassVar[bool] = True

    def overcharge(self, offers: Offers) -> Array:
        return jnp.zeros_like(offers.price)

    def best_assignment(self, market: Market, users: Users) -> Array:
        return best_assignment(market, users)


class ScoreAccounts(BidAccounts):
    """Of rules with a score and a floor."""

    def ranking(self, offers: Offers) -> Array:
        return self.rule.score(offers)

    def threshold(self, users: Users) -> Array:
        return self.rule.floor(users)


class ScoreFacing(Facing):
    """One provider against the best score of the others."""

    def rivals(self, offers: Offers, users: Users) -> AuctionRivals:
        score = self.rule.score(offers)
        best = best_of_others(score)
        index = jnp.arange(score.shape[-1])
        holder = jnp.where(score[..., None, :] == best[..., :, None], index, score.shape[-1])
        holder = jnp.where(index == index[:, None], score.shape[-1], holder)
        return AuctionRivals(
            best=best,
            wins_ties=index < jnp.min(holder, axis=-1),
            floor=jnp.broadcast_to(self.rule.floor(users)[..., None], score.shape),
        )

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        score = self.rule.score(own)
        ahead = (score > rivals.best) | ((score == rivals.best) & rivals.wins_ties)
        profit = self.rule.worth_to(own, jnp.maximum(rivals.best, rivals.floor)) - own.cost
        return jnp.where(ahead & (score >= rivals.floor), profit, 0.0)

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        return SoftFacing(self.rule.smoothed(temperature)).utility_against(rivals, own)

    def leads(self, rivals: Any, own: Offers) -> Array:
        return (self.rule.score(own) - jnp.maximum(rivals.best, rivals.floor))[None]


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

    @property
    def accounts(self) -> Accounts:
        return self.rule.accounts

    @property
    def facing(self) -> "SoftFacing":
        return SoftFacing(self)


class SoftFacing(Facing):
    """One provider that wins the more, the more it leads."""

    def rivals(self, offers: Offers, users: Users) -> AuctionRivals:
        return self.rule.rule.facing.rivals(offers, users)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        auction, to_beat = self.rule.rule, jnp.maximum(rivals.best, rivals.floor)
        lead = (auction.score(own) - to_beat) / self.rule.temperature
        return jax.nn.sigmoid(lead) * (auction.worth_to(own, to_beat) - own.cost)


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
