"""The reverse first-price auction: a baseline without a dominant strategy."""

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, UserMixture, Users, over_markets
from mechlab.core.pytree import Pytree, pytree
from mechlab.mechanisms.auction import ReverseAuction

MARKUPS = tuple(percent / 100 for percent in range(101))  # of the tables and reports


class FirstPriceAuction(ReverseAuction):
    """The best value wins and is paid its own price bid."""

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

    markup: Array
    regret: Array
    offers: Offers
    is_equilibrium: Array


def symmetric_markup(market: Market, users: Users | UserMixture, grid: Array) -> SymmetricMarkup:
    """The markup of the grid [G] that is nearest to a best response to itself.

    Every provider serves at its level of the largest surplus and bids cost·(1 + markup). Where no
    markup of the grid is an equilibrium, it is the one with the smallest regret (the smallest
    markup on a tie), and `is_equilibrium` says so.

    Raises:
        InputError: for a grid that is empty or has a markup below −1.
    """
    if not isinstance(grid, jax.core.Tracer):
        grid = jnp.asarray(grid)
        if grid.ndim != 1 or not grid.size or not bool(jnp.all(grid >= -1)):
            raise InputError("grid: give a list of markups, each at least -1")
    return _symmetric_markup(market, users, grid=jnp.asarray(grid))


@jax.jit
@over_markets
def _symmetric_markup(market: Market, users: Users | UserMixture, grid: Array) -> SymmetricMarkup:
    rule, truth = FirstPriceAuction(), market.truthful()
    grid = grid.astype(truth.cost.dtype)
    bids = truth.cost * (1 + grid[:, None])

    def regret(markup: Array) -> Array:
        offers = truth.replace(price=truth.cost * (1 + markup))
        rivals = rule.rivals(offers, users)
        best = jnp.max(rule.utility_against(rivals, truth.replace(price=bids)), axis=0)
        return jnp.max(best - rule.utility_against(rivals, offers))

    regrets = jax.vmap(regret)(grid)
    lowest = jnp.min(regrets)
    markup = jnp.min(jnp.where(regrets <= lowest, grid, jnp.inf))
    return SymmetricMarkup(
        markup=markup,
        regret=lowest,
        offers=truth.replace(price=truth.cost * (1 + markup)),
        is_equilibrium=lowest <= rule.tolerance[truth.cost.dtype.itemsize],
    )
