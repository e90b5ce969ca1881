"""The reverse first-price auction: a baseline without a dominant strategy."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import each, over_columns, vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.alone import Alone
from mechlab.mechanisms.auction import ReverseAuction
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.front_door import front_door

MARKUPS = tuple(percent / 100 for percent in range(101))


class FirstPriceAuction(ReverseAuction):
    """The best value wins and is paid its own price bid."""

    play: ClassVar[str] = "markup"

    def pay(self, offers: Offers, rival: Array) -> Array:
        return offers.price


@pytree
class SymmetricMarkup(Pytree):
    """The markup that all providers bid with, and how close it is to an equilibrium.

    Attributes:
        markup: [...] price bid = cost·(1 + markup).
        regret: [...] USD, the most that one provider could gain by another markup of the grid.
        offers: [..., N] the bids at that markup.
        is_equilibrium: [...] bool, whether no markup of the grid gains anything.
    """

    _axes = ()

    markup: Array
    regret: Array
    offers: Offers
    is_equilibrium: Array


@front_door()
def symmetric_markup(
    market: Market, users: Users | UserMixture, rule: Mechanism, *, grid: Any = MARKUPS
) -> SymmetricMarkup:
    """The markup of the grid [G] that is nearest to a best response to itself.

    Every provider serves at the level that is best for an honest one and bids cost·(1 + markup).
    Where no markup of the grid is an equilibrium, it is the one with the smallest regret (the
    smallest markup on a tie), and `is_equilibrium` says so.

    Args:
        market, users: [..., N, K] and [...].
        rule: in which providers bid, such as `FirstPriceAuction()`.
        grid: [G] markups; 0, 1 % … 100 % where not given.

    Raises:
        InputError: for a grid that is empty or has a markup below −1.
    """
    if concrete(grid):
        grid = np.asarray(grid, float)
        if grid.ndim != 1 or not grid.size or not np.all(grid >= -1):
            raise InputError("grid: give a list of markups, each at least -1")
    return _solve(market, users, rule, jnp.asarray(grid))


@jax.jit
def _solve(
    market: Market, users: Users | UserMixture, rule: Mechanism, grid: Array
) -> SymmetricMarkup:
    solve = functools.partial(symmetric_markup_column, rule=rule, grid=grid)
    return over_columns(functools.partial(each, solve), market, users)


def symmetric_markup_column(
    market: Market, users: Users | UserMixture, *, rule: Mechanism, grid: Array
) -> SymmetricMarkup:
    """`symmetric_markup` of a column: market [N, K, B] → bids [N, B]; pure."""
    grid = grid.astype(market.cost.dtype)

    def regrets(market: Market, users: Users | UserMixture, markup: Array) -> Array:
        """[] the most that one provider gains by another markup than the common one."""
        truth = rule.offers(market, rule.honesty.profile(market))
        offers = truth.replace(price=truth.cost * (1 + markup))
        alone = Alone(rule)
        rivals = alone.rivals(offers, users)
        bids = truth.replace(price=truth.cost * (1 + grid[:, None]))
        best = jnp.max(alone.utility_against(rivals, bids), axis=0)
        return jnp.max(best - alone.utility_against(rivals, offers))

    def one_markup(markup: Array) -> Array:
        return vmapped(lambda m, u: regrets(m, u, markup))(market, users)

    regret = jax.lax.map(one_markup, grid)  # [G, B]
    lowest = jnp.min(regret, axis=0)
    rounding = 8 * jnp.finfo(grid.dtype).eps * jnp.max(jnp.abs(market.quality), axis=(0, 1))
    markup = jnp.min(jnp.where(regret <= lowest + rounding, grid[:, None], jnp.inf), axis=0)

    def bid(market: Market, markup: Array) -> Offers:
        truth = rule.offers(market, rule.honesty.profile(market))
        return truth.replace(price=truth.cost * (1 + markup))

    return SymmetricMarkup(
        markup=markup,
        regret=lowest,
        offers=vmapped(bid)(market, markup),
        is_equilibrium=lowest <= rule.tolerance.of(market.cost),
    )
