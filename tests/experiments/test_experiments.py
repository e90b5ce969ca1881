"""Experiments: what they write, that they agree with the study, and that each is run by name."""

import importlib
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from drawn import honest_bids
from matplotlib.figure import Figure

from experiments import __main__ as run
from experiments.output import Output
from mechlab import compare, data, mechanism_table

FOLDER = pathlib.Path("experiments")
EXPECTED = json.loads(
    (pathlib.Path(__file__).parents[1] / "data" / "expected_gsm8k.json").read_text()
)
QUICK = ("curves", "todays_market", "value_curves", "dynamics", "rationality_sweep", "mechanisms")


def test_names_are_those_of_the_folder():
    modules = {path.stem for path in FOLDER.glob("[a-z]*.py")} - {"output"}
    assert modules == set(run.NAMES)
    assert run.main(["nothing"]) == run.main(["all", "nothing"]) == run.main([]) == 2
    assert run.main(["--help"]) == 0


def test_each_runs_in_a_process_of_its_own(tmp_path, monkeypatch, capfd):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    for name, body in (("breaks", "raise ValueError('broken')"), ("works", "print('worked')")):
        (tmp_path / "experiments" / f"{name}.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "NAMES", ("breaks", "works"))
    assert run.main(["all"]) == 1  # one that fails does not keep the next from running
    printed = capfd.readouterr()
    assert "[2/2] works" in printed.out and "worked" in printed.out
    assert "ValueError: broken" in printed.err
    assert printed.err.endswith("experiments: failed: breaks\n")


def test_tables_say_how_they_are_remade(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Output("mine")
    out.table([{"a": 1, "b": 0.1}], "seed 3")
    out.figure(Figure())
    lines = pathlib.Path("results/mine/mine.csv").read_text().splitlines()
    assert lines[0].startswith("# remade by: python -m experiments mine (mechlab ")
    assert "seed 3" in lines[0] and lines[1:] == ["a,b", "1,0.1"]
    assert {path.suffix for path in pathlib.Path("results/mine").iterdir()} == {
        ".png",
        ".pdf",
        ".csv",
    }


@pytest.mark.full
@pytest.mark.parametrize("name", QUICK)
def test_the_table_in_the_repository_is_what_the_experiment_gives(name, tmp_path, monkeypatch):
    stored = pd.read_csv(f"results/{name}/{name}.csv", comment="#")
    monkeypatch.chdir(tmp_path)
    importlib.import_module(f"experiments.{name}").main()
    found = pd.read_csv(f"results/{name}/{name}.csv", comment="#")
    pd.testing.assert_frame_equal(found, stored, rtol=1e-6, atol=1e-9)
    assert list((tmp_path / "results" / name).glob("*.png"))


@pytest.mark.slow
def test_the_mechanisms_table_agrees_with_the_published_figures():
    names = {
        "user_value": "share_weighted_value",
        "user_cost": "share_weighted_price",
        "provider_utility": "share_weighted_margin",
        "welfare": "equilibrium_welfare",
    }
    for method, table in EXPECTED["tables"].items():
        expected = {row["rationality"]: row for row in table["pay_per_compute"]}
        rows = mechanism_table(data.published("GSM8K", method), list(expected))
        assert len(rows) == 4 * len(expected) == 12
        for row in rows:
            printed = expected[row["rationality"]]
            if row["play"] == "pay_per_compute":
                for name, theirs in names.items():
                    assert abs(row[name] - printed[theirs]) <= 1e-5
            elif row["play"] == "pay_per_compute_optimum":
                assert abs(row["welfare"] - printed["optimal_welfare"]) <= 1e-5
            elif row["play"] == "second_price":
                assert abs(row["welfare"] - table["auction"]["winner_welfare"]) <= 1e-5
                assert abs(row["user_cost"] - table["auction"]["price"]) <= 1e-5


@pytest.mark.slow
def test_the_first_price_row_says_at_which_markup():
    named = data.published()
    rows = mechanism_table(named, [1000.0])
    assert [row["markup"] is None for row in rows] == [True, True, True, False]
    first = rows[-1]
    truth = honest_bids(named.market)
    winner = int(np.argmax(np.asarray(truth.quality - truth.cost * (1 + first["markup"]))))
    paid = float(truth.cost[winner]) * (1 + first["markup"])
    np.testing.assert_allclose(first["user_cost"], paid, rtol=1e-12)


@pytest.mark.slow
def test_the_auction_for_each_users_taste_is_a_play_where_noise_is_taste():
    """At every rationality what the market of that rationality alone gives, as `compare` has it."""
    rows = mechanism_table(data.published(), [200.0, 1000.0], noise="taste")
    found = compare(data.published(), [200.0, 1000.0], noise="taste")
    personal = [row for row in found.readings if row["rule"] == "personal_auction"]
    assert [row["play"] for row in rows[4::5]] == ["personal_auction"] * 2
    for row, read in zip(rows[4::5], personal, strict=True):
        assert row["welfare"] == pytest.approx(read["welfare_taste"], rel=1e-12)
        assert row["user_value"] == pytest.approx(read["user_value_taste"], rel=1e-12)


@pytest.mark.slow
def test_changes_are_relative_to_the_equilibrium():
    rows = mechanism_table(data.published(), [200.0, 1000.0])
    assert [row["play"] for row in rows[:4]] == [
        "pay_per_compute",
        "pay_per_compute_optimum",
        "second_price",
        "first_price",
    ]
    for start in (0, 4):
        today, optimum, second, first = rows[start : start + 4]
        assert today["welfare_change"] == 0
        np.testing.assert_allclose(
            second["user_cost_change"], second["user_cost"] / today["user_cost"] - 1
        )
        # the same winner at the same level, at its surplus
        np.testing.assert_allclose(first["welfare"], second["welfare"])
        assert second["welfare"] >= optimum["welfare"] >= today["welfare"]
