"""Intervals of what the second-price auction gives on a market of measured curves.

The best of several that data do not tell apart always looks better than it is, so percentiles of a
bootstrap do not hold for what an auction hands over. These intervals do, by two means:

- The noise of the replicates is put on two markets: one where everything that is *in reach* of the
  best, and of the second, is as good as it (there the largest of noisy numbers is too large), and
  one where nobody else is near. An end of the interval is the further of the two. The winner's lead
  has its lower end from the first alone where somebody is in reach, with all of the error that the
  confidence allows: of equals the lead is 0, which no upper end can miss.
- What the winner is paid depends on which level of which provider wins. The interval goes from the
  lowest to the highest cost of the levels in reach.

A level is in reach where it is behind by less than the quantile of the confidence times the
standard error of the difference: one that truly is the best is left out as often as an ordinary
interval misses. Coverage is measured in `benchmarks/coverage.py`: near the confidence for two and
three providers, equal or not, and above it for many equal ones.

Sources: the two markets follow the bounds of an intersection with an estimated set of those that
matter, Chernozhukov, Lee and Rosen 2013, "Intersection Bounds"; the failing bootstrap of a maximum,
Andrews 2000, "Inconsistency of the Bootstrap When a Parameter Is on the Boundary".
"""

from statistics import NormalDist

import numpy as np

from mechlab.core.market import Market

Interval = list[float]


def auction_intervals(
    market: Market,
    replicates: Market,
    outside_value: float,
    confidence: float,
    noise: str = "error",
) -> dict[str, Interval]:
    """{metric: [low, high]} of the truthful reverse second-price auction, whole market.

    Args:
        market: [N, K], the estimate.
        replicates: [B, N, K], bootstrap replicates of it, joint over providers.
        outside_value: v0 in USD, what buying nothing is worth.
        confidence: of each interval, in (0, 1).
        noise: as in `Users.create`; where it is taste, who buys nothing holds v0.
    """
    tail = (1 - confidence) / 2
    reach = NormalDist().inv_cdf(1 - tail)
    score, drift = _with_outside(market, replicates, outside_value)
    providers = np.arange(len(score))
    level = score.argmax(-1)
    best = score.max(-1)
    of_best = drift[:, providers, level]

    def close(behind: np.ndarray, difference: np.ndarray) -> np.ndarray:
        return behind <= reach * difference.std(axis=0)

    levels = close(best[:, None] - score, of_best[:, :, None] - drift)
    first, second = np.argsort(-best, kind="stable")[:2]
    rivals = close(best[first] - best, of_best[:, [first]] - of_best)
    tied = np.where(levels, best[:, None], score)
    tied += np.where(rivals, best[first] - best, 0.0)[:, None]
    decided = rivals.sum() == 1
    if decided:
        next_ = close(best[second] - best, of_best[:, [second]] - of_best) & (providers != first)
        tied += np.where(next_, best[second] - best, 0.0)[:, None]

    welfare, kept = _two_best(tied + drift)
    welfare, kept = welfare - tied.max(), kept - _two_best(tied)[1]
    alone, runner_up = of_best[:, first], of_best[:, second]
    lead = welfare - kept
    leads = [lead, alone - runner_up]

    def ends(estimate: float, errors: list[np.ndarray]) -> Interval:
        return [
            float(estimate - max(np.quantile(x, 1 - tail) for x in errors)),
            float(estimate - min(np.quantile(x, tail) for x in errors)),
        ]

    def ahead(estimate: float, error: np.ndarray | float = 0.0) -> Interval:
        """The estimate is the winner's lead, and what is added to it with an error of its own."""
        low, high = ends(estimate, [x + error for x in leads])
        return [low if decided else float(estimate - np.quantile(lead + error, 1 - 2 * tail)), high]

    gap = best[first] - best[second]
    low, high = ahead(gap)
    found = {
        "welfare": [ends(best[first], [welfare, alone])],
        "user_value": [ends(best[second], [kept, runner_up])],
        "provider_utility": [[max(low, 0.0), high]],
        "user_cost": [],
        "quality": [],
        "accuracy": [],
        "tokens": [],
    }
    sold = rivals[: len(market.quality)]
    unsold = dict.fromkeys(found, 0.0)
    if noise == "taste":
        unsold["welfare"] = unsold["user_value"] = outside_value
    if not sold.any():
        return {name: [value, value] for name, value in unsold.items()}
    may_win = levels[: len(sold)] & sold[:, None]
    cost, costs = np.asarray(market.cost)[may_win], np.asarray(replicates.cost)[:, may_win]
    found["user_cost"] = [
        ahead(extreme(cost) + gap, extreme(costs, axis=1) - extreme(cost))
        for extreme in (np.min, np.max)
    ]
    # no winner is paid less than its cost, which is known far better than its lead
    least = float(np.quantile(np.min(costs, axis=1), tail / 5))
    found["user_cost"] = [[max(low, least), max(high, least)] for low, high in found["user_cost"]]
    for name in ("quality", "accuracy", "tokens"):
        drawn = np.asarray(getattr(replicates, name))[:, may_win]
        found[name] = np.quantile(drawn, [tail, 1 - tail], axis=0).T.tolist()
    if rivals[-1]:  # perhaps nobody buys
        for name, several in found.items():
            several.append([unsold[name], unsold[name]])
    return {
        name: [min(low for low, _ in several), max(high for _, high in several)]
        for name, several in found.items()
    }


def _with_outside(
    market: Market, replicates: Market, outside_value: float
) -> tuple[np.ndarray, np.ndarray]:
    """[N + 1, K] quality − cost, the last row the outside option; [B, N + 1, K] deviations."""
    available = np.asarray(market.available)
    score = np.where(available, np.asarray(market.quality) - np.asarray(market.cost), -np.inf)
    drawn = np.asarray(replicates.quality) - np.asarray(replicates.cost)
    noise = np.where(available, drawn - np.where(available, score, 0.0), 0.0)
    outside = np.full((1, score.shape[-1]), -np.inf)
    outside[0, 0] = outside_value
    return np.concatenate([score, outside]), np.pad(noise, ((0, 0), (0, 1), (0, 0)))


def _two_best(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest and the second highest of providers' best scores, [..., N, K] → [...]."""
    ordered = np.sort(score.max(axis=-1), axis=-1)
    return ordered[..., -1], ordered[..., -2]
