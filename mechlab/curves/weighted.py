"""Accuracy of voting weighted by reward among n of a question's N samples.

The answer whose votes have the largest total reward is given; totals that are equal up to rounding
split evenly; a missing reward adds nothing. Which answer wins depends on which votes are drawn, so
there is no closed form: where the subsets are few all of them are tried, and elsewhere random ones,
with the standard error that they leave.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.curves.questions import Questions

_DRAWS, _BUDGET = (64, 4096), 100_000  # random subsets of a question; of all of them together
_LANES = 64  # questions computed side by side
_ROUNDING = 1e-9  # of totals, relative to the sum of all rewards' sizes


def weighted_majority(
    questions: Questions, sizes: tuple[int, ...], *, draws: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The probability that reward-weighted voting among n samples is correct, by question.

    Args:
        questions: with at least max(sizes) samples each.
        sizes: n ≥ 1.
        draws: random subsets where there are too many to try all (more than eight times as
            many); from 64 to 4,096, the more the fewer questions there are, where not given.
        seed: of those.

    Returns:
        [Q, len(sizes)] probabilities, and [len(sizes)] the standard error of their mean over
        questions that comes from drawing subsets; 0 where all were tried.
    """
    if draws is None:
        draws = int(np.clip(_BUDGET // max(len(questions.count), 1), *_DRAWS))
    chance = np.zeros((len(questions.count), len(sizes)))
    error = np.zeros(len(sizes))
    rng = np.random.default_rng(seed)
    for samples in np.unique(questions.count):
        mine = np.flatnonzero(questions.count == samples)
        for k, n in enumerate(sizes):
            exact = math.comb(int(samples), n) <= 8 * draws
            if exact:
                subsets = np.array(list(itertools.combinations(range(samples), n)))
            else:
                subsets = np.argsort(rng.random((draws, samples)), axis=1)[:, :n]
            chosen = np.zeros((len(subsets), samples))
            np.put_along_axis(chosen, subsets, 1.0, axis=1)
            credit = _credits(questions, mine, int(samples), chosen)
            chance[mine, k] = credit.mean(axis=1)
            if not exact:
                # subsets are shared by the questions, so the error is that of their joint mean
                spread = credit.sum(axis=0).std(ddof=1) / math.sqrt(draws)
                error[k] = math.hypot(error[k], spread)
    return chance, error / max(len(questions.count), 1)


def _credits(
    questions: Questions, rows: np.ndarray, samples: int, chosen: np.ndarray
) -> np.ndarray:
    """[len(rows), S] credit in each subset [S, samples]."""
    answer, weight = questions.answer[rows, :samples], questions.reward[rows, :samples]
    weight = np.where(np.isnan(weight), 0.0, weight)
    label, labels = _labels(answer)
    credit = np.zeros((len(rows), len(chosen)))
    order = np.argsort(labels, kind="stable")
    with jax.enable_x64(True):
        for first in range(0, len(rows), _LANES):
            few = np.resize(order[first : first + _LANES], _LANES)  # repeated to fill
            wide = 1 << max(int(labels[few].max()) - 1, 0).bit_length()
            found = _vote(label[few], weight[few], questions.correct[rows[few], :samples],
                          chosen, labels=wide)  # fmt: skip
            credit[few] = np.asarray(found)
    return credit


def _labels(answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answers of each question as 0, 1, …; −1 stays; and how many there are, at least 1."""
    order = np.argsort(answer, axis=1, kind="stable")
    ranked = np.take_along_axis(answer, order, 1)
    new = np.ones(answer.shape, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    rank = np.cumsum(new & (ranked >= 0), axis=1) - 1
    label = np.empty_like(answer)
    np.put_along_axis(label, order, np.where(ranked >= 0, rank, -1), 1)
    return label, np.maximum(label.max(axis=1) + 1, 1)


@functools.partial(jax.jit, static_argnames="labels")
def _vote(
    label: jax.Array, weight: jax.Array, correct: jax.Array, chosen: jax.Array, *, labels: int
) -> jax.Array:
    """[Q, S] credit of questions [Q, N] in subsets [S, N]."""
    mine = jax.nn.one_hot(label, labels, dtype=weight.dtype)  # of −1: none
    total = jnp.einsum("sn,qnl->qsl", chosen, mine * weight[..., None])
    votes = jnp.einsum("sn,qnl->qsl", chosen, mine)
    right = jnp.einsum("sn,qnl->qsl", chosen, mine * correct[..., None])
    rounding = _ROUNDING * jnp.sum(jnp.abs(weight), axis=-1)[:, None, None]
    total = jnp.where(votes > 0, total, -jnp.inf)
    best = jnp.max(total, axis=-1, keepdims=True)
    wins = (total >= best - rounding) & (votes > 0)
    share = jnp.where(wins, right / jnp.maximum(votes, 1.0), 0.0)
    return jnp.sum(share, axis=-1) / jnp.maximum(jnp.sum(wins, axis=-1), 1)
