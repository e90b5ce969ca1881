"""Batches as columns: how a solver that is written once takes one market or millions.

A solver works on a column of markets, arrays [N, K, B] with the market axis last, so that every
operation runs along markets that lie side by side in memory. `over_columns` takes a batch
[..., N, K] apart, some thousand markets at a time, into columns that each stay in a core's cache,
arrays [P, N, K, B], and puts the results back; `each` runs a solver on one column after the
other; `settled` gathers the few markets that need more work than the others into columns of their
own. Under jit, vmap and grad it is the same code.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.users import UserMixture, Users

_VECTOR = 16  # float32 numbers in a wide register
_LEAST = 48  # markets in a column, below which its loops are no longer vectorised
# entries [N, K, B] of an array whose column stays in a core's cache, or keeps an accelerator busy
_ENTRIES = {"cpu": 2**13}
_MANY = 2**24
_PART = 2**14  # markets that are turned into columns at once

Shape = tuple[int, ...]


def column_size(providers: int, levels: int) -> int:
    """Markets in a column on the default device: whole registers."""
    most = _ENTRIES.get(jax.default_backend(), _MANY)
    return max(most // (providers * levels) // _VECTOR * _VECTOR, _LEAST)


def batch_shape(market: Market, users: Users | UserMixture, *profiles: Any) -> Shape:
    """The batch axes that market, users and profiles broadcast to; InputError where they differ."""
    axes = _own(users)
    try:
        return jnp.broadcast_shapes(
            *(x.shape[:-2] for x in jax.tree.leaves(market)),
            *(x.shape[: x.ndim - axes] for x in jax.tree.leaves(users)),
            *(profile.shape[:-1] for profile in profiles),
        )
    except ValueError:
        said = [f"market {market.batch_shape}", f"users {jax.tree.leaves(users)[0].shape}"]
        said += [f"profile {profile.shape[:-1]}" for profile in profiles]
        raise InputError(
            f"{', '.join(said)}: the batch axes do not fit each other; give the same number of "
            "markets in each, or 1"
        ) from None


def _own(users: Users | UserMixture) -> int:
    """Axes that users have beside those of the batch: that of types."""
    return 1 if isinstance(users, UserMixture) else 0


def flat_batch(
    market: Market, users: Users | UserMixture, *profiles: Array
) -> tuple[Shape, tuple[Any, ...]]:
    """The batch shape, and all of them with their batch axes broadcast and in one, [M, ...]."""
    shape = batch_shape(market, users, *profiles)
    axes = (2, _own(users), *(1 for _ in profiles))

    def flat(x: Array, own: int) -> Array:
        kept = x.shape[x.ndim - own :]
        return jnp.broadcast_to(x, shape + kept).reshape(-1, *kept)

    return shape, tuple(
        jax.tree.map(functools.partial(flat, own=own), tree)
        for tree, own in zip((market, users, *profiles), axes, strict=True)
    )


def over_columns(
    work: Callable[..., Any],
    market: Market,
    users: Users | UserMixture,
    *profiles: Array,
    levels: int | None = None,
) -> Any:
    """work(market, users, *profiles) of a whole batch, in columns.

    Args:
        work: of market [P, N, K, B], users [P, B] (types [P, T, B]) and profiles [P, N, B] to a
            pytree of arrays [P, ..., B]; pure.
        market, users, profiles: [..., N, K], [...] and [..., N]; the batch axes broadcast.
        levels: that the work makes of each provider's K, if other: columns are the narrower.

    Returns:
        What the work returns, with the batch axes first.
    """
    shape, flat = flat_batch(market, users, *profiles)
    most = column_size(market.providers, levels or market.levels)

    def part(data: Any) -> Any:
        total = jax.tree.leaves(data)[0].shape[0]
        size = total if total <= most else _divisor(total, most)
        columns = jax.tree.map(
            lambda x: jnp.moveaxis(_filled(x, size).reshape(-1, size, *x.shape[1:]), 1, -1), data
        )

        def joined(x: Array) -> Array:
            x = jnp.moveaxis(x, -1, 1)
            return x.reshape(-1, *x.shape[2:])[:total]

        return jax.tree.map(joined, work(*columns))

    total = math.prod(shape)
    if total <= _PART:
        found = part(flat)
    else:
        size = _divisor(total, _PART, most)
        parts = jax.tree.map(lambda x: _filled(x, size).reshape(-1, size, *x.shape[1:]), flat)
        found = jax.lax.map(part, parts)
        found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], found)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)


def _filled(x: Array, size: int) -> Array:
    """[M', ...] with the last entry repeated until `size` divides M'."""
    missing = -x.shape[0] % size
    return jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))]) if missing else x


def _divisor(total: int, most: int, unit: int = _VECTOR) -> int:
    """The size between half of `most` and `most` that divides `total`, the best by whole units and
    then the largest; `most` where there is none."""
    sizes = [size for size in range(-(-most // 2), most + 1) if total % size == 0]
    return max(sizes, key=lambda size: (size % unit == 0, size % _VECTOR == 0, size), default=most)


def each(work: Callable[..., Any], *columns: Any) -> Any:
    """work(*column) of every column [P, ..., B], one after the other; results [P, ..., B]."""
    if jax.tree.leaves(columns)[0].shape[0] == 1:
        alone = work(*jax.tree.map(lambda x: x[0], columns))
        return jax.tree.map(lambda x: x[None], alone)
    return jax.lax.map(lambda column: work(*column), columns)


def vmapped(one: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one market, [N, K] → results, as one of a column, [N, K, B] → [..., B]."""
    return jax.vmap(one, in_axes=-1, out_axes=-1)


def settled(todo: Array, found: Any, columns: Any, work: Callable[..., Any]) -> Any:
    """`found` with the markets in question replaced by what more work on them finds.

    They are few: they are gathered into columns of their own, which is not for derivatives.

    Args:
        todo: [P, B] bool.
        found: leaves [P, ..., B].
        columns: leaves [P, ..., B], what the work needs.
        work: of one column and the found values there, to those that replace them.
    """
    batch = todo.shape[1]
    width = batch
    (at,) = jnp.nonzero(todo.ravel(), size=todo.size, fill_value=todo.size)
    at = jnp.concatenate([at, jnp.full(width, todo.size, at.dtype)])
    count = jnp.sum(todo)

    def some(state: tuple[Array, Any]) -> tuple[Array, Any]:
        done, found = state
        here = jax.lax.dynamic_slice_in_dim(at, done, width)
        p, b = here // batch, here % batch

        def take(x: Array) -> Array:
            clipped = jnp.minimum(p, x.shape[0] - 1)
            return jnp.moveaxis(jnp.moveaxis(x, -1, 1)[clipped, b], 0, -1)

        def put(x: Array, new: Array) -> Array:
            index = (p, *(slice(None) for _ in x.shape[1:-1]), b)
            return x.at[index].set(jnp.moveaxis(new, -1, 0), mode="drop")

        after = work(jax.tree.map(take, columns), jax.tree.map(take, found))
        return done + width, jax.tree.map(put, found, after)

    start = (jnp.zeros((), count.dtype), found)
    return jax.lax.while_loop(lambda state: state[0] < count, some, start)[1]


def over_markets(solve: Callable[..., Any]) -> Callable[..., Any]:
    """Let a solver of one market, solve(market, users, *profiles, **shared), take batches.

    The batch axes of market, users and profiles [..., N] broadcast against each other; keyword
    arguments are shared by all markets.
    """

    @functools.wraps(solve)
    def batched(market: Market, users: Users, *profiles: Array, **shared: Any) -> Any:
        one = vmapped(functools.partial(solve, **shared))
        return over_columns(functools.partial(each, one), market, users, *profiles)

    return batched
