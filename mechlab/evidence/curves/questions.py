"""A sample table as arrays, a row for each question: what the estimators compute on."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mechlab.core.errors import InputError

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Questions:
    """All samples of one model on one benchmark. Q questions, N: the most samples of any.

    Attributes:
        model, benchmark: names.
        ids: [Q] question_id.
        count: [Q] samples of each question, ≥ 1; columns from there on are padding.
        answer: [Q, N] int: samples of a question with equal numbers gave the same answer; −1: no
            answer was found, or padding.
        correct: [Q, N] bool.
        reward: [Q, N]; NaN where missing.
        confidence: [Q, N]; NaN where missing.
        logprob: [Q, N] sum of the tokens' log-probabilities; NaN where missing.
        judged: [Q, N] tokens that a reward model read; NaN where missing.
        tokens: [Q, N].
        thinking: [Q, N]; NaN where missing.
        finished: [Q, N] bool: the sample did not run into the token limit.
    """

    model: str
    benchmark: str
    ids: Array
    count: Array
    answer: Array
    correct: Array
    reward: Array
    confidence: Array
    logprob: Array
    judged: Array
    tokens: Array
    thinking: Array
    finished: Array

    @property
    def there(self) -> Array:
        """[Q, N] bool, False at padding."""
        return np.arange(self.answer.shape[1]) < self.count[:, None]

    def with_at_least(self, samples: int) -> "Questions":
        """The questions that have so many samples."""
        keep = self.count >= samples
        arrays = {
            field.name: getattr(self, field.name)[keep]
            for field in dataclasses.fields(self)
            if field.name not in ("model", "benchmark")
        }
        return dataclasses.replace(self, **arrays)


def _codes(column: Any) -> tuple[Array, list[Any]]:
    """Whole numbers for the values of a column (−1: null), and the values."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    column = column.unify_dictionaries().combine_chunks()
    return column.indices.fill_null(-1).to_numpy(), column.dictionary.to_pylist()


def _numbers(column: Any) -> Array:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def questions(table: pa.Table) -> list[Questions]:
    """The questions of each model and benchmark of a sample table, in order of appearance.

    Raises:
        InputError: where a sample stands twice, a token count is negative, or there is no sample.
    """
    if not table.num_rows:
        raise InputError("samples: the table has no rows; sample or import some answers first")
    (model, models), (benchmark, benchmarks), (question, ids), (answer, _) = (
        _codes(table[name]) for name in ("model", "benchmark", "question_id", "answer")
    )
    sample = table["sample"].to_numpy()
    order = np.lexsort((sample, question, model, benchmark))
    key = np.stack([benchmark[order], model[order], question[order]])
    starts = np.flatnonzero(np.r_[True, np.any(key[:, 1:] != key[:, :-1], axis=0)])
    twice = np.r_[False, sample[order][1:] == sample[order][:-1]]
    twice[starts] = False
    if twice.any():
        row = order[twice.argmax()]
        raise InputError(
            f"samples, row {row}: a second sample {sample[row]} of question "
            f"{ids[question[row]]!r} by {models[model[row]]}; keep one of each"
        )
    tokens = _numbers(table["tokens"])
    if np.isnan(tokens).any():
        raise InputError(
            f"samples, row {np.isnan(tokens).argmax()}: tokens are not counted; make the table "
            "again with --tokenizer tokenizer.json"
        )
    if (tokens < 0).any():
        raise InputError(f"samples, row {(tokens < 0).argmax()}: tokens are counted, not negative")
    count = np.diff(np.r_[starts, len(order)])
    finish = pc.not_equal(table["finish_reason"], "length").fill_null(True)
    columns = dict(
        answer=(answer, -1),
        correct=(table["correct"].to_numpy(), False),
        reward=(_numbers(table["reward"]), np.nan),
        confidence=(_numbers(table["confidence"]), np.nan),
        tokens=(tokens, 0.0),
        logprob=(_numbers(table["logprob_sum"]), np.nan),
        judged=(_numbers(table["judged_tokens"]), np.nan),
        thinking=(_numbers(table["thinking_tokens"]), np.nan),
        finished=(finish.to_numpy(), True),
    )
    groups, first = np.unique(key[:2, starts], axis=1, return_inverse=True)
    appears: dict[tuple[int, int], int] = {}  # groups in the order in which the table names them
    for b, m in zip(benchmark, model, strict=True) if groups.shape[1] > 1 else ():
        appears.setdefault((b, m), len(appears))
        if len(appears) == groups.shape[1]:
            break
    ranked = sorted(range(groups.shape[1]), key=lambda g: appears.get(tuple(groups[:, g]), 0))
    found = []
    for g in ranked:
        mine = np.flatnonzero(first.ravel() == g)
        width = int(count[mine].max())
        place = starts[mine, None] + np.arange(width)
        there = np.arange(width) < count[mine, None]
        rows = order[np.where(there, place, starts[mine, None])]
        arrays = {name: np.where(there, x[rows], fill) for name, (x, fill) in columns.items()}
        found.append(
            Questions(
                model=models[groups[1, g]],
                benchmark=benchmarks[groups[0, g]],
                ids=np.array([ids[i] for i in question[order[starts[mine]]]], dtype=object),
                count=count[mine],
                **arrays,
            )
        )
    return found
