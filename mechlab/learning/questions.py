"""A market for each question of a sample table, and what a few pilot samples say of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Market
from mechlab.data import Constants
from mechlab.evidence.curves.questions import Questions, questions
from mechlab.evidence.curves.selection import best_of, single_sample
from mechlab.evidence.curves.voting import majority


def _single(asked: Questions, sizes: tuple[int, ...]) -> np.ndarray:
    return single_sample(asked)[:, None]


METHODS = {"majority_voting": majority, "best_of_n": best_of, "single_sample": _single}
"""How samples of a level make one answer."""


@dataclasses.dataclass(frozen=True)
class QuestionMarkets:
    """Markets [Q, N, K], one for each question, and what is believed of them. Money in USD.

    Attributes:
        benchmark, method: what the samples were asked, and how a level makes an answer of n.
        names: of the N providers.
        ids: [Q] question_id.
        sizes: K numbers of samples.
        market: exact expectations over the samples that are no pilots.
        predicted: what is believed after the pilots: accuracy shrunk to the provider's mean, and
            the provider's mean tokens, both learned from the other half of the questions.
        fold: [Q] 0 or 1, the half that a question is in.
        pilots: samples of each provider that were spent on each question.
        pilot_tokens, pilot_price, pilot_cost: [Q] of all pilots together.
        samples: N tables of the samples that are no pilots.
        price_per_token: [N] USD; price_per_sample: [N] USD, of its prompt and its request beside
            the tokens; margin: price = cost·(1 + margin).
        right, wrong: USD, what a right and a wrong answer is worth.
        seconds: [Q, N] until an answer is there, at every level: its samples are drawn at once.
            None where the constants do not say how fast providers are.
        pilot_seconds: [Q] until all pilots are there.
        latency_value: h, USD per second, where `market` and `predicted` are as users feel them.
    """

    benchmark: str
    method: str
    names: tuple[str, ...]
    ids: np.ndarray
    sizes: tuple[int, ...]
    market: Market
    predicted: Market
    fold: np.ndarray
    pilots: int
    pilot_tokens: np.ndarray
    pilot_price: np.ndarray
    pilot_cost: np.ndarray
    samples: tuple[Questions, ...]
    price_per_token: np.ndarray
    price_per_sample: np.ndarray
    margin: float
    right: float
    wrong: float
    seconds: np.ndarray | None = None
    pilot_seconds: np.ndarray | None = None
    latency_value: float = 0.0


def by_question(
    samples: pa.Table,
    constants: Constants,
    *,
    benchmark: str | None = None,
    method: str | None = None,
    pilots: int = 2,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
) -> QuestionMarkets:
    """The market of every question: what each provider's samples would be right with, exactly.

    Of each provider and question, `pilots` samples are drawn to predict by, and kept apart from
    those that evaluate. A level's accuracy is predicted by the best linear predictor from the share
    of right pilots (linear empirical Bayes, Robbins 1983): the provider's mean, plus the pilots'
    distance from theirs times Cov/Var. Halves of the questions predict for each other.

    Args:
        samples: a sample table, such as `mechlab.data.samples()`.
        constants: prices and worth of an answer; models without a price are no providers.
        benchmark: the only one of the table where not given.
        method: "majority_voting", "best_of_n" or "single_sample"; where not given voting, or
            single samples where the table has no answers to vote with.
        pilots: samples of each provider, from 0.
        sizes: samples of each level; powers of two where not given.
        seed: of the pilots and halves.

    Raises:
        InputError: for benchmarks, models or numbers that are not there, questions that a model
            never saw, and more pilots than samples.
    """
    checked_whole("pilots", pilots, 0, 10**6)
    asked, benchmark = _asked(samples, constants, benchmark)
    votes = any(bool((one.answer >= 0).any()) for one in asked)
    if method is None:
        method = "majority_voting" if votes else "single_sample"
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; use {', '.join(METHODS)}")
    if method == "majority_voting" and not votes:
        raise InputError("method: the table has no answers to vote with; use single_sample")
    if method == "best_of_n" and any(np.isnan(one.reward[one.there]).any() for one in asked):
        raise InputError("method: best_of_n needs a reward of every sample; use majority_voting")
    rng = np.random.default_rng(seed)
    most = min(int(one.count.min()) for one in asked) - pilots
    if most < 1:
        raise InputError(
            f"pilots = {pilots}: a question has {most + pilots} samples of some model; leave at "
            "least one to evaluate with"
        )
    if sizes is None:
        several = method != "single_sample"
        sizes = tuple(2**i for i in range(most.bit_length())) if several else (1,)
    sizes = tuple(sizes)
    if not sizes or min(sizes) < 1 or max(sizes) > most or sorted(set(sizes)) != list(sizes):
        raise InputError(
            f"sizes: {list(sizes)}; give ascending numbers of samples from 1 to {most}"
        )
    if method == "single_sample" and sizes != (1,):
        raise InputError(f"sizes: {list(sizes)}; a single sample has the size 1")
    parts = [_parted(one, pilots, rng) for one in asked]
    held = tuple(rest for _, rest in parts)
    accuracy = np.clip(np.stack([METHODS[method](one, sizes) for one in held], axis=1), 0, 1)
    each = np.stack([one.tokens.sum(1) / one.count for one in held], axis=1)
    q, n = each.shape
    fold = rng.permutation(q) % 2
    seen = np.stack([pilot.correct.sum(1) / max(pilots, 1) for pilot, _ in parts], axis=1)
    believed = np.empty_like(accuracy)
    tokens = each[..., None] * np.asarray(sizes, float)
    expected = np.empty_like(tokens)
    for half in (0, 1):
        fit, apply = fold != half, fold == half
        if not fit.any() or not apply.any():
            raise InputError("samples: one question; give at least two, to learn of each other")
        expected[apply] = tokens[fit].mean(0)
        for i in range(n):
            distance = seen[fit, i] - seen[fit, i].mean()
            spread = float(distance @ distance)
            slope = distance @ accuracy[fit, i] / spread if spread > 0 else np.zeros(len(sizes))
            moved = (seen[apply, i] - seen[fit, i].mean())[:, None] * slope
            believed[apply, i] = np.clip(accuracy[fit, i].mean(0) + moved, 0.0, 1.0)
    names = tuple(one.model for one in asked)
    seconds = _seconds(constants, names, each)
    believed_seconds, waited = None, None
    if seconds is not None:
        other = np.stack([seconds[fold == 1].mean(0), seconds[fold == 0].mean(0)])
        believed_seconds = other[fold]
        mean = np.stack([pilot.tokens.sum(1) / max(pilots, 1) for pilot, _ in parts], axis=1)
        first = _seconds(constants, names, mean)
        waited = np.zeros(q) if first is None or not pilots else first.max(1)
    value = constants.value_per_answer[benchmark]
    rate = np.array([constants.price_per_million_tokens[one.model] for one in asked]) * 1e-6
    each_sample = np.array([_price_of_sample(constants, one.model) for one in asked])

    def market(accuracy: np.ndarray, tokens: np.ndarray, seconds: np.ndarray | None) -> Market:
        compute = np.broadcast_to(np.array(sizes, float), tokens.shape)
        latency = None if seconds is None else np.broadcast_to(seconds[..., None], tokens.shape)
        return Market.from_curves(
            accuracy,
            tokens,
            rate,
            value_per_answer=value,
            baseline=constants.baseline,
            margin=constants.margin,
            compute=compute,
            requests=compute,
            price_per_request=each_sample,
            latency=latency,
        )

    spent = np.stack([pilot.tokens.sum(1) for pilot, _ in parts], axis=1)
    paid = spent @ rate + pilots * each_sample.sum()
    return QuestionMarkets(
        benchmark=benchmark,
        method=method,
        names=names,
        ids=asked[0].ids,
        sizes=sizes,
        market=market(accuracy, tokens, seconds),
        predicted=market(believed, expected, believed_seconds),
        fold=fold,
        pilots=pilots,
        pilot_tokens=spent.sum(1),
        pilot_price=paid,
        pilot_cost=paid / (1 + constants.margin),
        samples=held,
        price_per_token=rate,
        price_per_sample=each_sample,
        margin=constants.margin,
        right=value,
        wrong=value * constants.baseline,
        seconds=seconds,
        pilot_seconds=waited,
    )


def _asked(
    samples: pa.Table, constants: Constants, benchmark: str | None
) -> tuple[list[Questions], str]:
    """The samples of each provider, on the same questions in the same order."""
    every = questions(samples)
    names = list(dict.fromkeys(one.benchmark for one in every))
    if benchmark is None and len(names) > 1:
        raise InputError(f"benchmark: the table has {', '.join(names)}; name one")
    benchmark = names[0] if benchmark is None else benchmark
    if benchmark not in names:
        raise InputError(f"benchmark: {benchmark!r} is not in the table, which has {names}")
    if benchmark not in constants.value_per_answer:
        raise InputError(f"{constants.source}: no value_per_answer of {benchmark}; add it there")
    sold = [
        one
        for one in every
        if one.benchmark == benchmark and one.model in constants.price_per_million_tokens
    ]
    if not sold:
        raise InputError(
            f"{constants.source}: no price for any model of {benchmark} in the table; add them to "
            "[price_per_million_tokens]"
        )
    first = {name: place for place, name in enumerate(sold[0].ids)}
    ordered = []
    for one in sold:
        for ids, other, model in (
            (first, set(one.ids), one.model),
            (one.ids, first.keys(), sold[0].model),
        ):
            missing = next((name for name in ids if name not in other), None)
            if missing is not None:
                raise InputError(
                    f"samples: {model} never saw question {missing!r}; sample it, or leave the "
                    "question or the model out"
                )
        ordered.append(_at(one, np.argsort([first[name] for name in one.ids])))
    return ordered, benchmark


def _price_of_sample(constants: Constants, name: str) -> float:
    """USD, what a provider asks for the prompt and the request of one sample."""
    into = constants.input_price_per_million_tokens.get(name, 0.0)
    cached = constants.cached_input_price_per_million_tokens.get(name, into)
    held = min(constants.cached_input_tokens, constants.input_tokens)
    prompt = ((constants.input_tokens - held) * into + held * cached) / 1e6
    return prompt + constants.price_per_thousand_requests.get(name, 0.0) / 1e3


def _seconds(constants: Constants, names: tuple[str, ...], tokens: np.ndarray) -> np.ndarray | None:
    """[Q, N] what a sample of so many tokens takes, or None where nobody says."""
    rate = constants.tokens_per_second
    if not rate:
        return None
    for name in names:
        if name not in rate:
            raise InputError(
                f"{constants.source}: no tokens_per_second.{name}; give one for every provider, "
                "or for none"
            )
    start = np.array([constants.first_token_seconds.get(name, 0.0) for name in names])
    return start + tokens / np.array([rate[name] for name in names])


_BY_QUESTION = ("ids", "count")


def _at(asked: Questions, rows: np.ndarray) -> Questions:
    names = [f.name for f in dataclasses.fields(asked) if f.name not in ("model", "benchmark")]
    return dataclasses.replace(asked, **{name: getattr(asked, name)[rows] for name in names})


def _parted(asked: Questions, pilots: int, rng: np.random.Generator) -> tuple[Questions, Questions]:
    """`pilots` samples of each question, drawn at random, and the rest."""
    place = rng.random(asked.answer.shape) + 2.0 * ~asked.there  # padding comes last
    order = np.argsort(place, axis=1)
    names = [
        f.name
        for f in dataclasses.fields(asked)
        if f.name not in ("model", "benchmark", *_BY_QUESTION)
    ]
    shuffled: dict[str, Any] = {
        name: np.take_along_axis(getattr(asked, name), order, axis=1) for name in names
    }
    count = asked.count
    first: dict[str, Any] = {name: x[:, :pilots] for name, x in shuffled.items()}
    rest: dict[str, Any] = {name: x[:, pilots:] for name, x in shuffled.items()}
    return (
        dataclasses.replace(asked, count=np.full_like(count, pilots), **first),
        dataclasses.replace(asked, count=count - pilots, **rest),
    )
