"""The interface of a pricing rule: who serves how much, and what they are paid."""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.columns import vmapped
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, Outcome, keep, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.tolerance import GAIN, Tolerance
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.core.waiting import felt_offers

METRICS = (
    "welfare",
    "net_welfare",
    "user_value",
    "net_user_value",
    "user_cost",
    "quality",
    "provider_utility",
    "accuracy",
    "tokens",
)
"""The metrics of a market that every rule has, in the words of `Outcome`."""


@dataclass_transform(frozen_default=True)
class Mechanism(abc.ABC):
    """A pricing rule: mechanism(offers, users) → Outcome.

    A rule of your own subclasses this and says in `allocate` who serves and what is paid;
    everything else (outcome, deviations, dynamics) follows. Every subclass becomes a frozen
    dataclass and a pytree by itself: its annotated fields are parameters, to jit, vmap and
    differentiate in (text: `dataclasses.field(metadata={"static": True})`). Rules are pure.

    Attributes:
        asking: what an honest provider asks under this rule: "price" (its posted price) or "cost".
        play: the name of the `Play` by which this rule is judged unless another is asked for.
        tolerance: by how much a move must raise `level_gains` to be worth making.
    """

    asking: ClassVar[str] = "price"
    play: ClassVar[str] = "equilibrium"
    tolerance: ClassVar[Tolerance] = GAIN
    _fields: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _drop_stale_shortcuts(cls)
        made = dataclasses.dataclass(frozen=True)(cls)
        cls._fields = frozenset(field.name for field in dataclasses.fields(made))  # type: ignore[arg-type]
        register(made)

    @abc.abstractmethod
    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        """Shares [..., N] (summing to ≤ 1) and the payment [..., N] per query that each serves."""

    def __call__(self, offers: Offers, users: Users | UserMixture) -> Outcome:
        """The outcome of offers [..., N] among users [...]; the identities are in `Outcome`.

        With several types of users, each is served by itself, and the outcome is their mean by
        weight; accuracy and tokens are means over what is bought, the winner serves most queries.

        Raises:
            InputError: for a market, or anything else, in place of offers.
        """
        if not isinstance(offers, Offers):
            raise InputError(
                f"offers: a {type(offers).__name__}, where Offers belong; give "
                "rule.truthful(market), or market.at(profile) for the levels of a profile"
            )
        self.check_users(users)
        outcome, allocated = outcome_and_allocated(self, offers, users)
        allocated.check(type(self).__name__)
        return outcome

    def _served(self, offers: Offers, users: Users) -> "tuple[Outcome, Allocated]":
        """The outcome among one type of users, and what is to be checked of it."""
        shares, payment = self._checked(self.allocate(offers, users), offers)
        allocated = Allocated.of(shares, payment)
        shape = jnp.broadcast_shapes(shares.shape, (*users.rationality.shape, shares.shape[-1]))
        shares, payment = jnp.broadcast_to(shares, shape), jnp.broadcast_to(payment, shape)
        shares, payment = keep((shares, payment))
        bought = self.bought(offers, users, shares)

        def total(x: Array) -> Array:
            return jnp.sum(shares * x, axis=-1)

        outside = users.outside_value
        user_value = total(offers.quality - payment)
        burden = offers.cost + self.risk_premium(offers, users)
        profit = shares * (payment - burden)
        values: dict[str, Array] = dict(
            welfare=total(offers.quality - burden),
            net_welfare=total(offers.quality - burden - outside[..., None]),
            user_value=user_value,
            net_user_value=total(offers.quality - payment - outside[..., None]),
        )
        if users.taste is None:
            surplus = self.consumer_surplus(offers, users, shares, user_value)
        else:
            unsold = (1.0 - jnp.sum(shares, axis=-1)) * outside
            surplus = user_value + unsold + self.taste_value(offers, users, shares)
            values = values_of_tastes(surplus, jnp.sum(profit, axis=-1), outside)
        rank = jnp.broadcast_to(self.ranking(offers), shares.shape)
        trade = jnp.sum(shares, axis=-1) > 0
        winner = jnp.where(trade, jnp.argmax(shares, axis=-1), -1)
        is_winner = jnp.arange(rank.shape[-1]) == winner[..., None]
        rivals = jnp.where(is_winner, -jnp.inf, rank)
        rivalry = trade & (jnp.max(rivals, axis=-1) >= self.threshold(users))
        outcome = Outcome(
            shares=shares,
            payment=payment,
            provider_utility=profit,
            **values,
            user_cost=total(payment),
            quality=total(offers.quality),
            consumer_surplus=surplus,
            accuracy=jnp.sum(bought * offers.accuracy, axis=-1),
            tokens=jnp.sum(bought * offers.tokens, axis=-1),
            winner=winner,
            runner_up=jnp.where(rivalry, jnp.argmax(rivals, axis=-1), -1),
            compute=jnp.broadcast_to(offers.compute, shares.shape),
            **self.spread(offers, users, shares),
        )
        return outcome, allocated

    def check_users(self, users: Users | UserMixture) -> None:  # noqa: B027
        """InputError, outside jit, for users that this rule cannot serve; it serves all here.

        `allocate` is traced, and sees no numbers.
        """

    def risk_premium(self, offers: Offers, users: Users) -> Array | float:
        """[..., N] USD per query served, what the risk in its payment costs a provider; 0 here."""
        return 0.0

    def spread(self, offers: Offers, users: Users, shares: Array) -> dict[str, Array]:
        """`income_deviation` and `provider_pays` of an outcome, where answers are settled one by
        one; none here."""
        return {}

    def _checked(self, found: Any, offers: Offers) -> tuple[Array, Array]:
        """Shares and payment of the shapes that `allocate` has to return; else InputError."""
        name = type(self).__name__
        if not (isinstance(found, tuple | list) and len(found) == 2):
            raise InputError(
                f"{name}: allocate returned {_kind(found)}; return two arrays, shares and payment"
            )
        shares, payment = (jnp.asarray(x) for x in found)
        n = offers.quality.shape[-1]
        for what, x in (("shares", shares), ("payment", payment)):
            if x.ndim < 1 or x.shape[-1] != n:
                raise InputError(f"{name}: allocate's {what} have shape {x.shape}; give [..., {n}]")
        return shares, payment

    def column_metrics(self, market: Market, users: Any, profile: Array) -> dict[str, Array]:
        """{metric: [B]} of honest offers at a profile [N, B] in a column of markets [N, K, B].

        A class may define `fast_metrics(market, users, profile)` for the same, with a single type
        of users: it is used for that very class, and a subclass is measured by its `allocate`.
        """
        fast = vars(type(self)).get("fast_metrics")
        if fast is not None and isinstance(users, Users):
            return fast(self, market, users, profile)
        offers = keep(vmapped(self.offers)(market, keep(profile)))
        return self.offers_metrics(offers, users)

    def offers_metrics(self, offers: Offers, users: Any) -> dict[str, Array]:
        """{metric: [B]} of a column of offers [N, B]; that of providers is their sum."""

        def one(offers: Offers, users: Users | UserMixture) -> dict[str, Array]:
            outcome = self(offers, users)
            found = {name: getattr(outcome, name) for name in METRICS}
            return found | {"provider_utility": jnp.sum(outcome.provider_utility)}

        return vmapped(one)(offers, users)

    def _mixed(self, offers: Offers, users: UserMixture) -> "tuple[Outcome, Allocated]":
        """The outcome among several types of users, and what is to be checked of it."""
        scale = users.value_scale[..., None]
        shape = jnp.broadcast_shapes(scale.shape, (*offers.quality.shape[:-1], 1, 1))
        spread = jax.tree.map(
            lambda x: jnp.broadcast_to(x[..., None, :], (*shape[:-1], x.shape[-1])), offers
        )
        each = self(spread.worth(scale), users.types())
        sold = jnp.sum(each.shares, axis=-1) * users.weight
        all_sold = jnp.sum(sold, axis=-1)
        part = sold / jnp.where(all_sold > 0, all_sold, 1.0)[..., None]
        part = jnp.where(all_sold[..., None] > 0, part, users.weight)

        def mean(x: Array) -> Array:
            return jnp.sum(x * users.weight, axis=-1)

        def by_provider(x: Array) -> Array:
            return jnp.sum(x * users.weight[..., None], axis=-2)

        shares = by_provider(each.shares)
        paid = by_provider(each.shares * each.payment)
        first = jnp.argmax(shares, axis=-1)
        trade = jnp.any(shares > 0, axis=-1)
        others = jnp.where(jnp.arange(shares.shape[-1]) == first[..., None], 0.0, shares)
        rivalry = trade & (jnp.max(others, axis=-1) > 0)
        outcome = Outcome(
            shares=shares,
            payment=paid / jnp.where(shares > 0, shares, 1.0),
            provider_utility=by_provider(each.provider_utility),
            welfare=mean(each.welfare),
            net_welfare=mean(each.net_welfare),
            user_value=mean(each.user_value),
            net_user_value=mean(each.net_user_value),
            user_cost=mean(each.user_cost),
            quality=mean(each.quality),
            consumer_surplus=mean(each.consumer_surplus),
            accuracy=jnp.sum(part * each.accuracy, axis=-1),
            tokens=jnp.sum(part * each.tokens, axis=-1),
            winner=jnp.where(trade, first, -1),
            runner_up=jnp.where(rivalry, jnp.argmax(others, axis=-1), -1),
            compute=each.compute[..., 0, :],
        )
        return outcome, Allocated.of(each.shares, each.payment)

    def offered_value(self, offers: Offers) -> Array:
        """[..., N] what users get by the reports: reported quality − what this rule asks."""
        return offers.offered_value

    def ranking(self, offers: Offers) -> Array:
        """[..., N] what decides between offers, and tells who is the runner-up."""
        return self.offered_value(offers)

    def threshold(self, users: Users) -> Array:
        """[...] the least of `ranking` that is bought: v0."""
        return users.outside_value

    def bought(self, offers: Offers, users: Users, shares: Array) -> Array:
        """[..., N] each provider's share of what is bought: σ/Σσ, or 0 where there is no trade."""
        total = jnp.sum(shares, axis=-1, keepdims=True)
        return shares / jnp.where(total > 0, total, 1.0)

    def consumer_surplus(
        self, offers: Offers, users: Users, shares: Array, user_value: Array
    ) -> Array:
        """[...] the value that users hold, those who buy nothing included."""
        return user_value + (1.0 - jnp.sum(shares, axis=-1)) * users.outside_value

    def taste_value(self, offers: Offers, users: Users, shares: Array) -> Array:
        """[...] USD, what users get by their tastes, of mean 0, where their noise is taste.

        0 here: whom a rule assigns without asking for tastes gets none. H(σ)/β where users choose.
        """
        return jnp.zeros(shares.shape[:-1], shares.dtype)

    def overcharge(self, offers: Offers) -> Array | None:
        """[..., N] USD per query, what is paid for tokens on the bill that were not generated.

        Where it depends on an offer alone; None here, where it has to be asked of `allocate`.
        """
        return None

    def offers(self, market: Market, profile: Array) -> Offers:
        """Honest offers at a profile [..., N] of grid levels."""
        return market.at(profile, asking=self.asking)

    def honest(self, offers: Offers) -> Offers:
        """Offers that ask what is asked for honestly, made to be honest under this rule.

        As they are here; a rule whose honest bid is another than quality and cost says so.
        """
        return offers

    def truthful(self, market: Market) -> Offers:
        """[..., N] honest offers at the profile that is best for honest providers."""
        return self.offers(market, self.truthful_profile(market))

    def truthful_profile(self, market: Market, axis: int = -1) -> Array:
        """[..., N] int, the level of each honest provider: that of its largest surplus.

        Levels are on the last axis, or on another, counted from the end.
        """
        return market.best_surplus_profile(axis)

    def posted_game(self, market: Market) -> Market | None:
        """The market at the prices posted, where users choose by logit among them; else None.

        Then equilibria and the optimum are those of `mechlab.solvers`, exact and fast.
        """
        return None

    def nested_game(self, market: Market) -> "tuple[Market, Nests] | None":
        """The market at the prices posted, and whom users find alike, where they choose by nested
        logit among them; else None.

        Then equilibria are found as those of a `posted_game` are.
        """
        return None

    def best_assignment(self, market: Market, users: Users) -> Array | None:
        """[...] the most welfare that one provider serving everybody gives, where that is the
        measure of this rule (an auction); else None."""
        return None

    def rivals(self, offers: Offers, users: Users | UserMixture) -> Any:
        """What each provider faces: all that its utility depends on beside its own offer.

        A pytree whose leaves start with the axes [..., N] of the offers. A rule in which others
        count only through an aggregate returns that, and overrides `utility_against` with it:
        searches for deviations are then many times faster.
        """
        n = offers.quality.shape[-1]
        each = jax.tree.map(lambda x: jnp.repeat(x[..., None, :], n, axis=-2), offers)
        axis = -2 if isinstance(users, UserMixture) else -1
        spread = jax.tree.map(lambda x: jnp.repeat(jnp.expand_dims(x, axis), n, axis), users)
        provider = jnp.broadcast_to(jnp.arange(n), offers.quality.shape)
        return Field(offers=each, users=spread, provider=provider)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        """[..., S] USD, what a provider earns by an offer of its own, exactly.

        Args:
            rivals: of one provider each, [S, ...].
            own: [..., S] its offers; any number of them, before the axes of the rivals.
        """
        here = jnp.arange(rivals.offers.quality.shape[-1]) == rivals.provider[..., None]
        shape = jnp.broadcast_shapes(*(x.shape for x in jax.tree.leaves(own)))
        offers = jax.tree.map(
            lambda all_, mine: jnp.where(here, jnp.broadcast_to(mine, shape)[..., None], all_),
            rivals.offers,
            own,
        )
        earned = self(offers, rivals.users).provider_utility
        return jnp.sum(jnp.where(here, earned, 0.0), axis=-1)

    def leads(self, rivals: Any, own: Offers) -> Array:
        """[E, ..., S] by how much an offer leads each of the E scores that it may have to beat.

        Where one is 0 the rule may jump, and searches try either side. A rule that jumps gives
        them; here, none.
        """
        return jnp.zeros((0, *own.quality.shape), own.quality.dtype)

    def smoothed(self, temperature: Array) -> "Mechanism":
        """A rule with a gradient everywhere, near this one at a low temperature (USD).

        It steers searches and training, and enters no number that is reported. A rule that jumps
        (a winner who takes all) overrides it; here, the rule itself.
        """
        return self

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        """[..., S] what gradient search climbs: a smooth stand-in for `utility_against`."""
        return self.smoothed(temperature).utility_against(rivals, own)

    def level_utilities(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] a provider's utility at each of its levels, the others fixed; one market, USD.

        Levels that are not available repeat the utility of the lowest level.
        """

        def utility(level: Array) -> Array:
            outcome = self(self.offers(market, profile.at[provider].set(level)), users)
            return outcome.provider_utility[provider]

        return jax.vmap(utility)(jnp.arange(market.levels))

    def level_gains(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] what a provider gains by each of its levels, on the scale that it compares them on.

        USD here; a rule in which utilities underflow compares logarithms instead. Hugely negative
        where the level is not available.
        """
        utility = self.level_utilities(market, users, profile, provider)
        gain = utility - utility[profile[provider]]
        return jnp.where(market.available[provider], gain, -never(gain))

    def deviation_utilities(self, market: Market, users: Users, profile: Array) -> Array:
        """[N, K] `level_utilities` of every provider."""
        row = jax.vmap(lambda i: self.level_utilities(market, users, profile, i))
        return row(jnp.arange(market.providers))


# what a rule says for itself, and what only says the same faster
_PRIMARY = ("__call__", "allocate", "offered_value", "offers")
_SHORTCUTS = (
    "rivals",
    "utility_against",
    "leads",
    "steering",
    "smoothed",
    "level_utilities",
    "level_gains",
    "deviation_utilities",
    "posted_game",
    "nested_game",
    "bought",
    "consumer_surplus",
    "taste_value",
    "overcharge",
    "spread",
    "risk_premium",
)


def _drop_stale_shortcuts(cls: type) -> None:
    """A subclass that changes what a rule does loses shortcuts that were written for what it did.

    It gets those of `Mechanism`, which follow from `allocate`, and may bring shortcuts of its own.
    """

    def home(name: str) -> int:
        """How far up its definition is."""
        return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))

    changed = min(home(name) for name in _PRIMARY)
    for name in _SHORTCUTS:
        where = home(name)
        if where > changed and cls.__mro__[where] is not Mechanism:
            setattr(cls, name, getattr(Mechanism, name))


def values_of_tastes(held: Array, earned: Array, outside: Array) -> dict[str, Array]:
    """The values of an outcome in which users hold `held`, their tastes and v0 included."""
    return dict(
        welfare=held + earned,
        net_welfare=held + earned - outside,
        user_value=held,
        net_user_value=held - outside,
    )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")


def check_arguments(market: Any, users: Any, rule: Any = None) -> None:
    """InputError that names an argument of another type than it has to have, and both types."""
    for name, value, kinds in (
        ("market", market, (Market,)),
        ("users", users, (Users, UserMixture)),
        ("rule", rule, (Mechanism, type(None))),
    ):
        if not isinstance(value, kinds):
            wanted = " or ".join(k.__name__ for k in kinds if k is not type(None))
            raise InputError(
                f"{name}: a {type(value).__name__}, where a {wanted} belongs; the order is "
                "market, users, rule"
            )
    for field in dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ():
        if isinstance(getattr(rule, field.name), str) and not field.metadata.get("static"):
            raise InputError(
                f"{type(rule).__name__}: {field.name} is text, which no program takes as an "
                'argument; declare it as dataclasses.field(default=…, metadata={"static": True})'
            )


def posted_market(market: Market, rule: Mechanism | None) -> Market:
    """The market at the prices that a rule posts; pay-per-compute for None.

    Raises:
        InputError: for a rule that is no game of posted prices and logit choice.
    """
    posted = market if rule is None else rule.posted_game(market)
    if posted is None:
        raise InputError(
            f"{type(rule).__name__}: this solver is for posted prices and logit choice; "
            "use better_response for any other rule"
        )
    return posted


def register(cls: type[Any]) -> None:
    """Make a dataclass a pytree whose structure names its class.

    Those of `jax.tree_util.register_dataclass` compare equal where classes have the same fields,
    and a compiled function can then be that of another rule.
    """
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    data = [field.name for field in fields if field.name not in static]

    def flatten(rule: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(jax.tree_util.GetAttrKey(name), getattr(rule, name)) for name in data]
        return children, (cls, *(getattr(rule, name) for name in static))

    def unflatten(structure: tuple[Any, ...], children: Any) -> Any:
        rule = object.__new__(cls)  # what was checked once is not checked again
        values = zip((*static, *data), (*structure[1:], *children), strict=True)
        for name, value in values:
            object.__setattr__(rule, name, value)
        return rule

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def compiled(work: Callable[..., Any], static: str | tuple[str, ...] = ()) -> Callable[..., Any]:
    """work(rule, …) as one program, inlined where it is traced.

    A rule that no program can take (it reads numbers, or has text for a parameter) runs eagerly.
    """
    program = jax.jit(work, static_argnames=static, inline=True)

    @functools.wraps(work)
    def run(rule: Mechanism, *args: Any, **options: Any) -> Any:
        if vars(rule).keys() <= rule._fields:  # what is no field is lost in a program
            with contextlib.suppress(TypeError, jax.errors.JAXIndexError):
                return program(rule, *args, **options)
        return work(rule, *args, **options)

    return run


@compiled
def outcome_and_allocated(
    rule: Mechanism, offers: Offers, users: Users | UserMixture
) -> "tuple[Outcome, Allocated]":
    """The outcome of offers [..., N] among users [...], and what is to be checked of it."""
    offers, users = felt_offers(offers, users)
    if isinstance(users, UserMixture):
        return rule._mixed(offers, users)
    return rule._served(offers, users)


@pytree
class Allocated(Pytree):
    """What is checked of the numbers that `allocate` returned, outside jit.

    Attributes:
        finite: [] bool.
        least: [] the smallest share.
        most: [] the largest sum of shares.
    """

    finite: Array
    least: Array
    most: Array

    @classmethod
    def of(cls, shares: Array, payment: Array) -> "Allocated":
        shares, payment = jax.lax.stop_gradient((shares, payment))
        return cls(
            finite=jnp.all(jnp.isfinite(shares)) & jnp.all(jnp.isfinite(payment)),
            least=jnp.min(shares, initial=jnp.inf),
            most=jnp.max(jnp.sum(shares, axis=-1), initial=-jnp.inf),
        )

    def check(self, name: str) -> None:
        """InputError where shares and payments of the rule called `name` are none."""
        if not concrete(self.finite, self.least, self.most):
            return
        if not self.finite:
            raise InputError(
                f"{name}: allocate returned a share or payment that is NaN or infinite"
            )
        slack = 1e-9 if self.most.dtype.itemsize == 8 else 1e-4
        least, most = float(self.least), float(self.most)
        if least < -slack or most > 1 + slack:
            raise InputError(
                f"{name}: allocate's shares go from {least:.3g} and sum to up to {most:.3g}; they "
                "are at least 0 and sum to at most 1"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nests:
    """Whom users find alike, as nested logit has it.

    Attributes:
        of: the number of each provider's nest, from 0 in the order in which they appear; static.
        dissimilarity: ρ in (0, 1].
    """

    of: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dissimilarity: Any

    def members(self, providers: int) -> np.ndarray:
        """[G, N] bool; InputError where there is another number of providers than of nests."""
        if len(self.of) != providers:
            raise InputError(
                f"nests: {len(self.of)} given for {providers} providers; give one for each"
            )
        return np.arange(max(self.of) + 1)[:, None] == np.array(self.of)


@pytree
class Field(Pytree):
    """The whole field that one provider is part of; see `Mechanism.rivals`.

    Attributes:
        offers: [..., N] of everybody.
        users: [...].
        provider: [...] int, who deviates.
    """

    offers: Offers
    users: Users | UserMixture
    provider: Array

    def to_beat(self, score: Array, places: int = 1) -> Array:
        """[..., S] the `places`-th best of the others' scores [..., S, N], or v0 where
        that is more."""
        n = score.shape[-1]
        others = jnp.where(jnp.arange(n) == self.provider[..., None], -jnp.inf, score)
        ranked = jnp.sort(others, axis=-1)
        best = ranked[..., n - places] if places < n else jnp.full(score.shape[:-1], -jnp.inf)
        return jnp.maximum(best, self.users.outside_value)


def never(like: Array) -> float:
    """A gain so large that it stands for infinity, and stays finite when two are added."""
    return float(jnp.finfo(like.dtype).max) / 4


def take_profile(market: Market, profile: Array) -> tuple[Array, Array]:
    """[..., N] offered value and unit profit at a profile."""
    return take_level(market.offered_value, profile), take_level(market.unit_profit, profile)
