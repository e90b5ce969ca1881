"""Posted prices, and users who choose a nest first: hosts of one model are closer than models."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.tolerance import STEP, Tolerance
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.capabilities import Accounts, Levels, Nests, PostedPrices, never
from mechlab.mechanisms.logit import log_gain


class NestedLogit(Mechanism):
    """Pay-per-compute among users whose choice is nested logit: a nest, and a provider in it.

    With w_i = e^{βV_i/ρ} and D_g = Σ_{i∈g} w_i, σ_i = (w_i/D_g)·D_g^ρ/(e^{βv0} + Σ_h D_h^ρ). At a
    dissimilarity ρ = 1 it is logit; towards 0 the providers of a nest become one to users, who take
    the best of them. Tastes (`noise="taste"`) are worth what this choice reveals.
    Source: McFadden 1978, "Modelling the Choice of Residential Location".

    Attributes:
        nests: the nest of each provider, any labels; of the market's N providers in their order.
        dissimilarity: ρ in (0, 1].
    """

    nests: tuple[Any, ...] = dataclasses.field(metadata={"static": True})
    dissimilarity: Any = 0.5

    tolerance: ClassVar[Tolerance] = STEP

    def __post_init__(self) -> None:
        if isinstance(self.nests, str) or not len(tuple(self.nests)):
            raise InputError("nests: give the nest of every provider, such as its model's name")
        object.__setattr__(self, "nests", tuple(self.nests))
        if concrete(self.dissimilarity):
            rho = np.asarray(self.dissimilarity)
            if not np.all((rho > 0) & (rho <= 1)):
                raise InputError(
                    f"dissimilarity = {self.dissimilarity}; give a number above 0 and at most 1"
                )

    def members(self, providers: int) -> np.ndarray:
        """[G, N] bool; InputError where there is another number of providers than of nests."""
        return self.grouping.members(providers)

    @property
    def grouping(self) -> Nests:
        """The nests, numbered in the order in which they appear."""
        labels = list(dict.fromkeys(self.nests))
        of = tuple(labels.index(nest) for nest in self.nests)
        return Nests(of=of, dissimilarity=jnp.asarray(self.dissimilarity))

    def log_shares(self, values: Array, users: Users) -> tuple[Array, Array, Array]:
        """Of values [..., N]: log σ [..., N], log shares within nests [..., N], and E max [...] in
        USD, tastes and v0 included."""
        members = self.members(values.shape[-1])
        beta, rho = users.rationality[..., None], jnp.asarray(self.dissimilarity)[..., None]
        outside = users.outside_value[..., None]
        top = jax.lax.stop_gradient(jnp.maximum(values.max(-1, keepdims=True), outside))
        z = beta * (values - top) / rho
        inside = jnp.where(members, z[..., None, :], -jnp.inf)
        inclusive = jax.nn.logsumexp(inside, axis=-1)  # [..., G] log D, relative to the best
        among = jnp.concatenate([rho * inclusive, beta * (outside - top)], axis=-1)
        total = jax.nn.logsumexp(among, axis=-1, keepdims=True)
        own = jnp.sum(jnp.where(members, inclusive[..., None], 0.0), axis=-2)
        within = z - own
        held = (top + total / jnp.where(beta > 0, beta, 1.0))[..., 0]
        return within + rho * own - total, within, held

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        shares = jnp.exp(self.log_shares(offers.offered_value, users)[0])
        billed = offers.price if offers.bill is None else offers.price * offers.bill
        return shares, jnp.broadcast_to(billed, shares.shape)

    @property
    def accounts(self) -> "NestedAccounts":
        return NestedAccounts(self)

    @property
    def levels(self) -> "NestedLevels":
        return NestedLevels(self)

    @property
    def posted(self) -> "NestedPrices":
        return NestedPrices(self)


class NestedPrices(PostedPrices):
    """Prices as providers ask them, and who is alike."""

    def market(self, market: Market, axis: int = -2) -> Market:
        return market

    @property
    def nests(self) -> Nests:
        return self.rule.grouping


class NestedAccounts(Accounts):
    """Accounts of users who choose a nest, and a provider in it."""

    knows_overcharge: ClassVar[bool] = True

    def overcharge(self, offers: Offers) -> Array:
        if offers.billed_as_generated:
            return jnp.zeros_like(offers.price)
        return offers.price * offers.billing * (1.0 - 1.0 / offers.lie)

    def taste_value(self, offers: Offers, users: Users, shares: Array) -> Array:
        held = self.rule.log_shares(offers.offered_value, users)[2]
        unsold = 1.0 - jnp.sum(shares, axis=-1)
        return held - jnp.sum(shares * offers.offered_value, axis=-1) - unsold * users.outside_value


class NestedLevels(Levels):
    """Levels compared in log utility."""

    def gains(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] log U(level) − log U(now), which no β underflows."""
        if isinstance(users, UserMixture):
            return super().gains(market, users, profile, provider)

        def log_share(level: Array) -> Array:
            offers = self.rule.offers(market, profile.at[provider].set(level))
            return self.rule.log_shares(offers.offered_value, users)[0][provider]

        log_sigma = jax.vmap(log_share)(jnp.arange(market.levels))
        profit, now = market.unit_profit[provider], profile[provider]
        gain = log_gain(profit, log_sigma, profit[now], log_sigma[now])
        return jnp.where(market.available[provider], gain, -never(gain))
