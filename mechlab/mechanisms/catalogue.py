"""The catalogue of rules: what a command line, a file and the documentation call them."""

import functools
from collections.abc import Callable

from mechlab.core.errors import InputError
from mechlab.mechanisms.audited import Audited, TokenTest
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.first_price import FirstPriceAuction
from mechlab.mechanisms.fixed_price import FixedPrice
from mechlab.mechanisms.multi_unit import MultiUnitAuction
from mechlab.mechanisms.noisy import NoisyAuction
from mechlab.mechanisms.pay_per_compute import PayPerCompute
from mechlab.mechanisms.personal import PersonalAuction
from mechlab.mechanisms.scoring import ScoringAuction
from mechlab.mechanisms.second_price import SecondPriceAuction
from mechlab.mechanisms.tariff import Tariff


def audited(rate: float = 0.1) -> Audited:
    """Pay-per-compute with a share of the queries checked, and a fine of 0.01 USD."""
    return Audited(PayPerCompute(), rate, TokenTest(), 0.01)


RULES: dict[str, Callable[..., Mechanism]] = {
    "pay_per_compute": PayPerCompute,
    "second_price": SecondPriceAuction,
    "second_price=reported": functools.partial(SecondPriceAuction, "reported"),
    "first_price": FirstPriceAuction,
    "fixed_price": FixedPrice,
    "tariff": Tariff,
    "scoring": ScoringAuction,
    "multi_unit": MultiUnitAuction,
    "noisy": NoisyAuction,
    "personal": PersonalAuction,
    "audited": audited,
}
"""Rules by name; `fixed_price` needs a price, the others have defaults."""

NUMBERED = {"fixed_price": "0.001", "noisy": "0.001", "multi_unit": "2", "audited": "0.1"}
"""Rules whose name may have a number, with an example: USD, USD, queries, the share audited."""


def named_rule(text: str) -> Mechanism:
    """The rule of a name, or of name=number for its first parameter, such as fixed_price=0.001.

    Raises:
        InputError: names what is known.
    """
    if text in RULES and text != "fixed_price":
        return RULES[text]()
    name, given, number = text.partition("=")
    if name in NUMBERED and given:
        example = f"as in {name}={NUMBERED[name]}"
        try:
            value = int(number) if name == "multi_unit" else float(number)
        except ValueError:
            raise InputError(f"{text}: give a number, {example}") from None
        try:
            return RULES[name](value)
        except InputError as error:
            raise InputError(f"{text}: {error}, {example}") from None
    if text == "fixed_price":
        raise InputError("fixed_price needs its price, in USD per query, as in fixed_price=0.001")
    raise InputError(f"{text}: no such rule; use {', '.join(RULES)} (fixed_price=USD)")
