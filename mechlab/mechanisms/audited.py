"""Audits: some bills are checked, and what a lie is found to have cost is returned and fined."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Offers
from mechlab.core.tolerance import Tolerance
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import checked
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.capabilities import Accounts, Facing, Honesty, Levels, Nests, PostedPrices
from mechlab.mechanisms.parameters import provider_last

Power = Callable[[Array], Array]
"""From a lie ρ, tokens billed over tokens generated, to the chance that a check finds it."""

_OVERSHOOT = 0.5826  # of a random walk over a boundary, in standard deviations (Siegmund 1985)


def _check_test(answers: int, level: float, spread: float) -> None:
    if not (isinstance(answers, int) and answers >= 1):
        raise InputError(f"answers = {answers}; a check is of at least one answer")
    if not 0 < level < 1:
        raise InputError(f"level = {level}; give the chance of a false alarm, between 0 and 1")
    if not 0 < spread < math.inf:
        raise InputError(f"spread = {spread}; give a standard deviation above 0, relative to 1")


@dataclasses.dataclass(frozen=True)
class TokenTest:
    """A one-sided z-test of the mean number of tokens on audited bills.

    The auditor knows the mean and the spread of honest counts (from runs of its own) and finds a
    provider whose mean over `answers` bills is too high at the level of the test. Power at ρ is
    Φ(((ρ − 1)√n/spread − z)/ρ), with bills of spread ρ·spread.

    Attributes:
        answers: n, bills in a check.
        level: the chance that an honest provider is found.
        spread: standard deviation of an answer's tokens, relative to their mean.
    """

    answers: int = 100
    level: float = 0.01
    spread: float = 0.5

    def __post_init__(self) -> None:
        _check_test(self.answers, self.level, self.spread)

    def __call__(self, lie: Array) -> Array:
        z = statistics.NormalDist().inv_cdf(1.0 - self.level)
        lie = jnp.asarray(lie)
        return jax.scipy.stats.norm.cdf(
            ((lie - 1.0) * math.sqrt(self.answers) / self.spread - z) / lie
        )


@dataclasses.dataclass(frozen=True)
class SequentialTest:
    """A test that is valid at every stopping time: bills are looked at one after the other.

    The likelihood ratio of a lie of size `size` against honesty is a martingale if all is honest,
    so that it comes above 1/level with a chance of at most `level` (Ville 1939). Power is the
    chance that it does so within `answers` bills, that of a Brownian motion with drift to cross a
    line, with Siegmund's correction for steps.

    Attributes:
        answers, level, spread: as in `TokenTest`.
        size: the lie that the test is made for, above 1.
    """

    answers: int = 100
    level: float = 0.01
    spread: float = 0.5
    size: float = 1.2

    def __post_init__(self) -> None:
        _check_test(self.answers, self.level, self.spread)
        if not 1 < self.size < math.inf:
            raise InputError(f"size = {self.size}; a lie bills more than 1 times the tokens")

    def __call__(self, lie: Array) -> Array:
        lie = jnp.asarray(lie)
        step = (self.size - 1.0) / self.spread
        drift = step * (lie - 1.0) / self.spread - step**2 / 2
        width = step * lie  # standard deviation of one bill's part
        line = math.log(1.0 / self.level) + _OVERSHOOT * width
        root = width * math.sqrt(self.answers)
        normal = jax.scipy.stats.norm
        back = normal.logcdf((-line - drift * self.answers) / root) + 2 * drift * line / width**2
        return jnp.clip(
            normal.cdf((drift * self.answers - line) / root) + jnp.exp(jnp.minimum(back, 0.0)),
            0.0,
            1.0,
        )


class Audited(Mechanism):
    """A rule whose bills are checked: what was over-billed is returned, and a fine is paid.

    A share `rate` of queries is checked. A lie of size ρ, tokens billed over tokens generated, is
    found with probability power(ρ); an honest bill with power(1), the level of the test. Payments
    are means, net of what is returned and fined.

    Attributes:
        rule: any rule.
        rate: in [0, 1].
        power: `TokenTest`, `SequentialTest` or any function of ρ that rises within [0, 1].
        fine: USD for each query that is found.
    """

    rule: Mechanism
    rate: Any
    power: Power = dataclasses.field(default=TokenTest(), metadata={"static": True})
    fine: Any = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Mechanism):
            raise InputError(f"Audited: rule is a {type(self.rule).__name__}; give a rule first")
        checked("rate", self.rate, minimum=0.0, maximum=1.0, why="it is a share of the queries")
        checked("fine", self.fine, minimum=0.0, why="a fine is paid, in USD")
        kind = type(self.power).__name__
        if not callable(self.power):
            raise InputError(f"power: a {kind}; give a function of the lie's size")
        if type(self.power).__hash__ is None:
            raise InputError(
                f"power: a {kind} without a hash; give a function or a frozen dataclass"
            )
        _check_power(self.power)

    @property
    def asking(self) -> str:  # type: ignore[override]
        """As the rule's."""
        return self.rule.asking

    @property
    def play(self) -> str:  # type: ignore[override]
        """As the rule's."""
        return self.rule.play

    @property
    def tolerance(self) -> Tolerance:  # type: ignore[override]
        """As the rule's."""
        return self.rule.tolerance

    def check_users(self, users: Users | UserMixture) -> None:
        self.rule.check_users(users)

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        shares, payment = self.rule.allocate(offers, users)
        if self.rule.accounts.knows_overcharge:
            over = self.rule.accounts.overcharge(offers)
        else:
            over = payment - self.rule.allocate(offers.honestly_billed(), users)[1]
        return shares, payment - self.expected(offers, over)

    def expected(self, offers: Offers, over: Array) -> Array:
        """[..., N] USD per query, what is returned and fined where `over` is over-billed."""
        found = self.rate * self.power(offers.lie)
        return found * (jnp.maximum(over, 0.0) + self.fine)

    def burdened(self, market: Market, axis: int = -2) -> Market:
        """A market in which what honest providers are fined by mistake is a cost to them."""

        def cost(cost: Array) -> Array:
            return cost + self.rate * self.power(jnp.ones_like(cost)) * self.fine

        return market.replace(cost=provider_last(self, axis, cost, market.cost))

    def smoothed(self, temperature: Array) -> "Audited":
        smooth = self.rule.smoothed(temperature)
        return self if smooth is self.rule else dataclasses.replace(self, rule=smooth)

    @property
    def honesty(self) -> Honesty:
        return self.rule.honesty

    @property
    def accounts(self) -> Accounts:
        return self.rule.accounts

    @property
    def facing(self) -> Facing:
        return AuditedFacing(self) if self.rule.accounts.knows_overcharge else Facing(self)

    @property
    def levels(self) -> Levels:
        return Levels(self) if self.rule.posted is None else AuditedLevels(self)

    @property
    def posted(self) -> PostedPrices | None:
        return None if self.rule.posted is None else AuditedPrices(self)


class AuditedFacing(Facing):
    """What is returned and fined as a cost: it is the same to the provider."""

    def rivals(self, offers: Offers, users: Users) -> Any:
        return self.rule.rule.facing.rivals(offers, users)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        return self.rule.rule.facing.utility_against(rivals, self._burdened(own))

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        return self.rule.rule.facing.steering(rivals, self._burdened(own), temperature)

    def leads(self, rivals: Any, own: Offers) -> Array:
        return self.rule.rule.facing.leads(rivals, own)

    def _burdened(self, own: Offers) -> Offers:
        over = self.rule.accounts.overcharge(own)
        return own.replace(cost=own.cost + self.rule.expected(own, over))


class AuditedLevels(Levels):
    """Under posted prices: honest providers compare levels less what they are fined by mistake."""

    def gains(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        burdened = self.rule.burdened(market)
        return self.rule.rule.levels.gains(burdened, users, profile, provider)


class AuditedPrices(PostedPrices):
    """The prices of the rule; what honest providers are fined by mistake is a cost to them."""

    def market(self, market: Market, axis: int = -2) -> Market:
        return self.rule.rule.posted.market(market, axis)

    def providers_market(self, market: Market, axis: int = -2) -> Market:
        return self.rule.burdened(self.rule.rule.posted.providers_market(market, axis), axis)

    @property
    def nests(self) -> Nests | None:
        return self.rule.rule.posted.nests


@functools.lru_cache
def _check_power(power: Power) -> None:
    """InputError where a power leaves [0, 1] or falls as lies grow."""
    lies = np.linspace(1.0, 5.0, 81)
    with jax.ensure_compile_time_eval():
        found = np.broadcast_to(np.asarray(power(jnp.asarray(lies))), lies.shape)
    outside = ~((found >= 0) & (found <= 1))
    if outside.any():
        at = int(np.argmax(outside))
        raise InputError(f"power({lies[at]:g}) = {found[at]:g}; a chance lies within [0, 1]")
    falls = np.diff(found) < -1e-6
    if falls.any():
        at = int(np.argmax(falls))
        raise InputError(
            f"power falls from {found[at]:g} at {lies[at]:g} to {found[at + 1]:g} at "
            f"{lies[at + 1]:g}; a larger lie is found no less often"
        )
