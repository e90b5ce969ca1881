"""Reasoning effort: samples of each question sorted into bins by how long they thought.

A model that thinks as long as it likes has no lever for effort, but its samples differ: the fifth
of a question's samples that thought least shows what little effort gives.
"""

import numpy as np

from mechlab.evidence.curves.questions import Questions

BINS = 5
LEAST = 5  # samples that thought for so few tokens did not think


def effort_bins(questions: Questions, bins: int = BINS) -> np.ndarray:
    """[Q, N] int: the bin of each sample by thinking tokens; −1 where it is left out.

    Edges are the question's own quantiles, linear between samples; a sample on an edge belongs to
    the bin below. Left out are samples that ran into the token limit, that thought for 5 tokens or
    fewer, or whose thinking was not counted.
    """
    thinking = questions.thinking
    kept = questions.there & questions.finished & (thinking > LEAST)
    any_ = kept.any(axis=1)
    result = np.full(thinking.shape, -1)
    values = np.where(kept, thinking, np.nan)[any_]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.nanquantile(values, inner, axis=1) if any_.any() else np.zeros((bins - 1, 0))
    above = np.sum(values[None] > edges[..., None], axis=0)
    result[any_] = np.where(kept[any_], above, -1)
    return result


def effort(questions: Questions, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[Q, bins] kept samples of each question and bin, the correct among them, and their tokens.

    Accuracy and tokens of a bin are pooled: sums over questions of the latter over the former.
    """
    place = effort_bins(questions, bins)
    inside = place[..., None] == np.arange(bins)
    kept = inside.sum(axis=1).astype(float)
    correct = np.sum(inside & questions.correct[..., None], axis=1).astype(float)
    tokens = np.einsum("qnb,qn->qb", inside, questions.tokens)
    return kept, correct, tokens
