"""What a provider gains by playing for what the platform learns."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Market
from mechlab.core.results import PER_THOUSAND, Result
from mechlab.core.users import Users
from mechlab.learning.learners import Learner
from mechlab.learning.repeated import repeated
from mechlab.mechanisms.front_door import front_door

if TYPE_CHECKING:
    import pandas as pd

FACTORS = (0.0, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Bids that are tried, over the cost."""
LEVERS = ("bid", "served", "both")


@dataclasses.dataclass(frozen=True, repr=False)
class Gaming(Result):
    """The best that each provider finds by one lever, the others honest.

    A plan is chosen on half of the seeds, and its gain measured on the other half, against honesty
    with the same luck: a gain of two standard errors is one.

    Attributes:
        lever: "bid", "served" or "both".
        gain, error: [N] USD per query, and its standard error; 0 where honesty was best.
        honest: [N] USD per query, what honesty brings.
        factor: [N] the bid over the cost announced.
        level: [N] int, the level that is served from round `turn` [N] on.
        turn: [N] int.
    """

    lever: str
    gain: np.ndarray
    error: np.ndarray
    honest: np.ndarray
    factor: np.ndarray
    level: np.ndarray
    turn: np.ndarray

    _units = {"error": PER_THOUSAND}  # noqa: RUF012

    def to_frame(self) -> "pd.DataFrame":
        """A row per provider; money in USD per query."""
        import pandas as pd

        return pd.DataFrame(dataclasses.asdict(self)).rename_axis("provider")


@front_door(one_type=True)
def gaming(
    market: Market,
    users: Users,
    learner: Learner,
    rounds: int,
    *,
    key: Any = None,
    levers: Sequence[str] = LEVERS,
    factors: Sequence[float] = FACTORS,
    turns: Sequence[float] = (0.0, 0.1, 0.25, 0.5),
    seeds: int = 400,
) -> dict[str, Gaming]:
    """Search what a provider commits to over the horizon: a bid, and what it serves from when on.

    Every plan of a grid is run on the same seeds (common random numbers); utilities are exact for
    a seed.

    Args:
        market, users: one market [N, K].
        levers: of `LEVERS`: "bid" moves the bid, "served" what is served (any level instead of the
            one announced), "both" both.
        factors: bids to try, over the cost announced.
        turns: when to start to serve another level, as shares of the rounds.
        seeds: runs of each plan, in two halves.

    Raises:
        InputError: as `repeated` does, and for levers or numbers that are not there.
    """
    checked_whole("seeds", seeds, 4, 2**16)
    if market.batch_shape:
        raise InputError(f"gaming: give one market; this is a batch of {market.batch_shape}")
    for lever in levers:
        if lever not in LEVERS:
            raise InputError(f"levers: {lever!r} is not known; use {', '.join(LEVERS)}")
    if not all(np.isfinite(x) and x >= 0 for x in factors) or not len(factors):
        raise InputError(f"factors: {list(factors)}; give numbers ≥ 0")
    if not all(0 <= x <= 1 for x in turns) or not len(turns):
        raise InputError(f"turns: {list(turns)}; give shares of the rounds, in [0, 1]")
    profile = np.asarray(market.best_surplus_profile())
    cost = np.asarray(market.at(profile, asking="cost").cost)
    found: dict[str, list[tuple]] = {lever: [] for lever in levers}
    for i in range(market.providers):
        own = range(int(np.sum(market.available[i])))
        starts = sorted({int(x * rounds) for x in turns})
        other = [(level, turn) for level in own if level != profile[i] for turn in starts]
        same = (int(profile[i]), 0)
        plans = [(1.0, *same)]  # the first is honesty
        plans += [(f, *same) for f in factors] + [(1.0, *plan) for plan in other]
        if "both" in levers:
            plans += [(f, *plan) for f in factors for plan in other]
        factor, level, turn = (np.array(x) for x in zip(*plans, strict=True))
        bids = np.tile(cost, (len(plans), 1, 1))
        bids[:, 0, i] = factor * cost[i]
        later = np.tile(profile, (len(plans), 1, 1))
        later[:, 0, i] = level
        out = repeated(
            market,
            users,
            learner,
            rounds,
            key=key,
            profile=profile,
            bids=bids,
            later=(turn[:, None], later),
            checkpoints=[rounds],
            draws=np.arange(seeds)[None],
        )
        earned = np.asarray(out.provider_utility[..., i], float)  # [plans, seeds]
        gains = earned - earned[:1]
        first, second = gains[:, ::2], gains[:, 1::2]
        honest_level = level == profile[i]
        for lever in levers:
            open_ = {"bid": honest_level, "served": factor == 1.0, "both": level >= 0}[lever]
            best = int(np.argmax(np.where(open_, first.mean(1), -np.inf)))
            best = best if first[best].mean() > 0 else 0
            spread = second[best].std(ddof=1) / np.sqrt(second.shape[1])
            found[lever].append(
                (
                    second[best].mean(),
                    spread,
                    earned[0].mean(),
                    factor[best],
                    level[best],
                    turn[best],
                )
            )
    names: list[Any] = ["gain", "error", "honest", "factor", "level", "turn"]
    return {
        lever: Gaming(
            lever, **{name: np.array([row[j] for row in rows]) for j, name in enumerate(names)}
        )
        for lever, rows in found.items()
    }
