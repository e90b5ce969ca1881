"""How a rule is played: what turns a market into offers.

Each rule names the play by which it is judged (`Mechanism.play`); evaluation, certificates, design,
comparison and the report ask for it by that name, or for another. The plays that are equilibria or
optima of a game are in `mechlab.solvers`, which add themselves to the catalogue here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.first_price import MARKUPS, symmetric_markup_column
from mechlab.mechanisms.front_door import front_door


@pytree
class Played(Solution):
    """What is played, and whether it is what the play claims to be.

    Attributes:
        profile: [..., N] int, the levels.
        status: [...] int, a `Status`: of the solver behind the play.
        markup: [...] the common markup on cost that is bid; None where offers are honest.
        unique: [...] bool, whether it is the only such play; None where nothing is known.
        smallest, largest: [..., N] int, the ends between which all equilibria lie, or None.
        offers: [..., N] what is offered; differentiable in the market at what is played.
    """

    profile: Array
    markup: Array | None = None
    unique: Array | None = None
    smallest: Array | None = None
    largest: Array | None = None
    offers: Offers | None = None


class Play:
    """A way to play: play(market, users, rule) → Played.

    One of your own says in `one` what is played in one market, and in `offers` what that offers
    where it is not honest.
    """

    @front_door()
    def __call__(
        self, market: Market, users: Users | UserMixture, rule: Mechanism, *, key: Any = None
    ) -> Played:
        """What is played in markets [..., N, K] under a rule; the key is of solvers that draw."""
        return _played(self, market, users, rule, key)

    def columns(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        """What is played in columns, market [P, N, K, B]; pure, and constant to derivatives."""
        frozen = jax.lax.stop_gradient((market, users, rule))

        def column(market: Market, users: Users | UserMixture) -> Played:
            return vmapped(lambda m, u: self.one(m, u, rule=frozen[2], key=key))(market, users)

        return each(column, *frozen[:2])

    def one(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        """What is played in one market [N, K]; no offers yet."""
        raise NotImplementedError(f"{type(self).__name__} has neither one nor columns")

    def offers(self, market: Market, rule: Mechanism, played: Played) -> Offers:
        """[N] what is offered in one market where that is played."""
        return rule.offers(market, played.profile)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _played(
    play: Play, market: Market, users: Users | UserMixture, rule: Mechanism, key: Array
) -> Played:
    def columns(market: Market, users: Users | UserMixture) -> Played:
        played = play.columns(market, users, rule=rule, key=key)
        offers = each(vmapped(lambda m, p: play.offers(m, rule, p)), market, played)
        return played.replace(offers=offers)

    return over_columns(columns, market, users)


def found(profile: Array, status: Status = Status.CONVERGED) -> Played:
    """A profile [N] of one market that is what was looked for."""
    return Played(profile=profile, status=jnp.full((), status, jnp.int32))


class Truthful(Play):
    """Everybody offers honestly, at the level that the rule makes best for an honest provider."""

    def columns(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        market, rule = jax.lax.stop_gradient((market, rule))

        def column(market: Market) -> Played:
            profile = rule.honesty.profile(market, axis=-2)
            return Played(
                profile=profile, status=jnp.full(profile.shape[1:], Status.CONVERGED, jnp.int32)
            )

        return each(column, market)


class Sincere(Play):
    """Everybody asks its price, or cost, and announces the true quality of its best level.

    The best is that of the largest surplus. It is `Truthful`, unless the rule makes another bid
    honest: one whose verifier errs, or that lets providers keep some of their losses.
    """

    def one(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        return found(market.best_surplus_profile())

    def offers(self, market: Market, rule: Mechanism, played: Played) -> Offers:
        offers = rule.offers(market, played.profile)
        true = market.at(played.profile, asking=rule.asking)
        return offers.replace(price=true.price, reported_quality=true.quality)


class CommonMarkup(Play):
    """All bid the same markup on cost; see `symmetric_markup`.

    Of 0, 1 % … 100 % that which is nearest to an equilibrium; NOT_EQUILIBRIUM where some provider
    gains by another of these.
    """

    def columns(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        market, users, rule = jax.lax.stop_gradient((market, users, rule))

        def column(market: Market, users: Users | UserMixture) -> Played:
            bids = symmetric_markup_column(market, users, rule=rule, grid=jnp.asarray(MARKUPS))
            status = jnp.where(bids.is_equilibrium, Status.CONVERGED, Status.NOT_EQUILIBRIUM)
            return Played(
                profile=rule.honesty.profile(market, axis=-2),
                markup=bids.markup,
                status=status.astype(jnp.int32),
            )

        return each(column, market, users)

    def offers(self, market: Market, rule: Mechanism, played: Played) -> Offers:
        assert played.markup is not None  # as `columns` says
        honest = rule.offers(market, played.profile)
        return honest.replace(price=honest.cost * (1 + played.markup))


@dataclasses.dataclass(frozen=True)
class AtProfile(Play):
    """Honest offers at given levels [N], the same in every market."""

    levels: tuple[int, ...]

    def one(
        self, market: Market, users: Users | UserMixture, *, rule: Mechanism, key: Array
    ) -> Played:
        profile = jnp.asarray(self.levels, int)
        if profile.shape != market.quality.shape[:1]:
            raise InputError(
                f"AtProfile: {len(self.levels)} levels for {market.quality.shape[0]} providers"
            )
        return found(profile)


PLAYS: dict[str, Play] = {"truthful": Truthful(), "sincere": Sincere(), "markup": CommonMarkup()}
"""Plays by name."""


def named_play(play: "Play | str | None", rule: Mechanism) -> Play:
    """A play itself, that of a name, or for None the one that a rule is judged by."""
    chosen = rule.play if play is None else play
    if isinstance(chosen, Play):
        return chosen
    if chosen not in PLAYS:
        raise InputError(f"play: {chosen!r} is not known; use {', '.join(PLAYS)} or a mechlab.Play")
    return PLAYS[chosen]
