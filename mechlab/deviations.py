"""Who gains by deviating alone, measured on the exact mechanism (SPEC section 4)."""

import chex
import jax
import jax.numpy as jnp

from mechlab.market import Array, Market, Users, over_markets, take_level
from mechlab.mechanisms.base import Mechanism


@chex.dataclass(frozen=True)
class GridDeviations:
    """The best move of each provider on the grid of levels, all others fixed.

    Attributes:
        utility: [..., N] now, USD.
        level_utility: [..., N, K] at each level; a level that is not available repeats `utility`.
        gain: [..., N] max(0, best − now), USD.
        best_level: [..., N] the level that attains it; the current one where nothing gains.
        regret: [...] the largest gain, USD.
    """

    utility: Array
    level_utility: Array
    gain: Array
    best_level: Array
    regret: Array


def grid_deviations(
    mechanism: Mechanism, market: Market, users: Users, profile: Array
) -> GridDeviations:
    """Every provider's utility at each of its levels, with honest offers at the new level.

    Args:
        mechanism: any pricing rule. Under posted prices the bill follows the level; in an auction
            the bid tells the truth about the new level.
        profile: [..., N] int; its batch axes broadcast against those of market and users.
    """

    return _grid(market, users, mechanism, jnp.asarray(profile))


@jax.jit
def _grid(market: Market, users: Users, mechanism: Mechanism, profile: Array) -> GridDeviations:
    @over_markets
    def solve(market: Market, users: Users, profile: Array) -> GridDeviations:
        level_utility = mechanism.deviation_utilities(market, users, profile)
        utility = take_level(level_utility, profile)
        level_utility = jnp.where(market.available, level_utility, utility[:, None])
        gain = jnp.maximum(level_utility.max(axis=-1) - utility, 0.0)
        best = jnp.where(gain > 0, jnp.argmax(level_utility, axis=-1), profile)
        return GridDeviations(
            utility=utility,
            level_utility=level_utility,
            gain=gain,
            best_level=best,
            regret=gain.max(),
        )

    return solve(market, users, profile)
