"""The auction that asks each user what the offers are worth to it."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.auction import best_assignment
from mechlab.mechanisms.base import Field, Mechanism
from mechlab.mechanisms.logit import LogitRivals, log_shares, logit_rivals, taste_value


class PersonalAuction(Mechanism):
    """A second-price auction of every single user, by what the offers are worth to that user.

    Scores are V_i + ε_i against v0 + ε_0, V_i = reported quality − bid and ε the user's tastes,
    Gumbel of scale 1/β. The best wins and the user pays the worth of what it gets, quality as
    delivered, less the second-best score: it is left with that. Outcomes are exact expectations
    over tastes: i serves a share σ_i = e^{βV_i}/(e^{βv0} + Σ_j e^{βV_j}) of users and earns
    σ_i(q_i − c_i − V_i) − log(1 − σ_i)/β. Truth is dominant, and under taste the outcome is
    efficient. Under `noise="error"` the ε are mistakes, by which users are assigned and charged
    all the same, and no part of what they get.

    Source: the externality that a provider lifts, Vickrey 1961, with the log-sums of McFadden 1974.
    """

    asking: ClassVar[str] = "cost"
    play: ClassVar[str] = "truthful"

    def check_users(self, users: Users | UserMixture) -> None:
        if concrete(users.rationality) and not np.all(np.asarray(users.rationality) > 0):
            raise InputError(
                "PersonalAuction: tastes of scale 1/β have no bound at β = 0; give β > 0"
            )

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        values = offers.offered_value
        lead = self._lead(self._faced(values, users), values)
        # −log(1 − σ)/σ, from 1 at a share of 0, without the rounding of either
        rent = jnp.where(lead < -30.0, 1.0, jax.nn.softplus(lead) / jax.nn.sigmoid(lead))
        payment = offers.quality - values + rent / users.rationality[..., None]
        return jnp.exp(log_shares(values, users)), payment

    def best_assignment(self, market: Market, users: Users) -> Array:
        return best_assignment(market, users)

    def taste_value(self, offers: Offers, users: Users, shares: Array) -> Array:
        return taste_value(log_shares(offers.offered_value, users), users)

    def bought(self, offers: Offers, users: Users, shares: Array) -> Array:
        return jax.nn.softmax(users.rationality[..., None] * offers.offered_value, axis=-1)

    def rivals(self, offers: Offers, users: Users | UserMixture) -> Any:
        if isinstance(users, UserMixture):
            return super().rivals(offers, users)
        return self._faced(offers.offered_value, users)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        if isinstance(rivals, Field):
            return super().utility_against(rivals, own)
        lead = self._lead(rivals, own.offered_value)
        kept = own.quality - own.cost - own.offered_value
        return jax.nn.sigmoid(lead) * kept + jax.nn.softplus(lead) / rivals.rationality

    def leads(self, rivals: Any, own: Offers) -> Array:
        if isinstance(rivals, Field):
            return super().leads(rivals, own)
        return (self._lead(rivals, own.offered_value) / rivals.rationality)[None]

    def _faced(self, values: Array, users: Users) -> LogitRivals:
        self.check_users(users)
        return logit_rivals(values, users)

    def _lead(self, rivals: LogitRivals, values: Array) -> Array:
        """log σ/(1 − σ)."""
        return rivals.rationality * (values - rivals.best) - rivals.log_rest
