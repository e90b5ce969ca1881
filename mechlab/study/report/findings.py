"""Who can gain by deviating in one market, in numbers and in words."""

import dataclasses

import jax
import numpy as np

from mechlab.core.market import Array, Outcome
from mechlab.core.tolerance import NEGLIGIBLE
from mechlab.core.users import Users
from mechlab.data import NamedMarket
from mechlab.incentives.deviations import grid_deviations, search
from mechlab.incentives.strategies import PriceBid, QualityReport, Substitution, TokenReport
from mechlab.mechanisms import FirstPriceAuction, Mechanism, PayPerCompute, SecondPriceAuction
from mechlab.solvers.equilibrium import equilibrium
from mechlab.solvers.optimum import social_optimum

_REPORTS = QualityReport(0.5, 1.5)
_BIDS = (PriceBid(), _REPORTS), "their price bids and quality reports"
_LIES = (TokenReport(), Substitution()), "what they bill and serve"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One play under one rule, and the best deviations from it.

    Attributes:
        rule, play: in words.
        moves: what providers may change.
        providers: how many gain, of how many.
        gain: the largest gain, USD per query.
        relative: the same, relative to the welfare of the play; None where that is not positive.
        sentence: all of it, in words.
    """

    rule: str
    play: str
    moves: str
    providers: tuple[int, int]
    gain: float
    relative: float | None
    sentence: str


def findings(named: NamedMarket, rationality: float, *, seed: int = 0) -> list[Finding]:
    """Deviations from the optimum and the equilibrium of pay-per-compute, and from truth.

    Levels are searched on the grid, exactly; price bids, and quality reports from half to one and
    a half times the truth, by gradient from several starts, with gains of the exact rule. So are
    lies: bills of up to twice the tokens, and another level served than announced.
    """
    market, key = named.net_of_waiting().market, jax.random.key(seed)
    users = Users.create(rationality, named.constants.outside_value)
    rule: Mechanism = PayPerCompute()
    optimum = social_optimum(market, users).profile
    reached = equilibrium(market, users, key=key).profile
    rows = []
    for play, profile in (("the social optimum", optimum), ("the equilibrium", reached)):
        outcome = rule(rule.offers(market, profile), users)
        found = grid_deviations(market, users, rule, profile)
        gain = _material(found.gain, outcome)
        compute = np.asarray(market.compute)
        at = np.arange(len(gain))
        more = compute[at, np.asarray(found.best_level)] > compute[at, np.asarray(profile)]
        shares = np.asarray(outcome.shares)
        gainers = gain > 0
        toward = ""
        if gainers.any():
            weight = shares[gainers].sum()
            part = shares[gainers & more].sum() / weight if weight > 0 else more[gainers].mean()
            toward = f", {100 * part:.0f} % of them (by market share) with more compute"
        rows.append(
            _finding("Pay per compute", play, "their compute", gain, float(outcome.welfare), toward)
        )
    tried: list[tuple[str, Mechanism, str, Array, tuple[tuple, str]]] = [
        ("Pay per compute", rule, "the equilibrium", reached, _LIES)
    ]
    truthful = market.best_surplus_profile()
    for title, auction in (
        ("Second-price auction", SecondPriceAuction()),
        (
            "Second-price auction that settles by the reported quality",
            SecondPriceAuction("reported"),
        ),
        ("First-price auction", FirstPriceAuction()),
    ):
        tried += [(title, auction, "truthful play", truthful, moves) for moves in (_BIDS, _LIES)]
    for title, rule, play, profile, (space, moves) in tried:
        outcome = rule(rule.offers(market, profile), users)
        gain = _material(search(market, users, rule, profile, space=space, key=key).gain, outcome)
        rows.append(_finding(title, play, moves, gain, float(outcome.welfare), ""))
    return rows


def _material(gain: Array, outcome: Outcome) -> np.ndarray:
    """Gains [N], 0 where rounding explains them."""
    rounding = NEGLIGIBLE.double * max(abs(float(outcome.welfare)), 1e-12)
    return np.where(np.asarray(gain) > rounding, np.asarray(gain), 0.0)


def _finding(
    rule: str, play: str, moves: str, gain: np.ndarray, welfare: float, toward: str
) -> Finding:
    gainers, largest = int(np.sum(gain > 0)), float(gain.max())
    relative = largest / welfare if welfare > 0 else None
    start = f"{rule}: from {play}, "
    if not gainers:
        sentence = start + f"no provider gains by changing {moves}."
    else:
        share = "" if relative is None else f", {100 * relative:.2g} % of welfare"
        some = "1 provider gains" if gainers == 1 else f"{gainers} providers gain"
        sentence = start + (
            f"{some} of {len(gain)} by changing {moves}{toward}; the largest gain is "
            f"{1000 * largest:.3g} USD per 1,000 queries{share}."
        )
    return Finding(rule, play, moves, (gainers, len(gain)), largest, relative, sentence)
