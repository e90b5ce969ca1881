"""Who says whether an answer is right, how often that is wrong, and what hangs on it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.validation import checked, concrete
from mechlab.mechanisms.base import register


@dataclasses.dataclass(frozen=True)
class Verifier:
    """A judge of answers that errs: what it measures of an accuracy a is a(1 − f₋) + (1 − a)f₊.

    A rule that settles by quality pays what is measured. With f₋ + f₊ > 0 a further right answer
    brings its provider less than it is worth, so that levels are too low, and whoever is often
    wrong is worth more than it should.

    Rates are numbers, or [N] by provider; batches of them go through vmap.

    Attributes:
        false_positive: f₊ in [0, 1], the share of wrong answers that are taken to be right.
        false_negative: f₋ in [0, 1], the share of right answers that are taken to be wrong.
    """

    false_positive: Any = 0.0
    false_negative: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("false_positive", "false_negative"):
            checked(
                name,
                getattr(self, name),
                minimum=0.0,
                maximum=1.0,
                why="it is a share of the answers",
            )

    def accuracy(self, accuracy: Array) -> Array:
        """[...] the accuracy that is measured of one in [0, 1]."""
        return accuracy * (1.0 - self.false_negative) + (1.0 - accuracy) * self.false_positive


register(Verifier)


def measured_accuracy(verifier: Verifier | None, offers: Offers) -> Array:
    """[..., N] the accuracy of what is served, as it is measured."""
    return offers.accuracy if verifier is None else verifier.accuracy(offers.accuracy)


def measured_quality(verifier: Verifier | None, offers: Offers) -> Array:
    """[..., N] USD, the worth of what is served, as it is measured."""
    if verifier is None:
        return offers.quality
    return offers.quality + stake_of(offers) * (
        verifier.accuracy(offers.accuracy) - offers.accuracy
    )


@functools.partial(jax.jit, inline=True)
def announced(verifier: Verifier | None, offers: Offers) -> Offers:
    """Offers that announce what is measured; the truth where nobody knows what that is worth, so
    that what is paid says so, and not that nobody trades."""
    measured = measured_quality(verifier, offers)
    return offers.replace(reported_quality=jnp.where(jnp.isnan(measured), offers.quality, measured))


def stake_of(offers: Offers) -> Array:
    """[..., N] USD, how much more a right answer is worth; InputError where offers have none."""
    if offers.stake is None:
        raise InputError("offers have no stake to settle by; take them from the rule's `offers`")
    return offers.stake


def with_stake(market: Market, offers: Offers, stake: Any, axis: int = -1) -> Offers:
    """Offers that say how much more a right answer is worth than a wrong one.

    It is the slope of quality over accuracy in each market: NaN under jit where there is no single
    one, or all accuracies are the same, so that what is paid says so.

    Args:
        market: with levels on an axis, counted from the end, and providers on the one before.
        offers: of all levels, or of one for each provider.
        stake: USD; from the market where None.

    Raises:
        InputError: outside jit, where quality is not linear in accuracy, or no slope can be seen.
    """
    if stake is not None:
        return offers.replace(stake=jnp.full_like(offers.quality, stake))
    slope, seen, linear = _slope(market, axis)
    if concrete(seen) and not bool(seen):
        raise InputError(
            "stake: all accuracies of a market are the same, so that it does not show what a right "
            "answer is worth more than a wrong one; give the stake"
        )
    if concrete(linear) and not bool(linear):
        raise InputError(
            "stake: quality is not linear in accuracy (as with latency, or another shape); give "
            "the rule a stake, what a right answer is worth more than a wrong one"
        )
    slope = slope if offers.quality.ndim == market.quality.ndim else jnp.squeeze(slope, axis)
    return offers.replace(stake=jnp.broadcast_to(slope, offers.quality.shape))


@functools.partial(jax.jit, static_argnames="axis", inline=True)
def _slope(market: Market, axis: int) -> tuple[Array, Array, Array]:
    """[..., 1, 1] the slope of quality over accuracy, or NaN; whether accuracies differ in every
    market, and whether quality is linear in all."""
    axes = (axis - 1, axis)
    there = True if market.available is None else market.available

    def reach(values: Array) -> Array:
        high = jnp.max(values, axis=axes, keepdims=True, initial=-jnp.inf, where=there)
        return high - jnp.min(values, axis=axes, keepdims=True, initial=jnp.inf, where=there)

    apart = reach(market.accuracy)
    slope = jnp.where(apart > 0, reach(market.quality) / jnp.where(apart > 0, apart, 1.0), 0.0)
    linear = reach(market.quality - market.accuracy * slope) <= 1e-4 * jnp.abs(slope)
    known = jnp.where(linear & (apart > 0), slope, jnp.nan)
    return known, jnp.all(apart > 0), jnp.all(linear)
