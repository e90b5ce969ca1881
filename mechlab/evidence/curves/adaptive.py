"""Adaptive consistency: draw answers until the vote is decided, of a question's N samples.

After each sample the two answers with the most votes, v₁ ≥ v₂, are held against each other: under a
uniform prior the first is the more likely of the two with probability Pr(p > ½), p ~ Beta(v₁ + 1,
v₂ + 1), which is Pr(Binomial(v₁ + v₂ + 1, ½) ≤ v₁). Drawing stops once that reaches the level, or
at n samples; the answer with the most votes is given (Aggarwal et al., "Let's Sample Step by Step",
2023).

The expectation over the orders in which the N samples could have come walks over the votes that may
have been drawn, sample by sample. Answers that were given equally often are exchangeable, so votes
that differ by such a swap are one state. Where even so there are too many, random orders stand in
their place, with the standard error that they leave.
"""

import math

import numpy as np

from mechlab.evidence.curves.questions import Questions

_STATES = 20_000  # of a question, at one sample
_ORDERS = 4096  # random, where there are more


def adaptive_consistency(
    questions: Questions, sizes: tuple[int, ...], *, decided: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy and tokens where drawing stops once a vote is decided.

    Args:
        questions: with at least max(sizes) samples each.
        sizes: most samples drawn, n ≥ 1, ascending.
        decided: level at which a vote is.
        seed: of random orders.

    Returns:
        [Q, len(sizes)] the probability that the answer is correct, [Q, len(sizes)] expected tokens
        of the samples drawn, and [len(sizes)] the standard error of the mean accuracy that comes
        from random orders; 0 where all were walked.
    """
    enough = _enough(max(sizes), decided)
    rng = np.random.default_rng(seed)
    known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
    rights: dict[tuple[int, ...], np.ndarray] = {}
    shape = len(questions.count), len(sizes)
    accuracy, tokens = np.zeros(shape), np.zeros(shape)
    for q, count in enumerate(questions.count):
        answer = questions.answer[q, :count]
        given, label = np.unique(answer, return_inverse=True)
        votes = np.bincount(label, minlength=len(given))
        silent = int(votes[0]) if given[0] < 0 else 0
        first = int(given[0] < 0)
        order = np.argsort(-votes[first:], kind="stable") + first
        profile = (silent, *votes[order].tolist())
        if profile not in known:
            known[profile] = _walk(profile, sizes, enough, rng)
        wins, drawn, _ = known[profile]
        right = np.bincount(label, questions.correct[q, :count], len(given))[order] / votes[order]
        length = np.bincount(label, questions.tokens[q, :count], len(given)) / votes
        mean = np.r_[length[0] if first else 0.0, length[order]]
        accuracy[q] = wins @ right
        tokens[q] = drawn @ mean
        rights[profile] = rights.get(profile, 0.0) + right
    # questions whose answers were given equally often share their random orders
    variance = np.zeros(len(sizes))
    for profile, (_, _, leads) in known.items():
        if leads is not None:
            variance += np.var(leads @ rights[profile], axis=1, ddof=1) / _ORDERS
    return accuracy, tokens, np.sqrt(variance) / max(len(questions.count), 1)


def _enough(samples: int, decided: float) -> np.ndarray:
    """[samples + 1, samples + 1] whether v₁ votes against v₂ decide."""
    table = np.zeros((samples + 1, samples + 1), bool)
    for first in range(samples + 1):
        for second in range(min(first, samples - first) + 1):
            throws = first + second + 1
            below = sum(math.comb(throws, k) for k in range(first + 1))
            table[first, second] = below >= decided * 2**throws
    return table


def _walk(
    profile: tuple[int, ...], sizes: tuple[int, ...], enough: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What becomes of a question with so many samples without an answer and of each answer.

    Returns:
        [len(sizes), L] the probability that each answer is given, [len(sizes), 1 + L] the samples
        drawn without and with each, and [len(sizes), orders, L] the first in each random order;
        None where all orders were walked.
    """
    held = np.array(profile)
    alike = np.unique(held[1:], return_inverse=True)[1]  # answers that were given equally often
    names = rng.integers(2**63, size=(int(alike.max(initial=0)) + 1, int(held.max()) + 1))
    states, chance = np.zeros((1, len(held)), np.int64), np.ones(1)
    wins, drawn = np.zeros(len(held) - 1), np.zeros(len(held))  # of those that are decided
    found = np.zeros((len(sizes), len(held) - 1)), np.zeros((len(sizes), len(held)))
    for n in range(1, max(sizes) + 1):
        if len(states):
            states, chance = _drawn(states, chance, held, alike, names, n)
            if len(states) > _STATES:
                return _sampled(held, sizes, enough, rng)
            over = enough[_two(states)]
            wins = wins + chance[over] @ _leads(states[over])
            drawn = drawn + chance[over] @ states[over]
            states, chance = states[~over], chance[~over]
        for place in np.flatnonzero(np.asarray(sizes) == n):
            found[0][place] = wins + chance @ _leads(states)
            found[1][place] = drawn + chance @ states
    # of answers that are alike one state stands for all: each has the mean
    size = np.bincount(alike)
    mean = [
        np.stack([np.bincount(alike, row) / size for row in part])
        for part in (found[0], found[1][:, 1:])
    ]
    drawn = np.concatenate([found[1][:, :1], mean[1][:, alike]], axis=1)
    return mean[0][:, alike], drawn, None


def _drawn(
    states: np.ndarray,
    chance: np.ndarray,
    held: np.ndarray,
    alike: np.ndarray,
    names: np.ndarray,
    n: int,
) -> tuple[np.ndarray, np.ndarray]:
    """States and their chances after the n-th sample; states that are alike become one."""
    left = held - states
    row, column = np.nonzero(left)
    after = states[row]
    after[np.arange(len(row)), column] += 1
    weight = chance[row] * left[row, column] / (held.sum() - n + 1)
    # a state's name is a sum over answers, so that it is the same for those that are alike
    name = names[alike, after[:, 1:]].sum(axis=1)
    _, first, place = np.unique(name, return_index=True, return_inverse=True)
    return after[first], np.bincount(place, weight)


def _two(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    votes = np.pad(states[:, 1:], ((0, 0), (0, 2)))
    top = -np.partition(-votes, 1, axis=1)[:, :2]
    return top[:, 0], top[:, 1]


def _leads(states: np.ndarray) -> np.ndarray:
    """[S, L] the chance that each answer is given: most votes, ties split; none without a vote."""
    votes = states[:, 1:]
    leads = (votes == votes.max(axis=1, initial=1, keepdims=True)).astype(float)
    return leads / np.maximum(leads.sum(axis=1, keepdims=True), 1)


def _sampled(
    held: np.ndarray, sizes: tuple[int, ...], enough: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by random orders."""
    orders = rng.permuted(np.tile(np.repeat(np.arange(len(held)), held), (_ORDERS, 1)), axis=1)
    states, going = np.zeros((_ORDERS, len(held)), np.int64), np.ones(_ORDERS, bool)
    led, drawn = [], []
    for n in range(1, max(sizes) + 1):
        states[going, orders[going, n - 1]] += 1
        going[going] = ~enough[_two(states[going])]
        if n in sizes:
            led.append(_leads(states))
            drawn.append(states.mean(axis=0))
    leads = np.stack(led)
    return leads.mean(axis=1), np.stack(drawn), leads
