"""Posted prices where owners have several providers each: what a merger changes."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import each, over_columns
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import STEP, TIE
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.logit_game import LogitGame, logit_game, picked

Owners = Sequence[Sequence[int]]
_MOST = 50  # Dinkelbach steps of one response; they converge superlinearly


@pytree
class OwnersEquilibrium(Solution):
    """Where no owner gains by changing the levels of its providers, all of them at once.

    Attributes:
        profile: [..., N] int.
        rounds: [...] int, in each of which every owner answers once.
        status: [...] int, a `Status`; ITERATION_LIMIT where owners go on answering each other.
    """

    profile: Array
    rounds: Array


@pytree
class OwnerDeviations(Pytree):
    """The best joint change of levels of every owner, the others fixed.

    Attributes:
        utility: [..., O] USD, what each owner's providers earn together.
        gain: [..., O] USD, what the best levels of all its providers add.
        levels: [..., N] int, each provider's level in its owner's best answer.
    """

    _axes = ("owner",)

    utility: Array
    gain: Array
    levels: Array = dataclasses.field(metadata={"axes": ("provider",)})


@front_door(one_type=True, frozen=True)
def owners_equilibrium(
    market: Market,
    users: Users,
    rule: Mechanism = DEFAULT_RULE,
    *,
    owners: Owners,
    max_rounds: int = 100,
    throw: bool = False,
) -> OwnersEquilibrium:
    """The levels that owners end at, each maximising the sum of its providers' utilities.

    Owners answer in turn from the lowest levels. An answer is exact: the sum is a ratio of sums
    over the owner's providers, Σ w m/(A + Σ w), so that Dinkelbach's iteration (1967) finds the
    best of all combinations of levels. There need be no equilibrium, and more than one may exist.

    Args:
        market, users: [..., N, K] and [...].
        owners: lists of provider numbers, each provider once.
        rule: posted prices; pay-per-compute where not given.
        throw: raise NotSolved, outside jit, where some market has not settled.

    Raises:
        InputError: for owners that are no partition, or a rule without posted prices.
    """
    checked_whole("max_rounds", max_rounds, 1, 10**6)
    groups = checked_owners(owners, market.providers)
    return _solve(posted_market(market, rule), users, groups=groups, max_rounds=max_rounds)


@front_door(one_type=True)
def owner_deviations(
    market: Market, users: Users, rule: Mechanism, profile: Array, *, owners: Owners
) -> OwnerDeviations:
    """What every owner gains by the best levels of all its providers; arguments as in
    `owners_equilibrium`, and profile [..., N]."""
    groups = checked_owners(owners, market.providers)
    return _deviate(posted_market(market, rule), users, profile, groups=groups)


def checked_owners(owners: Owners, providers: int) -> tuple[tuple[int, ...], ...]:
    """Owners as tuples; InputError where they are no partition of the providers' numbers."""
    for number, one in enumerate(owners):
        if not len(one):
            raise InputError(f"owners: owner {number} owns no provider; leave it out")
    owned = [int(i) for one in owners for i in one]
    for i in owned:
        if not 0 <= i < providers:
            raise InputError(f"owners: there is no provider {i}; they are 0 to {providers - 1}")
    for i in range(providers):
        if owned.count(i) != 1:
            times = "no owner" if i not in owned else "two owners"
            raise InputError(f"owners: provider {i} has {times}; name each provider once")
    return tuple(tuple(int(i) for i in one) for one in owners)


@functools.partial(jax.jit, static_argnames=("groups", "max_rounds"))
def _solve(
    posted: Market, users: Users, *, groups: tuple[tuple[int, ...], ...], max_rounds: int
) -> OwnersEquilibrium:
    def column(posted: Market, users: Users) -> OwnersEquilibrium:
        game = logit_game(posted, users)
        n, _, batch = game.value.shape
        tolerance = STEP.of(game.value)

        def turn(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            profile, rounds, count, _ = state
            moved = jnp.zeros(batch, bool)
            for one in groups:
                now, best, levels = _answer(game, profile, one)
                better = best > now + tolerance * jnp.abs(now)
                mine = np.array(one)
                profile = profile.at[mine].set(jnp.where(better, levels, profile[mine]))
                moved |= better
            return profile, jnp.where(moved, count + 2, rounds), count + 1, moved

        start = (
            jnp.zeros((n, batch), int),
            jnp.ones(batch, int),
            jnp.zeros((), int),
            jnp.ones(batch, bool),
        )
        profile, rounds, _, moved = jax.lax.while_loop(
            lambda state: jnp.any(state[3]) & (state[2] < max_rounds), turn, start
        )
        status = jnp.where(moved, Status.ITERATION_LIMIT, Status.CONVERGED).astype(jnp.int32)
        return OwnersEquilibrium(
            profile=profile, rounds=jnp.minimum(rounds, max_rounds), status=status
        )

    return over_columns(functools.partial(each, column), posted, users)


@functools.partial(jax.jit, static_argnames="groups")
def _deviate(
    posted: Market, users: Users, profile: Array, *, groups: tuple[tuple[int, ...], ...]
) -> OwnerDeviations:
    def column(posted: Market, users: Users, profile: Array) -> OwnerDeviations:
        game = logit_game(posted, users)
        utility, gain, levels = [], [], profile
        for one in groups:
            now, best, answer = _answer(game, profile, one, in_usd=True)
            better = best > now
            mine = np.array(one)
            levels = levels.at[mine].set(jnp.where(better, answer, profile[mine]))
            utility.append(now)
            gain.append(jnp.where(better, best - now, 0.0))
        return OwnerDeviations(utility=jnp.stack(utility), gain=jnp.stack(gain), levels=levels)

    return over_columns(functools.partial(each, column), posted, users, profile)


def _answer(
    game: LogitGame, profile: Array, owner: tuple[int, ...], in_usd: bool = False
) -> tuple[Array, Array, Array]:
    """What an owner earns now [B] and at best [B], and its providers' levels then [F, B].

    Earnings are in units that only what the others offer enters, in which nothing underflows.
    """
    mine = np.array(owner)
    others = np.setdiff1d(np.arange(profile.shape[0]), mine)
    rivals = jnp.concatenate([picked(game.height, profile)[others], game.outside[None]])
    rest = jax.nn.logsumexp(rivals, axis=0)
    there, profit = game.available[mine], game.profit[mine]
    height = jnp.where(there, game.height[mine], -jnp.inf)
    top = jnp.max(height, axis=(0, 1))
    weight = jnp.exp(height - top)
    lead = top - rest
    # U = e^lead Σwm/(1 + e^lead Σw), up to a factor
    fixed, scale = jnp.exp(-jnp.maximum(lead, 0.0)), jnp.exp(jnp.minimum(lead, 0.0))

    def earned(levels: Array) -> Array:
        w, m = picked(weight, levels), picked(profit, levels)
        return jnp.sum(w * m, axis=0) / (fixed + scale * jnp.sum(w, axis=0))

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        levels, most, count, _ = state
        gain = jnp.where(there, weight * (profit - scale * most), -jnp.inf)
        tried = jnp.argmax(gain, axis=1)
        reached = earned(tried)
        better = reached > most + TIE.of(most) * jnp.abs(most)
        return (
            jnp.where(better, tried, levels),
            jnp.where(better, reached, most),
            count + 1,
            better,
        )

    now = earned(profile[mine])
    start = (profile[mine], now, jnp.zeros((), int), jnp.ones_like(now, bool))
    levels, most, _, _ = jax.lax.while_loop(
        lambda state: jnp.any(state[3]) & (state[2] < _MOST), step, start
    )
    unit = scale if in_usd else 1.0
    return now * unit, most * unit, levels
