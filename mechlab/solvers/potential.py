"""The potential of games of posted prices (Monderer & Shapley 1996)."""

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, take_level
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door


def has_potential(market: Market, rule: Mechanism = DEFAULT_RULE) -> Array:
    """[...] bool: whether every provider has a level with a profit."""
    return _sound(posted_market(market, rule))


@jax.jit
def _sound(posted: Market) -> Array:
    return jnp.all(jnp.any(posted.available & (posted.unit_profit > 0), axis=-1), axis=-1)


@front_door()
def potential(market: Market, users: Users, rule: Mechanism, profile: Array) -> Array:
    """[...] Φ = Σ log m_i + β Σ V_i − log(e^{βv0} + Σ e^{βV_j}) at a profile [..., N].

    A unilateral move changes Φ by exactly the mover's change of log utility. Providers without a
    profit at the profile are left out of Σ log m, and Φ means nothing then (`has_potential`).
    The rule posts prices; pay-per-compute for None.
    """
    return _potential(posted_market(market, rule), users, profile)


@jax.jit
def _potential(posted: Market, users: Users, profile: Array) -> Array:
    values, profit = (
        take_level(posted.offered_value, profile),
        take_level(posted.unit_profit, profile),
    )
    beta, outside = users.rationality[..., None], users.outside_value[..., None]
    top = jnp.maximum(jnp.max(values, axis=-1, keepdims=True), outside)
    total = jnp.sum(jnp.exp(beta * (values - top)), axis=-1, keepdims=True) + jnp.exp(
        beta * (outside - top)
    )
    logs = jnp.log(jnp.where(profit > 0, profit, 1.0))
    log_total = (beta * top + jnp.log(total))[..., 0]
    return jnp.sum(logs, axis=-1) + jnp.sum(beta * values, axis=-1) - log_total
