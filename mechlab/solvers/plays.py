"""Plays that a solver finds: the providers' equilibrium of levels, and the planner's optimum."""

import jax

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms import PLAYS, Mechanism, Play, Played
from mechlab.solvers.equilibrium import equilibrium_columns
from mechlab.solvers.optimum import optimum_columns


class BetterResponse(Play):
    """The equilibrium of the providers' choice of level, with honest offers; see `equilibrium`."""

    def columns(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        found = equilibrium_columns(market, users, rule=rule, key=key)
        return Played(
            profile=found.profile,
            status=found.status,
            unique=found.unique,
            smallest=found.smallest,
            largest=found.largest,
        )


class AtOptimum(Play):
    """The profile of the largest welfare; in an auction that is truthful play."""

    def columns(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        game = rule.posted_logit
        if game is None:
            return PLAYS["truthful"].columns(market, users, rule=rule, key=key)
        if isinstance(users, UserMixture):
            raise InputError("play: with several types of users there is no exact optimum")
        posted = game.market(market, axis=-3)
        profile, _, status = optimum_columns(*jax.lax.stop_gradient((posted, users)))
        return Played(profile=profile, status=status)


PLAYS["equilibrium"] = BetterResponse()
PLAYS["optimum"] = AtOptimum()
