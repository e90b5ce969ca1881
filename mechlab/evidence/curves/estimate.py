"""From a sample table to curves of accuracy and tokens, with intervals over questions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.files import appearing
from mechlab.evidence.curves import selection
from mechlab.evidence.curves.adaptive import adaptive_consistency
from mechlab.evidence.curves.effort import BINS, LEAST, effort
from mechlab.evidence.curves.questions import Questions, questions
from mechlab.evidence.curves.voting import majority
from mechlab.evidence.curves.weighted import weighted_majority

if TYPE_CHECKING:
    import pandas as pd

METHODS = (
    "majority_voting",
    "best_of_n",
    "weighted_majority",
    "pass_at_n",
    "single_sample",
    "reasoning_effort",
    "adaptive_consistency",
    "most_probable_of_n",
    "confidence_majority",
)
_LARGEST = 64  # samples of the largest level, where there are so many
_MOST = 1024  # exact voting among n takes time and memory like n²


@dataclasses.dataclass(frozen=True)
class Curves:
    """Estimated curves.

    Attributes:
        table: a row for each benchmark, model, method and level, with the columns of
            `mechlab.data` and accuracy_low, accuracy_high, tokens_low, tokens_high, their
            confidence, questions, samples (used in the row) and standard_error (of accuracy, from
            drawing subsets; 0 where the expectation is exact); and judged_tokens, that a reward
            model reads for an answer, where there are such.
        accuracy, tokens: [rows, replicates] bootstrap replicates, of the same draws of questions
            for all models, so that markets made of them are joint replicates.
        notes: what was left out, a line each.
    """

    table: "pd.DataFrame"
    accuracy: np.ndarray
    tokens: np.ndarray
    notes: tuple[str, ...]

    def save(self, path: str) -> None:
        """Write the table as CSV, or as Parquet with the replicates as columns of lists."""
        with appearing(path) as hidden:
            if path.lower().endswith(".csv"):
                self.table.to_csv(hidden, index=False)
                return
            table = pa.Table.from_pandas(self.table, preserve_index=False)
            for name in ("accuracy", "tokens"):
                values = pa.array(getattr(self, name).ravel(), pa.float64())
                lists = pa.FixedSizeListArray.from_arrays(values, getattr(self, name).shape[1])
                table = table.append_column(f"{name}_replicates", lists)
            pq.write_table(table, hidden, compression="zstd")


def as_levels(
    found: Curves,
    levels: Mapping[str, Mapping[float, str]],
    method: str = "reasoning_effort",
    *,
    of: str = "single_sample",
) -> Curves:
    """Curves of providers that have a lever, such as effort on request, or searches of all widths.

    Each setting of the lever was sampled under a name of its own, and `found` holds its row for one
    sample.

    Args:
        levels: of each provider, the name in `found` by compute (a number that orders settings).
        method: what spending compute this way is called.
        of: the method of the rows; "best_of_n" at n = 1 counts what a judge has read.

    Raises:
        InputError: a name has no such row, or one for several benchmarks.
    """
    single = found.table[(found.table["method"] == of) & (found.table["compute"] == 1)]
    rows, place = [], []
    for provider, names in levels.items():
        for level, (compute, name) in enumerate(sorted(names.items())):
            row = single[single["model"] == name]
            if len(row) != 1:
                raise InputError(
                    f"{name}: {len(row)} rows of {of} for one sample; estimate one, of one"
                    " benchmark"
                )
            place.append(row.index[0])
            rows.append(
                row.iloc[0].to_dict()
                | dict(model=provider, method=method, level=level, compute=float(compute))
            )
    import pandas as pd

    table = pd.DataFrame(rows)[list(found.table.columns)]
    return Curves(table, found.accuracy[place], found.tokens[place], found.notes)


def joined(*parts: Curves) -> Curves:
    """The curves of all parts, which have the same number of replicates, as one table.

    Parts without judged tokens have 0 of them where others have some.
    """
    import pandas as pd

    table = pd.concat([part.table for part in parts], ignore_index=True)
    if "judged_tokens" in table:
        table = table.assign(judged_tokens=table["judged_tokens"].fillna(0.0))
    return Curves(
        table,
        np.concatenate([part.accuracy for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def estimate(
    samples: pa.Table,
    methods: Sequence[str] | None = None,
    *,
    sizes: Sequence[int] | None = None,
    bins: int = BINS,
    by_question: bool = False,
    weights: str = "reward",
    decided: float = 0.95,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Curves:
    """Curves of every model and benchmark in a sample table.

    Args:
        samples: with `mechlab.samples.SCHEMA`.
        methods: of `METHODS`; where not given, those that the table has data for: majority voting
            (answers; without them, single samples and pass@n), best of n and weighted voting
            (rewards) and effort (samples that thought). What is left out is in the notes. Only
            where asked for: adaptive consistency (at most n samples), the most probable of n, and
            votes weighted by confidence.
        sizes: numbers of samples n, ascending; the powers of two up to 64, or to the usual number
            of samples of a question. Questions with fewer than the largest are left out.
        bins: of reasoning effort.
        by_question: effort averages each question's bin first, where samples are pooled otherwise.
        weights: of weighted voting, "reward" or "confidence".
        decided: level of confidence at which adaptive consistency stops, in (0.5, 1).
        replicates: of the bootstrap over questions.
        confidence: of the intervals, percentiles of the replicates.
        seed: of the bootstrap, and of the subsets of reward-weighted voting.
        progress: called with the model, benchmark and method in hand.

    Raises:
        InputError: for arguments out of range, or a method that the table has no data for.
    """
    for name, value, low, high in (
        ("bins", bins, 1, 1000),
        ("replicates", replicates, 2, 10**6),
        ("seed", seed, 0, 2**63 - 1),
    ):
        checked_whole(name, value, low, high)
    if not 0 < confidence < 1:
        raise InputError(f"confidence = {confidence}; give a number between 0 and 1, such as 0.95")
    if not 0.5 < decided < 1:
        raise InputError(f"decided = {decided}; give a number between 0.5 and 1, such as 0.95")
    if weights not in ("reward", "confidence"):
        raise InputError(f"weights = {weights!r}; use reward or confidence")
    for method in methods or ():
        if method not in METHODS:
            raise InputError(f"method {method!r} is not known; use {', '.join(METHODS)}")
    if sizes is not None:
        sizes = sorted(set(sizes))
        if not sizes or not all(isinstance(n, int) and 1 <= n <= _MOST for n in sizes):
            raise InputError(f"sizes = {sizes}: give whole numbers of samples from 1 to {_MOST}")
    rows, draws, notes = [], [], []
    everything = questions(samples)
    bootstrap = _Bootstrap(replicates, seed, everything)
    for asked in everything:
        chosen = tuple(sizes or _usual(asked))
        enough = asked.with_at_least(max(chosen))
        if len(enough.count) < len(asked.count):
            notes.append(
                f"{asked.model}, {asked.benchmark}: {len(asked.count) - len(enough.count)} of "
                f"{len(asked.count)} questions have fewer than {max(chosen)} samples and are left "
                "out"
            )
        chosen_methods, left_out = _methods(asked, methods, weights, bins)
        notes += [f"{asked.model}, {asked.benchmark}: {x}" for x in left_out]
        unread = int(np.sum(asked.there & np.isnan(asked.reward)))
        if unread < asked.count.sum() and unread and "best_of_n" in chosen_methods:
            notes.append(
                f"{asked.model}, {asked.benchmark}: {unread} of {int(asked.count.sum())} samples"
                " have no reward, and are the last that best_of_n takes; score the run again"
            )
        for method in chosen_methods:
            if progress:
                progress(f"{asked.model}, {asked.benchmark}, {method}")
            if method == "reasoning_effort":
                parts = _effort(asked, bins, by_question)
                ids = asked.ids
            else:
                if not len(enough.count):
                    raise InputError(
                        f"{asked.model}, {asked.benchmark}: no question has {max(chosen)} samples; "
                        f"the most is {int(asked.count.max())}: ask for fewer with sizes"
                    )
                parts = _parallel(enough, method, chosen, weights, decided, seed)
                ids = enough.ids
            whole = np.ones((1, len(ids)))
            drawn = bootstrap.weights(asked.benchmark, ids)
            point = parts.means(whole)
            replicate = parts.means(drawn)
            tail = 100 * (1 - confidence) / 2
            for k, compute in enumerate(parts.compute):
                row = dict(
                    benchmark=asked.benchmark,
                    model=asked.model,
                    method=method,
                    level=k,
                    compute=compute,
                )
                for i, name in enumerate(("accuracy", "tokens")):
                    row[name] = float(point[i][0, k])
                    ends = np.nanpercentile(replicate[i][:, k], [tail, 100 - tail])
                    row[f"{name}_low"], row[f"{name}_high"] = map(float, ends)
                row |= dict(
                    confidence=confidence,
                    questions=int(np.count_nonzero(parts.weight[:, k])),
                    samples=int(parts.samples[k]),
                    standard_error=float(parts.error[k]),
                    judged_tokens=float(parts.judged[k]) if len(parts.judged) else 0.0,
                )
                rows.append(row)
                draws.append(
                    [
                        np.where(np.isnan(x[:, k]), p[0, k], x[:, k])
                        for x, p in zip(replicate, point, strict=True)
                    ]
                )
            notes += [f"{asked.model}, {asked.benchmark}, {method}: {x}" for x in parts.notes]
    import pandas as pd

    order: tuple[str, ...] = (
        "benchmark",
        "model",
        "method",
        "level",
        "compute",
        "accuracy",
        "tokens",
        "accuracy_low",
        "accuracy_high",
        "tokens_low",
        "tokens_high",
        "confidence",
        "questions",
        "samples",
        "standard_error",
    )
    if any(row["judged_tokens"] for row in rows):
        order = (*order, "judged_tokens")
    drawn = np.asarray(draws).reshape(len(rows), 2, replicates)
    return Curves(pd.DataFrame(rows)[list(order)], drawn[:, 0], drawn[:, 1], tuple(notes))


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Accuracy and tokens of each question and level, and how much each question weighs."""

    compute: tuple[float, ...]
    weight: np.ndarray  # [Q, K]
    accuracy: np.ndarray  # [Q, K] times the weight
    tokens: np.ndarray  # [Q, K] times the weight
    samples: np.ndarray  # [K]
    error: np.ndarray  # [K]
    notes: tuple[str, ...] = ()
    judged: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))  # [K] tokens

    def means(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B, K] accuracy and tokens where questions count so often [B, Q]; NaN where none does."""
        weight = drawn @ self.weight
        weight = np.where(weight > 0, weight, np.nan)
        accuracy = np.minimum(drawn @ self.accuracy / weight, 1.0)  # 1 + 1e-16 is rounding
        return accuracy, drawn @ self.tokens / weight


class _Bootstrap:
    """How often each question of a benchmark is drawn: one draw for all models and methods.

    Questions that any model answered are drawn; a model that lacks some has the others as often as
    everybody else, so that replicates of models are joint whatever each has missed.
    """

    def __init__(self, replicates: int, seed: int, everything: list[Questions]) -> None:
        self._place: dict[str, dict[str, int]] = {}
        self._drawn: dict[str, np.ndarray] = {}
        for benchmark in dict.fromkeys(asked.benchmark for asked in everything):
            mine = (set(asked.ids) for asked in everything if asked.benchmark == benchmark)
            ids = sorted(set().union(*mine))
            rng = np.random.default_rng([seed, *benchmark.encode()])
            chance = np.full(len(ids), 1 / len(ids))
            self._place[benchmark] = {question: i for i, question in enumerate(ids)}
            self._drawn[benchmark] = rng.multinomial(len(ids), chance, replicates)

    def weights(self, benchmark: str, ids: np.ndarray) -> np.ndarray:
        """[replicates, Q] multinomial counts."""
        place = self._place[benchmark]
        return self._drawn[benchmark][:, [place[question] for question in ids]].astype(float)


def _usual(asked: Questions) -> list[int]:
    most = min(int(np.median(asked.count)), _LARGEST)
    return [2**k for k in range(most.bit_length())]


def _methods(
    asked: Questions, methods: Sequence[str] | None, weights: str, bins: int
) -> tuple[list[str], list[str]]:
    """The methods to estimate, and why others are not; InputError where one that is asked for
    cannot be."""
    missing = {
        "majority_voting": _votes(asked),
        "best_of_n": _weights(asked, "reward"),
        "weighted_majority": _weights(asked, weights) or _negative(asked, weights) or _votes(asked),
        "confidence_majority": _weights(asked, "confidence") or _votes(asked),
        "most_probable_of_n": _weights(asked, "logprob"),
        "adaptive_consistency": _votes(asked),
        "reasoning_effort": _thought(asked, bins),
    }
    missing = {method: why for method, why in missing.items() if why}
    if methods is not None:
        for method in methods:
            if method in missing:
                raise InputError(
                    f"{asked.model}, {asked.benchmark}: {method} cannot be estimated: "
                    f"{missing[method]}"
                )
        return list(methods), []
    usual = ["majority_voting", "best_of_n", "weighted_majority", "reasoning_effort"]
    if "majority_voting" in missing:
        usual = ["single_sample", "pass_at_n", *usual]
    # nobody expects rewards or thinking of every log: only what is there in part is worth a word
    special = {
        "best_of_n": asked.reward,
        "weighted_majority": getattr(asked, weights),
        "reasoning_effort": asked.thinking,
    }
    told = [
        f"{method} is left out: {missing[method]}"
        for method in usual
        if method in missing and (method not in special or not np.all(np.isnan(special[method])))
    ]
    return [method for method in usual if method not in missing], told


def _votes(asked: Questions) -> str:
    """Why votes cannot be counted; empty where they can."""
    return "" if np.any(asked.answer >= 0) else "the samples have no answers to vote for"


def _weights(asked: Questions, weights: str) -> str:
    return f"the samples have no {weights}" if np.all(np.isnan(getattr(asked, weights))) else ""


def _negative(asked: Questions, weights: str) -> str:
    lowest = np.nanmin(getattr(asked, weights))
    if lowest >= 0:
        return ""
    return (
        f"a {weights} is {lowest:g}, and where votes weigh less than nothing the rarest answer "
        "wins; give weights of at least 0, such as chances in place of their logarithms"
    )


def _thought(asked: Questions, bins: int) -> str:
    """Why effort cannot be estimated; empty where it can."""
    if np.all(np.isnan(asked.thinking)):
        return "the samples have no thinking tokens"
    kept = effort(asked, bins)[0]
    if not kept.sum():
        return f"no sample thought for more than {LEAST} tokens and finished"
    usual = int(np.median(kept.sum(axis=1)))
    if usual < bins:
        return (
            f"a question has {usual} samples that thought and finished, and {bins} bins need as "
            "many; sample more, or use fewer bins"
        )
    empty = np.flatnonzero(kept.sum(axis=0) == 0)
    return f"bin {empty[0] + 1} of {bins} holds no sample; use fewer bins" if len(empty) else ""


def _parallel(
    asked: Questions, method: str, sizes: tuple[int, ...], weights: str, decided: float, seed: int
) -> _Parts:
    error = np.zeros(len(sizes))
    mean = np.sum(asked.tokens, axis=1) / asked.count  # padding has none
    tokens = mean[:, None] * np.asarray(sizes, float)
    judges = method == "best_of_n" or (method == "weighted_majority" and weights == "reward")
    if method == "single_sample":
        sizes, error, tokens = (1,), np.zeros(1), mean[:, None]
        accuracy = selection.single_sample(asked)[:, None]
    elif method == "weighted_majority":
        accuracy, error = weighted_majority(asked, sizes, weights=weights, seed=seed)
    elif method == "confidence_majority":
        accuracy, error = weighted_majority(asked, sizes, weights="confidence", seed=seed)
    elif method == "most_probable_of_n":
        accuracy = selection.best_of(asked, sizes, score="logprob")
    elif method == "adaptive_consistency":
        accuracy, tokens, error = adaptive_consistency(asked, sizes, decided=decided, seed=seed)
    else:
        estimators = dict(
            majority_voting=majority, best_of_n=selection.best_of, pass_at_n=selection.pass_at
        )
        accuracy = estimators[method](asked, sizes)
    return _Parts(
        compute=tuple(map(float, sizes)),
        weight=np.ones(accuracy.shape),
        accuracy=accuracy,
        tokens=tokens,
        samples=np.full(len(sizes), asked.count.sum()),
        error=error,
        judged=_judged(asked, sizes) if judges else np.zeros(len(sizes)),
    )


def _judged(asked: Questions, sizes: tuple[int, ...]) -> np.ndarray:
    """[K] tokens that a reward model reads for a question, by those samples that it has read."""
    known = asked.there & ~np.isnan(asked.judged)
    read = asked.judged[known].mean() if known.any() else 0.0
    return read * np.asarray(sizes, float)


def _effort(asked: Questions, bins: int, by_question: bool) -> _Parts:
    kept, correct, tokens = effort(asked, bins)
    left_out = int(asked.count.sum() - kept.sum())
    samples = kept.sum(axis=0)
    if by_question:
        size = np.maximum(kept, 1.0)
        kept, correct, tokens = (kept > 0).astype(float), correct / size, tokens / size
    notes = (
        f"{left_out} of {int(asked.count.sum())} samples thought for 5 tokens or fewer, or ran "
        "into the token limit, and are left out",
    )
    return _Parts(
        compute=tuple(float(k + 1) for k in range(bins)),
        weight=kept,
        accuracy=correct,
        tokens=tokens,
        samples=samples,
        error=np.zeros(bins),
        notes=notes if left_out else (),
    )
