"""How many bills have to be checked so that no lie pays."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.results import Result
from mechlab.core.tolerance import NEGLIGIBLE
from mechlab.core.users import UserMixture, Users
from mechlab.incentives.certificates import starting_play
from mechlab.incentives.deviations import search
from mechlab.incentives.strategies import Space, TokenReport
from mechlab.mechanisms import Audited, Mechanism
from mechlab.mechanisms.audited import Power, TokenTest
from mechlab.mechanisms.front_door import front_door

if TYPE_CHECKING:
    import pandas as pd

_HALVINGS = 24


@dataclasses.dataclass(frozen=True, repr=False)
class Deterrence(Result):
    """The least rate of audits at which no lie pays.

    Attributes:
        rate: in [0, 1]; NaN where no rate is enough.
        regret: USD, the largest gain at that rate (at rate 1 where none is enough).
        without: USD, the largest gain without audits.
    """

    rate: float
    regret: float
    without: float

    def _headline(self) -> list[str]:
        return [str(self)]

    def to_frame(self) -> "pd.DataFrame":
        """One row: rate, regret, without."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(self)])

    @property
    def enough(self) -> bool:
        """Whether some rate deters."""
        return bool(np.isfinite(self.rate))

    def __str__(self) -> str:
        if self.enough:
            return f"no lie pays from a rate of {self.rate:.4g} on"
        return (
            f"no rate is enough: with every bill checked, a lie still gains {self.regret:.3g} USD; "
            "raise the fine, or the power of the check"
        )


@front_door(batched=False)
def least_deterrent(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism,
    profile: Any = None,
    *,
    space: Space = TokenReport(),  # noqa: B008  it is frozen
    power: Power = TokenTest(),  # noqa: B008
    fine: Any = 0.0,
) -> Deterrence:
    """The smallest audit rate at which nobody gains by a lie in any of the markets, by bisection.

    Gains are exact, at the best lie that `search` finds; they fall with the rate. What honest
    providers are fined by mistake is part of what they earn now. A gain counts above 1e-9 (1e-6 in
    float32) of the best surplus.

    Args:
        rule: the rule that is audited, without audits.
        market, users: [..., N, K] and [...].
        profile: [..., N] int, the levels of honest offers; where not given, the play by which the
            rule is judged.
        space: the lies, such as `TokenReport` and `Substitution`.
        power, fine: as in `Audited`.

    Raises:
        InputError: for a rule that is audited already, and as `search` does.
    """
    if isinstance(rule, Audited):
        raise InputError(
            "least_deterrent: give the rule without audits; power and fine are options"
        )
    offers = None
    if profile is None:
        played = starting_play(rule, "equilibrium")(market, users, rule)
        profile, offers = played.profile, played.offers

    def gains(rate: float) -> Array:
        audited = Audited(rule, jnp.asarray(rate, market.quality.dtype), power, fine)
        return search(market, users, audited, profile, space=space, offers=offers).regret

    best = jnp.max(jnp.where(market.available, market.surplus, 0.0), axis=(-1, -2))
    slack = NEGLIGIBLE.of(market.quality) * jnp.maximum(best, 0.0)

    def deters(found: Array) -> bool:
        return bool(jnp.all(found <= slack))

    now, most = gains(0.0), gains(1.0)
    without = float(jnp.max(now))
    if deters(now):
        return Deterrence(rate=0.0, regret=without, without=without)
    if not deters(most):
        return Deterrence(rate=float("nan"), regret=float(jnp.max(most)), without=without)
    low, high, regret = 0.0, 1.0, float(jnp.max(most))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        found = gains(middle)
        if deters(found):
            high, regret = middle, float(jnp.max(found))
        else:
            low = middle
    return Deterrence(rate=high, regret=regret, without=without)
