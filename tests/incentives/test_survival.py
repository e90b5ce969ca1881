"""The table of survival is what certificates say."""

import jax
import numpy as np
import pytest

from mechlab import (
    Audited,
    FixedPrice,
    GridLevel,
    InputError,
    PayPerCompute,
    Published,
    SecondPriceAuction,
    Substitution,
    Users,
    certify,
)
from mechlab.study import plots
from mechlab.study.survival import ATTACKS, WRONG, survival

pytestmark = pytest.mark.float64

RULES = {"today": PayPerCompute(), "flat": FixedPrice(0.001), "auction": SecondPriceAuction()}


@pytest.mark.slow
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
def test_who_games_a_verifier_gains_what_its_measure_has_over_the_truth():
    """By hand: the best measured score of each provider, over the others' true ones."""
    rules = {
        "auction": SecondPriceAuction(),
        "today": PayPerCompute(),
        "audited": Audited(PayPerCompute(), 0.1),
        "said": SecondPriceAuction("reported"),
    }
    found = survival(Published(), 64, rules, ("wrong_verifier",))
    (row,) = found.rows  # the others have no verifier
    markets, _ = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(float), Published().markets(64)
    )
    best, measured = (
        np.where(markets.available, quality - np.asarray(markets.cost), -np.inf)
        for quality in (
            np.asarray(markets.quality),
            np.asarray(
                markets.quality
                + SecondPriceAuction(verifier=WRONG)
                .truthful(markets, Users.create(1.0))
                .stake[..., None]
                * (WRONG.accuracy(markets.accuracy) - markets.accuracy)
            ),
        )
    )
    gains = []
    for j in range(64):
        levels = best[j].argmax(1)
        true = best[j].max(1)
        winner = int(true.argmax())
        for i in range(len(true)):
            rival = max(np.delete(true, i).max(), 0.0)
            now = measured[j, i, levels[i]] - rival if i == winner else 0.0
            gains.append((j, (max(measured[j, i].max() - rival, 0.0) - now) / true.max()))
    worst = np.array([max(gain for k, gain in gains if k == j) for j in range(64)])
    np.testing.assert_allclose(row["share_profitable"], np.mean(worst > 1e-9), atol=1e-12)
    np.testing.assert_allclose(row["max_relative_gain"], worst.max(), rtol=1e-3)


@pytest.mark.full
def test_the_auction_survives_all_but_collusion_and_a_verifier_that_errs():
    rules = {"auction": SecondPriceAuction()}
    found = survival(Published(), 400, rules, tuple(ATTACKS))
    safe = {row["attack"]: row["share_profitable"] == 0 for row in found.rows}
    assert not safe.pop("collude") and not safe.pop("wrong_verifier")
    assert all(safe.values())
