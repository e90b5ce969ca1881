"""All pure equilibria of one logit game, exactly, through its aggregate.

Runs on the host in float64. Let S = e^{βv0} + Σ_j e^{βV_j}. Provider i's level k is a best response
for rivals' weight A in one interval, the intersection of its pairwise comparisons with i's other
levels; in terms of S = A + w_k that is one interval again. The ends of all these intervals cut the
line of S into at most 2NK + 1 cells, and within one cell every provider's choice is fixed: so there
are O(NK) candidate profiles, never K^N, and each is then checked directly.
"""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Market
from mechlab.core.results import Result
from mechlab.core.solution import Status
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, repr=False)
class PureEquilibria(Result):
    """Every pure equilibrium of one market, best welfare first.

    Attributes:
        profiles: [E, N] int; E = 0 where there is none (possible only without a potential).
        welfare: [E] USD per query.
        status: CONVERGED: complete. CAPPED: exact ties gave too many candidates, some may be
            missing. NO_POTENTIAL: complete, but some provider has no level with a profit.
    """

    profiles: np.ndarray
    welfare: np.ndarray
    status: Status

    def _headline(self) -> list[str]:
        return [f"{len(self.welfare):,} in one market; {self.status.message}"]

    def to_frame(self) -> "pd.DataFrame":
        """A row per equilibrium, with its `welfare` and levels `profile[0]`, `profile[1]`, …"""
        import pandas as pd

        levels = {f"profile[{i}]": column for i, column in enumerate(self.profiles.T)}
        return pd.DataFrame({"welfare": self.welfare, **levels}).rename_axis("equilibrium")

    @property
    def best_welfare(self) -> float:
        return float(self.welfare[0])

    @property
    def worst_welfare(self) -> float:
        return float(self.welfare[-1])


@dataclasses.dataclass(frozen=True)
class _Game:
    """One logit game in logarithms: log weights relative to the best offer, NaN-free."""

    log_weight: np.ndarray  # [N, K]
    log_outside: float
    profit: np.ndarray  # [N, K]
    surplus: np.ndarray  # [N, K]
    rationality: float
    best: float  # value on offer, USD
    taste: bool
    playable: np.ndarray  # [N, K] bool


@front_door(one_type=True, batched=False)
def pure_equilibria(
    market: Market, users: Users, rule: Mechanism = DEFAULT_RULE, *, cap: int = 20_000
) -> PureEquilibria:
    """All pure equilibria of one market; levels within 1e-12 of the best log utility tie.

    Args:
        market: [N, K]; no batch axes.
        users: scalar rationality and outside value.
        cap: the most candidate profiles to check; only exact ties need more than O(NK).

    Raises:
        InputError: for a batch, or a rule that is no posted price.
    """
    if market.batch_shape or np.ndim(users.rationality) or np.ndim(users.outside_value):
        raise InputError("pure_equilibria: give one market and one kind of users, not a batch")
    game, sound = _game(posted_market(market, rule), users)
    found: dict[tuple[int, ...], None] = {}
    capped = False
    for options in _cells(game):
        count = math.prod(len(levels) for levels in options)
        room = max(cap - len(found), 0)
        capped |= count > room
        found.update(dict.fromkeys(itertools.islice(itertools.product(*options), room)))
    profiles = np.array(list(found), int).reshape(-1, market.providers)
    profiles = profiles[_is_equilibrium(game, profiles)]
    welfare = _welfare(game, profiles)
    order = np.lexsort((*profiles.T[::-1], -welfare))
    status = Status.CAPPED if capped else Status.CONVERGED if sound else Status.NO_POTENTIAL
    return PureEquilibria(profiles=profiles[order], welfare=welfare[order], status=status)


def _game(posted: Market, users: Users) -> tuple[_Game, bool]:
    quality, price, cost = (
        np.asarray(x, np.float64) for x in (posted.quality, posted.price, posted.cost)
    )
    available = np.asarray(posted.available)
    beta, outside = float(users.rationality), float(users.outside_value)
    values, profit = quality - price, price - cost
    top = max(values[available].max(), outside)
    profitable = available & (profit > 0)
    some = profitable.any(axis=1, keepdims=True)
    game = _Game(
        log_weight=beta * (values - top),
        log_outside=beta * (outside - top),
        profit=profit,
        surplus=quality - cost,
        rationality=beta,
        best=top,
        taste=users.taste is not None,
        playable=np.where(some, profitable, available),
    )
    return game, bool(some.all())


def _cells(game: _Game) -> list[list[list[int]]]:
    """For each cell of log S, and each boundary, every provider's possible levels."""
    low, high = _intervals(game)
    ends = np.concatenate([low[game.playable], high[game.playable], [game.log_outside]])
    ends = np.unique(ends[np.isfinite(ends) & (ends >= game.log_outside)])
    points = np.concatenate([ends, (ends[:-1] + ends[1:]) / 2, [ends[-1] + 1.0]])
    slack = 1e-9 + 1e-12 * np.abs(points)[:, None, None]
    fits = (low - slack <= points[:, None, None]) & (points[:, None, None] <= high + slack)
    fits &= game.playable
    return [
        [list(np.flatnonzero(levels)) for levels in cell] for cell in fits[fits.any(-1).all(-1)]
    ]


def _intervals(game: _Game) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] the interval of log S in which each level is a best response (low > high: never)."""
    n, k = game.profit.shape
    low, high = np.full((n, k), -np.inf), np.full((n, k), np.inf)
    for i, level, other in itertools.product(range(n), range(k), range(k)):
        if level != other and game.playable[i, level] and game.playable[i, other]:
            # a hair more profit, so that no tie is missed: every candidate is checked afterwards
            at_least, at_most = _prefers(
                game.profit[i, level] + 1e-11 * abs(game.profit[i, level]),
                game.log_weight[i, level],
                game.profit[i, other],
                game.log_weight[i, other],
            )
            low[i, level] = max(low[i, level], at_least)
            high[i, level] = min(high[i, level], at_most)
    never = low > high + 1e-9
    low = np.logaddexp(low, game.log_weight)
    high = np.logaddexp(high, game.log_weight)
    return np.where(never, np.inf, low), np.where(never, -np.inf, high)


def _prefers(m: float, w: float, m_other: float, w_other: float) -> tuple[float, float]:
    """The interval of log A in which (profit m, log weight w) earns at least as much as the other.

    U = m·e^w/(A + e^w), so for profits U ≥ U' where A(m e^w − m' e^{w'}) ≥ e^{w+w'}(m' − m).
    """
    always, never = (-np.inf, np.inf), (np.inf, -np.inf)
    if np.sign(m) != np.sign(m_other):
        return always if np.sign(m) > np.sign(m_other) else never
    if m == 0:
        return always
    if m < 0:  # the smaller loss: the comparison of the sizes, turned round
        return _prefers(-m_other, w_other, -m, w)
    a, b = math.log(m) + w, math.log(m_other) + w_other
    if a == b or (a > b) == (m >= m_other) or m == m_other:
        wins = (a > b) if a != b else (m >= m_other)
        return always if wins else never
    threshold = w + w_other + math.log(abs(m_other - m))
    threshold -= max(a, b) + math.log(-math.expm1(-abs(a - b)))
    return (threshold, np.inf) if a > b else (-np.inf, threshold)


def _is_equilibrium(game: _Game, profiles: np.ndarray) -> np.ndarray:
    """[E] bool: no provider's log utility is more than 1e-12 (and rounding) below its best."""
    if not len(profiles):
        return np.zeros(0, bool)
    n = game.profit.shape[0]
    own = np.take_along_axis(game.log_weight[None], profiles[..., None], axis=-1)[..., 0]
    others = np.where(np.eye(n, dtype=bool), -np.inf, own[:, None, :])  # [E, N, N]
    rivals = np.logaddexp(np.logaddexp.reduce(others, axis=-1), game.log_outside)[..., None]
    size = np.log(np.where(game.profit == 0, 1.0, np.abs(game.profit)))
    log_share = game.log_weight - np.logaddexp(rivals, game.log_weight)
    sign = np.sign(game.profit)
    key = np.broadcast_to(sign * (size + log_share), log_share.shape)
    tier = np.where(game.playable, sign, -np.inf)
    best_tier = tier.max(-1, keepdims=True)
    best = np.where(tier == best_tier, key, -np.inf).max(-1)
    now = np.take_along_axis(key, profiles[..., None], axis=-1)[..., 0]
    tier_now = np.take_along_axis(np.broadcast_to(tier, key.shape), profiles[..., None], axis=-1)[
        ..., 0
    ]
    scale = np.abs(rivals[..., 0]) + np.abs(own) + 1.0
    slack = 1e-12 + 8 * np.finfo(float).eps * scale
    return np.all((tier_now == best_tier[..., 0]) & (now >= best - slack), axis=-1)


def _welfare(game: _Game, profiles: np.ndarray) -> np.ndarray:
    own = np.take_along_axis(game.log_weight[None], profiles[..., None], axis=-1)[..., 0]
    kept = game.profit if game.taste else game.surplus
    kept = np.take_along_axis(kept[None], profiles[..., None], axis=-1)[..., 0]
    top = np.maximum(own.max(-1, initial=-np.inf), game.log_outside)[:, None]
    weight = np.exp(own - top)
    total = weight.sum(-1) + np.exp(game.log_outside - top[:, 0])
    welfare = (weight * kept).sum(-1) / total
    if game.taste:  # users' part is E max, in logarithms relative to the best value on offer
        welfare += game.best + (top[:, 0] + np.log(total)) / game.rationality
    return welfare
