"""The second-price auction of a platform that estimates qualities with noise."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers, Users
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

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        score = offers.offered_value
        spread = jnp.max(jnp.abs(score), axis=-1, keepdims=True) + 1e-300
        noise = jnp.asarray(self.noise, score.dtype)[..., None]
        # so little noise decides between equal scores alone
        noise = jnp.maximum(noise, spread * 100 * jnp.finfo(score.dtype).eps)
        floor = jnp.broadcast_to(users.outside_value[..., None], score.shape)
        # [..., j, Q] places where provider j's noisy score may be, no lower than the floor
        low = jnp.clip((floor - score) / noise, -_REACH, _REACH)
        half = (_REACH - low) / 2
        z = low[..., None] + half[..., None] * (1 + jnp.asarray(_NODES, score.dtype))
        density = half[..., None] * jnp.asarray(_WEIGHTS, score.dtype) * jax.scipy.stats.norm.pdf(z)
        place = score[..., None] + noise[..., None] * z
        # [..., i, j, Q] standard scores of that place for each provider i
        at = (place[..., None, :, :] - score[..., :, None, None]) / noise[..., None, None]
        below = jax.scipy.stats.norm.logcdf(at)
        own = jnp.eye(score.shape[-1], dtype=bool)[..., None]
        # all others but j below: j wins there
        others = jnp.sum(jnp.where(own, 0.0, below), axis=-3)
        share = jnp.sum(density * jnp.exp(others), axis=-1)
        # i above and all but i and j below: j is second, and i wins
        second = jnp.exp(others[..., None, :, :] - below + jax.scipy.stats.norm.logcdf(-at))
        second = jnp.where(own, 0.0, second) * density[..., None, :, :]
        paid_less = jnp.sum(second * place[..., None, :, :], axis=(-1, -2))
        # or all others below the floor
        log_below = jax.scipy.stats.norm.logcdf((floor - score) / noise)
        alone = jnp.exp(jnp.sum(log_below, axis=-1, keepdims=True) - log_below)
        paid_less += floor * alone * jax.scipy.stats.norm.cdf((score - floor) / noise)
        won = jnp.where(share > 0, share, 1.0)
        return share, jnp.where(share > 0, offers.quality - paid_less / won, 0.0)
