"""The table of survival is what certificates say."""

import pytest

from mechlab import (
    FixedPrice,
    GridLevel,
    InputError,
    PayPerCompute,
    Published,
    SecondPriceAuction,
    Substitution,
    certify,
)
from mechlab.study import plots
from mechlab.study.survival import ATTACKS, survival

pytestmark = pytest.mark.float64

RULES = {"today": PayPerCompute(), "flat": FixedPrice(0.001), "auction": SecondPriceAuction()}


def test_rows_are_certificates(tmp_path):
    found = survival(Published(), 64, RULES, ("over_compute", "substitute"))
    rows = {(row["rule"], row["attack"]): row for row in found.rows}
    assert len(rows) == 6 and found.flat_rows() == found.rows
    one = certify(Published(), PayPerCompute(), 64, Substitution(), start="equilibrium")
    assert rows["today", "substitute"]["share_profitable"] == one.share_profitable
    assert rows["today", "substitute"]["p99_relative_gain"] == one.regret.quantile(0.99)
    level = certify(Published(), FixedPrice(0.001), 64, GridLevel(), start="truthful")
    more = rows["flat", "over_compute"]["share_profitable"]
    assert more == level.share_by_direction["more_compute"] < level.share_profitable
    less = level.share_by_direction["less_compute"]
    assert more + less >= level.share_profitable - 1e-12
    assert level.by_direction["more_compute"].largest <= level.regret.largest
    assert level.by_direction["more_compute"].count == level.regret.count
    for attack in ("over_compute", "substitute"):
        assert rows["auction", attack]["share_profitable"] == 0.0
        assert rows["auction", attack]["max_relative_gain"] == 0.0
    figure = plots.survival(found)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said.count("safe") == sum(row["share_profitable"] == 0 for row in found.rows)
    with pytest.raises(InputError, match="'lie' is not known; use all, over_compute"):
        survival(Published(), 64, RULES, ("lie",))


@pytest.mark.slow
def test_the_auction_survives_all_but_collusion():
    rules = {"auction": SecondPriceAuction()}
    found = survival(Published(), 400, rules, tuple(ATTACKS))
    safe = {row["attack"]: row["share_profitable"] == 0 for row in found.rows}
    assert not safe.pop("collude")
    assert all(safe.values())
