"""Batches as columns: how a solver that is written once takes one market or millions.

A solver works on a column of markets, arrays [N, K, B] with the market axis last, so that every
operation runs along markets that lie side by side in memory. A batch is a number of columns that
each stay in a core's cache, arrays [P, N, K, B]: `in_columns` makes them of arrays [..., N, K],
`each` runs a solver on one column after the other, `settled` gathers the few markets that need
more work than the others into columns of their own, and `as_batch` puts the result back in shape.
Under jit, vmap and grad it is the same code.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, UserMixture, Users

_VECTOR = 16  # float32 numbers in a wide register
_LEAST = 48  # markets in a column, below which its loops are no longer vectorised
# entries [N, K, B] of an array whose column stays in a core's cache, or keeps an accelerator busy
_ENTRIES = {"cpu": 2**13}
_MANY = 2**24

Shape = tuple[int, ...]


def column_size(providers: int, levels: int) -> int:
    """Markets in a column on the default device: whole registers."""
    most = _ENTRIES.get(jax.default_backend(), _MANY)
    return max(most // (providers * levels) // _VECTOR * _VECTOR, _LEAST)


def batch_shape(market: Market, users: Users | UserMixture, *profiles: Array) -> Shape:
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


def flat_batch(market: Market, users: Users | UserMixture, *profiles: Array) -> tuple[Shape, tuple]:
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


def in_columns(
    market: Market, users: Users | UserMixture, *profiles: Array
) -> tuple[Shape, tuple[Any, ...]]:
    """The batch shape, and market [P, N, K, B], users [P, B] (types [P, T, B]), profiles [P, N, B].

    The batch axes broadcast. Where no good number of markets a column divides them all, the last
    column is filled up with the last market.
    """
    shape, flat = flat_batch(market, users, *profiles)
    most = column_size(market.providers, market.levels)

    def cut(x: Array) -> Array:
        total = x.shape[0]
        size = total if total <= most else _piece(total, most)
        missing = -total % size
        if missing:
            x = jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))])
        return jnp.moveaxis(x.reshape(-1, size, *x.shape[1:]), 1, -1)

    return shape, jax.tree.map(cut, flat)


def _piece(total: int, most: int) -> int:
    """The largest size up to `most` that divides `total`, whole registers if any; else `most`."""
    sizes = [size for size in range(-(-most // 2), most + 1) if total % size == 0]
    return max(sizes, key=lambda size: (size % _VECTOR == 0, size), default=most)


def as_batch(shape: Shape, found: Any) -> Any:
    """Results of columns, [P, ..., B], with the batch axes first."""
    total = 1
    for size in shape:
        total *= size

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, -1, 1)
        return x.reshape(-1, *x.shape[2:])[:total].reshape(*shape, *x.shape[2:])

    return jax.tree.map(join, found)


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
        shape, columns = in_columns(market, users, *profiles)
        return as_batch(shape, each(vmapped(functools.partial(solve, **shared)), *columns))

    return batched
