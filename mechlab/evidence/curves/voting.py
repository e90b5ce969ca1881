"""Accuracy of plurality voting among n of a question's N samples, exactly.

A subset of n samples is drawn without replacement; the answer with the most votes is given, ties
are split evenly, samples without an answer do not vote, and a question without a vote is wrong.
Votes for the answers are then multivariate hypergeometric, so the probability that a correct
answer wins with m votes is a coefficient of the product of the other answers' polynomials
Σ_{x<m} C(c, x) z^x + y C(c, m) z^m, with a share 1/(1 + t) of the credit where t others tie.
"""

import concurrent.futures
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.evidence.curves.questions import Questions

_LANES = 128  # contests that are computed side by side
_MOST = 900  # samples up to which one scale serves every n in float64


def tally(questions: Questions) -> tuple[np.ndarray, np.ndarray]:
    """[Q, L] votes for each answer, most first, 0 past the last; and the share that is correct.

    Samples that gave one answer and differ in `correct` (a checker that saw more than the answer
    did) make it correct in that share: a winning answer is represented by any of its votes.
    """
    row, column = np.nonzero(questions.answer >= 0)
    answer = questions.answer[row, column].astype(np.int64)
    span = int(answer.max(initial=0)) + 1
    key, index, votes = np.unique(row * span + answer, return_inverse=True, return_counts=True)
    right = np.bincount(index, questions.correct[row, column], len(key))
    row = key // span
    order = np.lexsort((-votes, row))
    row, votes, right = row[order], votes[order], right[order]
    labels = np.bincount(row, minlength=len(questions.count))
    place = np.arange(len(row)) - np.repeat(np.cumsum(labels) - labels, labels)
    shape = len(questions.count), max(int(labels.max(initial=1)), 1)
    all_votes, share = np.zeros(shape, np.int64), np.zeros(shape)
    all_votes[row, place], share[row, place] = votes, right / votes
    return all_votes, share


def majority(questions: Questions, sizes: tuple[int, ...]) -> np.ndarray:
    """[Q, len(sizes)] probability that plurality voting among n samples is correct.

    Args:
        questions: with at least max(sizes) samples each.
        sizes: n ≥ 1.
    """
    votes, share = tally(questions)
    question, label = np.nonzero(share > 0)  # a contest for each answer that is correct
    own = votes[question, label]
    others = votes[question].copy()
    others[np.arange(len(label)), label] = 0
    others = -np.sort(-others, axis=1)
    contests, index = np.unique(
        np.column_stack([own, questions.count[question], others]), axis=0, return_inverse=True
    )
    chance = _contests(contests[:, 0], contests[:, 1], contests[:, 2:], sizes)
    result = np.zeros((len(questions.count), len(sizes)))
    np.add.at(result, question, share[question, label, None] * chance[index.ravel()])
    return result


def _contests(
    own: np.ndarray, total: np.ndarray, others: np.ndarray, sizes: tuple[int, ...]
) -> np.ndarray:
    """[C, len(sizes)] the expected credit of an answer with `own` of `total` votes."""
    if not len(own):
        return np.zeros((0, len(sizes)))
    samples = int(total.max())
    if samples > _MOST and len(sizes) > 1:
        each = [_contests(own, total, others, (n,)) for n in sizes]
        return np.concatenate(each, axis=1)
    largest = max(sizes)
    odds = 0.5 if samples <= _MOST else largest / (samples + 1)
    table = _binomial(samples, largest, odds)
    wide = 1 << max(others.shape[1] - 1, 0).bit_length()  # few shapes to compile
    others = np.pad(others, ((0, 0), (0, wide - others.shape[1])))

    def lanes(rows: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):  # of this thread
            return np.asarray(
                _lanes(own[rows], total[rows], others[rows].T, table, np.array(sizes))
            )

    # contests are sorted by own votes: neighbours need about the same work
    order = np.pad(np.arange(len(own)), (0, -len(own) % _LANES), mode="edge").reshape(-1, _LANES)
    chance = np.zeros((len(own), len(sizes)))
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for rows, found in zip(order, pool.map(lanes, order), strict=True):
            chance[rows] = found.T
    return chance


def _binomial(samples: int, largest: int, odds: float) -> np.ndarray:
    """[samples + 1, largest + 1] C(c, x) odds^x (1 − odds)^(c − x): scaled to stay finite."""
    if odds == 0.5:  # correctly rounded
        rows = [
            [math.ldexp(math.comb(c, x), -c) for x in range(largest + 1)]
            for c in range(samples + 1)
        ]
        return np.array(rows)
    c, x = np.arange(samples + 1)[:, None], np.arange(largest + 1)
    log_factorial = np.array([math.lgamma(i + 1) for i in range(samples + 1)])
    below = np.clip(c - x, 0, None)
    log = log_factorial[c] - log_factorial[np.minimum(x, samples)] - log_factorial[below]
    log = log + x * math.log(odds) + below * math.log1p(-odds)
    return np.where(x <= c, np.exp(log), 0.0)


@jax.jit
def _lanes(
    own: jax.Array, total: jax.Array, others: jax.Array, table: jax.Array, sizes: jax.Array
) -> jax.Array:
    """[sizes, C] for contests of own, total [C] and others [L, C] (descending)."""
    largest = table.shape[1] - 1
    chance = jnp.zeros((sizes.shape[0], own.shape[0]), table.dtype)
    octave = 1
    while octave <= largest:
        last = jnp.minimum(min(2 * octave - 1, largest), jnp.max(own))
        chance = jax.lax.fori_loop(
            octave,
            last + 1,
            lambda m, sum_, octave=octave: (
                sum_ + _wins_with(m, own, total, others, table, sizes, octave)
            ),
            chance,
        )
        octave *= 2
    return chance / table[total][:, sizes].T


def _wins_with(
    m: jax.Array,
    own: jax.Array,
    total: jax.Array,
    others: jax.Array,
    table: jax.Array,
    sizes: jax.Array,
    octave: int,
) -> jax.Array:
    """[sizes, C] expected credit by wins with exactly m ≥ octave votes.

    `ways[t, r]` is the weight of t others tying at m, and r votes for others that could have tied
    and did not. Answers with fewer than m votes in all cannot tie: they are pooled with the samples
    that do not vote.
    """
    largest = table.shape[1] - 1
    ties = largest // octave  # at most, the winner included
    left = largest - octave + 1 if octave > 1 else 1  # values of r; fewer than 1 vote is none
    lanes = own.shape[0]

    def include(rank: jax.Array, ways: jax.Array) -> jax.Array:
        count = others[rank]
        rivals = count >= m
        weight = jnp.where(rivals, table[count].T, (jnp.arange(largest + 1) == 0)[:, None])
        shifted = jnp.concatenate([jnp.zeros((ties, left - 1, lanes), ways.dtype), ways], axis=1)

        def votes(x: jax.Array, sum_: jax.Array) -> jax.Array:
            moved = jax.lax.dynamic_slice_in_dim(shifted, left - 1 - x, left, axis=1)
            return sum_ + weight[x] * moved

        tie = jnp.where(rivals, weight[jnp.minimum(m, largest)], 0.0)
        tied = jnp.concatenate([jnp.zeros((1, left, lanes), ways.dtype), ways[:-1]], axis=0)
        return jax.lax.fori_loop(0, jnp.minimum(m, left), votes, tie * tied)

    ways = jnp.zeros((ties, left, lanes), table.dtype).at[0, 0].set(1.0)
    contenders = jnp.max(jnp.sum(others >= m, axis=0))
    ways = jax.lax.fori_loop(0, contenders, include, ways)
    spread = jnp.zeros((largest + 1 + left, lanes), table.dtype)  # by votes for rivals

    def split(t: jax.Array, sum_: jax.Array) -> jax.Array:
        at = jnp.minimum(t * m, largest + 1)
        old = jax.lax.dynamic_slice_in_dim(sum_, at, left)
        return jax.lax.dynamic_update_slice_in_dim(sum_, old + ways[t] / (t + 1.0), at, 0)

    spread = jax.lax.fori_loop(0, jnp.minimum(ties, largest // m), split, spread)[: largest + 1]
    pooled = total - own - jnp.sum(jnp.where(others >= m, others, 0), axis=0)
    back = jnp.concatenate([table[pooled].T[::-1], jnp.zeros_like(spread)])
    wins = table[own, m]

    def by_size(n: jax.Array) -> jax.Array:
        rest = jax.lax.dynamic_slice_in_dim(back, largest - n + m, largest + 1)
        return jnp.where(m <= n, wins * jnp.sum(spread * rest, axis=0), 0.0)

    return jax.lax.map(by_size, sizes)
