"""What it costs a market that the platform has to learn how good its providers are."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.waiting import net_of_waiting
from mechlab.learning import Learner, fitted_exponent, named_learner, repeated
from mechlab.populations import MOST, Population

DEFAULT = ("known", "explore_then_commit", "ucb", "thompson", "greedy")
"""The learners of the table."""
_SHORTER = (64, 16, 4, 1)  # the horizons are the rounds over these


@dataclasses.dataclass
class Learning:
    """What each learner gives over a population of markets; `to_dict` is JSON.

    Attributes:
        population: its description.
        markets, rounds, queries, seed: as asked.
        rows: a dict for each learner: learner; welfare, user_value, user_cost and
            provider_utility, means per query, USD; welfare_lost, the share of what is reached with
            accuracies that are known; regret, the mean sum over all queries, USD, and its standard
            error regret_error over markets; exponent and exponent_error, of regret in the number of
            rounds, from a run of each horizon; best_share, the share of rounds that the provider
            of the largest surplus serves.
        checkpoints: rounds, and
        regret_at: {learner: mean regret up to there, USD}.
    """

    population: dict[str, Any]
    markets: int
    rounds: int
    queries: int
    seed: int
    rows: list[dict[str, Any]]
    checkpoints: list[int]
    regret_at: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: the rows."""
        return self.rows


def learn(
    population: Population,
    markets: int,
    learners: Mapping[str, Learner] | None = None,
    rounds: int = 4096,
    *,
    queries: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Learning:
    """Hold `rounds` auctions in every market under each learner.

    Args:
        learners: name → learner; those of `DEFAULT` where not given.
        rounds: at least 128, so that growth can be told.
        queries: answers per round, all by one provider.
        seed: of markets and answers.
        progress: called with the name of each learner that is done.

    Raises:
        InputError: for numbers out of range, and as `repeated` does.
    """
    checked_whole("markets", markets, 40, MOST)
    checked_whole("rounds", rounds, 128, 2**24)
    checked_whole("seed", seed, 0, MOST)
    learners = learners or {name: named_learner(name) for name in DEFAULT}
    if not all(isinstance(one, Learner) for one in learners.values()):
        raise InputError("learners: give {name: learner}, such as {'ucb': mechlab.UCB()}")
    drawn, users = net_of_waiting(*population.markets(markets, seed=seed))
    key = jax.random.key(seed)
    best = np.argmax(np.max(np.where(drawn.available, drawn.surplus, -np.inf), axis=-1), axis=-1)
    horizons = [max(rounds // part, 1) for part in _SHORTER]
    rows, regret_at, marks = [], {}, []
    ideal = repeated(drawn, users, named_learner("known"), 1, key=key)
    most = float(np.mean(np.asarray(ideal.welfare, float)))
    for name, learner in learners.items():
        runs = [repeated(drawn, users, learner, t, key=key, queries=queries) for t in horizons]
        last = runs[-1]
        regrets = np.stack([np.asarray(run.regret, float) for run in runs])
        known = bool(np.all(regrets.mean(1) <= 1e-6 * most * np.array(horizons)))
        exponent, error = (None, None) if known else fitted_exponent(horizons, regrets)
        means = {
            metric: float(np.mean(np.asarray(getattr(last, metric), float)))
            for metric in ("welfare", "user_value", "user_cost")
        }
        served = np.take_along_axis(np.asarray(last.shares), best[:, None], axis=1)
        rows.append(
            {
                "learner": name,
                **means,
                "provider_utility": float(np.mean(np.sum(last.provider_utility, axis=-1))),
                "welfare_lost": max(1.0 - means["welfare"] / most, 0.0),
                "regret": float(regrets[-1].mean()),
                "regret_error": float(regrets[-1].std(ddof=1) / np.sqrt(markets)),
                "exponent": exponent,
                "exponent_error": error,
                "best_share": float(served.mean()),
            }
        )
        marks = last.checkpoints.tolist()
        regret_at[name] = np.mean(np.asarray(last.regret_at, float), axis=0).tolist()
        if progress:
            progress(name)
    return Learning(
        population=population.describe(),
        markets=markets,
        rounds=rounds,
        queries=queries,
        seed=seed,
        rows=rows,
        checkpoints=marks,
        regret_at=regret_at,
    )
