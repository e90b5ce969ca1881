"""Those who buy answers: one type of them, or several in one market."""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.validation import checked, concrete


@pytree
class Users(Pytree):
    """Those who buy answers.

    Attributes:
        rationality: [...] β ≥ 0 in 1/USD; users choose by multinomial logit with this precision.
        outside_value: [...] v0 in USD, what buying nothing is worth.
        taste: [...] ones where the noise in what users choose is their taste, part of what they
            get; None where it is error. It changes what an outcome is worth, and no choice.
        latency_value: [...] h in USD per second of waiting for an answer; None for 0.
    """

    _axes = ()
    _main = ("rationality", "outside_value")

    rationality: Array
    outside_value: Array
    taste: Array | None = None
    latency_value: Array | None = None

    @classmethod
    def create(
        cls,
        rationality: Any,
        outside_value: Any = 0.0,
        noise: str = "error",
        latency_value: Any = None,
    ) -> "Users":
        """Users from numbers or arrays.

        Args:
            rationality: β ≥ 0 in 1/USD.
            outside_value: v0 in USD.
            noise: what users choose by beside the value offered: "error" (the study's reading: they
                mean to take the best and err) or "taste" (McFadden 1974: answers differ in worth
                from user to user, with a mean of 0, and users take what is best for them).
            latency_value: h ≥ 0 in USD per second; every rule is by q − h·latency then, where the
                market has latencies.

        Raises:
            InputError: where β < 0 (with tastes ≤ 0), a number is not finite, or a noise unknown.
        """
        waiting = latency_value
        if waiting is not None:
            waiting = checked(
                "latency_value", waiting, minimum=0.0, why="users do not like to wait"
            )
        beta = checked("rationality", rationality, minimum=0.0, why="β is a precision, in 1/USD")
        outside = checked("outside_value", outside_value)
        xp = np if concrete(beta, outside, waiting) else jnp
        dtype = jnp.result_type(float)
        try:
            beta, outside, waits = xp.broadcast_arrays(
                *(
                    xp.asarray(x, dtype)
                    for x in (beta, outside, 0.0 if waiting is None else waiting)
                )
            )
        except ValueError:
            raise InputError(
                "rationality, outside_value, latency_value: shapes do not fit each other"
            ) from None
        return cls(
            rationality=jnp.asarray(beta, dtype),
            outside_value=jnp.asarray(outside, dtype),
            taste=_taste(noise, beta, dtype),
            latency_value=None if waiting is None else jnp.asarray(waits, dtype),
        )

    @classmethod
    def calibrate(
        cls,
        market: Market,
        elasticity: Any = -1.1,
        *,
        outside_value: Any = 0.0,
        noise: str = "error",
        latency_value: Any = None,
    ) -> "Users":
        """Users whose demand in the equilibrium of pay-per-compute has an own-price elasticity.

        By `mechlab.demand.calibrate`, which takes batches under jit and says how each ended.

        Args:
            market: [..., N, K].
            elasticity: [...] of shares in their own price, a mean weighted by share.
            outside_value, noise, latency_value: as in `create`.

        Raises:
            InputError: where no β gives it; says what can be reached.
        """
        demand = importlib.import_module("mechlab.demand")  # which stands above this folder
        found = demand.reached(market, elasticity, outside_value, latency_value)
        return cls.create(found.rationality, outside_value, noise, latency_value)

    @property
    def noise(self) -> str:
        """Whether the noise is "error" or "taste"."""
        return "error" if self.taste is None else "taste"


@pytree
class UserMixture(Pytree):
    """Several types of users in one market; every rule serves each type by itself.

    A provider offers one level to all types. Outcomes are means over types by weight.

    Attributes:
        weight: [..., T] share of each type, summing to 1.
        rationality: [..., T] β of each type, 1/USD.
        outside_value: [..., T] v0 of each type, USD.
        value_scale: [..., T] what an answer is worth to the type, relative to the market's quality.
        taste: [..., T] as in `Users`.
        latency_value: [..., 1] h in USD per second of a type with value_scale 1, or None; a type
            for which answers are worth more loses that much more by waiting, value_scale·h.
    """

    _axes = ("type",)

    weight: Array
    rationality: Array
    outside_value: Array
    value_scale: Array
    taste: Array | None = None
    latency_value: Array | None = None

    @classmethod
    def create(
        cls,
        weight: Any,
        rationality: Any,
        outside_value: Any = 0.0,
        value_scale: Any = 1.0,
        noise: str = "error",
        latency_value: Any = None,
    ) -> "UserMixture":
        """Types from arrays [T] or [..., T]; weights are normalised; raises InputError.

        Noise and latency_value [...] are those of `Users.create`, of all types; h is that of a type
        with value_scale 1.
        """
        weight = checked("weight", weight, minimum=0.0, why="weights are shares")
        fields = dict(
            rationality=checked("rationality", rationality, minimum=0.0, why="β is a precision"),
            outside_value=checked("outside_value", outside_value),
            value_scale=checked("value_scale", value_scale, above=0.0, why="answers have worth"),
        )
        dtype = jnp.result_type(float)
        xp = np if concrete(weight, latency_value, *fields.values()) else jnp
        weight = xp.asarray(weight, dtype)
        if weight.ndim < 1 or (concrete(weight) and not np.all(np.asarray(weight).sum(-1) > 0)):
            raise InputError("weight: give one number for each type, not all of them 0")
        shape = np.broadcast_shapes(weight.shape, *(np.shape(x) for x in fields.values()))
        if latency_value is not None:
            waits = checked(
                "latency_value", latency_value, minimum=0.0, why="users do not like to wait"
            )
            try:
                waits = xp.broadcast_to(xp.asarray(waits, dtype), shape[:-1])
            except ValueError:
                raise InputError(
                    f"latency_value: shape {np.shape(waits)} does not fit {shape[:-1]}; all types "
                    "of a market share one number"
                ) from None
            latency_value = jnp.asarray(waits[..., None], dtype)

        def spread(x: Any) -> Array:
            return jnp.asarray(xp.broadcast_to(xp.asarray(x, dtype), shape), dtype)

        return cls(
            latency_value=latency_value,
            weight=spread(weight / weight.sum(-1, keepdims=True)),
            taste=_taste(noise, spread(fields["rationality"]), dtype),
            **{name: spread(x) for name, x in fields.items()},
        )

    def types(self) -> "Users":
        """The types as single users, with the axis of types last: rationality [..., T]."""
        return Users(
            rationality=self.rationality, outside_value=self.outside_value, taste=self.taste
        )


def _taste(noise: str, rationality: Any, dtype: Any) -> Array | None:
    """`Users.taste`; InputError for an unknown noise, or tastes without bound."""
    if noise not in ("error", "taste"):
        raise InputError(f"noise: {noise!r} is not known; use 'error' or 'taste'")
    if noise == "error":
        return None
    if concrete(rationality) and not np.all(np.asarray(rationality) > 0):
        raise InputError("rationality: tastes of scale 1/β have no bound at β = 0; give β > 0")
    return jnp.asarray(np.ones(np.shape(rationality)), dtype)
