"""Every rule of the catalogue keeps what the interface promises, and a broken one is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import (
    FixedPrice,
    LogitChoice,
    Mechanism,
    MultiUnitAuction,
    NoisyAuction,
    PayPerCompute,
    ScoringAuction,
    SecondPriceAuction,
    Tariff,
    check_rule,
)
from mechlab.mechanisms.catalogue import RULES, named_rule

INSTANCES = {
    **{name: named_rule(name) for name in RULES if name != "fixed_price"},
    "fixed_price": FixedPrice(0.002),
    "noisy": NoisyAuction(0.001),
    "multi_unit": MultiUnitAuction(2),
    "tariff, capped": Tariff(0.0005, 0.7, 1e-6),
    "scoring, all of it": ScoringAuction(0.5, 0.001, 0.9, 1e-8, "reported"),
}


# of each kind one by default
QUICK = ("pay_per_compute", "second_price", "first_price", "fixed_price")


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


class Creative(PayPerCompute):
    def __call__(self, offers, users):
        out = super().__call__(offers, users)
        return out.replace(user_cost=0.9 * out.user_cost)


class LooksWhetherTraced(PayPerCompute):
    def allocate(self, offers, users):
        shares, paid = super().allocate(offers, users)
        return shares, paid if isinstance(offers.price, jax.core.Tracer) else 0.5 * paid


class LooksAtOthersMarkets(PayPerCompute):
    def allocate(self, offers, users):
        shares, paid = super().allocate(offers, users)
        return shares, paid - jnp.min(paid)


class WrongSlope(PayPerCompute):
    def ask(self, price, tokens):
        return 2 * price - jax.lax.stop_gradient(price)


class NoSlope(LogitChoice):
    cap: float = np.inf

    def ask(self, price, tokens):
        return jnp.minimum(price, self.cap * jnp.where(tokens > 1e9, tokens, 0.0) + price)


class WrongRivals(PayPerCompute):
    def utility_against(self, rivals, own):
        return 1.1 * super().utility_against(rivals, own)


class WrongGains(PayPerCompute):
    def level_gains(self, market, users, profile, provider):
        return -super().level_gains(market, users, profile, provider)


class WrongGame(PayPerCompute):
    def posted_game(self, market):
        return market.replace(price=2 * market.price)


class WrongTwin(PayPerCompute):
    def fast_metrics(self, market, users, profile):
        found = PayPerCompute().column_metrics(market, users, profile)
        return found | {"tokens": found["tokens"] + 1}


class Forgets(PayPerCompute):
    """What is no field does not come back."""

    def __post_init__(self):
        object.__setattr__(self, "_factor", 2.0)

    def ask(self, price, tokens):
        return getattr(self, "_factor", 1.0) * price


class Underflows(PayPerCompute):
    def ask(self, price, tokens):
        return (price**20) ** 0.05


BROKEN = {
    Six: "sum to up to 6",
    OneArray: "return two arrays, shares and payment",
    NoNumber: "NaN or infinite",
    Creative: "accounting",
    LooksWhetherTraced: "under jit",
    LooksAtOthersMarkets: "in a batch",
    WrongSlope: "derivatives",
    NoSlope: "derivatives",
    WrongRivals: "utility_against",
    WrongGains: "level_gains",
    WrongGame: "posted_game",
    WrongTwin: "fast_metrics",
    Forgets: "as a pytree",
    Underflows: "in float32",
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(x, marks=() if x in (Six, Creative, WrongTwin) else pytest.mark.slow)
        for x in BROKEN
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_broken_rule_is_caught_and_told_why(kind):
    found = check_rule(kind())
    assert found and all("\n" not in line and kind.__name__ in line for line in found)
    assert any(BROKEN[kind] in line for line in found), found


class Half(PayPerCompute):
    """Users pay half of what is asked."""

    def allocate(self, offers, users):
        shares, paid = super().allocate(offers, users)
        return shares, 0.5 * paid


class Refund(SecondPriceAuction):
    def pay(self, offers, rival):
        return 0.9 * super().pay(offers, rival)


@pytest.mark.parametrize("rule", [Half(), Refund()], ids=["Half", "Refund"])
def test_a_subclass_that_changes_a_rule_is_measured_by_what_it_changed(rule):
    assert check_rule(rule) == ()
