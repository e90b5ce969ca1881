"""A rule as one provider faces it, whose users may be of several types."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Offers
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.capabilities import Facing
from mechlab.mechanisms.parameters import has_per_provider


@pytree
class TypesFaced(Pytree):
    """What a provider faces, by type of users; the axis of types is the last of [*S, T].

    Attributes:
        each: leaves [*S, T, ...], of `Facing.rivals`.
        weight: [*S, T]
        value_scale: [*S, T]
    """

    each: Any
    weight: Array
    value_scale: Array


@dataclasses.dataclass(frozen=True)
class Alone:
    """`rivals`, `utility_against`, `steering` and `leads` of a rule, among one type or several.

    Types are served by themselves, so that what is earned is the mean of what each type brings.
    """

    rule: Mechanism

    @property
    def facing(self) -> Facing:
        return _facing(self.rule)

    def rivals(self, offers: Offers, users: Users | UserMixture) -> Any:
        """[..., N, ...] of offers [..., N] and users [...] (types [..., T])."""
        if isinstance(users, Users):
            return self.facing.rivals(offers, users)
        axis = offers.quality.ndim

        def of_type(one: Users, scale: Array) -> Any:
            return self.facing.rivals(offers.worth(scale[..., None]), one)

        each = jax.vmap(of_type, in_axes=-1, out_axes=axis)(users.types(), users.value_scale)
        shape = (*offers.quality.shape, users.weight.shape[-1])
        weight, scale = (
            jnp.broadcast_to(x[..., None, :], shape) for x in (users.weight, users.value_scale)
        )
        return TypesFaced(each=each, weight=weight, value_scale=scale)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        """[..., *S] USD, exactly, of own offers [..., *S]."""
        return self._mean(self.rule, rivals, own)

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        """[..., *S] what gradient search climbs; temperature [*S], USD."""
        if not isinstance(rivals, TypesFaced):
            return self.facing.steering(rivals, own, temperature)
        return self._mean(self.rule.smoothed(temperature), rivals, own)

    def leads(self, rivals: Any, own: Offers) -> Array:
        """[E, ..., *S] `Facing.leads`, of every type."""
        if not isinstance(rivals, TypesFaced):
            return self.facing.leads(rivals, own)
        found = _by_type(lambda each, _, worth: self.facing.leads(each, worth), rivals, own)
        return found.reshape(-1, *found.shape[2:])

    def _mean(self, rule: Mechanism, rivals: Any, own: Offers) -> Array:
        if not isinstance(rivals, TypesFaced):
            return _facing(rule).utility_against(rivals, own)
        earned = _by_type(
            lambda each, weight, worth: weight * _facing(rule).utility_against(each, worth),
            rivals,
            own,
        )
        return jnp.sum(earned, axis=0)


def _facing(rule: Mechanism) -> Facing:
    """What a rule has; the general form where a parameter has a value for each provider."""
    return Facing(rule) if has_per_provider(rule) else rule.facing


def _by_type(work: Any, rivals: TypesFaced, own: Offers) -> Array:
    """[T, ...] of work(what is faced, weight, own offers as that type values them)."""
    axis = rivals.weight.ndim - 1

    def of_type(each: Any, weight: Array, scale: Array) -> Array:
        return work(each, weight, own.worth(scale))

    arguments = rivals.each, rivals.weight, rivals.value_scale
    return jax.vmap(of_type, in_axes=axis)(*arguments)
