"""Drawing the next token by inverse CDF, without sorting the vocabulary.

A uniform number picks a block of the vocabulary by the blocks' cumulated mass, then a token inside
it: one exponential a token, two short cumulative sums a row. A nucleus (top-p) is sampled by
rejection: whether a drawn token lies in it is one masked sum, and a token that does not bounds
where the nucleus can be, so the next draw is from what is more probable than it. A draw that is
accepted has exactly the distribution of the truncated softmax.
"""

import jax
import jax.numpy as jnp

BLOCK = 128
_BELOW_ONE = 1.0 - 2.0**-23


def uniforms(seed: jax.Array, streams: jax.Array, positions: jax.Array, draw=0) -> jax.Array:
    """A uniform number in [0, 1) for each row that depends on nothing but its own names.

    Args:
        seed: integer scalar.
        streams: integers [S, 2], the question and the sample.
        positions: integers [S], which token of the sample.
        draw: which number of that token (a nucleus may need several).
    """

    def one(stream, position):
        key = jax.random.key(seed)
        for name in (stream[0], stream[1], position, draw):
            key = jax.random.fold_in(key, name)
        return jax.random.uniform(key, dtype=jnp.float32)  # the same numbers under x64

    return jax.vmap(one)(streams, positions)


def greedy(logits: jax.Array) -> jax.Array:
    """The most probable token of each row, the first of equals. [S, V] -> int32 [S]."""
    # XLA's argmax on a CPU takes three times as long as these two passes
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    best = logits.max(-1, keepdims=True)
    return jnp.where(logits == best, ids, logits.shape[-1] - 1).min(-1)


def inverse_cdf(mass: jax.Array, uniform: jax.Array) -> jax.Array:
    """The token at which the cumulated mass passes `uniform` of the total.

    Args:
        mass: non-negative, not normalised, [S, V]; a token without mass is never drawn.
        uniform: [S], in [0, 1).

    Returns:
        int32 [S].
    """
    rows, size = mass.shape
    blocks = jnp.pad(mass, ((0, 0), (0, -size % BLOCK))).reshape(rows, -1, BLOCK)
    cumulated = jnp.cumsum(blocks.sum(-1), -1)
    target = uniform * cumulated[:, -1]
    block = (cumulated <= target[:, None]).sum(-1)
    before = jnp.where(block > 0, _at(cumulated, block - 1), 0.0)
    inside = jnp.cumsum(_at(blocks, block), -1)
    rest = jnp.minimum(target - before, inside[:, -1] * _BELOW_ONE)
    return (block * BLOCK + (inside <= rest[:, None]).sum(-1)).astype(jnp.int32)


def _at(array, index):
    return jax.vmap(lambda row, i: row[i])(array, index)


def draw(
    logits: jax.Array,
    uniform,
    *,
    temperature: jax.Array,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """Samples a token a row.

    Args:
        logits: float32 [S, V].
        uniform: function of a draw's number (0, 1, ...) to [S] numbers in [0, 1).
        temperature: scalar > 0 (see `greedy` for the limit at 0).
        top_k: only the k most probable tokens; of equals at the edge, those of smaller id.
        top_p: only the fewest most probable tokens whose mass reaches this, after top_k; equals at
            the edge all count.

    Returns:
        int32 [S].
    """
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        best, ids = jax.lax.top_k(logits, top_k)
        return _at(ids, draw(best, uniform, temperature=1.0, top_p=top_p))
    mass = jnp.exp(logits - logits.max(-1, keepdims=True))
    if top_p is None or top_p >= 1.0:
        return inverse_cdf(mass, uniform(0))

    allowed = top_p * mass.sum(-1)

    def redraw(state):
        number, floor, token, inside = state
        # Tokens no more probable than a refused one are outside the nucleus as well
        drawn = inverse_cdf(jnp.where(mass > floor[:, None], mass, 0.0), uniform(number))
        here = _at(mass, drawn)
        above = jnp.where(mass > here[:, None], mass, 0.0).sum(-1)
        token = jnp.where(inside, token, drawn)
        inside, floor = inside | (above < allowed), jnp.where(inside, floor, here)
        return number + 1, floor, token, inside

    rows = logits.shape[0]
    start = (0, jnp.full(rows, -1.0), jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))
    # Refusals halve what is left, so a row needs a few; the bound ends a row of NaN
    return jax.lax.while_loop(lambda state: ~state[-1].all() & (state[0] < 256), redraw, start)[2]
