"""Monotone cubic interpolation of curves, for any number of curves at once.

The piecewise cubic through the knots whose slopes are weighted harmonic means of the neighbouring
secants (Fritsch & Butland 1984): where the data rise, so does it, and it never overshoots. SciPy's
`PchipInterpolator` is the same function.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.validation import concrete

FIELDS = ("quality", "price", "cost", "accuracy", "tokens", "compute", "latency")
"""What a market says of each level; of two of them, compute and tokens, curves are functions."""


def fields_of(levels: Any) -> list[str]:
    """The fields that a market, or offers, have of every level: latency only where it is known."""
    return [name for name in FIELDS if getattr(levels, name) is not None]


def log_axis(market: Market, axis: str) -> Array:
    """log2 of compute or tokens, of the shape of the market's fields."""
    return jnp.log2(jnp.maximum(getattr(market, axis), 1e-30))


def check_axis(market: Market, axis: str, what: str) -> None:
    """InputError, in the name of what asks, where curves cannot be functions of an axis."""
    if axis not in ("compute", "tokens"):
        raise InputError(f"{what}: axis = {axis!r}; use 'compute' or 'tokens'")
    if not concrete(*jax.tree.leaves(market)):
        return
    there = np.asarray(market.available)
    knots = np.where(there, np.asarray(getattr(market, axis)), np.inf)
    rises = (knots[..., 1:] > knots[..., :-1]) | ~there[..., 1:]
    if not (np.all(knots > 0) and np.all(rises)):
        other = "tokens" if axis == "compute" else "compute"
        raise InputError(
            f"{what}: {axis} has to be above 0 and ascending, to interpolate in its logarithm; use "
            f"axis={other!r}"
        )


@pytree
class Cubic(Pytree):
    """Piecewise cubics, constant beyond the first and the last knot.

    Attributes:
        knots: [K, ...] ascending; +inf past a curve's last knot.
        last: [...] the last knot.
        coefficients: [4, max(K − 1, 1), ...] of the powers of (x − knot) in each interval.
    """

    knots: Array
    last: Array
    coefficients: Array

    def __call__(self, at: Array) -> Array:
        """[*R, ...] values at `at` [*R, ...]; differentiable in `at` and in the data."""
        return self.extended(jnp.clip(at, self.knots[0], self.last))

    def extended(self, at: Array) -> Array:
        """The same with the first and the last cubic in place of constants beyond the knots, so
        that there are derivatives at the ends."""
        knot, piece = self.knots[0], self.coefficients[:, 0]
        chosen = list(piece)
        for k in range(1, self.coefficients.shape[1]):
            past = at >= self.knots[k]
            knot = jnp.where(past, jnp.where(past, self.knots[k], 0.0), knot)
            chosen = [
                jnp.where(past, self.coefficients[power, k], chosen[power]) for power in range(4)
            ]
        step = at - knot
        return chosen[0] + step * (chosen[1] + step * (chosen[2] + step * chosen[3]))


def monotone_cubic(x: Array, y: Array, available: Array | None = None) -> Cubic:
    """The monotone cubic through (x, y).

    Args:
        x: [K, ...] ascending knots.
        y: [K, ...] values.
        available: [K, ...] bool, a prefix of at least one knot; all where not given.
    """
    k = x.shape[0]
    there = jnp.ones(x.shape, bool) if available is None else jnp.broadcast_to(available, x.shape)
    count = jnp.sum(there, axis=0)
    knots = jnp.where(there, x, jnp.inf)
    last = jnp.max(jnp.where(there, x, -jnp.inf), axis=0)
    if k == 1:
        none = jnp.zeros_like(y)
        return Cubic(knots=knots, last=last, coefficients=jnp.stack([y, none, none, none]))
    inside = there[1:]
    width = jnp.where(inside, x[1:] - x[:-1], 1.0)
    secant = jnp.where(inside, (y[1:] - y[:-1]) / width, 0.0)
    slope = _slopes(width, secant, count)
    square = (3 * secant - 2 * slope[:-1] - slope[1:]) / width
    cube = (slope[:-1] + slope[1:] - 2 * secant) / width**2
    terms = [jnp.where(inside, term, 0.0) for term in (slope[:-1], square, cube)]
    # the interval that starts at a curve's last knot is never entered
    starts = jnp.where(jnp.arange(k).reshape(-1, *[1] * (x.ndim - 1)) < count - 1, knots, jnp.inf)
    return Cubic(knots=starts.at[0].set(x[0]), last=last, coefficients=jnp.stack([y[:-1], *terms]))


def _slopes(width: Array, secant: Array, count: Array) -> Array:
    """[K, ...] slopes at the knots, from widths and secants [K − 1, ...]."""
    if len(width) == 1:
        return jnp.concatenate([secant, secant])
    first = jnp.where(count > 2, _edge(width[0], width[1], secant[0], secant[1]), secant[0])[None]
    inner = _harmonic(width[:-1], width[1:], secant[:-1], secant[1:])
    outer = _edge(width[1:], width[:-1], secant[1:], secant[:-1])
    inner = jnp.concatenate([inner, jnp.zeros_like(first)])
    outer = jnp.concatenate([secant[:1], outer])
    index = jnp.arange(1, len(width) + 1).reshape(-1, *[1] * (width.ndim - 1))
    return jnp.concatenate([first, jnp.where(count == index + 1, outer, inner)])


def _harmonic(h0: Array, h1: Array, s0: Array, s1: Array) -> Array:
    same = jnp.sign(s0) * jnp.sign(s1) > 0
    a, b = 2 * h1 + h0, h1 + 2 * h0
    safe0, safe1 = jnp.where(same, s0, 1.0), jnp.where(same, s1, 1.0)
    return jnp.where(same, (a + b) / (a / safe0 + b / safe1), 0.0)


def _edge(h0: Array, h1: Array, s0: Array, s1: Array) -> Array:
    """The one-sided three-point slope, kept from turning round or overshooting."""
    slope = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
    slope = jnp.where(jnp.sign(slope) == jnp.sign(s0), slope, 0.0)
    steep = (jnp.sign(s0) != jnp.sign(s1)) & (jnp.abs(slope) > 3 * jnp.abs(s0))
    return jnp.where(steep, 3 * s0, slope)
