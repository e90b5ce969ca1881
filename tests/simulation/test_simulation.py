"""Summaries, resumable runs, several processes, and the command line of simulate."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechlab import InputError, cli
from mechlab import populations as pop
from mechlab.simulation.part_files import RunDirectory
from mechlab.simulation.simulate import simulate
from mechlab.simulation.summary import RELATIVE_ERROR, Summary

SMALL = pop.Parametric(providers=2, compute=(1.0, 8.0))
TOML = 'kind = "parametric"\nproviders = 2\ncompute = [1.0, 8.0]\n'


@given(
    st.lists(st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9), min_size=1),
    st.integers(1, 5),
)
def test_merged_summaries_are_those_of_all_values_at_once(values, pieces):
    whole, merged = Summary(), Summary()
    whole.add(np.array(values))
    for piece in np.array_split(np.array(values), pieces):
        part = Summary()
        part.add(piece)
        merged.merge(Summary.unpack(part.pack()))
    assert merged.count == len(values)
    np.testing.assert_allclose(merged.mean, np.mean(values), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        merged.squares, np.sum((values - np.mean(values)) ** 2), rtol=1e-7, atol=1e-6
    )
    np.testing.assert_array_equal(merged.bins, whole.bins)
    for q in (0.0, 0.05, 0.5, 0.95, 1.0):
        exact = np.quantile(values, q, method="nearest")
        near = sorted(values)[min(int(q * (len(values) - 1) + 0.5), len(values) - 1)]
        found = merged.quantile(q)
        assert any(abs(found - x) <= 1.01 * RELATIVE_ERROR * abs(x) for x in (exact, near))


def test_values_that_mean_nothing_are_left_out():
    summary = Summary()
    summary.add(np.array([1.0, np.nan, 3.0, np.inf]))
    assert summary.count == 2 and summary.mean == 2.0
    assert Summary().to_dict()["mean"] is None


def test_a_simulation_reports_what_its_rows_hold(tmp_path):
    result = simulate(SMALL, 300, seed=5, out=str(tmp_path), chunk=64)
    rows = pq.read_table(tmp_path / "part-00000000.parquet").to_pandas()
    assert list(rows["market"]) == list(range(300))
    found = result.to_dict()
    for rule in ("pay_per_compute", "second_price"):
        for metric, summary in found["mechanisms"][rule].items():
            column = rows[f"{rule}.{metric}"].astype(float)
            np.testing.assert_allclose(summary["mean"], column.mean(), rtol=1e-6)
            error = column.std() / np.sqrt(300)
            np.testing.assert_allclose(summary["standard_error"], error, rtol=1e-5, atol=1e-12)
            middle = np.quantile(column, 0.5, method="nearest")
            np.testing.assert_allclose(summary["p50"], middle, rtol=0.02)
    better = rows["second_price.user_value"] > rows["pay_per_compute.user_value"]
    assert found["better_than"] == "pay_per_compute"
    assert found["better_for"]["second_price"]["users"]["mean"] == better.mean()
    assert found["share_unique"] == rows["pay_per_compute.unique"].mean()
    assert found["share_converged"] == rows["pay_per_compute.converged"].mean()
    assert json.loads((tmp_path / "summary.json").read_text())["markets"] == 300


@pytest.mark.slow
def test_chunks_change_nothing():
    a, b = (simulate(SMALL, 500, chunk=chunk).to_dict() for chunk in (16, 250))
    assert a["better_for"] == b["better_for"]
    for rule, metrics in a["mechanisms"].items():
        for metric, summary in metrics.items():
            other = b["mechanisms"][rule][metric]
            np.testing.assert_allclose(summary["mean"], other["mean"], rtol=1e-6)


def run(*arguments, capsys):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "population.toml"
    file.write_text(TOML)
    return file


def test_simulate_prints_one_json_object(small, tmp_path, capsys):
    picture = tmp_path / "figure.png"
    status, out, err = run(
        "simulate",
        "--population",
        small,
        "--markets",
        "2e2",
        "--seed",
        3,
        "--chunk",
        50,
        "--format",
        "json",
        "--plot",
        picture,
        capsys=capsys,
    )
    found = json.loads(out)
    assert status == 0 and err == ""
    assert set(found) == {
        "population",
        "markets",
        "seed",
        "mechanisms",
        "better_than",
        "better_for",
        "share_unique",
        "share_converged",
        "markets_per_second",
    }
    assert set(found["better_for"]["second_price"]) == {"users", "society", "providers"}
    for metrics in found["mechanisms"].values():
        assert set(metrics) == {
            "welfare",
            "user_cost",
            "user_value",
            "provider_utility",
            "price_of_anarchy",
        }
        for summary in metrics.values():
            assert set(summary) == {"mean", "standard_error", "p05", "p50", "p95"}
    assert matplotlib.image.imread(picture).std() > 0.05


@pytest.mark.full
def test_simulate_prints_tables_and_csv_for_other_rules(small, capsys):
    common = ("simulate", "--population", small, "--markets", 50, "--chunk", 50)
    rules = ("--mechanism", "first_price", "--mechanism", "fixed_price=0.001")
    status, out, _ = run(*common, *rules, capsys=capsys)
    assert status == 0 and "fixed price=0.001" in out
    status, out, _ = run(*common, "--format", "csv", capsys=capsys)
    assert status == 0 and out.splitlines()[0].startswith("mechanism,metric,mean")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--markets", "0"), "--markets 0"),
        (("--markets", "1.5"), "--markets 1.5"),
        (("--markets", "many"), "--markets many"),
        (("--markets", "10", "--chunk", "-4"), "chunk = -4"),
        (("--markets", "10", "--chunk", "10000000000"), "chunk = 10000000000"),
        (("--markets", "10", "--coordinator", "h:1", "--processes", "0"), "--processes 0"),
        (("--markets", "10", "--seed", "-1"), "seed = -1"),
        (("--markets", "10", "--out", "/proc/nowhere"), "--out /proc/nowhere"),
        (("--markets", "10", "--population", "imagined"), "unknown kind 'imagined'"),
        (("--population", "lab", "--curves", "mine.csv"), "leave out --curves mine.csv"),
        (("--markets", "10", "--population", "nowhere.toml"), "nowhere.toml"),
        (("--markets", "10", "--benchmark", "GSM9K"), "no benchmark 'GSM9K'"),
        (("--markets", "10", "--mechanism", "vcg"), "--mechanism vcg"),
        (("--markets", "10", "--mechanism", "fixed_price=-1"), "--mechanism fixed_price=-1"),
        (("--markets", "10", "--processes", "2"), "--processes"),
        (("--markets", "10", "--coordinator", "h:1", "--process", "5"), "--process 5"),
        (("--markets", "10", "--plot", "x.txt"), "--plot x.txt"),
    ],
)
def test_bad_arguments_are_one_line_with_status_2(arguments, message, capsys):
    status, out, err = run("simulate", *arguments, capsys=capsys)
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("providers = 2", "no kind"),
        ('kind = "parametric"\nprovider = 2', "unknown parameter 'provider'"),
        ('kind = "parametric"\nproviders = 0', "providers = 0"),
        ('kind = "parametric"\nproviders = "two"', "providers = 'two'"),
        ('kind = "parametric"\nmargin = [0.5, 0.1]', "margin"),
        ('kind = "parametric"\ncompute = [2.0, 1.0]', "compute"),
        ('kind = "published"\nprice_shock = -1.0', "price_shock"),
        ('kind = "mixture"\nweights = [1.0]', "mixture"),
        ('kind = "user_types"\nweights = [1.0]\n[part]\nkind = "parametric"', "user types"),
        ("kind = = 2", "TOML"),
        ('kind = "mixture"\nweights = [1]\nparts = ["x"]', "mixture"),
        ('kind = "published"\nmarket = 3', "market = 3"),
        ('kind = "parametric"\ncompute = [nan]', "compute"),
        ('kind = "parametric"\nbaseline = 7', "baseline"),
        ('kind = "parametric"\nrationality = [1e-300, 1e300]', "rationality"),
    ],
)
def test_bad_populations_are_one_line_with_status_2(text, message, tmp_path, capsys):
    file = tmp_path / "population.toml"
    file.write_text(text)
    status, _, err = run("simulate", "--population", file, "--markets", 10, capsys=capsys)
    assert status == 2 and err.count("\n") == 1
    assert message in err and "population.toml" in err


def test_a_population_file_describes_mixtures_and_user_types(tmp_path):
    part = {"kind": "parametric", "providers": 2, "compute": [1.0, 8.0]}
    mixture = pop.from_dict({"kind": "mixture", "weights": [1.0, 2.0], "parts": [part, part]})
    again = pop.from_dict(mixture.describe())
    assert again.describe() == mixture.describe()
    typed = pop.from_dict({"kind": "user_types", "part": part, "weights": [0.3, 0.7]})
    assert typed.weights == (0.3, 0.7) and typed.describe()["part"]["providers"] == 2


@pytest.mark.full
def test_a_rerun_reads_what_is_there_and_computes_what_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("mechlab.simulation.simulate.PART", 64)
    first = simulate(SMALL, 300, out=str(tmp_path), chunk=32)
    assert first.computed == 300
    (tmp_path / "part-00000002.parquet").unlink()
    again = simulate(SMALL, 300, out=str(tmp_path), chunk=32)
    assert again.computed == 64
    assert again.to_dict()["mechanisms"] == first.to_dict()["mechanisms"]
    third = simulate(SMALL, 300, out=str(tmp_path), chunk=32)
    assert third.computed == 0 and third.markets_per_second == 0


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        *(
            pytest.param(x, marks=pytest.mark.full)
            for x in ("cut", "empty", "swap", "columns", "type")
        ),
    ],
)
def test_a_corrupt_part_is_said_and_computed_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("mechlab.simulation.simulate.PART", 64)
    first = simulate(SMALL, 192, out=str(tmp_path), chunk=32)
    file = tmp_path / "part-00000001.parquet"
    content = bytearray(file.read_bytes())
    table = pq.read_table(file)
    if damage == "flip":
        content[len(content) // 3] ^= 0xFF
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "columns":
        pq.write_table(table.select(["market"]), file)
        content = bytearray(file.read_bytes())
    elif damage == "type":
        at = table.column_names.index("second_price.welfare")
        text = table["second_price.welfare"].cast("string")
        pq.write_table(table.set_column(at, "second_price.welfare", text), file)
        content = bytearray(file.read_bytes())
    else:
        content = bytearray((tmp_path / "part-00000000.parquet").read_bytes())
    file.write_bytes(content)
    lines = []
    again = simulate(SMALL, 192, out=str(tmp_path), chunk=32, warn=lines.append)
    assert len(lines) == 1 and "part-00000001.parquet" in lines[0]
    assert again.computed == 64
    assert again.to_dict()["mechanisms"] == first.to_dict()["mechanisms"]


@pytest.mark.slow
def test_a_directory_of_another_run_is_refused(tmp_path):
    simulate(SMALL, 20, out=str(tmp_path), chunk=32)
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        simulate(SMALL, 20, seed=1, out=str(tmp_path), chunk=32)
    with pytest.raises(InputError, match="population is"):
        simulate(pop.Parametric(), 20, out=str(tmp_path), chunk=32)
    (tmp_path / "manifest.json").write_text("{broken")
    with pytest.raises(InputError, match=r"manifest\.json: not readable"):
        simulate(SMALL, 20, out=str(tmp_path), chunk=32)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"without manifest\.json"):
        simulate(SMALL, 20, out=str(tmp_path), chunk=32)


def test_a_second_run_on_one_directory_is_refused(tmp_path):
    holder = RunDirectory(str(tmp_path), {"seed": 0})
    with pytest.raises(InputError, match="another run is writing"):
        RunDirectory(str(tmp_path), {"seed": 0})
    del holder
    RunDirectory(str(tmp_path), {"seed": 0})


def command(*arguments):
    return [sys.executable, "-m", "mechlab.cli", "simulate", *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_repeats_nothing(small, tmp_path):
    out = tmp_path / "run"
    # 40 parts: enough to be killed in the middle of
    common = ("--population", small, "--markets", 2_600_000, "--out", out, "--format", "json")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(command(*common), stdout=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob("part-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    assert 3 <= len(kept) < 40
    done = subprocess.run(command(*common), capture_output=True, env=environment, check=True)
    assert all(file.stat().st_mtime_ns == at for file, at in kept.items())
    files = sorted(out.glob("part-*.parquet"))
    market = np.concatenate([pq.read_table(f, columns=["market"])["market"] for f in files])
    np.testing.assert_array_equal(market, np.arange(2_600_000))
    assert json.loads(done.stdout)["markets"] == 2_600_000


@pytest.mark.slow
def test_two_processes_with_two_devices_each_agree_with_one(small, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = ("--population", small, "--markets", 150_000, "--chunk", 512, "--format", "json")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}

    def start(process):
        return subprocess.Popen(
            command(
                *common,
                "--coordinator",
                f"127.0.0.1:{port}",
                "--processes",
                2,
                "--process",
                process,
                "--out",
                tmp_path / "run",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    children = [start(0), start(1)]
    outputs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert outputs[1][0] == ""
    together = json.loads(outputs[0][0])
    alone = simulate(
        pop.from_dict({"kind": "parametric", "providers": 2, "compute": [1.0, 8.0]}),
        150_000,
        chunk=1024,
    ).to_dict()
    assert together["better_for"] == alone["better_for"]
    assert together["share_unique"] == alone["share_unique"]
    for rule, metrics in together["mechanisms"].items():
        for metric, summary in metrics.items():
            other = alone["mechanisms"][rule][metric]
            np.testing.assert_allclose(summary["mean"], other["mean"], rtol=1e-6)
    assert len(list((tmp_path / "run").glob("part-*.parquet"))) == 3
