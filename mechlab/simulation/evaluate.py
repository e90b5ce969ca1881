"""Rules on markets: what each gives in its play, for one market, a script's million, or a grid."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from mechlab.core.columns import (
    batch_shape,
    column_size,
    each,
    flat_batch,
    over_columns,
    settled,
    vmapped,
)
from mechlab.core.devices import (
    AXIS,
    free_devices,
    markets_mesh,
    on_all_devices,
    on_no_mesh,
    over_devices,
)
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.mechanisms import (
    Mechanism,
    PayPerCompute,
    Play,
    Played,
    SecondPriceAuction,
    named_play,
)
from mechlab.mechanisms.base import check_arguments
from mechlab.mechanisms.capabilities import METRICS
from mechlab.mechanisms.front_door import front_door
from mechlab.mechanisms.parameters import over_batch, own_axes, parameter_batch, types_axes
from mechlab.solvers.optimum import optimum_bounds, optimum_columns


def default_rules() -> dict[str, Mechanism]:
    return {"pay_per_compute": PayPerCompute(), "second_price": SecondPriceAuction()}


@pytree
class Evaluation(Solution):
    """What one rule gives in its play; money in USD per query.

    Attributes:
        welfare, net_welfare, user_value, net_user_value, user_cost, quality, accuracy, tokens:
            [...] as in `Outcome`.
        provider_utility: [...] of all providers together.
        profile: [..., N] int, the levels played.
        status: [...] int, a `Status`: how the play's solver ended.
        unique: [...] bool, whether the equilibrium is the only one; None where that is not known.
        optimal_welfare: [...] under posted prices the most that a planner could reach when users
            choose by logit; in auctions the best assignment. None under other rules. With several
            types of users a lower bound, and
        optimal_welfare_bound: [...] the upper one; else None.
        price_of_anarchy: [...] optimal welfare over that of the worst equilibrium known with a
            positive welfare, a lower bound where the equilibrium is not unique; NaN where
            `has_ratio` is False. None where there is no optimal welfare.
    """

    _main = (
        "welfare",
        "user_value",
        "user_cost",
        "provider_utility",
        "optimal_welfare",
        "price_of_anarchy",
        "unique",
        "accuracy",
        "tokens",
    )

    welfare: Array
    net_welfare: Array
    user_value: Array
    net_user_value: Array
    user_cost: Array
    quality: Array
    provider_utility: Array
    accuracy: Array
    tokens: Array
    profile: Array
    unique: Array | None = None
    optimal_welfare: Array | None = None
    optimal_welfare_bound: Array | None = None
    price_of_anarchy: Array | None = None

    @property
    def has_ratio(self) -> Array:
        """[...] bool, where a ratio of welfares means something: the market has settled, and what
        is played has a positive welfare. Elsewhere compare optimal_welfare − welfare."""
        return (self.status == Status.CONVERGED) & (self.welfare > 0)

    def means(self) -> dict[str, Array]:
        """[] the mean of each of `rows` over all markets; that of price_of_anarchy over those where
        `has_ratio`, NaN where none has; and `has_ratio`, their share."""
        found = {name: jnp.mean(x) for name, x in self.rows().items()}
        if self.price_of_anarchy is not None:
            found["price_of_anarchy"] = jnp.mean(self.price_of_anarchy, where=self.has_ratio)
        return found | {"has_ratio": jnp.mean(self.has_ratio)}

    def rows(self) -> dict[str, Array]:
        """Columns by name, as a table of markets has them: those that mean something."""
        names = [*METRICS, "unique", "optimal_welfare", "optimal_welfare_bound", "price_of_anarchy"]
        found = {name: getattr(self, name) for name in names}
        found["converged"] = self.converged
        return {name: x for name, x in found.items() if x is not None}


@front_door()
def evaluate(
    market: Market,
    users: Users | UserMixture,
    rules: Mechanism | Mapping[str, Mechanism],
    *,
    play: Play | str | Mapping[str, Play | str] | None = None,
    certificate: bool = True,
    key: Any = None,
) -> Any:
    """What each rule gives in every market: the function that a script jits.

    Works on one market and on any batch, under jit, vmap and grad, a column of markets at a time.
    Outside jit all local devices share the markets (one alone works where a script has set a mesh,
    whose arrays go with no other); under jit those of the ambient mesh (`jax.set_mesh`) do, if it
    has an axis `markets`.

    Derivatives in every parameter of market, users and rules are exact at the profile that is
    played, and profiles are constants to them: they say nothing of providers who would move. For
    equilibria that move with the parameters see `smoothed_equilibrium`.

    Args:
        market, users: [..., N, K] and [...]; the batch axes broadcast.
        rules: name → rule, or a single rule.
        play: how they are played, a `Play` or its name, for all rules or by name of the rule;
            each rule's own (`Mechanism.play`) where not given.
        certificate: static; whether to look for the worst equilibrium known under posted prices.
            (The equilibrium is the same without.)
        key: of the dynamics' visiting orders where the equilibrium is not unique.

    Returns:
        A dictionary of an `Evaluation` by name, or one `Evaluation` for a single rule.

    Raises:
        InputError: for arguments of another kind, and rules that break the interface.
    """
    single = isinstance(rules, Mechanism)
    named = {"rule": rules} if isinstance(rules, Mechanism) else rules
    if not isinstance(named, Mapping) or not named:
        given = f" (a class: call it, {rules.__name__}())" if isinstance(rules, type) else ""
        raise InputError(f"rules: give a rule, or {{name: rule}} with at least one{given}")
    for rule in named.values():
        check_arguments(market, users, rule)
    plays = _plays(named, play)
    apart = {
        name: _by_market(market, users, rule, key, play=plays[name], certificate=certificate)
        for name, rule in named.items()
        if parameter_batch(rule)
    }
    shared = {name: rule for name, rule in named.items() if name not in apart}
    found = apart | (
        _evaluate(market, users, shared, plays, key, certificate=certificate) if shared else {}
    )
    # pytrees sort by key: back to the order that was given
    return found["rule"] if single else {name: found[name] for name in named}


@functools.partial(jax.jit, static_argnames=("play", "certificate"))
def _by_market(
    market: Market, users: Any, rule: Mechanism, key: Array, *, play: Play, certificate: bool
) -> "Evaluation":
    """`evaluate` of a rule whose parameters have batch axes."""

    def one(market: Market, users: Any, rule: Mechanism) -> Evaluation:
        options: dict[str, Any] = dict(plays={"rule": play}, certificate=certificate)
        return _over_markets(market, users, {"rule": rule}, key, **options)["rule"]

    return over_batch(one, (market, 2), (users, types_axes(users)), (rule, own_axes(rule)))


def _evaluate(
    market: Market,
    users: Any,
    named: Mapping[str, Mechanism],
    plays: Mapping[str, Play],
    key: Array,
    *,
    certificate: bool,
) -> dict[str, "Evaluation"]:
    plays = {name: plays[name] for name in named}
    options: dict[str, Any] = dict(plays=tuple(plays.items()), certificate=certificate)
    if concrete(*jax.tree.leaves((market, users, dict(named), key))):
        market, users = on_all_devices((market, users))
        for rule in named.values():
            _try_one(market, users, rule)
        return _everywhere(market, users, dict(named), key, **options)
    return _under_jit(market, users, dict(named), key, **options)


def _plays(rules: Mapping[str, Mechanism], play: Any) -> dict[str, Play]:
    by_name = play if isinstance(play, Mapping) else dict.fromkeys(rules, play)
    for name in by_name:
        if name not in rules:
            raise InputError(f"play: no rule {name!r}; there are {', '.join(rules)}")
    return {name: named_play(by_name.get(name), rule) for name, rule in rules.items()}


def _try_one(market: Market, users: Users | UserMixture, rule: Mechanism) -> None:
    """InputError where a rule's outcome of the first market is not what the interface promises."""
    one, who = _first(market, users)
    rule(rule.offers(one, jnp.asarray(np.zeros(one.providers, int), int)), who)


@jax.jit
def _first(market: Market, users: Users | UserMixture) -> tuple[Market, Users | UserMixture]:
    """One market [N, K] and its users."""
    _, flat = flat_batch(market, users)
    return jax.tree.map(lambda x: x[0], flat)


def evaluate_columns(
    market: Market,
    users: Users | UserMixture,
    rules: Mapping[str, Mechanism],
    plays: Mapping[str, Play],
    *,
    certificate: bool,
    key: Array,
) -> dict[str, Evaluation]:
    """`evaluate` of columns of markets [P, N, K, B]: first what is played, then what it gives."""
    solved = {
        name: _solved(market, users, rule, plays[name], certificate, key)
        for name, rule in rules.items()
    }

    def column(
        market: Market, users: Users | UserMixture, solved: dict[str, _Solved]
    ) -> dict[str, Evaluation]:
        return {
            name: _evaluated(market, users, rule, plays[name], solved[name])
            for name, rule in rules.items()
        }

    return each(column, market, users, solved)


@pytree
class _Solved(Pytree):
    """What is played under a rule, and what it is compared with; constant to derivatives.

    Attributes:
        played: without offers.
        optimum: [..., N, B] int, the planner's profile under posted prices, or None.
        worst: [..., N, B] int, of the equilibria known that with the least positive welfare, or
            the one played where none has any. None where none is looked for.
    """

    played: Played
    optimum: Array | None = None
    worst: Array | None = None


def _solved(
    market: Market,
    users: Users | UserMixture,
    rule: Mechanism,
    play: Play,
    certificate: bool,
    key: Array,
) -> _Solved:
    market, users, rule = jax.lax.stop_gradient((market, users, rule))
    played = play.columns(market, users, rule=rule, key=key)
    game = rule.posted_logit
    if game is None or isinstance(users, UserMixture):
        return _Solved(played=played)
    optimum, _, _ = optimum_columns(game.market(market, axis=-3), users)
    worst = None
    if certificate and played.unique is not None:

        def least(data: Any, profile: Array) -> Array:
            market, users, *ends = data
            welfare = [
                rule.levels.metrics(market, users, end)["welfare"] for end in (profile, *ends)
            ]
            gain = jnp.stack(welfare)
            which = jnp.argmin(jnp.where(gain > 0, gain, jnp.inf), axis=0)
            return jnp.choose(which, [profile, *ends], mode="clip")

        data = (market, users, played.smallest, played.largest)
        worst = settled(~played.unique, played.profile, data, least)
    return _Solved(played=played, optimum=optimum, worst=worst)


def _evaluated(
    market: Market, users: Users | UserMixture, rule: Mechanism, play: Play, solved: _Solved
) -> Evaluation:
    """Of one column [N, K, B]."""
    played = solved.played

    def at(profile: Array) -> Array:
        """[B] welfare at a profile [N, B]."""
        return rule.levels.metrics(market, users, profile)["welfare"]

    if type(play).offers is Play.offers:
        found = rule.levels.metrics(market, users, played.profile)
    else:
        offers = vmapped(lambda m, p: play.offers(m, rule, p))(market, played)
        found = rule.levels.metrics_of(keep(offers), users)
    most, bound, worst = None, None, found["welfare"]
    if solved.optimum is not None:
        most = at(solved.optimum)
        worst = worst if solved.worst is None else at(solved.worst)
    elif rule.posted_logit is not None:
        first = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, -1, 0))
        most, bound = optimum_bounds(first(market), first(users), rule, first(played.profile))
    elif isinstance(users, Users):
        most = vmapped(rule.accounts.best_assignment)(market, users)
    anarchy = None
    if most is not None:
        most = jnp.maximum(most, found["welfare"])
        sure = (played.status == Status.CONVERGED) & (found["welfare"] > 0)
        worst = jnp.where(worst > 0, worst, found["welfare"])  # rounding
        anarchy = jnp.where(sure, most / jnp.where(sure, worst, 1.0), jnp.nan)
    return Evaluation(
        **found,
        profile=played.profile,
        status=played.status,
        unique=played.unique,
        optimal_welfare=most,
        optimal_welfare_bound=bound,
        price_of_anarchy=anarchy,
    )


def _over_markets(
    market: Market, users: Any, rules: dict[str, Mechanism], key: Array, **options: Any
) -> dict[str, Evaluation]:
    plays, certificate = dict(options["plays"]), options["certificate"]
    solve = functools.partial(
        evaluate_columns, rules=rules, plays=plays, certificate=certificate, key=key
    )
    return over_columns(solve, market, users)


def _under_jit(market: Market, users: Any, rules: Any, key: Array, **options: Any) -> Any:
    ambient = jax.sharding.get_abstract_mesh()
    if AXIS not in ambient.axis_names or AXIS in ambient.manual_axes:
        return _over_markets(market, users, rules, key, **options)
    return _shared(market, users, rules, key, None, ambient.shape[AXIS], **options)


@functools.partial(jax.jit, static_argnames=("plays", "certificate", "mesh"))
def _compiled(market: Market, users: Any, rules: Any, key: Array, mesh: Any, **options: Any) -> Any:
    if mesh is None:
        return _over_markets(market, users, rules, key, **options)
    return _shared(market, users, rules, key, mesh, mesh.size, **options)


def _everywhere(market: Market, users: Any, rules: Any, key: Array, **options: Any) -> Any:
    """On every local device, where there are enough markets for all."""
    devices = free_devices()
    enough = column_size(market.providers, market.levels) * len(devices)
    many = math.prod(batch_shape(market, users)) >= enough
    mesh = markets_mesh(devices) if len(devices) > 1 and many else None
    found = _compiled(market, users, rules, key, mesh, **options)
    return found if mesh is None else on_no_mesh(found)


def _shared(
    market: Market, users: Any, rules: Any, key: Array, mesh: Any, parts: int, **options: Any
) -> Any:
    """On the devices of a mesh, each with its share of the markets."""
    shape, data = flat_batch(*on_all_devices((market, users)))
    total = math.prod(shape)
    missing = -total % parts
    if missing:
        data = jax.tree.map(lambda x: jnp.concatenate([x, x[-missing:]]), data)
    if mesh is None and AXIS in jax.sharding.get_abstract_mesh().explicit_axes:
        data = jax.tree.map(lambda x: jax.sharding.reshard(x, PartitionSpec(AXIS)), data)

    def run(data: Any, rules: Any, key: Array) -> Any:
        return _over_markets(data[0], data[1], rules, key, **options)

    found = on_all_devices(over_devices(run, mesh, data, rules, key))
    return jax.tree.map(lambda x: x[:total].reshape(*shape, *x.shape[1:]), found)
