"""How regret grows with the number of rounds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market
from mechlab.core.results import Result
from mechlab.core.users import Users
from mechlab.learning.learners import Learner
from mechlab.learning.repeated import repeated

if TYPE_CHECKING:
    import pandas as pd

_GROUPS = 20  # of seeds, one of which is left out at a time


@dataclasses.dataclass(frozen=True, repr=False)
class Growth(Result):
    """Regret at several horizons, and the power of the horizon that it grows with.

    Attributes:
        horizons: rounds.
        regret, error: USD, means over seeds and their standard errors.
        exponent, exponent_error: of regret ∝ T^exponent, by least squares of the logarithms; its
            standard error is that of a jackknife over groups of seeds. NaN where a mean is not
            positive.
    """

    horizons: tuple[int, ...]
    regret: tuple[float, ...]
    error: tuple[float, ...]
    exponent: float
    exponent_error: float

    _units = {"regret": "USD in all rounds", "error": "USD in all rounds"}  # noqa: RUF012

    def to_frame(self) -> "pd.DataFrame":
        """A row per horizon: regret and its error in USD, over all rounds."""
        import pandas as pd

        index = pd.Index(self.horizons, name="horizon")
        return pd.DataFrame({"regret": self.regret, "error": self.error}, index=index)


def growth(
    market: Market | Callable[[int], Market],
    users: Users,
    learner: Learner,
    horizons: Sequence[int],
    *,
    key: Array | None = None,
    seeds: int = 400,
) -> Growth:
    """Run a learner for each horizon, anew, as one that knows the horizon has to be.

    Args:
        market, users: one market [N, K]; or horizon → market, for instances that are hard at it.
        horizons: at least two numbers of rounds.
        seeds: runs of each.

    Raises:
        InputError: as `repeated` does, and for fewer than two horizons or 40 seeds.
    """
    checked_whole("seeds", seeds, 2 * _GROUPS, 2**20)
    if len(set(horizons)) < 2:
        raise InputError(f"horizons: {list(horizons)}; give at least two, to see regret grow")
    key = jax.random.key(0) if key is None else key
    found = []
    for rounds in horizons:
        one = market(rounds) if callable(market) else market
        if one.batch_shape:
            raise InputError(f"growth: give one market; this is a batch of {one.batch_shape}")
        many = repeated(
            one, users, learner, rounds, key=key, draws=jnp.arange(seeds), checkpoints=[rounds]
        )
        found.append(np.asarray(many.regret, float))
    regrets = np.stack(found)
    exponent, error = fitted_exponent(horizons, regrets)
    return Growth(
        horizons=tuple(int(x) for x in horizons),
        regret=tuple(regrets.mean(1).tolist()),
        error=tuple((regrets.std(1, ddof=1) / np.sqrt(seeds)).tolist()),
        exponent=exponent,
        exponent_error=error,
    )


def fitted_exponent(horizons: Sequence[int], regrets: np.ndarray) -> tuple[float, float]:
    """The exponent of regrets [H, S] in the horizon, and its standard error.

    Least squares of the logarithms of means over S runs; the error is that of a jackknife over
    groups of runs, the same at each horizon. NaN where a mean is not positive.
    """
    log = np.log(np.asarray(horizons, float))

    def slope(chosen: np.ndarray) -> float:
        means = chosen.mean(1)
        if np.any(means <= 0):
            return float("nan")
        return float(np.polyfit(log, np.log(means), 1)[0])

    group = np.arange(regrets.shape[1]) % _GROUPS
    without = np.array([slope(regrets[:, group != i]) for i in range(_GROUPS)])
    spread = np.sqrt((_GROUPS - 1) / _GROUPS * np.sum((without - without.mean()) ** 2))
    return slope(regrets), float(spread)
