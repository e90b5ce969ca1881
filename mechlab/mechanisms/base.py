"""The interface of a pricing rule: who serves how much, and what they are paid."""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform, final

import jax

from mechlab.core.devices import on_all_devices
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers, Outcome, take_level
from mechlab.core.pytree import register_by_class
from mechlab.core.tolerance import GAIN, Tolerance
from mechlab.core.users import UserMixture, Users
from mechlab.core.waiting import net_of_waiting, offers_before_waiting, offers_net_of_waiting
from mechlab.mechanisms.capabilities import Accounts, Facing, Honesty, Levels, PostedPrices
from mechlab.mechanisms.outcome import Allocated, outcome_of
from mechlab.mechanisms.parameters import over_batch, own_axes, parameter_batch


@dataclass_transform(frozen_default=True)
class Mechanism(abc.ABC):
    """A pricing rule: mechanism(offers, users) → Outcome.

    A rule of your own subclasses this (or `ReverseAuction`, `LogitChoice`) and says in `allocate`
    who serves and what is paid; everything else (outcome, deviations, dynamics) follows. Every
    subclass becomes a frozen dataclass and a pytree by itself: its annotated fields are parameters,
    to jit, vmap and differentiate in (text: `dataclasses.field(metadata={"static": True})`). Rules
    are pure.

    A class of rules is abstract or final. To change a rule, write one that holds it as a field and
    changes what its `allocate` returns, as `Audited` does, or subclass the abstract class that the
    rule is of.

    Attributes:
        asking: what an honest provider asks under this rule: "price" (its posted price) or "cost".
        play: the name of the `Play` by which this rule is judged unless another is asked for.
        tolerance: by how much a move must raise `levels.gains` to be worth making.
    """

    asking: ClassVar[str] = "price"
    play: ClassVar[str] = "equilibrium"
    tolerance: ClassVar[Tolerance] = GAIN
    _fields: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _check_declaration(cls)
        made = dataclasses.dataclass(frozen=True)(cls)
        cls._fields = frozenset(field.name for field in dataclasses.fields(made))  # type: ignore[arg-type]
        register_by_class(made)

    @abc.abstractmethod
    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        """Shares [..., N] (summing to ≤ 1) and the payment [..., N] per query that each serves."""

    def check_users(self, users: Users | UserMixture) -> None:  # noqa: B027
        """InputError, outside jit, for users that this rule cannot serve; it serves all here.

        `allocate` is traced, and sees no numbers.
        """

    def smoothed(self, temperature: Array) -> "Mechanism":
        """A rule with a gradient everywhere, near this one at a low temperature (USD).

        It steers searches and training, and enters no number that is reported. A rule that jumps
        (a winner who takes all) overrides it; here, the rule itself.
        """
        return self

    @property
    def honesty(self) -> Honesty:
        """What honest providers offer."""
        return Honesty(self)

    @property
    def accounts(self) -> Accounts:
        """What users and providers hold beyond sums of quality, payment and cost."""
        return Accounts(self)

    @property
    def facing(self) -> Facing:
        """The rule as one provider alone faces it."""
        return Facing(self)

    @property
    def levels(self) -> Levels:
        """What the choice of a grid level brings."""
        return Levels(self)

    @property
    def posted(self) -> PostedPrices | None:
        """The game of prices posted, where users choose by (nested) logit; else None."""
        return None

    @property
    @final
    def posted_logit(self) -> PostedPrices | None:
        """`posted`, where users choose by logit without nests; else None."""
        return None if self.posted is None or self.posted.nests is not None else self.posted

    @final
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
                "rule.truthful(market, users), or rule.offers(market, profile) for given levels"
            )
        self.check_users(users)
        given = on_all_devices((self, offers, users))
        outcome, allocated = outcome_and_allocated(*given)
        allocated.check(type(self).__name__)
        return outcome

    @final
    def offers(self, market: Market, profile: Array) -> Offers:
        """[..., N] honest offers at a profile [..., N] of grid levels."""
        return self._each_market(
            lambda rule, market, profile: rule.honesty.offers(market, profile), market, profile
        )

    @final
    def truthful_profile(self, market: Market, users: Users | UserMixture) -> Array:
        """[..., N] int, the level of each honest provider: that of the largest surplus, net of
        waiting, or where the rule has another best, that."""
        net, _ = net_of_waiting(market, users)
        return self._each_market(lambda rule, market: rule.honesty.profile(market), net)

    @final
    def truthful(self, market: Market, users: Users | UserMixture) -> Offers:
        """[..., N] honest offers at the profile that is best for honest providers.

        The best level is that of the largest surplus to users who wait; the qualities offered are
        those before waiting, as in `market`: rule(rule.truthful(market, users), users).
        """
        net, _ = net_of_waiting(market, users)
        profile = self._each_market(lambda rule, market: rule.honesty.profile(market), net)
        return offers_before_waiting(self.offers(net, profile), users)

    def _each_market(self, work: Callable[..., Any], market: Market, *profile: Array) -> Any:
        """work(rule, market, *profile), a market at a time where parameters have batch axes."""
        if not parameter_batch(self):
            return work(self, market, *profile)
        given = [(levels, 1) for levels in map(market.checked_profile, profile)]
        return over_batch(work, (self, own_axes(self)), (market, 2), *given)


def _check_declaration(cls: type) -> None:
    """InputError for a class that changes a rule that is final, or a method that is.

    What a rule is known to do is written for what the rule says; a subclass that says something
    else would be judged by it all the same.
    """
    for base in cls.__mro__[1:]:
        if issubclass(base, Mechanism) and base is not Mechanism and not base.__abstractmethods__:
            above = next(b for b in base.__mro__[1:] if b.__abstractmethods__)  # type: ignore[attr-defined]
            raise InputError(
                f"{cls.__name__}: {base.__name__} is final; write a rule that holds one as a "
                f"field and changes what its allocate returns (as Audited does), or subclass "
                f"{above.__name__}"
            )
        for name in vars(cls):
            said = vars(base).get(name)
            if getattr(getattr(said, "fget", said), "__final__", False):
                raise InputError(
                    f"{cls.__name__}.{name}: what {base.__name__} says of it is final; a rule says "
                    "in allocate who serves and what is paid"
                )


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
) -> tuple[Outcome, Allocated]:
    """The outcome of offers [..., N] among users [...], and what is to be checked of it."""
    return outcome_of(rule, *offers_net_of_waiting(offers, users))


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


def posted_market(market: Market, rule: Mechanism) -> Market:
    """The market [..., N, K] at the prices that a rule posts.

    Raises:
        InputError: for a rule that is no game of posted prices and logit choice.
    """
    if rule.posted_logit is None:
        raise InputError(
            f"{type(rule).__name__}: this solver is for posted prices and logit choice; "
            "use better_response for any other rule"
        )
    return rule.posted_logit.market(market)


def take_profile(market: Market, profile: Array) -> tuple[Array, Array]:
    """[..., N] offered value and unit profit at a profile."""
    return take_level(market.offered_value, profile), take_level(market.unit_profit, profile)
