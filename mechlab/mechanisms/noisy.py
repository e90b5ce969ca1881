"""The second-price auction of a platform that estimates qualities with noise."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, Outcome, keep
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import checked, concrete
from mechlab.mechanisms.auction import ReverseAuction
from mechlab.mechanisms.base import Allocated, Mechanism
from mechlab.mechanisms.verifier import (
    Verifier,
    announced,
    measured_accuracy,
    measured_quality,
    stake_of,
    with_stake,
)

_EDGES = (-8.0, -4.0, 0.0, 4.0, 8.0)  # standard deviations; beyond lie 1e-15
# of each piece, by the bytes of a number: shares to 3e-6 and to 1e-13
_NODES = {4: np.polynomial.legendre.leggauss(10), 8: np.polynomial.legendre.leggauss(16)}


class NoisyAuction(ReverseAuction):
    """The second-price auction (realised settlement) with scores V_i + σ_i·ε_i, ε_i normal.

    The platform's errors in the providers' qualities are independent, so the best does not always
    win. Where m answers of each provider are checked, σ_i² = noise² + stake²·â_i(1 − â_i)/m, with
    the accuracy â_i that the verifier measures: the variance of a mean of m answers, which are
    others than those that are paid. An outcome is the expectation over the errors, and a share is
    the chance of winning: one-dimensional integrals over the winning and over the second score, by
    Gauss–Legendre quadrature, and no sampling. The user pays q_w − max(second noisy score, v0),
    with q_w as it is measured.

    With noise telling the truth is no longer dominant: this is the outcome of bids as given.

    Attributes:
        noise: standard deviation of an error that all have alike, USD; with 0 and all answers
            checked it is `SecondPriceAuction`.
        answers: m > 0, answers of each provider that are checked in a period; all where None.
        verifier: who checks; one that never errs where None.
        stake: USD, how much more a right answer is worth than a wrong one; from the market's
            curves where not given, whose quality has to be linear in accuracy then.
    """

    noise: Any = 0.0
    answers: Any = None
    verifier: Verifier | None = None
    stake: Any = None

    def __post_init__(self) -> None:
        if concrete(self.noise) and not np.all(np.asarray(self.noise) >= 0):
            raise InputError(f"noise = {self.noise}; give a standard deviation ≥ 0, in USD")
        if self.answers is not None:
            checked("answers", self.answers, above=0.0, why="give how many are checked")
        if not isinstance(self.verifier, Verifier | None):
            raise InputError(
                f"verifier: a {type(self.verifier).__name__}; give mechlab.Verifier(…)"
            )
        if not self._measures and self.stake is not None:
            raise InputError("stake: nothing is settled by it; give a verifier, or answers")

    @property
    def _measures(self) -> bool:
        """Whether it matters what a right answer is worth more than a wrong one."""
        return self.verifier is not None or self.answers is not None

    def staked(self, market: Market, offers: Offers, axis: int = -1) -> Offers:
        return with_stake(market, offers, self.stake, axis) if self._measures else offers

    def honest(self, offers: Offers) -> Offers:
        """Offers that announce the quality that is measured, at their cost."""
        return announced(self.verifier, offers)

    def pay(self, offers: Offers, rival: Array) -> Array:
        return measured_quality(self.verifier, offers) - rival

    def deviation(self, offers: Offers) -> Array:
        """[..., N] USD, σ, the standard deviation of each score."""
        noise = jnp.broadcast_to(jnp.asarray(self.noise)[..., None], offers.quality.shape)
        if self.answers is None:
            return noise
        a = measured_accuracy(self.verifier, offers)
        m = jnp.asarray(self.answers)[..., None]
        variance = jnp.square(noise) + jnp.square(stake_of(offers)) * a * (1.0 - a) / m
        none = variance <= 0  # where the slope of √ is infinite
        return jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, variance)))

    def _mixed(self, offers: Offers, users: UserMixture) -> tuple[Outcome, Allocated]:
        noise = jnp.asarray(self.noise)[..., None]  # the axis of types
        answers = None if self.answers is None else jnp.asarray(self.answers)[..., None]
        wide = dataclasses.replace(self, noise=noise, answers=answers)
        return Mechanism._mixed(wide, offers, users)

    def leads(self, rivals: Any, own: Offers) -> Array:
        return (own.offered_value - rivals.to_beat(rivals.offers.offered_value))[None]

    def smoothed(self, temperature: Array) -> "NoisyAuction":
        return dataclasses.replace(self, noise=jnp.maximum(self.noise, temperature))

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score = offers.offered_value
        spread = jax.lax.stop_gradient(jnp.max(jnp.abs(score), axis=-1, keepdims=True))
        # so little noise decides between equal scores alone
        least = 100 * jnp.finfo(score.dtype).eps * jnp.where(spread > 0, spread, 1.0)
        noise = jnp.maximum(jnp.asarray(self.deviation(offers), score.dtype), least)
        floor = users.outside_value[..., None]
        # [..., Q] places of the winning and of the second score, in pieces between the edges of
        # all providers, so that the narrowest is resolved as the widest is; each counted from the
        # score whose edge it starts at: differences come first, noise may be small beside scores
        origin, length = _pieces(score, noise, floor)
        nodes, weights = (jnp.asarray(x, score.dtype) for x in _NODES[score.dtype.itemsize])
        step = length[..., None] / 2 * (1 + nodes)
        width = length[..., None] / 2 * weights
        width = width.reshape(*width.shape[:-2], -1)

        def since(start: Array) -> Array:
            """[..., M, Q] how far the places lie above starts [..., M]."""
            anchor, offset = (x[..., None, :] for x in origin)
            far = ((anchor - start[..., None]) + offset)[..., None] + step[..., None, :, :]
            return far.reshape(*far.shape[:-2], -1)

        normal = jax.scipy.stats.norm
        z = keep(since(score) / noise[..., None])
        # [..., i, Q] the chance that i is below, that all others are, and that i is there
        below = normal.logcdf(jnp.maximum(z, -400.0))  # slopes further out are inf − inf
        there = normal.logpdf(z) - jnp.log(noise)[..., None]
        others = _of_others(below)
        share = jnp.sum(width[..., None, :] * jnp.exp(there + others), axis=-1)
        # i above, one of the others there and the rest below: i wins over a second score there
        second = jnp.exp(others) * normal.cdf(-z) * _of_others(jnp.exp(there - below))
        # the payment is counted from the floor, so that what is small is not lost in what is large
        rise = jnp.sum(width[..., None, :] * second * since(floor), axis=-1)
        wins = share > math.sqrt(jnp.finfo(share.dtype).tiny)  # whose square is a number still
        won = jnp.where(wins, share, 1.0)
        paid = measured_quality(self.verifier, offers) - floor - rise / won
        return share, jnp.where(wins, paid, 0.0)


def _pieces(score: Array, noise: Array, floor: Array) -> tuple[tuple[Array, Array], Array]:
    """Pieces [..., P] between the edges of scores [..., N] with their noise, none below the floor
    [..., 1]: where they start, as a score and a distance from it, and their lengths."""
    offset = noise[..., None] * jnp.asarray(_EDGES, score.dtype)
    anchor = jnp.broadcast_to(score[..., None], offset.shape)
    offset, anchor = (x.reshape(*score.shape[:-1], -1) for x in (offset, anchor))
    low = anchor + offset < floor
    anchor, offset = jnp.where(low, floor, anchor), jnp.where(low, 0.0, offset)
    _, anchor, offset = jax.lax.sort((anchor + offset, anchor, offset), num_keys=1)
    length = jnp.diff(anchor, axis=-1) + jnp.diff(offset, axis=-1)
    return (anchor[..., :-1], offset[..., :-1]), jnp.maximum(length, 0.0)


def _of_others(values: Array) -> Array:
    """[..., N, Q] for each provider the sum of the others' values, none of which is taken off."""
    others = 1.0 - jnp.eye(values.shape[-2], dtype=values.dtype)
    return jnp.einsum("ij,...jq->...iq", others, values, precision="highest")
