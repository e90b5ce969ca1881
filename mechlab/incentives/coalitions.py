"""What pairs of providers gain by deviating together and sharing the gain.

Transfers are allowed, so that a pair gains whenever the sum of its utilities does. The second-price
auction is truthful for each alone and yet not proof against this: the winner and the runner-up
gain together whatever the runner-up's score has over the next one's.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.incentives import ascent
from mechlab.incentives.deviations import (
    CHUNK,
    RESTARTS,
    STEPS,
    Checks,
    check_axes,
    checked_effort,
    flattened,
    raise_if_blind,
    raise_on_fault,
)
from mechlab.incentives.strategies import (
    DISCRETE,
    GridLevel,
    Space,
    Strategies,
    coordinates,
    lay_out,
    spelt,
)
from mechlab.mechanisms.alone import Alone
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.front_door import front_door


@pytree
class Coalitions(Pytree):
    """The best joint deviation found for each pair, all others fixed; gains are exact.

    Attributes:
        members: [..., P, 2] int, the pairs, P = N(N − 1)/2, in lexicographic order.
        utility: [..., P] what the two earn together now, USD.
        gain: [..., P] best − now, never below 0, USD.
        first, second: [..., P] what the members would offer; as now where nothing gains.
        restart: [..., P] int, the restart that found it; −1 where nothing gains.
    """

    _axes = ("pair", "member")

    members: Array
    utility: Array
    gain: Array
    first: Offers
    second: Offers
    restart: Array


@dataclasses.dataclass(frozen=True)
class _Together:
    """A space for two: the points of the first member's, then the second's."""

    first: Strategies
    second: Strategies

    @property
    def kinds(self) -> tuple[type, ...]:
        return (*self.first.kinds, *self.second.kinds)

    @property
    def alternatives(self) -> int:
        return self.first.alternatives

    @property
    def possible(self) -> Array:
        return self.first.possible & self.second.possible

    def start(self) -> tuple[Array, ...]:
        return (*self.first.start(), *self.second.start())

    def level(self, point: tuple[Array, ...]) -> tuple[Any, Any]:
        d = len(point) // 2
        return self.first.level(point[:d]), self.second.level(point[d:])

    def offers(self, point: tuple[Array, ...], level: Any = None) -> tuple[Offers, Offers]:
        d, level = len(point) // 2, self.level(point) if level is None else level
        return self.first.offers(point[:d], level[0]), self.second.offers(point[d:], level[1])


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A rule as two providers see it that share what they earn."""

    rule: Mechanism

    def utility_against(self, rivals: tuple, own: tuple[Offers, Offers]) -> Array:
        """[..., P, B] of offers [..., P, B], with everybody's offers [B, N] and members [P, 1]."""
        _, users, first, second = rivals
        earned = self.rule(_placed(rivals, own), users).provider_utility
        return _picked(earned, first) + _picked(earned, second)

    def leads(self, rivals: tuple, own: tuple[Offers, Offers]) -> Array:
        """[E, ..., P, B] what each member leads, the other in place, or asking too much to win.

        A rule that is its own smooth stand-in has no edge that two could share.
        """
        _, users, first, second = rivals
        if self.rule.smoothed(jnp.ones(())) is self.rule:
            shape = jnp.broadcast_shapes(own[0].price.shape, own[1].price.shape)
            return jnp.zeros((0, *shape), own[0].price.dtype)
        alone, found = Alone(self.rule), []
        # as much as no quality is worth, and not so much that differences are lost in it
        away = [x.replace(price=2 * x.price + 8 * jnp.abs(x.quality)) for x in own]
        for members, whose in (
            (own, (first, second)),
            ((own[0], away[1]), (first,)),
            ((away[0], own[1]), (second,)),
        ):
            offers = _placed(rivals, members)
            leads = alone.leads(alone.rivals(offers, users), offers)
            found += [_picked(leads, who) for who in whose]
        return jnp.concatenate(found)

    def steering(self, rivals: tuple, own: tuple[Offers, Offers], temperature: Array) -> Array:
        return _Pair(self.rule.smoothed(temperature)).utility_against(rivals, own)


def _placed(rivals: tuple, own: tuple[Offers, Offers]) -> Offers:
    """[..., P, B, N] everybody's offers, with those of the two members in their places."""
    everybody, _, first, second = rivals
    n = everybody.quality.shape[-1]
    shape = jnp.broadcast_shapes(*(x.shape for x in jax.tree.leaves(own)))

    def place(everybody: Array, a: Array, b: Array) -> Array:
        a, b = (jnp.broadcast_to(x, shape)[..., None] for x in (a, b))
        second_in = jnp.where(jnp.arange(n) == second[..., None], b, everybody)
        return jnp.where(jnp.arange(n) == first[..., None], a, second_in)

    return jax.tree.map(place, everybody, *own)


def _picked(values: Array, who: Array) -> Array:
    """[..., P, B] the entries of [..., P, B, N] that belong to a member [P, 1]."""
    return jnp.sum(jnp.where(jnp.arange(values.shape[-1]) == who[..., None], values, 0.0), axis=-1)


@front_door()
def coalitions(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism,
    profile: Any,
    *,
    space: Space,
    key: Any = None,
    restarts: int = RESTARTS,
    steps: int = STEPS,
    optimizer: optax.GradientTransformation | None = None,
) -> Coalitions:
    """Search, for every pair of providers, for the joint deviation with the largest joint gain.

    Both members move in the same space, by gradient ascent as in `mechlab.search`; a
    change of compute comes with truthful bids of both, or with both bids held.

    Args:
        market, users: [..., N, K] and [...]; N ≥ 2.
        rule: any pricing rule.
        profile: [..., N] int; offers are honest at it.
        space: as in `search`; continuous coordinates only.

    Raises:
        InputError: for a space or a number that cannot be used, or a single provider.
    """
    mechanism = rule
    chosen = checked_space(space, market.providers)
    check_axes(chosen, market)
    optimizer = checked_effort(restarts, steps, optimizer)
    options = dict(space=chosen, restarts=restarts, steps=steps, optimizer=optimizer)
    shape, data = flattened(mechanism, market, users, profile)
    try:
        found, checks = _solve(mechanism, *data, key, shape=shape, **options)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise_if_blind(mechanism, error)
        raise
    if concrete(found.gain):
        raise_on_fault(mechanism, chosen, checks)
    return found


def checked_space(space: Space, providers: int) -> tuple:
    """The coordinates; InputError where pairs cannot search them."""
    chosen = coordinates(space)
    if any(isinstance(c, GridLevel) for c in chosen):
        raise InputError("GridLevel: pairs search continuous coordinates; use ContinuousCompute")
    if all(isinstance(c, DISCRETE) for c in chosen):
        raise InputError("Substitution: pairs search continuous coordinates; give one beside it")
    if providers < 2:
        raise InputError("coalitions: the market has one provider; a pair needs two")
    return chosen


@functools.partial(jax.jit, static_argnames=("shape", "space", "restarts", "steps", "optimizer"))
def _solve(
    mechanism: Mechanism,
    market: Market,
    users: Users | UserMixture,
    now: Offers,
    key: Array,
    *,
    shape: tuple[int, ...],
    **options: Any,
) -> tuple[Coalitions, Checks]:
    """`coalitions` of markets [M, N, K], some at a time; results [*shape, P]."""

    def one(data: tuple) -> tuple[Coalitions, Checks]:
        market, users, now = jax.tree.map(lambda x: x[..., None], data)
        found, checks = best_pairs(mechanism, market, users, now, key, **options)
        alone = jax.tree.map(lambda x: x[..., 0], (found.replace(members=None), checks))
        return alone[0].replace(members=found.members), alone[1]

    n = market.providers
    width = n * (n - 1) // 2 * n * options["restarts"]  # everybody's offers for each pair
    found = jax.lax.map(one, (market, users, now), batch_size=max(CHUNK // width, 1))
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)


def best_pairs(
    mechanism: Mechanism,
    market: Market,
    users: Users | UserMixture,
    now: Offers,
    key: Array,
    *,
    space: tuple,
    restarts: int,
    steps: int,
    optimizer: optax.GradientTransformation,
) -> tuple[Coalitions, Checks]:
    """`coalitions` on a chunk with the market axis last: market [N, K, B], offers [N, B]; pure.

    Results are [P, B]; members are [P, 2].
    """
    n, now = market.quality.shape[0], spelt(space, now)
    members = jnp.array(list(itertools.combinations(range(n), 2)))
    first, second = members[:, :1], members[:, 1:]
    curves = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), market)
    outside = users.outside_value
    outside = jnp.min(outside, axis=0) if isinstance(users, UserMixture) else outside

    def strategies(who: Array) -> Strategies:
        own = jax.tree.map(lambda x: x[:, who[:, 0]], curves)
        played = jax.tree.map(lambda x: x[who[:, 0]], now)
        shape = played.quality.shape
        floor = jnp.broadcast_to(outside, shape)
        return lay_out(space, own, played, floor, mechanism, every=curves)

    everybody, crowd = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (now, users))
    rivals = everybody, crowd, first, second
    pair: Any = _Pair(mechanism)  # of two, where climb knows mechanisms and strategies of one
    both: Any = _Together(strategies(first), strategies(second))
    utility = pair.utility_against(rivals, (both.first.now, both.second.now))
    size = jnp.max(jnp.abs(market.quality), axis=(0, 1))
    scale = jnp.broadcast_to(jnp.where(size > 0, size, 1.0), utility.shape)
    found = ascent.climb(
        pair, rivals, both, key, restarts=restarts, steps=steps, optimizer=optimizer, scale=scale
    )
    gain = jnp.maximum(found.utility - utility, 0.0)
    offers = jax.tree.map(
        lambda x, y: jnp.where(gain > 0, x, y), found.offers, (both.first.now, both.second.now)
    )
    result = Coalitions(
        members=members,
        utility=utility,
        gain=gain,
        first=offers[0],
        second=offers[1],
        restart=jnp.where(gain > 0, found.restart, -1),
    )
    return result, Checks(
        finite=found.finite, sloped=found.sloped, flat=~found.varies, broken=found.broken
    )
