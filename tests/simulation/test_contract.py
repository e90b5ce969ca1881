"""Every rule of the catalogue keeps what the interface promises, and a broken one is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import (
    FixedPrice,
    InputError,
    LogitChoice,
    Mechanism,
    MultiUnitAuction,
    NoisyAuction,
    PayPerCompute,
    ScoringAuction,
    SecondPriceAuction,
    Tariff,
    Users,
    check_rule,
)
from mechlab.mechanisms.capabilities import PostedPrices
from mechlab.mechanisms.catalogue import RULES, named_rule
from mechlab.mechanisms.logit import LogitFacing, LogitLevels

INSTANCES = {
    **{name: named_rule(name) for name in RULES if name != "fixed_price"},
    "fixed_price": FixedPrice(0.002),
    "noisy": NoisyAuction(0.001),
    "multi_unit": MultiUnitAuction(2),
    "tariff, capped": Tariff(0.0005, 0.7, 1e-6),
    "scoring, all of it": ScoringAuction(0.5, 0.001, 0.9, 1e-8, "reported"),
}


# of each kind one by default
QUICK = ("pay_per_compute", "second_price")


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in INSTANCES]
)
def test_the_rules_of_the_catalogue_keep_their_promises(name):
    assert check_rule(INSTANCES[name]) == ()


class Six(Mechanism):
    def allocate(self, offers, users):
        return jnp.full_like(offers.cost, 6 / offers.cost.shape[-1]), offers.price


class OneArray(Mechanism):
    def allocate(self, offers, users):
        return offers.price


class NoNumber(Mechanism):
    def allocate(self, offers, users):
        return jnp.zeros_like(offers.cost), offers.price / (offers.price - offers.price)


class LooksWhetherTraced(Mechanism):
    def allocate(self, offers, users):
        shares, paid = PayPerCompute().allocate(offers, users)
        return shares, paid if isinstance(offers.price, jax.core.Tracer) else 0.5 * paid


class WrongSlope(LogitChoice):
    def ask(self, price, tokens):
        return 2 * price - jax.lax.stop_gradient(price)


class NoSlope(LogitChoice):
    cap: float = np.inf

    def ask(self, price, tokens):
        return jnp.minimum(price, self.cap * jnp.where(tokens > 1e9, tokens, 0.0) + price)


class WrongFacing(LogitFacing):
    def __init__(self, rule):
        super().__init__(PayPerCompute())

    def utility_against(self, rivals, own):
        return 1.1 * super().utility_against(rivals, own)


class WrongRivals(Mechanism):
    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)

    @property
    def facing(self):
        return WrongFacing(self)


class WrongLevels(LogitLevels):
    def __init__(self, rule):
        super().__init__(PayPerCompute())

    def gains(self, market, users, profile, provider):
        return -super().gains(market, users, profile, provider)


class WrongGains(Mechanism):
    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)

    @property
    def levels(self):
        return WrongLevels(self)


class TwiceThePrice(PostedPrices):
    def market(self, market, axis=-2):
        return market.replace(price=2 * market.price)


class WrongGame(Mechanism):
    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)

    @property
    def posted(self):
        return TwiceThePrice(self)


class TwinLevels(LogitLevels):
    def metrics(self, market, users, profile):
        found = super().metrics(market, users, profile)
        return found | {"tokens": found["tokens"] + 1}


class WrongTwin(LogitChoice):
    def ask(self, price, tokens):
        return price

    @property
    def levels(self):
        return TwinLevels(self)


class Forgets(LogitChoice):
    """What is no field does not come back."""

    def __post_init__(self):
        object.__setattr__(self, "_factor", 2.0)

    def ask(self, price, tokens):
        return getattr(self, "_factor", 1.0) * price


class Underflows(LogitChoice):
    def ask(self, price, tokens):
        return (price**20) ** 0.05


BROKEN = {
    Six: "sum to up to 6",
    OneArray: "return two arrays, shares and payment",
    NoNumber: "NaN or infinite",
    LooksWhetherTraced: "under jit",
    WrongSlope: "derivatives",
    NoSlope: "derivatives",
    WrongRivals: "utility_against",
    WrongGains: "levels.gains",
    WrongGame: "posted says another market",
    WrongTwin: "levels.metrics",
    Forgets: "as a pytree",
    Underflows: "in float32",
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(x, marks=() if x in (Six, WrongTwin) else pytest.mark.slow) for x in BROKEN],
    ids=lambda kind: kind.__name__,
)
def test_a_broken_rule_is_caught_and_told_why(kind):
    found = check_rule(kind())
    assert found and all("\n" not in line and kind.__name__ in line for line in found)
    assert any(BROKEN[kind] in line for line in found), found


class Half(Mechanism):
    """A rule that holds another: users pay half of what they would."""

    rule: Mechanism

    def allocate(self, offers, users):
        shares, paid = self.rule.allocate(offers, users)
        return shares, 0.5 * paid


@pytest.mark.parametrize("rule", [PayPerCompute(), SecondPriceAuction()], ids=["posted", "auction"])
def test_a_rule_that_changes_another_is_measured_by_what_it_changed(rule):
    """Its accounts are of what it pays: whatever users pay less, providers earn less."""
    half = Half(rule)
    assert check_rule(half) == ()
    market, users = mechlab.data.published().market, Users.create(1000.0)
    offers = rule.truthful(market, users)
    before, after = rule(offers, users), half(offers, users)
    np.testing.assert_allclose(after.user_cost, before.user_cost / 2, rtol=1e-12)
    np.testing.assert_allclose(after.welfare, before.welfare, rtol=1e-12)
    lost = np.sum(before.provider_utility - after.provider_utility)
    np.testing.assert_allclose(lost, before.user_cost / 2, rtol=1e-9)


def halved(base):
    class Halved(base):
        def allocate(self, offers, users):
            shares, paid = super().allocate(offers, users)
            return shares, 0.5 * paid


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (SecondPriceAuction, r"Halved: SecondPriceAuction is final; .*or subclass ReverseAuction"),
        (PayPerCompute, "Halved: PayPerCompute is final; write a rule that holds one as a field"),
        (mechlab.Audited, r"Halved: Audited is final; .*or subclass Mechanism"),
        (mechlab.ReverseAuction, r"Halved\.allocate: what ReverseAuction says of it is final"),
        (LogitChoice, r"Halved\.allocate: what LogitChoice says of it is final"),
        (Six, "Halved: Six is final"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_class_of_rules_is_abstract_or_final(base, said):
    with pytest.raises(InputError, match=said):
        halved(base)


def test_accounts_are_nobodys_to_write():
    with pytest.raises(InputError, match=r"Creative\.__call__: what Mechanism says of it is final"):

        class Creative(Mechanism):
            def __call__(self, offers, users):
                return None


class Typo(Mechanism):
    def allocate(self, offers, users):
        return offers.prise, offers.price


def test_one_cause_is_one_line_that_names_the_line_of_the_rule():
    (said,) = check_rule(Typo())
    assert "no attribute 'prise'" in said and "(test_contract.py, line " in said


@pytest.mark.slow
def test_rules_with_values_for_each_provider_need_no_market():
    caps = mechlab.per_provider([1e-7, 2e-7, 3e-7, 4e-7, 5e-7])
    assert check_rule(Tariff(token_cap=caps)) == ()
    assert check_rule(ScoringAuction(0.5, fee=mechlab.per_provider([0.0, 1e-8, -1e-8]))) == ()
    assert check_rule(mechlab.NestedLogit(tuple("aabb"), 0.6)) == ()
