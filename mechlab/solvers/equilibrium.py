"""The pure equilibrium that providers reach, certified where it is the only one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, settled
from mechlab.core.market import Array, Market
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import STEP
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.better_response import better_response_column, dynamics, logit_gains
from mechlab.solvers.extremal import certified_column, extremal_column
from mechlab.solvers.logit_game import logit_game, posted_game


@pytree
class Equilibrium(Solution):
    """A pure equilibrium of the providers' game.

    Attributes:
        profile: [..., N] int, one level per provider.
        smallest, largest: [..., N] int, the ends between which every pure equilibrium lies; None
            under rules other than posted prices (or with several types of users), and so is
        unique: [...] bool: it is the only one, up to levels with equal offered value and profit.
        status: [...] int, a `Status`.
    """

    profile: Array
    smallest: Array | None = None
    largest: Array | None = None
    unique: Array | None = None


@front_door(frozen=True)
def equilibrium(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism = DEFAULT_RULE,
    *,
    key: Any = None,
    throw: bool = False,
) -> Equilibrium:
    """The equilibrium of the providers' choice of level.

    Under posted prices and nested logit both extremal equilibria are found by sweeps; where they
    agree that is the equilibrium, and the published dynamics end in it whatever the order.
    Elsewhere, and under other rules, the profile is the one that the published dynamics reach from
    level 0.

    Args:
        market, users: [..., N, K] and [...].
        rule: the pricing rule; pay-per-compute where not given.
        key: of the dynamics' visiting orders; that of seed 0 where not given.
        throw: raise NotSolved, outside jit, where some market has no equilibrium to show.
    """
    return _solve(market, users, rule, key)


@jax.jit
def _solve(market: Market, users: Users | UserMixture, rule: Mechanism, key: Array) -> Equilibrium:
    solve = functools.partial(equilibrium_columns, rule=rule, key=key)
    return over_columns(solve, market, users)


def equilibrium_columns(
    market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
) -> Equilibrium:
    """`equilibrium` of columns: market [P, N, K, B]; pure."""
    market, users, rule = jax.lax.stop_gradient((market, users, rule))
    game = posted_game(rule, market, users)
    if game is None:
        _, n, _, batch = market.quality.shape

        def reach(market: Market, users: Users | UserMixture) -> Equilibrium:
            reached = better_response_column(
                market, users, jnp.zeros((n, batch), int), rule=rule, key=key
            )
            return Equilibrium(profile=reached.profile, status=reached.status)

        return each(reach, market, users)
    posted, nests = game
    certain = functools.partial(certified_column, nests=nests)
    profile, certified = each(certain, posted, users)
    found = Equilibrium(
        profile=profile,
        smallest=profile,
        largest=profile,
        unique=certified,
        status=jnp.full(certified.shape, Status.CONVERGED, jnp.int32),
    )

    def certify(column: tuple[Market, Users], _: Equilibrium) -> Equilibrium:
        ends = extremal_column(*column, nests)
        return Equilibrium(
            profile=ends.smallest,
            smallest=ends.smallest,
            largest=ends.largest,
            unique=ends.unique,
            status=ends.status,
        )

    def play(column: tuple[Market, Users], found: Equilibrium) -> Equilibrium:
        game = logit_game(*column, nests)
        reached = dynamics(
            logit_gains(game),
            jnp.zeros_like(found.profile),
            game.value.shape[1],
            game.sound,
            tolerance=STEP.of(game.value),
            key=key,
            max_rounds=100,
        )
        idle = (found.status == Status.INDIFFERENT) & reached.converged
        status = jnp.where(idle, Status.INDIFFERENT, reached.status)
        return found.replace(profile=reached.profile, status=status)

    columns = (posted, users)
    found = settled(~certified, found, columns, certify)
    open_ = ~jnp.asarray(found.unique)
    return settled(open_, found, columns, play)
