"""The second-price auction with capacity limits: several queries, a provider serves one at most."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers, Outcome, largest
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms.base import Allocated, Mechanism


class MultiUnitAuction(Mechanism):
    """Alike queries come at once and each provider has room for one: Vickrey–Clarke–Groves.

    The best `queries` scores that are at least v0 serve one each. A winner is paid its quality
    less the best score that was left out (v0 where none was): payment = q_i − max(V_{k+1}, v0),
    realised quality. Each user is left with that score, whoever serves it. Numbers of an outcome
    are means per query; shares are those of the queries asked. One query is the second-price
    auction. Source: Vickrey 1961, for a uniform good with unit supply.
    """

    queries: int = dataclasses.field(default=1, metadata={"static": True})

    asking: ClassVar[str] = "cost"
    play: ClassVar[str] = "truthful"

    def __post_init__(self) -> None:
        if not (isinstance(self.queries, int) and self.queries >= 1):
            raise InputError(f"queries = {self.queries!r}; give a whole number from 1")

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score, floor = offers.offered_value, users.outside_value[..., None]
        # on a tie the lower index is first
        order = jnp.argsort(-score, axis=-1, stable=True)
        rank = jnp.argsort(order, axis=-1)
        wins = (rank < self.queries) & (score >= floor)
        left_out = jnp.where(rank >= self.queries, score, -jnp.inf)
        price = jnp.maximum(largest(left_out, -1, True), floor)
        return wins / self.queries, jnp.where(wins, offers.quality - price, 0.0)

    def leads(self, rivals: Any, own: Offers) -> Array:
        to_beat = rivals.to_beat(rivals.offers.offered_value, self.queries)
        return (own.offered_value - to_beat)[None]

    def smoothed(self, temperature: Array) -> "SoftUnits":
        return SoftUnits(self, temperature)


class SoftUnits(Mechanism):
    """The same auction in which everybody wins a little, as its score leads what it has to beat.

    That is the best of the others' scores that is left out if it wins, or v0; what a winner is paid
    is its quality less that.
    """

    rule: MultiUnitAuction
    temperature: Array

    asking: ClassVar[str] = "cost"

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score, floor = offers.offered_value, users.outside_value[..., None]
        n, k = score.shape[-1], self.rule.queries
        ranked = jnp.flip(jnp.sort(score, axis=-1), axis=-1)
        none = jnp.full_like(floor, -jnp.inf)
        out = [ranked[..., i : i + 1] if i < n else none for i in (k - 1, k)]
        inside = jnp.argsort(jnp.argsort(-score, axis=-1, stable=True), axis=-1) < k
        to_beat = jnp.maximum(jnp.where(inside, out[1], out[0]), floor)
        lead = (score - to_beat) / jnp.asarray(self.temperature)[..., None]
        return jax.nn.sigmoid(lead) / k, offers.quality - to_beat

    def _mixed(self, offers: Offers, users: UserMixture) -> tuple[Outcome, Allocated]:
        wide = SoftUnits(self.rule, jnp.asarray(self.temperature)[..., None])  # the axis of types
        return Mechanism._mixed(wide, offers, users)
