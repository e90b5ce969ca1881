"""Which rule survives which attack: how often, and by how much, a lie of each kind pays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mechlab.core.errors import InputError
from mechlab.incentives.certificates import certify
from mechlab.incentives.strategies import (
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
    Space,
    Substitution,
    TokenReport,
)
from mechlab.mechanisms import Audited, Mechanism, NoisyAuction, SecondPriceAuction, Verifier
from mechlab.mechanisms.catalogue import named_rule
from mechlab.populations import Population

DEFAULT = (
    "pay_per_compute",
    "audited",
    "fixed_price=0.001",
    "first_price",
    "second_price=reported",
    "second_price",
)
"""The rules of the table."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way of taking users' money.

    Attributes:
        words: what a provider does.
        start: what is played before; see `mechlab.incentives.certificates.starting_play`.
        space: from a rule to the space that is searched.
        together: how many providers do it.
        direction: what counts as a gain by it, of `certify`'s directions; any gain where None.
        under: from a rule to the one that is attacked, or None where there is nothing to attack;
            the rule itself where not given.
    """

    words: str
    start: str
    space: Callable[[Mechanism], Space]
    together: int = 1
    direction: str | None = None
    under: Callable[[Mechanism], Mechanism | None] = lambda rule: rule


def _wrongly_verified(rule: Mechanism) -> Mechanism | None:
    """A rule that settles by what is delivered, whose verifier errs; None for any other."""
    if isinstance(rule, Audited):
        inner = _wrongly_verified(rule.rule)
        return None if inner is None else dataclasses.replace(rule, rule=inner)
    if isinstance(rule, SecondPriceAuction):
        return None if rule.settlement == "reported" else dataclasses.replace(rule, verifier=WRONG)
    return dataclasses.replace(rule, verifier=WRONG) if isinstance(rule, NoisyAuction) else None


def _price(rule: Mechanism) -> Space:
    return PriceBid() if rule.asking == "cost" else PriceMultiplier()


WRONG = Verifier(0.05, 0.05)
"""The verifier of "wrong_verifier"."""

ATTACKS = {
    "over_compute": Attack(
        "spends more than the level that is best for users",
        "truthful",
        lambda rule: GridLevel(),
        direction="more_compute",
    ),
    "over_bill": Attack(
        "bills up to twice the tokens generated", "equilibrium", lambda rule: TokenReport()
    ),
    "substitute": Attack(
        "serves another level than announced", "equilibrium", lambda rule: Substitution()
    ),
    "over_report": Attack(
        "reports up to twice the quality", "equilibrium", lambda rule: QualityReport(1.0, 2.0)
    ),
    "shade": Attack("asks another price", "equilibrium", _price),
    "collude": Attack("sets its price together with another", "equilibrium", _price, 2),
    "wrong_verifier": Attack(
        "serves and announces what a verifier likes that errs in one answer of twenty, either way",
        "sincere",
        lambda rule: (GridLevel(), QualityReport(0.5, 2.0)),
        under=_wrongly_verified,
    ),
}
"""Attacks by name."""


@dataclasses.dataclass
class Survival:
    """Who gains by which attack under each rule; `to_dict` is JSON.

    Attributes:
        population: its description.
        markets, seed: as asked.
        rows: a dict for each rule and attack: rule, attack, share_profitable (of the markets with
            a positive welfare), p99_relative_gain and max_relative_gain (of a market's welfare).
    """

    population: dict[str, Any]
    markets: int
    seed: int
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: the rows."""
        return self.rows


def survival(
    population: Population,
    markets: int,
    rules: Mapping[str, Mechanism] | None = None,
    attacks: Sequence[str] = tuple(ATTACKS),
    *,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Survival:
    """Search every market for the gain of each attack under each rule.

    An attack that a rule has no room for has no row: where nobody verifies, nobody errs. Prices
    that providers post are given in the study, and no equilibrium of prices: that asking
    another one pays there ("shade") says so.

    Args:
        rules: name → rule; those of `DEFAULT` where not given.
        attacks: names of `ATTACKS`.
        progress: called with each new row.

    Raises:
        InputError: for an attack that is not known, and as `certify` does.
    """
    for name in attacks:
        if name not in ATTACKS:
            raise InputError(f"attacks: {name!r} is not known; use all, {', '.join(ATTACKS)}")
    rules = rules or {name: named_rule(name) for name in DEFAULT}
    several = population.markets(1, seed=seed)[0].providers > 1
    rows = []
    for rule_name, rule in rules.items():
        for name in attacks:
            attack = ATTACKS[name]
            attacked = attack.under(rule)
            if (attack.together > 1 and not several) or attacked is None:
                continue
            effort: dict[str, Any] = dict(restarts=4, steps=30) if attack.together > 1 else {}
            found = certify(
                population,
                attacked,
                markets,
                attack.space(attacked),
                start=attack.start,
                together=attack.together,
                seed=seed,
                **effort,
            )
            share, regret = found.share_profitable, found.regret
            if attack.direction:
                share = found.share_by_direction[attack.direction]
                regret = found.by_direction[attack.direction]
            rows.append(
                {
                    "rule": rule_name,
                    "attack": name,
                    "share_profitable": share,
                    "p99_relative_gain": regret.quantile(0.99),
                    "max_relative_gain": max(regret.largest, 0.0) if regret.count else None,
                }
            )
            if progress:
                progress(rows[-1])
    return Survival(population=population.describe(), markets=markets, seed=seed, rows=rows)
