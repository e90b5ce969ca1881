"""From what a rule allocates to the outcome of a market: accounts that no rule writes itself."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Offers, Outcome, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.mechanisms.parameters import over_batch, own_axes, types_axes

if TYPE_CHECKING:
    from mechlab.mechanisms.base import Mechanism


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

    def of_all(self) -> "Allocated":
        """Those of a batch in one."""
        return Allocated(
            finite=jnp.all(self.finite),
            least=jnp.min(self.least, initial=jnp.inf),
            most=jnp.max(self.most, initial=-jnp.inf),
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


def outcome_of(
    rule: "Mechanism", offers: Offers, users: Users | UserMixture
) -> tuple[Outcome, Allocated]:
    """The outcome of offers [..., N], and what is to be checked of it; waiting is taken off.

    The rule is called for one market at a time.
    """
    work = _of_types if isinstance(users, UserMixture) else _of_one_type
    outcome, checks = over_batch(
        work, (rule, own_axes(rule)), (offers, 1), (users, types_axes(users))
    )
    return outcome, checks.of_all()


def _of_one_type(rule: "Mechanism", offers: Offers, users: Users) -> tuple[Outcome, Allocated]:
    shares, payment = _allocated(rule, offers, users)
    checks, accounts = Allocated.of(shares, payment), rule.accounts
    shape = jnp.broadcast_shapes(shares.shape, (*users.rationality.shape, shares.shape[-1]))
    shares, payment = jnp.broadcast_to(shares, shape), jnp.broadcast_to(payment, shape)
    shares, payment = keep((shares, payment))
    bought = accounts.bought(offers, users, shares)

    def total(x: Array) -> Array:
        return jnp.sum(shares * x, axis=-1)

    outside = users.outside_value
    user_value = total(offers.quality - payment)
    burden = offers.cost + accounts.risk_premium(offers, users)
    profit = shares * (payment - burden)
    values: dict[str, Array] = dict(
        welfare=total(offers.quality - burden),
        net_welfare=total(offers.quality - burden - outside[..., None]),
        user_value=user_value,
        net_user_value=total(offers.quality - payment - outside[..., None]),
    )
    if users.taste is None:
        surplus = accounts.consumer_surplus(offers, users, shares, user_value)
    else:
        unsold = (1.0 - jnp.sum(shares, axis=-1)) * outside
        surplus = user_value + unsold + accounts.taste_value(offers, users, shares)
        values = values_of_tastes(surplus, jnp.sum(profit, axis=-1), outside)
    rank = jnp.broadcast_to(accounts.ranking(offers), shares.shape)
    trade = jnp.sum(shares, axis=-1) > 0
    winner = jnp.where(trade, jnp.argmax(shares, axis=-1), -1)
    is_winner = jnp.arange(rank.shape[-1]) == winner[..., None]
    rivals = jnp.where(is_winner, -jnp.inf, rank)
    rivalry = trade & (jnp.max(rivals, axis=-1) >= accounts.threshold(users))
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
        **accounts.spread(offers, users, shares),
    )
    return outcome, checks


def _allocated(rule: "Mechanism", offers: Offers, users: Users) -> tuple[Array, Array]:
    """Shares and payment of the shapes that `allocate` has to return; else InputError."""
    name, found = type(rule).__name__, rule.allocate(offers, users)
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


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")


def _of_types(rule: "Mechanism", offers: Offers, users: UserMixture) -> tuple[Outcome, Allocated]:
    """Every type is served by itself; the outcome is the mean by weight."""

    def of_type(one: Users, scale: Array) -> tuple[Outcome, Allocated]:
        return _of_one_type(rule, offers.worth(scale[..., None]), one)

    each, checks = jax.vmap(of_type, in_axes=-1)(users.types(), users.value_scale)  # [T, ...]
    weight = jnp.moveaxis(users.weight, -1, 0)
    sold = jnp.sum(each.shares, axis=-1) * weight
    all_sold = jnp.sum(sold, axis=0)
    part = jnp.where(all_sold > 0, sold / jnp.where(all_sold > 0, all_sold, 1.0), weight)

    def mean(x: Array) -> Array:
        return jnp.sum(x * weight, axis=0)

    def by_provider(x: Array) -> Array:
        return jnp.sum(x * weight[..., None], axis=0)

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
        accuracy=jnp.sum(part * each.accuracy, axis=0),
        tokens=jnp.sum(part * each.tokens, axis=0),
        winner=jnp.where(trade, first, -1),
        runner_up=jnp.where(rivalry, jnp.argmax(others, axis=-1), -1),
        compute=each.compute[0],
    )
    return outcome, checks.of_all()


def values_of_tastes(held: Array, earned: Array, outside: Array) -> dict[str, Array]:
    """The values of an outcome in which users hold `held`, their tastes and v0 included."""
    return dict(
        welfare=held + earned,
        net_welfare=held + earned - outside,
        user_value=held,
        net_user_value=held - outside,
    )
