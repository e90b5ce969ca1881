"""Files and the command line: JSON contracts, and one line with status 2 for bad input."""

import csv
import dataclasses
import gzip
import io
import json
import pathlib
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mechlab import InputError, cli, compare, data
from mechlab.study import tables

HEADER = ",".join(data.COLUMNS)
ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = [
    "Quiz,A,majority_voting,0,1,0.5,100",
    "Quiz,A,majority_voting,1,4,0.6,400",
    "Quiz,B,majority_voting,0,1,0.4,100",
]
CONSTANTS = """
baseline = 0.1
margin = 0.2
rationality = [10.0, 5000.0]
[value_per_answer]
Quiz = 0.01
[price_per_million_tokens]
A = 1.0
B = 0.5
"""


@pytest.fixture
def files(tmp_path):
    table, constants = tmp_path / "curves.csv", tmp_path / "market.toml"
    table.write_text("\n".join([HEADER, *ROWS]) + "\n")
    constants.write_text(CONSTANTS)
    return table, constants


def run(*arguments, capsys):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_own_curves_give_a_market_with_masked_levels(files):
    named = data.load(str(files[0]), str(files[1])).select("Quiz", "majority_voting")
    assert named.names == ("A", "B")
    np.testing.assert_array_equal(named.market.available, [[True, True], [True, False]])
    np.testing.assert_allclose(named.market.price[0], [1e-4, 4e-4])
    np.testing.assert_allclose(named.market.cost[0], np.array([1e-4, 4e-4]) / 1.2)


def test_parquet_and_csv_give_the_same_market(files, tmp_path):
    parquet = tmp_path / "curves.parquet"
    pd.read_csv(files[0]).to_parquet(parquet)
    first = data.load(str(files[0]), str(files[1])).select("Quiz", "majority_voting")
    second = data.load(str(parquet), str(files[1])).select("Quiz", "majority_voting")
    np.testing.assert_array_equal(first.market.quality, second.market.quality)


def test_quality_shapes_are_read_from_the_constants(files):
    files[1].write_text('quality = "power"\nquality_parameter = 2.0\n' + CONSTANTS)
    named = data.load(str(files[0]), str(files[1])).select("Quiz", "majority_voting")
    np.testing.assert_allclose(named.market.quality[0, 1], 0.01 * (0.1 + 0.9 * 0.36))


def test_compare_prints_one_json_object(files, capsys):
    status, out, err = run(
        "compare",
        "--curves",
        files[0],
        "--market",
        files[1],
        "--benchmark",
        "Quiz",
        "--rationality",
        20,
        "--rationality",
        4000,
        "--format",
        "json",
        capsys=capsys,
    )
    assert status == 0 and err == ""
    result = json.loads(out)
    assert set(result) == {"benchmark", "method", "noise", "pay_per_compute", "auction", "readings"}
    assert [row["rationality"] for row in result["pay_per_compute"]] == [20, 4000]
    assert set(result["pay_per_compute"][0]) == {
        "rationality",
        "user_value",
        "user_cost",
        "quality",
        "accuracy",
        "tokens",
        "provider_utility",
        "welfare",
        "optimal_welfare",
        "price_of_anarchy",
        "price_of_stability",
        "consumer_surplus",
        "mean_value",
        "mean_price",
        "mean_margin",
        "net_welfare",
        "unique",
        "converged",
        "levels",
        "shares",
        "mean_elasticity",
        "hhi",
    }
    assert set(result["auction"]) == {
        "winner",
        "runner_up",
        "compute",
        "welfare",
        "user_value",
        "user_cost",
        "quality",
        "accuracy",
        "tokens",
        "provider_utility",
        "net_welfare",
    }
    assert set(result["pay_per_compute"][0]["levels"]) == {"A", "B"}


def test_sweep_prints_one_json_object(files, capsys):
    status, out, _ = run(
        "sweep",
        "--curves",
        files[0],
        "--market",
        files[1],
        "--benchmark",
        "Quiz",
        "--format",
        "json",
        capsys=capsys,
    )
    result = json.loads(out)
    assert status == 0 and len(result["points"]) == 100
    assert set(result["points"][0]) == {
        "rationality",
        "inefficiency",
        "welfare",
        "optimal_welfare",
        "user_cost",
        "converged",
    }


def test_tables_and_csv_name_every_provider(files, capsys):
    common = ("--curves", files[0], "--market", files[1], "--benchmark", "Quiz")
    status, out, _ = run("compare", *common, capsys=capsys)
    assert status == 0 and "wins the auction" in out and "users pay" in out
    _, out, _ = run("compare", *common, "--format", "csv", capsys=capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["rule"] for row in rows] == [*["pay_per_compute"] * 2, "second_price_auction"]
    assert float(rows[0]["shares.A"]) > 0 and rows[2]["winner"] in "AB"
    some = ("--rationality", 20, "--rationality", 4000)
    status, out, _ = run("sweep", *common, *some, capsys=capsys)
    assert status == 0 and "most waste" in out
    _, out, _ = run("sweep", *common, "--format", "csv", capsys=capsys)
    assert len(list(csv.DictReader(io.StringIO(out)))) == 100


def test_plots_are_pictures(files, tmp_path, capsys):
    common = ("--curves", files[0], "--market", files[1], "--benchmark", "Quiz")
    for command in ("compare", "sweep"):
        picture = tmp_path / f"{command}.png"
        status, _, _ = run(command, *common, "--plot", picture, capsys=capsys)
        assert status == 0
        assert matplotlib.image.imread(picture).std() > 0.05


TABLE_FAULTS = {
    "missing column": ("benchmark,model\nQuiz,A", "missing column method, level"),
    "empty file": ("", "the file is empty"),
    "no rows": (HEADER + "\n", "no rows"),
    "NaN cell": ("\n".join([HEADER, *ROWS]).replace("0.6", "NaN"), "line 3: accuracy is 'NaN'"),
    "empty cell": ("\n".join([HEADER, *ROWS]).replace("0.6", ""), "line 3: accuracy is ''"),
    "text cell": ("\n".join([HEADER, *ROWS]).replace("400", "many"), "line 3: tokens is 'many'"),
    "percent": ("\n".join([HEADER, *ROWS]).replace("0.4", "40"), "line 4: accuracy = 40.*percents"),
    "negative": ("\n".join([HEADER, *ROWS]).replace("400", "-4"), "line 3: tokens = -4"),
    "fractional level": ("\n".join([HEADER, *ROWS]).replace("g,1,4", "g,0.5,4"), "line 3: level"),
    "double": ("\n".join([HEADER, *ROWS, ROWS[0]]), "line 5: a second row for level 0 of A"),
    "gap": ("\n".join([HEADER, ROWS[1], ROWS[2]]), "line 2: A has no level 0"),
    "unordered": ("\n".join([HEADER, *ROWS]).replace("g,1,4", "g,1,1"), "line 3: compute of A"),
    "no name": ("\n".join([HEADER, *ROWS]).replace("z,B", "z,"), "line 4: model is empty"),
    "too many cells": ("\n".join([HEADER, *ROWS, ROWS[0] + ",9,9"]), "not a readable table"),
    "repeated column": (HEADER + ",accuracy\n" + ROWS[0] + ",0.5", "column accuracy stands twice"),
    "no tokens": ("\n".join([HEADER, *ROWS]).replace("400", "0"), "line 3: tokens = 0"),
    "trailing comma": ("\n".join([HEADER, *(row + "," for row in ROWS)]), "not a readable table"),
    "compressed": (gzip.compress("\n".join([HEADER, *ROWS]).encode()), "not a readable table"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not a readable table|missing column"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_bad_table_is_one_line_with_status_2(fault, files, capsys):
    content, message = TABLE_FAULTS[fault]
    files[0].write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run(
        "compare", "--curves", files[0], "--market", files[1], "--benchmark", "Quiz", capsys=capsys
    )
    assert status == 2 and out == "" and err.count("\n") == 1 and "curves.csv" in err
    with pytest.raises(InputError, match=message):
        data.load(str(files[0]), str(files[1]))


CONSTANT_FAULTS = {
    "unreadable": ("baseline = = 1", "TOML.*line 1"),
    "text": (CONSTANTS.replace("0.2", '"big"'), "margin = 'big'"),
    "negative price": (CONSTANTS.replace("0.5", "-0.5"), "price_per_million_tokens.B = -0.5"),
    "margin": (CONSTANTS.replace("0.2", "-1.0"), "margin = -1.0; give a number > -1"),
    "list for a name": ('quality = ["linear"]\n' + CONSTANTS, "unknown shape"),
    "endless number": (CONSTANTS.replace("0.2", "9" * 5000), "TOML"),
    "huge number": (CONSTANTS.replace("0.2", "9" * 400), "margin = 9999"),
    "deep": ("a = " + "[" * 20000, "TOML"),
    "no prices": (CONSTANTS.split("[price")[0], r"no table \[price_per_million_tokens\]"),
    "unknown key": ("marign = 1\n" + CONSTANTS, "unknown key 'marign'"),
    "rationality": (CONSTANTS.replace("[10.0, 5000.0]", "[-1]"), "rationality = -1"),
    "shape": ('quality = "cubic"\n' + CONSTANTS, "unknown shape 'cubic'"),
    "missing price": (CONSTANTS.replace("B = 0.5", ""), "no price for model 'B'.*knows A"),
    "missing value": (CONSTANTS.replace("Quiz", "Exam"), "no value for benchmark 'Quiz'.*has Exam"),
}


@pytest.mark.parametrize("fault", CONSTANT_FAULTS)
def test_bad_constants_are_one_line_with_status_2(fault, files, capsys):
    content, message = CONSTANT_FAULTS[fault]
    files[1].write_text(content)
    status, out, err = run(
        "compare", "--curves", files[0], "--market", files[1], "--benchmark", "Quiz", capsys=capsys
    )
    assert status == 2 and out == "" and err.count("\n") == 1 and "market.toml" in err
    with pytest.raises(InputError, match=message):
        data.load(str(files[0]), str(files[1])).select("Quiz", "majority_voting")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "GSM9K"), "no benchmark 'GSM9K'; it has GSM8K"),
        (("--method", "guessing"), "no method 'guessing' for GSM8K; it has majority_voting"),
        (("--curves", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--market", "nowhere.toml"), "nowhere.toml: No such file"),
        (("--rationality", "-1"), "--rationality -1"),
        (("--rationality", "nan"), "--rationality nan"),
        (("--rationality", "high"), "'--rationality'"),
        (("--format", "xml"), "'--format'"),
        (("--plot", "figure.docx"), "--plot figure.docx"),
        (("--plot", "nowhere/figure.png"), "no folder nowhere"),
        (("--unknown",), "No such option"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_bad_arguments_are_one_line_with_status_2(command, arguments, message, capsys):
    status, out, err = run(command, *arguments, capsys=capsys)
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("column", ["benchmark", "model", "method", "accuracy"])
def test_a_missing_cell_in_parquet_is_not_skipped(column, files, tmp_path):
    parquet = tmp_path / "curves.parquet"
    table = pd.read_csv(files[0])
    table.loc[1, column] = None
    table.to_parquet(parquet)
    with pytest.raises(InputError, match=f"row 1: {column} is"):
        data.load(str(parquet), str(files[1]))


def test_parquet_columns_of_other_kinds_are_refused(files, tmp_path):
    parquet = tmp_path / "curves.parquet"
    table = pd.read_csv(files[0])
    table["tokens"] = pd.to_datetime(table["tokens"])
    table.to_parquet(parquet)
    with pytest.raises(InputError, match="column tokens holds datetime64"):
        data.load(str(parquet), str(files[1]))


@pytest.mark.slow
def test_names_are_text_wherever_they_are_shown(files, tmp_path, capsys):
    for file in files:
        file.write_text(
            file.read_text()
            .replace("Quiz,A", "Quiz,A [/awq] $x")
            .replace("A = 1.0", '"A [/awq] $x" = 1.0')
        )
    status, out, _ = run(
        "compare",
        "--curves",
        files[0],
        "--market",
        files[1],
        "--benchmark",
        "Quiz",
        "--plot",
        tmp_path / "figure.png",
        capsys=capsys,
    )
    assert status == 0 and "A [/awq] $x" in out


def test_many_columns_are_not_cut(files, capsys):
    named = data.load(str(files[0]), str(files[1])).select("Quiz", "majority_voting")
    found = compare(named)
    betas = [10.0**i for i in range(8)]
    posted = [{**found.pay_per_compute[0], "rationality": beta} for beta in betas]
    readings = [
        {**row, "rationality": beta}
        for beta in betas
        for row in found.readings
        if row["rationality"] == found.pay_per_compute[0]["rationality"]
    ]
    many = dataclasses.replace(found, pay_per_compute=posted, readings=readings)
    tables.print_comparison(many)
    out = capsys.readouterr().out
    assert "…" not in out and all(f"β = {beta:g}" in out for beta in betas)


def test_own_models_without_prices_are_told_what_is_known(files, capsys):
    status, _, err = run("compare", "--curves", files[0], "--benchmark", "Quiz", capsys=capsys)
    assert status == 2 and "published_market.toml" in err and "--market" in err


def test_the_library_imports_nothing_heavy():
    heavy = "flax transformers pandas matplotlib pyarrow typer torch".split()
    code = f"import mechlab, sys; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_calibrate_prints_the_rationality_of_an_elasticity(capsys):
    status, out, err = run("calibrate", "--format", "json", capsys=capsys)
    assert status == 0 and err == ""
    found = json.loads(out)
    assert abs(found["elasticity"] + 1.1) < 1e-6 and found["rationality"] > 0
    shares = [row["share"] for row in found["providers"]]
    assert abs(sum(shares) - 1) < 0.05 and len(shares) == 9
    status, out, err = run("calibrate", "--elasticity", -60, capsys=capsys)
    assert status == 2 and "no β gives it to demand" in err and err.count("\n") == 1


@pytest.mark.slow
def test_compare_says_what_a_merger_does(capsys):
    owner = "Qwen2.5-7B, Qwen2.5-3B"
    status, out, err = run(
        "compare", "--rationality", 1000, "--owner", owner, "--format", "json", capsys=capsys
    )
    assert status == 0 and err == ""
    found = json.loads(out)
    posted, auction = found["merger"]
    assert posted["hhi"] > posted["hhi_apart"] and posted["converged"]
    assert auction["user_cost"] > auction["user_cost_apart"]
    assert auction["user_cost_apart"] == pytest.approx(found["auction"]["user_cost"])
    # the winner is paid over the best that another owner has
    assert auction["user_value"] < found["auction"]["user_value"]
    for owner, words in (
        ("Qwen2.5-7B,GPT", "no provider 'GPT'; the market has"),
        (",", "owner 0 owns no provider; leave it out"),
        ("Qwen2.5-7B,Qwen2.5-7B", "Qwen2.5-7B is named twice"),
    ):
        status, out, err = run("compare", "--owner", owner, capsys=capsys)
        assert status == 2 and words in err and err.count("\n") == 1
    status, out, err = run(
        "compare", "--rationality", 1000, "--owner", "Llama-3-8B,Qwen2-7B", capsys=capsys
    )
    assert status == 0 and "With one owner of Llama-3-8B + Qwen2-7B" in out


@pytest.mark.full
def test_incentives_say_which_rule_survives_what(tmp_path, capsys):
    given = (
        "incentives",
        "--markets",
        64,
        "--mechanism",
        "pay_per_compute",
        "--mechanism",
        "second_price",
        "--attacks",
        "over-bill,substitute",
    )
    status, out, err = run(*given, "--format", "json", capsys=capsys)
    assert status == 0 and err == ""
    rows = json.loads(out)["rows"]
    shares = {(row["rule"], row["attack"]): row["share_profitable"] for row in rows}
    assert shares["pay_per_compute", "over_bill"] == 1.0
    assert shares["second_price", "over_bill"] == shares["second_price", "substitute"] == 0.0
    status, out, err = run(*given, "--plot", tmp_path / "survival.png", capsys=capsys)
    assert status == 0 and "safe" in out and "over bill" in out
    assert (tmp_path / "survival.png").stat().st_size > 10_000
    status, out, err = run("incentives", "--markets", 64, "--attacks", "lie", capsys=capsys)
    assert status == 2 and "use all, over_compute" in err and err.count("\n") == 1


@pytest.mark.full
def test_learn_says_what_learning_costs(tmp_path, capsys):
    given = ("learn", "--markets", 64, "--rounds", 256)
    status, out, err = run(*given, "--format", "json", capsys=capsys)
    found = json.loads(out)
    rows = {row["learner"]: row for row in found["rows"]}
    assert (
        status == 0
        and err == ""
        and list(rows) == ["known", "explore_then_commit", "ucb", "thompson", "greedy"]
    )
    assert rows["known"]["welfare_lost"] == 0.0 and rows["known"]["exponent"] is None
    assert rows["ucb"]["regret"] > 0 and found["checkpoints"][-1] == 256
    for row in rows.values():
        balance = row["user_value"] + row["provider_utility"]
        assert abs(row["welfare"] - balance) < 1e-6
    some = ("--learner", "thompson", "--learner", "ucb=0.5", "--plot", tmp_path / "learn.png")
    status, out, err = run(*given, *some, capsys=capsys)
    assert status == 0 and "ucb=0.5" in out and "T^" in out
    assert (tmp_path / "learn.png").stat().st_size > 10_000
    for more, says in (
        (("--rounds", "0"), "--rounds 0: give a whole number"),
        (("--rounds", "64"), "rounds = 64; give a whole number from 128"),
        (("--markets", "3"), "markets = 3"),
        (("--learner", "guess"), "guess: no such learner"),
        (("--queries", "0"), "queries = 0"),
    ):
        status, out, err = run("learn", *more, capsys=capsys)
        assert status == 2 and says in err and err.count("\n") == 1, more


@pytest.mark.slow
def test_route_compares_rules_question_by_question(tmp_path, capsys):
    sampled = data.samples("lab")
    few = sampled.filter(pc.less(sampled["sample"], 8))
    pq.write_table(few, tmp_path / "few.parquet")
    given = ("route", tmp_path / "few.parquet", "--market", "lab", "--pilots", "0,1")
    status, out, err = run(*given, "--format", "json", capsys=capsys)
    rows = json.loads(out)["rows"]
    assert status == 0 and err == "" and len(rows) == 12
    oracle = {row["predicted_from"]: row["welfare"] for row in rows if row["rule"] == "oracle"}
    assert all(row["welfare"] <= oracle[row["predicted_from"]] + 1e-12 for row in rows)
    status, out, err = run(*given, "--plot", tmp_path / "route.png", capsys=capsys)
    assert status == 0 and "oracle (out of reach)" in out
    assert (tmp_path / "route.png").stat().st_size > 10_000
    for more, says in (
        (("--pilots", "two"), "--pilots two: give whole numbers"),
        (("--pilots", "8"), "pilots = 8: a question has 8 samples"),
        (("--method", "guess"), "'guess' is not known"),
    ):
        status, out, err = run(*given, *more, capsys=capsys)
        assert status == 2 and says in err and err.count("\n") == 1, more


@pytest.mark.slow
def test_compare_says_what_hosts_that_are_alike_do(tmp_path, capsys):
    listed, market = tmp_path / "list.csv", str(tmp_path / "market.toml")
    rows = [
        f"{host},{model},0,{price}"
        for model in ("Llama-3-8B", "Llama-3.1-8B", "Qwen2.5-7B")  # as many as the published ones
        for host, price in (("one", 0.15), ("two", 0.2), ("three", 0.25))
    ]
    listed.write_text("host,model,input,output\n" + "\n".join(rows) + "\n")
    status, _, err = run(
        "market",
        "--curves",
        "published",
        "--prices",
        listed,
        "--input-tokens",
        0,
        "--skip-missing",
        "--out",
        market,
        capsys=capsys,
    )
    assert status == 0, err
    given = ("compare", "--market", market, "--benchmark", "GSM8K", "--rationality", 1000)
    status, out, err = run(*given, "--dissimilarity", 0.5, "--format", "json", capsys=capsys)
    assert status == 0 and err == ""
    found = json.loads(out)
    (row,) = found["hosts"]
    assert found["dissimilarity"] == 0.5 and row["converged"] and len(row["shares"]) == 9
    assert row["welfare_apart"] == pytest.approx(found["pay_per_compute"][0]["welfare"])
    assert row["hhi_apart"] == pytest.approx(found["pay_per_compute"][0]["hhi"])
    assert row["mean_elasticity"] != pytest.approx(row["mean_elasticity_apart"], rel=1e-3)
    status, out, err = run(*given, "--dissimilarity", 1, "--format", "json", capsys=capsys)
    (same,) = json.loads(out)["hosts"]
    assert same["welfare"] == pytest.approx(same["welfare_apart"], rel=1e-9)
    status, out, err = run(*given, "--dissimilarity", 0.5, capsys=capsys)
    assert status == 0 and "users find the hosts of a model alike" in out
    for extra, words in (
        ((*given, "--dissimilarity", 1.5), "dissimilarity = 1.5; give a number above 0"),
        (("compare", "--dissimilarity", 0.5), "no model is sold by two hosts here"),
    ):
        status, out, err = run(*extra, capsys=capsys)
        assert status == 2 and words in err and err.count("\n") == 1


@pytest.mark.slow
def test_compare_is_of_a_reading_and_shows_both(capsys):
    outs = {}
    for noise in ("error", "taste"):
        status, outs[noise], err = run(
            "compare", "--rationality", 1000, "--noise", noise, capsys=capsys
        )
        assert status == 0 and err == "" and f"choices is {noise}" in outs[noise]
        assert "6.045 | 7.932" in outs[noise]
    status, out, err = run("compare", "--rationality", 0, "--noise", "taste", capsys=capsys)
    assert status == 2 and "no bound at β = 0" in err
    status, out, err = run("compare", "--rationality", 0, capsys=capsys)
    assert status == 0 and "| –" in out


@pytest.mark.parametrize(
    ("benchmark", "beta"), [("GSM8K", 200.0), ("GSM8K", 1e5), ("GPQA", 0.0), ("GPQA", 1000.0)]
)
def test_a_comparison_with_a_loss_is_said_in_numbers(benchmark, beta, tmp_path, capsys):
    """Where pay-per-compute loses welfare, a change of so many per cent means nothing."""
    path = tmp_path / "market.toml"
    shipped = (data._HERE / "published_market.toml").read_text()
    path.write_text(re.sub(r"^margin = .*$", "margin = -0.99", shipped, flags=re.M))
    arguments = ["compare", "--market", str(path), "--rationality", str(beta)]
    arguments += ["--benchmark", benchmark, "--method", "reasoning_effort"]
    assert cli.main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is welfare" not in said and "pay user_cost" not in said
    assert re.search(r"welfare is \d+\.\d{3} instead of -\d+\.\d{3}", said)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Curves and prices of 2,000 providers."""
    folder = tmp_path_factory.mktemp("crowded")
    names = [f"m{i}" for i in range(2_000)]
    rows = [f"GSM8K,{x},majority_voting,{k},{1 + k},0.{5 + k},100" for x in names for k in (0, 1)]
    (folder / "curves.csv").write_text("\n".join([HEADER, *rows]))
    prices = "\n".join(f"{name} = 0.1" for name in names)
    (folder / "market.toml").write_text(
        f"margin = 0.25\n[value_per_answer]\nGSM8K = 0.008\n[price_per_million_tokens]\n{prices}\n"
    )
    return "--curves", str(folder / "curves.csv"), "--market", str(folder / "market.toml")


@pytest.mark.parametrize(
    ("command", "most"),
    [
        (
            ("explore", "--no-browser"),
            "the explorer takes at most 50: name the others in leave_out",
        ),
        (("calibrate", "--elasticity", "-1.1"), "at most 1,000: name the others in leave_out"),
        (("sweep",), "at most 1,000: name the others in leave_out"),
        (("report", "--out", "none.html"), "at most 1,000: name the others in leave_out"),
        (("simulate", "--markets", "10"), "1,000 at most can be resampled: name the others in"),
        (("incentives", "--markets", "10"), "1,000 at most can be resampled: name the others in"),
    ],
    ids=lambda x: x[0] if isinstance(x, tuple) else "",
)
def test_thousands_of_providers_are_told_the_limit(
    command, most, crowded, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*command, *crowded, capsys=capsys)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert "2,000 providers of GSM8K, majority_voting" in err and most in err


def test_prices_by_host_are_matched_to_their_models():
    """Names may have an @ of their own, and one model several hosts."""
    priced = ["a", "a@x", "a@x@y", "b@x", "ab", "@c"]
    hosts = data._hosts(priced)
    for model in ("a", "a@x", "b", "ab", "c", "", "nobody"):
        wanted = [x for x in priced if x == model or x.startswith(f"{model}@")]
        assert hosts.get(model, []) == wanted


@pytest.mark.parametrize("command", ["compare", "sweep", "report"])
def test_a_folder_that_exists_is_not_missing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--out", "page.html"] if command == "report" else []
    for option in ("--curves", "--market"):
        status, _, err = run(command, option, str(tmp_path), *more, capsys=capsys)
        assert status == 2 and err.count("\n") == 1
        assert "is a" in err.lower() and "no such" not in err.lower()


@pytest.mark.parametrize("text", ["margin = ", "[", "margin = 0.1\nmargin = 0.2"])
def test_a_market_file_that_is_no_toml_names_the_page(text, tmp_path, capsys):
    path = tmp_path / "market.toml"
    path.write_text(text)
    status, _, err = run("compare", "--market", str(path), capsys=capsys)
    assert status == 2 and "docs/commands.md shows a market file" in err
    assert "README" not in err and "```toml" in (ROOT / "docs" / "commands.md").read_text()
