"""Elasticities, diversion, concentration and markups where users choose among posted prices.

Everything follows from two things of each type of users: its shares, and the type's part among
those who choose a provider. Formulas are those of logit demand (McFadden 1974; Berry 1994), for one
type of users or several (mixed logit); nothing underflows, and all of it is differentiable.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array, Market, UserMixture, Users, felt, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.mechanisms import Mechanism, PayPerCompute
from mechlab.mechanisms.base import check_arguments, posted_market
from mechlab.mechanisms.logit import log_shares
from mechlab.solvers.owners import Owners, checked_owners


@pytree
class Demand(Pytree):
    """Demand at a profile; see the functions of the same names.

    Attributes:
        shares: [..., N] σ.
        elasticities: [..., N, N] of share i in price j.
        diversion: [..., N, N] from i to j; on the diagonal to the outside option.
        mean_elasticity: [...] of shares in their own price, weighted by share.
        hhi: [...] from 0 to 10,000.
        markups: [..., N] USD, of Bertrand–Nash prices.
        costs: [..., N] USD, what prices less these markups leave.
    """

    shares: Array
    elasticities: Array
    diversion: Array
    mean_elasticity: Array
    hhi: Array
    markups: Array
    costs: Array


@pytree
class _Choices(Pytree):
    """What users of T types choose.

    Attributes:
        price: [..., N] USD.
        beta: [..., T].
        log_share: [..., T, N] log σ of each type.
        rest: [..., T, N] 1 − σ, without cancellation.
        outside: [..., T] the share of those who buy nothing.
        part: [..., T, N] of those who choose a provider, the share of each type.
        shares: [..., N] σ of all users.
    """

    price: Array
    beta: Array
    log_share: Array
    rest: Array
    outside: Array
    part: Array
    shares: Array


def _choices(
    market: Market, users: Users | UserMixture, profile: Array, rule: Mechanism | None
) -> _Choices:
    rule = PayPerCompute() if rule is None else rule
    check_arguments(market, users, rule)
    market, users = felt(market, users)
    posted = posted_market(market, rule)
    profile = posted.checked_profile(profile)
    quality, price = take_level(posted.quality, profile), take_level(posted.price, profile)
    if isinstance(users, UserMixture):
        types, scale, weight = users.types(), users.value_scale, users.weight
    else:
        types = Users(
            rationality=users.rationality[..., None], outside_value=users.outside_value[..., None]
        )
        scale = weight = jnp.ones_like(types.rationality)
    values = quality[..., None, :] * scale[..., None] - price[..., None, :]
    log_share = log_shares(values, types)
    sigma = jnp.exp(log_share)
    beta = jnp.broadcast_to(types.rationality, sigma.shape[:-1])
    top = jnp.max(values, axis=-1)
    bought = beta * (types.outside_value - top)
    outside = jnp.exp(bought + jnp.max(log_share, axis=-1))
    n = sigma.shape[-1]
    others = jnp.where(jnp.eye(n, dtype=bool), 0.0, sigma[..., None, :])
    log_part = jnp.log(weight)[..., None] + log_share
    return _Choices(
        price=price,
        beta=beta,
        log_share=log_share,
        rest=jnp.sum(others, axis=-1) + outside[..., None],
        outside=outside,
        part=jax.nn.softmax(log_part, axis=-2),
        shares=jnp.sum(weight[..., None] * sigma, axis=-2),
    )


def _own_slope(choices: _Choices) -> Array:
    """[..., N] −∂ log σ_i/∂p_i, 1/USD."""
    return jnp.sum(choices.part * choices.beta[..., None] * choices.rest, axis=-2)


def _of_sold(choices: _Choices) -> Array:
    """[..., N] shares of what is sold; 0 where nothing is."""
    sold = jnp.sum(choices.shares, axis=-1, keepdims=True)
    return choices.shares / jnp.where(sold > 0, sold, 1.0)


def at_profile(
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    rule: Mechanism | None = None,
    *,
    owners: Owners | None = None,
) -> Demand:
    """Demand of markets [..., N, K] where providers play levels [..., N].

    Args:
        market, users: [..., N, K] and [...]; the batch axes broadcast.
        profile: [..., N] int.
        rule: posted prices; pay-per-compute where not given.
        owners: who sets prices together, as lists of provider numbers; each provider by itself
            where not given.

    Raises:
        InputError: for a rule without posted prices, or owners that are no partition.
    """
    return _at(_choices(market, users, profile, rule), owners)


def _at(choices: _Choices, owners: Owners | None) -> Demand:
    own, price, of_sold = _own_slope(choices), choices.price, _of_sold(choices)
    weight = choices.part * choices.beta[..., None]
    cross = jnp.einsum("...ti,...tj->...ij", weight, jnp.exp(choices.log_share))
    same = jnp.eye(own.shape[-1], dtype=bool)
    elastic = jnp.where(same, -(own * price)[..., None], cross * price[..., None, :])
    leaves = jnp.sum(weight * choices.outside[..., None], axis=-2)
    markups = _markups(own, cross, owners)
    return Demand(
        shares=choices.shares,
        elasticities=elastic,
        diversion=jnp.where(same, leaves[..., None], cross) / own[..., None],
        mean_elasticity=-jnp.sum(of_sold * own * price, axis=-1),
        hhi=1e4 * jnp.sum(_by_owner(of_sold, owners) ** 2, axis=-1),
        markups=markups,
        costs=price - markups,
    )


def elasticities(
    market: Market, users: Users | UserMixture, profile: Array, rule: Mechanism | None = None
) -> Array:
    """[..., N, N] d log σ_i / d log p_j: −βp_i(1 − σ_i), and βp_jσ_j for j ≠ i."""
    return at_profile(market, users, profile, rule).elasticities


def mean_elasticity(
    market: Market, users: Users | UserMixture, profile: Array, rule: Mechanism | None = None
) -> Array:
    """[...] own-price elasticities weighted by the shares of what is sold; 0 or less."""
    choices = _choices(market, users, profile, rule)
    return -jnp.sum(_of_sold(choices) * _own_slope(choices) * choices.price, axis=-1)


def diversion(
    market: Market, users: Users | UserMixture, profile: Array, rule: Mechanism | None = None
) -> Array:
    """[..., N, N] of those whom a price rise of i drives away, the share that goes to j.

    σ_j/(1 − σ_i); on the diagonal the share that buys nothing. Rows sum to 1.
    """
    return at_profile(market, users, profile, rule).diversion


def hhi(
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    rule: Mechanism | None = None,
    *,
    owners: Owners | None = None,
) -> Array:
    """[...] Herfindahl–Hirschman index: Σ of squared shares of what is sold, up to 10,000."""
    return at_profile(market, users, profile, rule, owners=owners).hhi


def implied_markups(
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    rule: Mechanism | None = None,
    *,
    owners: Owners | None = None,
) -> Array:
    """[..., N] USD, price less cost in a Bertrand–Nash equilibrium of prices.

    1/(β(1 − σ_i)); for owners of several providers the solution of their first-order conditions,
    Σ_j∈owner μ_j ∂σ_j/∂p_i = −σ_i (Nevo 2001). Infinite for a seller of everything.
    """
    return at_profile(market, users, profile, rule, owners=owners).markups


def implied_costs(
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    rule: Mechanism | None = None,
    *,
    owners: Owners | None = None,
) -> Array:
    """[..., N] USD, prices less `implied_markups`; below 0 where prices are lower than any
    Bertrand–Nash equilibrium with this β has them."""
    return at_profile(market, users, profile, rule, owners=owners).costs


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
    checked_owners(owners, values.shape[-1])
    return jnp.stack([jnp.sum(values[..., np.array(one)], axis=-1) for one in owners], axis=-1)


def _together(owners: Owners, providers: int) -> np.ndarray:
    """[N, N] bool: whether two providers have one owner."""
    checked_owners(owners, providers)
    owner = np.zeros(providers, int)
    for number, one in enumerate(owners):
        owner[list(one)] = number
    return owner[:, None] == owner
