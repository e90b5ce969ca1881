"""Curves between and beyond the levels that were measured."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.interpolation import Cubic, monotone_cubic


@dataclasses.dataclass(frozen=True)
class MonotoneCubic:
    """The monotone cubic through every level, in log2 compute; constant beyond the ends.

    Calling it gives the curve at any compute > 0.
    """

    curve: Cubic

    @classmethod
    def fit(cls, compute: np.ndarray, value: np.ndarray) -> "MonotoneCubic":
        """Through (compute, value) [K], compute > 0 and ascending; raises InputError."""
        compute, value = _checked(compute, value, least=1)
        return cls(monotone_cubic(jnp.log2(compute), jnp.asarray(value)))

    def __call__(self, compute: np.ndarray) -> np.ndarray:
        return np.asarray(self.curve(jnp.log2(jnp.asarray(compute, float))))


@dataclasses.dataclass(frozen=True)
class SaturatingLaw:
    """value = ceiling − gain · compute^(−exponent), fitted by least squares.

    Calling it gives the curve at any compute > 0, held between 0 and 1: it is a law of accuracies.

    Attributes:
        ceiling: the value that it tends to.
        gain: ceiling − value at compute 1; negative where the curve falls.
        exponent: > 0, how fast the gap closes.
        rmse, largest: root mean square and largest difference from the levels that it was fitted
            to. With three levels there are as many parameters, and the error says nothing.
    """

    ceiling: float
    gain: float
    exponent: float
    rmse: float
    largest: float

    @classmethod
    def fit(cls, compute: np.ndarray, value: np.ndarray) -> "SaturatingLaw":
        """To (compute, value) [K ≥ 3], compute > 0 and ascending; raises InputError.

        For a given exponent the other two are a linear regression, so that only the exponent is
        searched for: on a grid from 0.01 to 10, and then between its best neighbours.
        """
        compute, value = _checked(compute, value, least=3)

        def regress(exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            decay = (compute / compute[0]) ** -exponents[:, None]
            centred = decay - decay.mean(axis=1, keepdims=True)
            slope = centred @ (value - value.mean()) / np.sum(centred**2, axis=1)
            ceiling = value.mean() - slope * decay.mean(axis=1)
            lost = np.sum((ceiling[:, None] + slope[:, None] * decay - value) ** 2, axis=1)
            return lost, ceiling, slope

        exponents = np.geomspace(0.01, 10.0, 200)
        for _ in range(6):
            best = int(np.argmin(regress(exponents)[0]))
            low, high = exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)]
            exponents = np.geomspace(low, high, 33)
        lost, ceiling, slope = regress(exponents)
        best = int(np.argmin(lost))
        exponent = float(exponents[best])
        fitted = ceiling[best] + slope[best] * (compute / compute[0]) ** -exponent
        return cls(
            ceiling=float(ceiling[best]),
            gain=float(-slope[best] * compute[0] ** exponent),
            exponent=exponent,
            rmse=float(np.sqrt(np.mean((fitted - value) ** 2))),
            largest=float(np.max(np.abs(fitted - value))),
        )

    def __call__(self, compute: np.ndarray) -> np.ndarray:
        value = self.ceiling - self.gain * np.asarray(compute, float) ** -self.exponent
        return np.clip(value, 0.0, 1.0)


def _checked(compute: np.ndarray, value: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    compute, value = np.asarray(compute, float), np.asarray(value, float)
    if compute.ndim != 1 or compute.shape != value.shape or len(compute) < least:
        raise InputError(
            f"compute, value: shapes {compute.shape}, {value.shape}; give at least {least} of each"
        )
    if not (np.all(np.isfinite(value)) and np.all(compute > 0) and np.all(np.diff(compute) > 0)):
        raise InputError("compute, value: give finite values at compute above 0 and ascending")
    return compute, value
