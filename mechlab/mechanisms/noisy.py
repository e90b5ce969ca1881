"""The second-price auction of a platform that estimates qualities with noise."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers, keep
from mechlab.core.users import Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.base import Mechanism

_REACH = 9.0  # standard deviations; beyond lie 1e-19 of a normal distribution
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


class NoisyAuction(Mechanism):
    """The second-price auction (realised settlement) with scores V_i + noise·ε_i, ε_i normal.

    The platform's error in each provider's quality is independent, so the best does not always
    win. An outcome is the expectation over the errors, and a share is the chance of winning:
    one-dimensional integrals over the winning and over the second score, by Gauss–Legendre
    quadrature, and no sampling. The user pays q_w − max(second noisy score, v0).

    At noise > 0 telling the truth is no longer dominant: this is the outcome of bids as given.

    Attributes:
        noise: standard deviation of the error, USD; 0 is `SecondPriceAuction`.
    """

    noise: Any = 0.0

    asking: ClassVar[str] = "cost"
    play: ClassVar[str] = "truthful"

    def __post_init__(self) -> None:
        if concrete(self.noise) and not np.all(np.asarray(self.noise) >= 0):
            raise InputError(f"noise = {self.noise}; give a standard deviation ≥ 0, in USD")

    def leads(self, rivals: Any, own: Offers) -> Array:
        return (own.offered_value - rivals.to_beat(rivals.offers.offered_value))[None]

    def smoothed(self, temperature: Array) -> "NoisyAuction":
        return NoisyAuction(jnp.maximum(self.noise, temperature))

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score = offers.offered_value
        spread = jax.lax.stop_gradient(jnp.max(jnp.abs(score), axis=-1, keepdims=True))
        noise = jnp.asarray(self.noise, score.dtype)[..., None]
        # so little noise decides between equal scores alone
        least = 100 * jnp.finfo(score.dtype).eps * jnp.where(spread > 0, spread, 1.0)
        noise = jnp.maximum(noise, least)
        floor = jnp.broadcast_to(users.outside_value[..., None], score.shape)
        # [..., j, Q] places where provider j's noisy score may be, no lower than the floor
        low = jnp.clip((floor - score) / noise, -_REACH, _REACH)
        half = (_REACH - low) / 2
        z = low[..., None] + half[..., None] * (1 + jnp.asarray(_NODES, score.dtype))
        density = half[..., None] * jnp.asarray(_WEIGHTS, score.dtype) * jax.scipy.stats.norm.pdf(z)
        # [..., i, j, Q] standard scores of that place for each provider i; differences come first
        apart = (score[..., None, :] - score[..., :, None]) / noise[..., None]
        at = apart[..., None] + z[..., None, :, :]
        own = jnp.eye(score.shape[-1], dtype=bool)[..., None]
        below = keep(jnp.where(own, 0.0, jax.scipy.stats.norm.logcdf(at)))
        # all others but j below: j wins there
        others = jnp.sum(below, axis=-3)
        share = jnp.sum(density * jnp.exp(others), axis=-1)
        # i above and all but i and j below: j is second, and i wins. Without the least likely of
        # all to be below, the sum is taken anew: it would cancel
        least_likely = below <= jnp.min(below, axis=-3, keepdims=True) * (1 - 1e-6)
        last = jnp.cumsum(least_likely, axis=-3) == 1
        rest = jnp.sum(jnp.where(least_likely & last, 0.0, below), axis=-3)
        without = jnp.where(
            least_likely & last, rest[..., None, :, :], others[..., None, :, :] - below
        )
        second = jnp.exp(without + jax.scipy.stats.norm.logcdf(-at)) * density[..., None, :, :]
        second = jnp.where(own, 0.0, second)
        # the payment is counted from the floor, so that what is small is not lost in what is large
        above = (score - floor)[..., None] + noise[..., None] * z
        rise = jnp.sum(second * above[..., None, :, :], axis=(-1, -2))
        won = jnp.where(share > 0, share, 1.0)
        return share, jnp.where(share > 0, offers.quality - floor - rise / won, 0.0)
