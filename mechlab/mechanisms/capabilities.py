"""What a rule has beside `allocate`: honest offers, accounts, one provider alone, levels, a game.

Each capability is a small object that holds its rule. The classes here are the general forms: they
follow from `allocate`, and are right for every rule. A rule that knows more returns a subclass from
the property of that name, and `mechlab.check_rule` holds it against the general form.
"""

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users

if TYPE_CHECKING:
    from mechlab.mechanisms.base import Mechanism

METRICS = (
    "welfare",
    "net_welfare",
    "user_value",
    "net_user_value",
    "user_cost",
    "quality",
    "provider_utility",
    "accuracy",
    "tokens",
)
"""The metrics of a market that every rule has, in the words of `Outcome`."""


@dataclasses.dataclass(frozen=True)
class Capability:
    """One of what a rule has; `rule` is that rule."""

    rule: Any


class Honesty(Capability):
    """What an honest provider offers under a rule."""

    def offers(self, market: Market, profile: Array) -> Offers:
        """[..., N] honest offers at a profile [..., N] of grid levels."""
        return self.honest(market.at(profile, asking=self.rule.asking))

    def honest(self, offers: Offers) -> Offers:
        """Offers that ask what the rule has honest providers ask, with the bid that is honest.

        As they are here; a rule whose honest bid is another than quality and cost says so.
        """
        return offers

    def profile(self, market: Market, axis: int = -1) -> Array:
        """[..., N] int, the level of each honest provider: that of its largest surplus.

        Levels are on the last axis, or on another, counted from the end.
        """
        return market.best_surplus_profile(axis)


class Accounts(Capability):
    """What users and providers hold beyond Σσ(q − payment) and Σσ(payment − cost)."""

    knows_overcharge: ClassVar[bool] = False

    def ranking(self, offers: Offers) -> Array:
        """[..., N] what decides between offers, and tells who is the runner-up."""
        return offers.offered_value

    def threshold(self, users: Users) -> Array:
        """[...] the least of `ranking` that is bought: v0."""
        return users.outside_value

    def bought(self, offers: Offers, users: Users, shares: Array) -> Array:
        """[..., N] each provider's share of what is bought: σ/Σσ, or 0 where there is no trade."""
        total = jnp.sum(shares, axis=-1, keepdims=True)
        return shares / jnp.where(total > 0, total, 1.0)

    def consumer_surplus(
        self, offers: Offers, users: Users, shares: Array, user_value: Array
    ) -> Array:
        """[...] the value that users hold, those who buy nothing included."""
        return user_value + (1.0 - jnp.sum(shares, axis=-1)) * users.outside_value

    def taste_value(self, offers: Offers, users: Users, shares: Array) -> Array:
        """[...] USD, what users get by their tastes, of mean 0, where their noise is taste.

        0 here: whom a rule assigns without asking for tastes gets none. H(σ)/β where users choose.
        """
        return jnp.zeros(shares.shape[:-1], shares.dtype)

    def risk_premium(self, offers: Offers, users: Users) -> Array | float:
        """[..., N] USD per query served, what the risk in its payment costs a provider; 0 here."""
        return 0.0

    def spread(self, offers: Offers, users: Users, shares: Array) -> dict[str, Array]:
        """`income_deviation` and `provider_pays` of an outcome, where answers are settled one by
        one; none here."""
        return {}

    def overcharge(self, offers: Offers) -> Array:
        """[..., N] USD per query, what is paid for tokens on the bill that were not generated.

        Of rules with `knows_overcharge`, in which it depends on an offer alone.
        """
        raise NotImplementedError(f"{type(self.rule).__name__} does not know its overcharge")

    def best_assignment(self, market: Market, users: Users) -> Array | None:
        """[...] the most welfare that one provider serving everybody gives, where that is the
        measure of this rule (an auction); else None."""
        return None


@pytree
class Field(Pytree):
    """The whole field that one provider is part of; see `Facing.rivals`.

    Attributes:
        offers: [..., N] of everybody.
        users: [...].
        provider: [...] int, who deviates.
    """

    offers: Offers
    users: Users
    provider: Array

    def to_beat(self, score: Array, places: int = 1) -> Array:
        """[..., S] the `places`-th best of the others' scores [..., S, N], or v0 where
        that is more."""
        n = score.shape[-1]
        others = jnp.where(jnp.arange(n) == self.provider[..., None], -jnp.inf, score)
        ranked = jnp.sort(others, axis=-1)
        best = ranked[..., n - places] if places < n else jnp.full(score.shape[:-1], -jnp.inf)
        return jnp.maximum(best, self.users.outside_value)


class Facing(Capability):
    """A rule as one provider alone faces it, among users of one type: what searches climb."""

    def rivals(self, offers: Offers, users: Users) -> Any:
        """What each provider faces: all that its utility depends on beside its own offer.

        A pytree whose leaves start with the axes [..., N] of the offers. Of a rule in which others
        count only through an aggregate it is that, and searches are many times faster.
        """
        n = offers.quality.shape[-1]
        each = jax.tree.map(lambda x: jnp.repeat(x[..., None, :], n, axis=-2), offers)
        spread = jax.tree.map(lambda x: jnp.repeat(x[..., None], n, axis=-1), users)
        provider = jnp.broadcast_to(jnp.arange(n), offers.quality.shape)
        return Field(offers=each, users=spread, provider=provider)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        """[..., S] USD, what a provider earns by an offer of its own, exactly.

        Args:
            rivals: of one provider each, [S, ...].
            own: [..., S] its offers; any number of them, before the axes of the rivals.
        """
        return self._in_field(self.rule, rivals, own)

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        """[..., S] what gradient search climbs: a smooth stand-in for `utility_against`."""
        smooth = self.rule.smoothed(temperature)
        if smooth is self.rule:
            return self.utility_against(rivals, own)
        return self._in_field(smooth, rivals, own)

    def leads(self, rivals: Any, own: Offers) -> Array:
        """[E, ..., S] by how much an offer leads each of the E scores that it may have to beat.

        Where one is 0 the rule may jump, and searches try either side. A rule that jumps gives
        them; here, none.
        """
        return jnp.zeros((0, *own.quality.shape), own.quality.dtype)

    def _in_field(self, rule: "Mechanism", rivals: Field, own: Offers) -> Array:
        here = jnp.arange(rivals.offers.quality.shape[-1]) == rivals.provider[..., None]
        shape = jnp.broadcast_shapes(*(x.shape for x in jax.tree.leaves(own)))
        offers = jax.tree.map(
            lambda all_, mine: jnp.where(here, jnp.broadcast_to(mine, shape)[..., None], all_),
            rivals.offers,
            own,
        )
        earned = rule(offers, rivals.users).provider_utility
        return jnp.sum(jnp.where(here, earned, 0.0), axis=-1)


class Levels(Capability):
    """What the choice of a grid level brings; one market [N, K] unless said."""

    def utilities(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] a provider's utility at each of its levels, the others fixed, USD.

        Levels that are not available repeat the utility of the lowest level.
        """

        def utility(level: Array) -> Array:
            outcome = self.rule(self.rule.offers(market, profile.at[provider].set(level)), users)
            return outcome.provider_utility[provider]

        return jax.vmap(utility)(jnp.arange(market.levels))

    def gains(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] what a provider gains by each of its levels, on the scale that it compares them on.

        USD here; a rule in which utilities underflow compares logarithms instead. Hugely negative
        where the level is not available.
        """
        utility = self.utilities(market, users, profile, provider)
        gain = utility - utility[profile[provider]]
        return jnp.where(market.available[provider], gain, -never(gain))

    def metrics(self, market: Market, users: Any, profile: Array) -> dict[str, Array]:
        """{metric: [B]} of honest offers at a profile [N, B] in a column of markets [N, K, B]."""
        offers = keep(vmapped(self.rule.offers)(market, keep(profile)))
        return self.metrics_of(offers, users)

    def metrics_of(self, offers: Offers, users: Any) -> dict[str, Array]:
        """{metric: [B]} of a column of offers [N, B]; that of providers is their sum."""

        def one(offers: Offers, users: Users | UserMixture) -> dict[str, Array]:
            outcome = self.rule(offers, users)
            found = {name: getattr(outcome, name) for name in METRICS}
            return found | {"provider_utility": jnp.sum(outcome.provider_utility)}

        return vmapped(one)(offers, users)


class PostedPrices(Capability, abc.ABC):
    """The game of a rule under which users choose by (nested) logit among prices posted.

    Then equilibria and the optimum are those of `mechlab.solvers`, exact and fast.
    """

    @abc.abstractmethod
    def market(self, market: Market, axis: int = -2) -> Market:
        """The market at the prices posted: what users, and a planner, choose by.

        Providers are on the last axis but one, or on another, counted from the end: −3 of columns.
        """

    def providers_market(self, market: Market, axis: int = -2) -> Market:
        """The market that providers play in: at the prices posted, with all that they pay as a
        cost."""
        return self.market(market, axis)

    @property
    def nests(self) -> "Nests | None":
        """Whom users find alike; None where nobody."""
        return None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nests:
    """Whom users find alike, as nested logit has it.

    Attributes:
        of: the number of each provider's nest, from 0 in the order in which they appear; static.
        dissimilarity: ρ in (0, 1].
    """

    of: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dissimilarity: Any

    def members(self, providers: int) -> np.ndarray:
        """[G, N] bool; InputError where there is another number of providers than of nests."""
        if len(self.of) != providers:
            raise InputError(
                f"nests: {len(self.of)} given for {providers} providers; give one for each"
            )
        return np.arange(max(self.of) + 1)[:, None] == np.array(self.of)


def never(like: Array) -> float:
    """A gain so large that it stands for infinity, and stays finite when two are added."""
    return float(jnp.finfo(like.dtype).max) / 4
