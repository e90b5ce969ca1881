"""Who gains by deviating alone, measured on the exact mechanism.

`grid_deviations` tries every compute level. `search` also looks between the levels, at prices and
at reports of quality, by gradient ascent from many starts; `regret` is the largest gain in a
market, and `certify` (mechlab.incentives.certificates) looks for it in a whole population.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mechlab.core.columns import over_markets
from mechlab.core.devices import free_devices, markets_mesh, on_no_mesh, over_devices
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.interpolation import check_axis, fields_of
from mechlab.core.market import Array, Market, Offers, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.incentives import ascent
from mechlab.incentives.strategies import (
    DISCRETE,
    ContinuousCompute,
    GridLevel,
    PriceMultiplier,
    QualityReport,
    Space,
    Substitution,
    TokenReport,
    bounds,
    coordinates,
    lay_out,
    spelt,
)
from mechlab.mechanisms.alone import Alone
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.front_door import front_door

RESTARTS, STEPS = 6, 25
_LANES = 64
CHUNK = 2**14  # restarts that stay in a core's cache


@pytree
class GridDeviations(Pytree):
    """The best move of each provider on the grid of levels, all others fixed.

    Attributes:
        utility: [..., N] now, USD.
        level_utility: [..., N, K] at each level; a level that is not available repeats `utility`.
        gain: [..., N] max(0, best − now), USD.
        best_level: [..., N] the level that attains it; the current one where nothing gains.
        regret: [...] the largest gain, USD.
    """

    _axes = ("provider",)

    utility: Array
    level_utility: Array
    gain: Array
    best_level: Array
    regret: Array


@front_door()
def grid_deviations(
    market: Market, users: Users | UserMixture, rule: Mechanism, profile: Array
) -> GridDeviations:
    """Every provider's utility at each of its levels, with honest offers at the new level.

    Args:
        market, users: [..., N, K] and [...].
        rule: any pricing rule. Under posted prices the bill follows the level; in an auction the
            bid tells the truth about the new level.
        profile: [..., N] int; its batch axes broadcast against those of market and users.

    Raises:
        InputError: for a level that is not available, and for a mechanism that returns NaN or
            infinite payments.
    """
    found = _grid(market, users, rule, profile)
    if concrete(found.level_utility):
        raise_on_infinity(rule, np.all(np.isfinite(found.level_utility)))
    return found


@jax.jit
def _grid(market: Market, users: Users, mechanism: Mechanism, profile: Array) -> GridDeviations:
    @over_markets
    def solve(market: Market, users: Users, profile: Array) -> GridDeviations:
        row = functools.partial(mechanism.levels.utilities, market, users, profile)
        level_utility = jax.vmap(row)(jnp.arange(market.providers))
        utility = take_level(level_utility, profile)
        level_utility = jnp.where(market.available, level_utility, utility[:, None])
        gain = jnp.maximum(level_utility.max(axis=-1) - utility, 0.0)
        best = jnp.where(gain > 0, jnp.argmax(level_utility, axis=-1), profile)
        return GridDeviations(
            utility=utility,
            level_utility=level_utility,
            gain=gain,
            best_level=best,
            regret=gain.max(),
        )

    return solve(market, users, profile)


@pytree
class Deviations(Pytree):
    """The best deviation found for each provider, all others fixed; gains are exact.

    Attributes:
        utility: [..., N] now, USD.
        gain: [..., N] best − now, never below 0, USD. A lower bound on the best deviation's.
        offers: [..., N] what the provider would offer; as now where nothing gains.
        restart: [..., N] int, the restart that ended highest, before the looks along lines and
            edges; −1: a grid level, or an honest bid between levels, is best, or nothing gains.
        grid_gain: [..., N] the gain of the best grid level of the space (with a truthful bid, or
            the bid held): a lower bound on `gain`. 0 where the space has no compute in it.
    """

    _axes = ("provider",)

    utility: Array
    gain: Array
    offers: Offers
    restart: Array
    grid_gain: Array

    @property
    def regret(self) -> Array:
        """[...] the largest gain of a market, USD."""
        return jnp.max(self.gain, axis=-1)


@pytree
class Checks(Pytree):
    """What tells a blind search from one that found nothing.

    Attributes:
        finite: [..., N] bool: no utility was NaN or infinite.
        sloped: [..., N] bool: there was a gradient.
        flat: [..., N] bool: along the continuous coordinates, no point tried changed the utility.
        broken: [..., N] int, the first continuous coordinate in which some slope was NaN; −1: none.
    """

    finite: Array
    sloped: Array
    flat: Array
    broken: Array


@front_door()
def search(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism,
    profile: Any,
    *,
    space: Space,
    key: Any = None,
    offers: Offers | None = None,
    restarts: int = RESTARTS,
    steps: int = STEPS,
    optimizer: optax.GradientTransformation | None = None,
) -> Deviations:
    """Search a strategy space for each provider's most profitable deviation.

    Multi-start projected gradient ascent on the mechanism's smooth `steering`; gains are those of
    the exact mechanism at the best point met on the way, the grid's levels included. Memory is
    bounded: markets are taken in chunks, on every local device.

    Args:
        market, users: [..., N, K] and [...].
        rule: any pricing rule.
        profile: [..., N] int, the levels played; offers are honest at them.
        space: a coordinate such as `mechlab.PriceBid`, or several.
        key: of the restarts; that of seed 0 where not given.
        offers: [..., N] what is played, where it is not honest; at the profile's levels.
        restarts: of each alternative (grid level, bid held or not); the first four start from
            what is played now, the best along one coordinate, the best honest offer at another
            level, and the best found on an edge where the rule jumps.
        steps: of each restart.
        optimizer: any of optax; Adam with a cosine schedule where not given.

    Raises:
        InputError: for a space, number or optimiser that cannot be used, a mechanism that returns
            NaN, and one without a gradient.
    """
    mechanism = rule
    chosen = coordinates(space)
    optimizer = checked_effort(restarts, steps, optimizer)
    check_axes(chosen, market)
    shape, data = flattened(mechanism, market, users, profile, offers)
    options = dict(space=chosen, restarts=restarts, steps=steps, optimizer=optimizer)
    if concrete(*jax.tree.leaves((data, mechanism, key))):
        try:
            found, checks = _spread(mechanism, *data, key, shape=shape, **options)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise_if_blind(mechanism, error)
            raise
        raise_on_fault(mechanism, chosen, checks)
    else:
        found, _ = _in_chunks(mechanism, *data, key, shape=shape, **options)
    return found


def flattened(
    rule: Mechanism,
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    offers: Offers | None = None,
) -> tuple[tuple[int, ...], tuple[Market, Users | UserMixture, Offers]]:
    """The batch shape of market, users and offers, honest ones where none are given; and all three
    with one batch axis.

    Raises:
        InputError: where their providers differ.
    """
    if offers is not None and offers.quality.shape[-1] != market.providers:
        raise InputError(
            f"offers: {offers.quality.shape[-1]} providers where the market has {market.providers}"
        )
    axes = 1 if isinstance(users, UserMixture) else 0
    shape = jnp.broadcast_shapes(
        market.batch_shape,
        (profile if offers is None else offers.quality).shape[:-1],
        *(x.shape[: x.ndim - axes] for x in jax.tree.leaves(users)),
    )
    return shape, _flat(rule, market, users, profile, offers, shape=shape)


@functools.partial(jax.jit, static_argnames="shape")
def _flat(
    rule: Mechanism,
    market: Market,
    users: Users | UserMixture,
    profile: Array,
    offers: Offers | None,
    *,
    shape: tuple[int, ...],
) -> tuple[Market, Users | UserMixture, Offers]:
    played = rule.offers(market, profile) if offers is None else offers
    axes = 1 if isinstance(users, UserMixture) else 0

    def flat(tree: Any, axes: int) -> Any:
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, shape + x.shape[x.ndim - axes :]).reshape(
                -1, *x.shape[x.ndim - axes :]
            ),
            tree,
        )

    return flat(market, 2), flat(users, axes), flat(played, 1)


def regret(*arguments: Any, **options: Any) -> Array:
    """[...] USD, the largest gain of any provider; arguments as in `search`."""
    return search(*arguments, **options).regret


def checked_effort(
    restarts: int, steps: int, optimizer: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    """The optimiser to use; InputError where the search would not be one."""
    for name, number in (("restarts", restarts), ("steps", steps)):
        checked_whole(name, number, 1, 10**6)
    if optimizer is None:
        return ascent.default_optimizer(steps)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InputError(f"optimizer: {optimizer!r} is not one of optax; give optax.adam(0.1)")
    point = (jnp.zeros(()),)
    try:
        jax.eval_shape(lambda: optimizer.update(point, optimizer.init(point), point))
    except TypeError as error:
        if "missing" not in str(error):
            return optimizer  # made for points of another shape, as `optimize` has
        raise InputError(
            f"optimizer: it needs more than gradients ({error}); give one that does not, such as "
            "optax.adam(0.1)"
        ) from None
    return optimizer


def check_axes(space: tuple, market: Market) -> None:
    """InputError where continuous compute has no axis to interpolate along, and where what is
    to be served is not there."""
    for coordinate in space:
        if isinstance(coordinate, ContinuousCompute):
            check_axis(market, coordinate.axis, "ContinuousCompute")
        if isinstance(coordinate, Substitution):
            for name, value, count, what in (
                ("to", coordinate.to, market.providers, "providers"),
                ("level", coordinate.level, market.levels, "levels"),
            ):
                if value is not None and value >= count:
                    raise InputError(
                        f"Substitution: {name} = {value}, where the market has {count} {what}, "
                        f"from 0; give one of them"
                    )


def raise_on_fault(mechanism: Mechanism, space: tuple, checks: Checks) -> None:
    """InputError where a utility was NaN, or where utilities differ and no gradient shows it."""
    checks = jax.tree.map(np.asarray, checks)
    raise_on_infinity(mechanism, np.all(checks.finite))
    names = [type(c).__name__ for c in space if not isinstance(c, DISCRETE)]
    broken = int(np.max(checks.broken))
    if broken >= 0:
        raise InputError(
            f"{type(mechanism).__name__}: its slope in {names[broken % len(names)]} is NaN, and a "
            "search would be blind; write the rule so that no slope is 0·inf or inf − inf, or use "
            "grid_deviations"
        )
    if not (np.any(checks.sloped) or np.all(checks.flat)):
        every = ", ".join(type(c).__name__ for c in space)
        raise InputError(_blind(mechanism, f"utilities differ, their slopes in {every} are all 0"))


def raise_on_infinity(mechanism: Mechanism, finite: Any) -> None:
    """InputError where not all utilities were finite."""
    if not bool(finite):
        raise InputError(
            f"{type(mechanism).__name__}: a utility is NaN or infinite; its allocate has to return "
            "finite shares and payments for every offer of the space"
        )


def raise_if_blind(mechanism: Mechanism, error: Exception) -> None:
    """InputError where an error of JAX says that a rule cannot be differentiated."""
    text = str(error)
    if not isinstance(error, InputError) and ("differentia" in text.lower() or "JVP" in text):
        raise InputError(_blind(mechanism, text.splitlines()[0])) from None


def _blind(mechanism: Mechanism, why: str) -> str:
    name = type(mechanism).__name__
    return (
        f"{name}: has no gradient to search by ({why}); override its `smoothed`, "
        "or use grid_deviations"
    )


def best_deviations(
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
) -> tuple[Deviations, Checks]:
    """`search` on a chunk with the market axis last: market [N, K, B], offers [N, B]; pure.

    Users are [B], or types [T, B]. Results are [N, B].
    """

    def first(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)

    rule, now = Alone(mechanism), spelt(space, now)
    curves = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), market)
    rivals = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), rule.rivals(first(now), first(users)))
    outside = users.outside_value
    outside = jnp.min(outside, axis=0) if isinstance(users, UserMixture) else outside
    outside = jnp.broadcast_to(outside, now.quality.shape)
    there = True if curves.available is None else curves.available
    size = jnp.max(jnp.where(there, jnp.abs(curves.quality), 0.0), axis=(0, 1))
    scale = jnp.broadcast_to(jnp.where(size > 0, size, 1.0), now.quality.shape)

    utility = rule.utility_against(rivals, now)
    best, offers, restart = utility, now, jnp.full(utility.shape, -1)
    finite, flat = jnp.isfinite(utility), jnp.ones(utility.shape, bool)
    sloped, broken = jnp.ones(utility.shape, bool), jnp.full(utility.shape, -1)
    discrete: tuple = tuple(c for c in space if isinstance(c, Substitution))
    if any(isinstance(c, GridLevel | ContinuousCompute) for c in space):
        discrete = (GridLevel(), *discrete)
    if discrete:
        levels = lay_out(discrete, curves, now, outside, mechanism)
        tried = levels.offers(())
        earned = rule.utility_against(rivals, tried)
        within = levels.possible & _within(space, tried, levels.level(()), curves, outside)
        finite &= jnp.all(jnp.where(within, jnp.isfinite(earned), True), axis=(0, 1))
        on_grid, at_level = ascent.choose(jnp.where(within, earned, -jnp.inf), tried)
        offers = _where(on_grid > utility, at_level, now)
        best = jnp.maximum(on_grid, utility)
    grid_gain = best - utility
    strategies = lay_out(space, curves, now, outside, mechanism)
    if strategies.kinds:
        options: dict[str, Any] = dict(
            restarts=restarts, steps=steps, optimizer=optimizer, scale=scale
        )
        compute = next((c for c in space if isinstance(c, ContinuousCompute)), None)
        also = None if compute is None else at_level
        if compute is not None and len(strategies.kinds) > 1 and mechanism.asking == "cost":
            # a bid that tells the truth of a new level moves every coordinate of the space at once
            alone = lay_out(compute, curves, now, outside, mechanism)
            found = ascent.climb(rule, rivals, alone, key, also=also, **options)
            fields = {name: getattr(found.offers, name) for name in fields_of(found.offers)}
            inside = _within(space, found.offers, fields, curves, outside)
            better = (found.utility > best) & inside
            also = offers = _where(better, found.offers, offers)
            best = jnp.where(better, found.utility, best)
            finite &= found.finite
        found = ascent.climb(rule, rivals, strategies, key, also=also, **options)
        better = found.utility > best
        offers = _where(better, found.offers, offers)
        best = jnp.where(better, found.utility, best)
        restart = jnp.where(better, found.restart, restart)
        finite, sloped, flat = finite & found.finite, found.sloped, ~found.varies
        broken = found.broken
    gain = jnp.maximum(best - utility, 0.0)
    result = Deviations(
        utility=utility,
        gain=gain,
        offers=_where(gain > 0, offers, now),
        restart=jnp.where(gain > 0, restart, -1),
        grid_gain=grid_gain,
    )
    return result, Checks(finite=finite, sloped=sloped, flat=flat, broken=broken)


def _within(
    space: tuple, offers: Offers, announced: dict[str, Array], curves: Market, outside: Array
) -> Array | bool:
    """Whether offers [..., *S] of levels that are announced are points of a space."""
    within: Array | bool = True
    z: Any
    scale: Any
    low: Any
    high: Any
    for coordinate in space:
        if isinstance(coordinate, (*DISCRETE, TokenReport)):
            continue
        if isinstance(coordinate, ContinuousCompute):
            z, scale = announced[coordinate.axis], 1.0
            low, high = coordinate.low or 0.0, coordinate.high
            high = jnp.inf if high is None else high
        elif isinstance(coordinate, QualityReport):
            z, scale = offers.reported_quality, announced["quality"]
            low, high = coordinate.low, coordinate.high
        elif isinstance(coordinate, PriceMultiplier):
            z, scale, low, high = 1.0, 1.0, coordinate.low, coordinate.high
        else:
            report = next((c for c in space if isinstance(c, QualityReport)), None)
            low, high = bounds(coordinate, curves, outside, report)
            z, scale = offers.price, 1.0
        slack = 1e-6 * jnp.abs(z)
        within &= (z >= jnp.minimum(low * scale, high * scale) - slack) & (
            z <= jnp.maximum(low * scale, high * scale) + slack
        )
    return within


def _where(condition: Array, a: Offers, b: Offers) -> Offers:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _in_chunks(
    mechanism: Mechanism,
    market: Market,
    users: Users | UserMixture,
    now: Offers,
    key: Array,
    *,
    shape: tuple[int, ...],
    parts: int = 1,
    **options: Any,
) -> tuple[Deviations, Checks]:
    """`best_deviations` of markets [M, N, K], some at a time; results [*shape, N].

    Chunks are a multiple of `parts` in number.
    """
    total, n, _ = market.quality.shape
    chunk = max(CHUNK // (n * options["restarts"]) // _LANES * _LANES, _LANES)
    chunk = min(chunk, -(-total // parts))
    chunks = -(-total // (chunk * parts)) * parts
    index = jnp.minimum(jnp.arange(chunks * chunk), total - 1).reshape(chunks, chunk)

    def one(data: tuple) -> tuple[Deviations, Checks]:
        market, users, now = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), data)
        found = best_deviations(mechanism, market, users, now, key, **options)
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), found)

    data = jax.tree.map(lambda x: x[index], (market, users, now))
    if parts == 1:
        found = jax.lax.map(one, data)
    else:
        mesh = markets_mesh(jax.local_devices()[:parts])
        found = over_devices(lambda data: jax.lax.map(one, data), mesh, data)
    return jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:])[:total].reshape(*shape, *x.shape[2:]), found
    )


@functools.partial(
    jax.jit, static_argnames=("shape", "space", "restarts", "steps", "optimizer", "parts")
)
def _compiled(*arguments: Any, **options: Any) -> tuple[Deviations, Checks]:
    return _in_chunks(*arguments, **options)


def _spread(
    mechanism: Mechanism,
    market: Market,
    users: Users | UserMixture,
    now: Offers,
    key: Array,
    **options: Any,
) -> tuple[Deviations, Checks]:
    """On every local device, where there is a market for each."""
    parts = min(len(free_devices()), market.quality.shape[0])
    found = _compiled(mechanism, market, users, now, key, parts=parts, **options)
    return on_no_mesh(found) if parts > 1 else found
