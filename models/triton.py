"""A row's attention to its own cache as one kernel for NVIDIA GPUs, in Pallas (Triton).

Array code writes the scores of a step to memory and reads them back; the kernel keeps them on the
chip, as FlashAttention does (Dao et al., 2022), and gives what is needed to join them with those of
the prefix. It was compiled for an H100 and compared with the array code in Pallas' interpreter; it
has not run on a device yet, and is off unless `models.load(attention="triton")` asks for it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton
from jax.sharding import Mesh, PartitionSpec

from mechlab.core.errors import InputError

TILE = 16
"""Fewest rows of a product on tensor cores; queries of a key-value head are padded to them."""
BLOCK = 128
"""Slots read at a time."""


def attend_own(q, keys, values, lengths, slot, *, window=None, interpret=False):
    """Attention to the cache alone, not divided by its total.

    Args:
        q: [S, K, R, E], scaled.
        keys, values: [S, K, E, C] and [S, K, C, E], a ring of slots that holds the new token.
        lengths: int32 [S], how many tokens a row has in the cache besides the new one.
        slot: int32 scalar, where the new token is.
        window: to so many tokens, the new one included.
        interpret: by Pallas' interpreter, on any device.

    Returns:
        float32 sums [S, K, R, E] of values by exp(score − highest), the highest scores
        [S, K, R, 1] and the totals [S, K, R, 1] of exp(score − highest).

    Raises:
        InputError: for a size of heads that Triton has no tiles for.
    """
    rows, heads, queries, size = q.shape
    if not interpret and (size < TILE or size & (size - 1)):
        raise InputError(
            f"attention: 'triton' is for heads of a power of two from {TILE} on, and this model's"
            f" have {size}; leave it out"
        )
    slots = keys.shape[-1]
    padded = -(-queries // TILE) * TILE
    q = jnp.pad(q, ((0, 0), (0, 0), (0, padded - queries), (0, 0)))

    def of_row(*shape):
        return pl.BlockSpec((None, None, *shape), lambda row, head: (row, head, 0, 0))

    shapes = (padded, size), (padded, 1), (padded, 1)
    found = pl.pallas_call(
        functools.partial(_kernel, window=window),
        grid=(rows, heads),
        in_specs=[
            of_row(padded, size),
            of_row(size, slots),
            of_row(slots, size),
            pl.BlockSpec((None,), lambda row, head: (row,)),
            pl.BlockSpec((), lambda row, head: ()),
        ],
        out_specs=[of_row(*shape) for shape in shapes],
        out_shape=[jax.ShapeDtypeStruct((rows, heads, *shape), jnp.float32) for shape in shapes],
        compiler_params=pallas_triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attend_own",
    )(q, keys, values, lengths.astype(jnp.int32), jnp.asarray(slot, jnp.int32))
    return tuple(array[:, :, :queries] for array in found)


def _kernel(q, keys, values, length, slot, out, highest, total, *, window):
    """One row and key-value head: blocks of slots one after the other, with a running maximum."""
    slots = keys.shape[1]
    block = min(BLOCK, slots)
    # in float32 a GPU would round factors to TF32 otherwise
    dot = functools.partial(pallas_triton.dot, allow_tf32=False if q.dtype == jnp.float32 else None)
    queries, written, last = q[...], length[...], slot[...]

    def attend(i, carry):
        out, highest, total = carry
        here = pl.ds(i * block, block)
        scores = dot(queries, keys[:, here])
        age = last - (i * block + jnp.arange(block))
        age = jnp.where(age < 0, age + slots, age)
        seen = age <= written if window is None else (age <= written) & (age < window)
        scores = jnp.where(seen[None], scores, -jnp.inf)
        above = jnp.maximum(highest, scores.max(1, keepdims=True))
        # of a block that is not looked at nothing is above −inf yet
        base = jnp.where(above == -jnp.inf, 0.0, above)
        weights, fade = jnp.exp(scores - base), jnp.exp(highest - base)
        sums = dot(weights.astype(values.dtype), values[here])
        return out * fade + sums, above, total * fade + weights.sum(1, keepdims=True)

    none = jnp.full((queries.shape[0], 1), -jnp.inf, jnp.float32)
    start = jnp.zeros(queries.shape, jnp.float32), none, jnp.zeros_like(none)
    out[...], highest[...], total[...] = jax.lax.fori_loop(0, slots // block, attend, start)


def over(mesh: Mesh | None, place: PartitionSpec, *, interpret: bool = False):
    """`attend_own` on every device of a mesh: rows and heads lie as `place` says."""
    attend = functools.partial(attend_own, interpret=interpret)
    if mesh is None:
        return attend

    def everywhere(q, keys, values, lengths, slot, *, window=None):
        whole, by_row = PartitionSpec(), PartitionSpec(place[0])
        return jax.shard_map(
            functools.partial(attend, window=window),
            mesh=mesh,
            in_specs=(place, place, place, by_row, whole),
            out_specs=place,
            check_vma=False,
        )(q, keys, values, lengths, slot)

    return everywhere
