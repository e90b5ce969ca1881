"""Accuracy of choosing among n of a question's N samples by a score, and of any being correct.

Each expectation over the subsets of n samples is a closed form: order statistics of a sample drawn
without replacement.
"""

from collections.abc import Iterator

import numpy as np

from mechlab.evidence.curves.questions import Questions


def within(fewer: np.ndarray, samples: np.ndarray, sizes: tuple[int, ...]) -> Iterator[np.ndarray]:
    """C(fewer, n)/C(samples, n) for each n of ascending sizes: that n samples are among `fewer`."""
    ratio, drawn = np.ones(np.broadcast_shapes(np.shape(fewer), np.shape(samples))), 0
    for n in sizes:
        for j in range(drawn, n):
            ratio = ratio * np.maximum(fewer - j, 0) / np.maximum(samples - j, 1)
        drawn = n
        yield ratio


def single_sample(questions: Questions) -> np.ndarray:
    """[Q] the mean of `correct`."""
    return np.where(questions.there, questions.correct, False).sum(axis=1) / questions.count


def pass_at(questions: Questions, sizes: tuple[int, ...]) -> np.ndarray:
    """[Q, len(sizes)] the chance that any of n samples is correct (Chen et al. 2021)."""
    wrong = questions.count - np.sum(questions.correct & questions.there, axis=1)
    return 1.0 - np.stack(list(within(wrong, questions.count, sizes)), axis=1)


def best_of(questions: Questions, sizes: tuple[int, ...], *, score: str = "reward") -> np.ndarray:
    """[Q, len(sizes)] the chance that the sample of the highest score among n is correct.

    Equal scores are split evenly; a missing one is the lowest. `score` is "reward", or "logprob"
    for the most probable sample.
    """
    reward = getattr(questions, score)
    reward = np.where(np.isnan(reward), -np.inf, reward)
    order = np.lexsort((reward, ~questions.there), axis=1)  # padding last
    reward = np.take_along_axis(reward, order, 1)
    correct = np.take_along_axis(questions.correct & questions.there, order, 1)
    there = questions.there
    position = np.arange(reward.shape[1])
    # where the run of equal rewards that holds a position begins and ends
    begins = np.ones(reward.shape, bool)
    begins[:, 1:] = (reward[:, 1:] != reward[:, :-1]) | (there[:, 1:] != there[:, :-1])
    first = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    ends = np.ones(reward.shape, bool)
    ends[:, :-1] = begins[:, 1:]
    past = np.where(ends, position + 1, reward.shape[1])
    past = np.minimum.accumulate(past[:, ::-1], axis=1)[:, ::-1]
    samples = questions.count[:, None]
    results = []
    for table in within(np.arange(reward.shape[1] + 1), samples, sizes):
        chance = np.take_along_axis(table, past, 1) - np.take_along_axis(table, first, 1)
        results.append(np.sum(np.where(correct, chance / (past - first), 0.0), axis=1))
    return np.stack(results, axis=1)
