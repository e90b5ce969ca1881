"""Pricing rules: one interface, one file each."""

from mechlab.mechanisms.auction import ReverseAuction
from mechlab.mechanisms.audited import Audited, SequentialTest, TokenTest
from mechlab.mechanisms.base import Mechanism
from mechlab.mechanisms.first_price import FirstPriceAuction, SymmetricMarkup, symmetric_markup
from mechlab.mechanisms.fixed_price import FixedPrice
from mechlab.mechanisms.logit import LogitChoice
from mechlab.mechanisms.multi_unit import MultiUnitAuction
from mechlab.mechanisms.nested import NestedLogit
from mechlab.mechanisms.noisy import NoisyAuction
from mechlab.mechanisms.pay_per_compute import PayPerCompute
from mechlab.mechanisms.per_character import PayPerCharacter
from mechlab.mechanisms.personal import PersonalAuction
from mechlab.mechanisms.play import (
    PLAYS,
    AtProfile,
    CommonMarkup,
    Play,
    Played,
    Truthful,
    named_play,
)
from mechlab.mechanisms.scoring import ScoringAuction
from mechlab.mechanisms.second_price import SecondPriceAuction
from mechlab.mechanisms.tariff import Tariff
from mechlab.mechanisms.verifier import Verifier

__all__ = [
    "PLAYS",
    "AtProfile",
    "Audited",
    "CommonMarkup",
    "FirstPriceAuction",
    "FixedPrice",
    "LogitChoice",
    "Mechanism",
    "MultiUnitAuction",
    "NestedLogit",
    "NoisyAuction",
    "PayPerCharacter",
    "PayPerCompute",
    "PersonalAuction",
    "Play",
    "Played",
    "ReverseAuction",
    "ScoringAuction",
    "SecondPriceAuction",
    "SequentialTest",
    "SymmetricMarkup",
    "Tariff",
    "TokenTest",
    "Truthful",
    "Verifier",
    "named_play",
    "symmetric_markup",
]
