"""Elasticities, diversion, concentration and markups where users choose among posted prices.

Everything follows from how shares answer to prices. Formulas are those of logit demand (McFadden
1974) and nested logit (McFadden 1978; Berry 1994), for one type of users or several (mixed logit);
nothing underflows, and all of it is differentiable.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array, Market, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import Mechanism, NestedLogit
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import front_door
from mechlab.mechanisms.logit import log_shares
from mechlab.solvers.owners import Owners, checked_owners


@pytree
class Demand(Pytree):
    """Demand at a profile, and the market power that it leaves.

    Attributes:
        shares: [..., N] σ.
        elasticities: [..., N, N] d log σ_i / d log p_j: −βp_i(1 − σ_i), and βp_jσ_j for j ≠ i. In
            nested logit, with shares s within nests, −βp_i((1 − σ_i) + (1/ρ − 1)(1 − s_i)), and for
            j in the nest of i βp_j(σ_j + (1/ρ − 1)s_j).
        diversion: [..., N, N] of those whom a price rise of i drives away, the share that goes to
            j, σ_j/(1 − σ_i); on the diagonal the share that buys nothing. Rows sum to 1.
        mean_elasticity: [...] of shares in their own price, weighted by what is sold; 0 or less.
        hhi: [...] Herfindahl–Hirschman index: Σ of squared shares of what is sold (an owner's
            together), up to 10,000.
        markups: [..., N] USD, price less cost in a Bertrand–Nash equilibrium of prices:
            1/(β(1 − σ_i)); for owners of several providers the solution of their first-order
            conditions, Σ_j∈owner μ_j ∂σ_j/∂p_i = −σ_i (Nevo 2001). Infinite for a seller of all.
        costs: [..., N] USD, prices less these markups; below 0 where prices are lower than any
            such equilibrium at this β has them.
    """

    _axes = ("provider",)

    shares: Array
    elasticities: Array
    diversion: Array
    mean_elasticity: Array
    hhi: Array
    markups: Array
    costs: Array


@pytree
class _Choices(Pytree):
    """What users choose, and how that answers to prices.

    Attributes:
        price: [..., N] USD.
        shares: [..., N] σ.
        own: [..., N] −∂ log σ_i/∂p_i, 1/USD.
        cross: [..., N, N] ∂ log σ_i/∂p_j for j ≠ i, 1/USD; on the diagonal without meaning.
        leaves: [..., N] ∂σ_0/∂p_i over σ_i, 1/USD.
    """

    price: Array
    shares: Array
    own: Array
    cross: Array
    leaves: Array


@front_door()
def _given(
    market: Market, users: Users | UserMixture, profile: Array, rule: Mechanism
) -> tuple[Market, Users | UserMixture, Array, Mechanism]:
    posted = market if isinstance(rule, NestedLogit) else posted_market(market, rule)
    return posted, users, profile, rule


def _choices(
    posted: Market, users: Users | UserMixture, profile: Array, rule: Mechanism
) -> _Choices:
    quality, price = take_level(posted.quality, profile), take_level(posted.price, profile)
    if isinstance(users, UserMixture):
        types, scale, weight = users.types(), users.value_scale, users.weight
    else:
        types = Users(
            rationality=users.rationality[..., None], outside_value=users.outside_value[..., None]
        )
        scale = weight = jnp.ones_like(types.rationality)
    values = quality[..., None, :] * scale[..., None] - price[..., None, :]
    apart = ~np.eye(values.shape[-1], dtype=bool)
    beta = types.rationality
    if isinstance(rule, NestedLogit):
        rule = dataclasses.replace(rule, dissimilarity=jnp.asarray(rule.dissimilarity)[..., None])
        log_share, within, held = rule.log_shares(values, types)
        outside = jnp.exp(beta * (types.outside_value - held))
    else:
        log_share, within = log_shares(values, types), None
        best = jnp.max(values, axis=-1)
        outside = jnp.exp(beta * (types.outside_value - best) + jnp.max(log_share, axis=-1))
    sigma = jnp.exp(log_share)

    def of_others(among: np.ndarray, parts: Array) -> Array:
        """[..., T, N] Σ over j ≠ i, so that nothing cancels as 1 − part would."""
        return jnp.sum(jnp.where(among & apart, parts[..., None, :], 0.0), axis=-1)

    # of those who choose a provider, the part of each type, times β
    pull = jax.nn.softmax(jnp.log(weight)[..., None] + log_share, axis=-2) * beta[..., None]
    rest = of_others(apart, sigma) + outside[..., None]
    cross = jnp.einsum("...ti,...tj->...ij", pull, sigma)
    if within is not None:
        assert isinstance(rule, NestedLogit)
        members = rule.members(values.shape[-1])
        nest = (members[:, :, None] & members[:, None]).any(axis=0)
        closer, inside = (1.0 / rule.dissimilarity - 1.0)[..., None], jnp.exp(within)
        rest = rest + closer * of_others(nest, inside)
        cross = cross + jnp.where(
            nest, jnp.einsum("...ti,...tj->...ij", pull * closer, inside), 0.0
        )
    return _Choices(
        price=price,
        shares=jnp.sum(weight[..., None] * sigma, axis=-2),
        own=jnp.sum(pull * rest, axis=-2),
        cross=cross,
        leaves=jnp.sum(pull * outside[..., None], axis=-2),
    )


def _of_sold(choices: _Choices) -> Array:
    """[..., N] shares of what is sold; 0 where nothing is."""
    sold = jnp.sum(choices.shares, axis=-1, keepdims=True)
    return choices.shares / jnp.where(sold > 0, sold, 1.0)


def at_profile(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism,
    profile: Array,
    *,
    owners: Owners | None = None,
) -> Demand:
    """Demand of markets [..., N, K] where providers play levels [..., N].

    Args:
        market, users: [..., N, K] and [...]; the batch axes broadcast.
        profile: [..., N] int.
        rule: posted prices, or `NestedLogit`; pay-per-compute where not given.
        owners: who sets prices together, as lists of provider numbers; each provider by itself
            where not given.

    Raises:
        InputError: for a rule without posted prices, or owners that are no partition.
    """
    groups = None if owners is None else checked_owners(owners, market.providers)
    return _demand(*_given(market, users, profile, rule), owners=groups)


@functools.partial(jax.jit, static_argnames="owners")
def _demand(*given: Any, owners: Owners | None) -> Demand:
    choices = _choices(*given)
    own, cross, price = choices.own, choices.cross, choices.price
    of_sold = _of_sold(choices)
    same = jnp.eye(own.shape[-1], dtype=bool)
    elastic = jnp.where(same, -(own * price)[..., None], cross * price[..., None, :])
    markups = _markups(own, cross, owners)
    return Demand(
        shares=choices.shares,
        elasticities=elastic,
        diversion=jnp.where(same, choices.leaves[..., None], cross) / own[..., None],
        mean_elasticity=-jnp.sum(of_sold * own * price, axis=-1),
        hhi=1e4 * jnp.sum(_by_owner(of_sold, owners) ** 2, axis=-1),
        markups=markups,
        costs=price - markups,
    )


def mean_elasticity(
    market: Market, users: Users | UserMixture, rule: Mechanism, profile: Array
) -> Array:
    """[...] `Demand.mean_elasticity` alone; arguments as in `at_profile`."""
    return _mean_elasticity(*_given(market, users, profile, rule))


@jax.jit
def _mean_elasticity(*given: Any) -> Array:
    choices = _choices(*given)
    return -jnp.sum(_of_sold(choices) * choices.own * choices.price, axis=-1)


def _markups(own: Array, cross: Array, owners: Owners | None) -> Array:
    if owners is None:
        return 1.0 / own
    n = own.shape[-1]
    together = _together(owners, n)
    conditions = jnp.where(together, -cross, 0.0)
    conditions = jnp.where(jnp.eye(n, dtype=bool), own[..., None], conditions)
    return jnp.linalg.solve(conditions, jnp.ones_like(own)[..., None])[..., 0]


def _by_owner(values: Array, owners: Owners | None) -> Array:
    if owners is None:
        return values
    return jnp.stack([jnp.sum(values[..., np.array(one)], axis=-1) for one in owners], axis=-1)


def _together(owners: Owners, providers: int) -> np.ndarray:
    """[N, N] bool: whether two providers have one owner."""
    owner = np.zeros(providers, int)
    for number, one in enumerate(owners):
        owner[list(one)] = number
    return owner[:, None] == owner
