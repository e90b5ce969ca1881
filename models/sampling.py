"""Drawing the next token: no sorted vocabulary, and no random number for each of its tokens.

A block of the vocabulary is drawn by its mass, then a token inside the block by its own, each as
the highest of logarithm plus Gumbel noise: one exponential a token, and noise for the blocks and
one block instead of the whole vocabulary. One uniform number through the inverse CDF costs the
same, but rounding of the logits moves all cumulated masses behind it, and with them what is drawn;
the highest of noisy masses changes only where two are that close (`benchmarks/README.md`).

A nucleus (top-p) is sampled by rejection: whether a drawn token lies in it is one masked sum, and a
token that does not bounds where the nucleus can be, so the next draw is from what is more probable
than it. A draw that is accepted has exactly the distribution of the truncated softmax.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

BLOCK = 128
Noise = Callable[[jax.Array | int, int], jax.Array]
"""From the number of a draw and a size to Gumbel noise [S, size], other noise for each number."""


def gumbels(seed: jax.Array, streams: jax.Array, positions: jax.Array) -> Noise:
    """Noise for each row that depends on nothing but its own names.

    Args:
        seed: integer scalar.
        streams: integers [S, 2], the question and the sample.
        positions: integers [S], which token of the sample.
    """

    def noise(number, size):
        def one(stream, position):
            key = jax.random.key(seed)
            for name in (stream[0], stream[1], position, number):
                key = jax.random.fold_in(key, name)
            return jax.random.gumbel(key, (size,), jnp.float32)  # the same numbers under x64

        return jax.vmap(one)(streams, positions)

    return noise


def greedy(logits: jax.Array) -> jax.Array:
    """The most probable token of each row, the first of equals. [S, V] -> int32 [S]."""
    # XLA's argmax on a CPU takes three times as long as these two passes
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    best = logits.max(-1, keepdims=True)
    return jnp.where(logits == best, ids, logits.shape[-1] - 1).min(-1)


def logprob(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Logarithm of the probability of a token a row, float32 [S]; logits [S, V], tokens [S]."""
    return _at(logits, tokens) - jax.nn.logsumexp(logits, axis=-1)


def choose(mass: jax.Array, noise: Noise, number=0) -> jax.Array:
    """A token in proportion to its mass.

    Args:
        mass: non-negative, not normalised, [S, V]; a token without mass is never drawn.
        noise: see `Noise`.
        number: of the draw.

    Returns:
        int32 [S].
    """
    rows, size = mass.shape
    blocks = jnp.pad(mass, ((0, 0), (0, -size % BLOCK))).reshape(rows, -1, BLOCK)
    totals = jnp.log(blocks.sum(-1))
    block = greedy(totals + noise(2 * number, totals.shape[1]))
    inside = jnp.log(_at(blocks, block))
    token = block * BLOCK + greedy(inside + noise(2 * number + 1, BLOCK))
    return jnp.minimum(token, size - 1)


def _at(array, index):
    return jax.vmap(lambda row, i: row[i])(array, index)


def draw(
    logits: jax.Array,
    noise: Noise,
    *,
    temperature: jax.Array,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """Samples a token a row.

    Args:
        logits: float32 [S, V].
        noise: see `gumbels`.
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
        return _at(ids, draw(best, noise, temperature=jnp.float32(1.0), top_p=top_p))
    mass = jnp.exp(logits - logits.max(-1, keepdims=True))
    if top_p is None or top_p >= 1.0:
        return choose(mass, noise)

    allowed = top_p * mass.sum(-1)

    def redraw(state):
        number, floor, token, inside = state
        # Tokens no more probable than a refused one are outside the nucleus as well
        drawn = choose(jnp.where(mass > floor[:, None], mass, 0.0), noise, number)
        here = _at(mass, drawn)
        above = jnp.where(mass > here[:, None], mass, 0.0).sum(-1)
        token = jnp.where(inside, token, drawn)
        inside, floor = inside | (above < allowed), jnp.where(inside, floor, here)
        return number + 1, floor, token, inside

    rows = logits.shape[0]
    start = (0, jnp.full(rows, -1.0), jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))
    # Refusals halve what is left, so a row needs a few; the bound ends a row of NaN
    return jax.lax.while_loop(lambda state: ~state[-1].all() & (state[0] < 256), redraw, start)[2]
