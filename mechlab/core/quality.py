"""How much an answer of a given accuracy is worth to a user.

quality = value_per_answer · (baseline + (1 − baseline) · f(accuracy)), in USD per query, with one
of the shapes f below. Each maps [0, 1] onto [0, 1] and is increasing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError

Shape = Callable[[jax.Array], jax.Array]


def linear(accuracy: jax.Array) -> jax.Array:
    """f(a) = a: a user gains as much from every further point of accuracy."""
    return accuracy


def power(gamma: float = 3.5) -> Shape:
    """f(a) = a^γ: with γ > 1, the last points of accuracy are worth the most."""
    return lambda accuracy: accuracy**gamma


def exponential(kappa: float = 6.0) -> Shape:
    """f(a) = (e^{κa} − 1)/(e^κ − 1); κ → 0 is linear."""

    def shape(accuracy: jax.Array) -> jax.Array:
        flat = jnp.abs(kappa) < 1e-6
        size = jnp.where(flat, 1.0, jnp.abs(kappa))
        # for κ > 0 the e^κ is divided out, so that no κ overflows
        ratio = jnp.expm1(-size * accuracy) / jnp.expm1(-size)
        lift = jnp.exp(jnp.maximum(kappa, 0.0) * (accuracy - 1.0))
        series = accuracy + 0.5 * kappa * accuracy * (accuracy - 1.0)
        return jnp.where(flat, series, ratio * lift)

    return shape


SHAPES: dict[str, Callable[..., Shape]] = {
    "linear": lambda *ignored: linear,
    "power": power,
    "exponential": exponential,
}
"""Shapes by name, each made of its parameter."""


def named(name: str, parameter: float | None = None) -> Shape:
    """The shape called `name`: linear, power (parameter γ) or exponential (parameter κ)."""
    if name not in SHAPES:
        raise InputError(f"quality: unknown shape {name!r}; use {', '.join(SHAPES)}")
    return SHAPES[name]() if parameter is None else SHAPES[name](parameter)


def quality(
    accuracy: jax.Array,
    value_per_answer: jax.Array | float,
    baseline: jax.Array | float = 0.0,
    shape: Shape = linear,
) -> jax.Array:
    """Value of an answer in USD per query, of the shape of `accuracy` (in [0, 1])."""
    return value_per_answer * (baseline + (1.0 - baseline) * shape(accuracy))
