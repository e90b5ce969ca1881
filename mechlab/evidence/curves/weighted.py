"""Accuracy of voting weighted by reward, or by confidence, among n of a question's N samples.

The answer whose votes have the largest total weight is given; totals that are equal up to rounding
split evenly; a missing weight adds nothing; an answer is right in the share of its samples that
are. Which answer wins depends on which votes are drawn, so
there is no closed form: where the subsets are few all of them are tried, and elsewhere random ones,
with the standard error that they leave.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.evidence.curves.questions import Questions

_DRAWS, _BUDGET = (64, 4096), 100_000  # random subsets of a question; of all of them together
_LANES, _SUBSETS = 32, 512  # questions and subsets computed side by side
_ROUNDING = 1e-9  # of totals, relative to the sum of all weights' sizes


def weighted_majority(
    questions: Questions,
    sizes: tuple[int, ...],
    *,
    weights: str = "reward",
    draws: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The probability that weighted voting among n samples is correct, by question.

    Args:
        questions: with at least max(sizes) samples each.
        sizes: n ≥ 1.
        weights: "reward" or "confidence".
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
        exact = [math.comb(int(samples), n) <= 8 * draws for n in sizes]
        chosen = [
            _all_subsets(samples, n) if every else _some_subsets(samples, n, draws, rng)
            for n, every in zip(sizes, exact, strict=True)
        ]
        credit = _credits(questions, weights, mine, int(samples), np.concatenate(chosen))
        parts = np.split(credit, np.cumsum([len(x) for x in chosen])[:-1])
        for k, part in enumerate(parts):
            chance[mine, k] = part.mean(axis=0)
            if not exact[k]:
                # subsets are shared by the questions, so the error is that of their joint mean
                spread = part.sum(axis=1).std(ddof=1) / math.sqrt(draws)
                error[k] = math.hypot(error[k], spread)
    return chance, error / max(len(questions.count), 1)


def _all_subsets(samples: int, n: int) -> np.ndarray:
    return _indicator(np.array(list(itertools.combinations(range(samples), n))), samples)


def _some_subsets(samples: int, n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    return _indicator(np.argsort(rng.random((draws, samples)), axis=1)[:, :n], samples)


def _indicator(subsets: np.ndarray, samples: int) -> np.ndarray:
    """[S, samples] 1 where a sample is in the subset."""
    chosen = np.zeros((len(subsets), samples))
    np.put_along_axis(chosen, subsets, 1.0, axis=1)
    return chosen


def _credits(
    questions: Questions, weights: str, rows: np.ndarray, samples: int, chosen: np.ndarray
) -> np.ndarray:
    """[S, len(rows)] credit in each subset [S, samples]."""
    answer, weight = questions.answer[rows, :samples], getattr(questions, weights)[rows, :samples]
    weight = np.where(np.isnan(weight), 0.0, weight)
    label, labels = _labels(answer)
    credit = np.zeros((len(chosen), len(rows)))
    order = np.argsort(labels, kind="stable")
    padded = np.pad(chosen, ((0, -len(chosen) % _SUBSETS), (0, 0)))
    with jax.enable_x64(True):
        for first in range(0, len(rows), _LANES):
            few = np.resize(order[first : first + _LANES], _LANES)  # repeated to fill
            wide = 1 << max(int(labels[few].max()) - 1, 0).bit_length()
            arrays = label[few], weight[few], questions.correct[rows[few], :samples]
            credit[:, few] = np.concatenate(
                [
                    np.asarray(_vote(*arrays, padded[start : start + _SUBSETS], labels=wide))
                    for start in range(0, len(padded), _SUBSETS)
                ]
            )[: len(chosen)]
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
    """[S, Q] credit of questions [Q, N] in subsets [S, N]."""
    mine = jax.nn.one_hot(label, labels, dtype=np.float32)  # of −1: none
    counts = jnp.sum(mine, axis=1), jnp.sum(mine * correct[..., None], axis=1)
    given, right = (x.astype(weight.dtype) for x in counts)
    right = right / jnp.maximum(given, 1.0)
    total = jnp.einsum("sn,qnl->sql", chosen, mine * weight[..., None], precision="highest")
    voted = jnp.einsum("sn,qnl->sql", chosen.astype(np.float32), mine, precision="highest") > 0
    rounding = _ROUNDING * jnp.sum(jnp.abs(weight), axis=-1)[:, None]
    total = jnp.where(voted, total, -jnp.inf)
    wins = (total >= jnp.max(total, axis=-1, keepdims=True) - rounding) & voted
    credit = jnp.sum(jnp.where(wins, right, 0.0), axis=-1)
    return credit / jnp.maximum(jnp.sum(wins, axis=-1), 1)
