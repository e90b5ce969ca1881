"""The figures that the study prints, to its last printed digit."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import compare, data, sweep

EXPECTED = json.loads((pathlib.Path(__file__).parents[1] / "data/expected_gsm8k.json").read_text())
NAMES = {
    "share_weighted_value": "user_value",
    "share_weighted_price": "user_cost",
    "share_weighted_margin": "provider_utility",
    "equilibrium_welfare": "welfare",
}


@pytest.mark.parametrize("method", EXPECTED["tables"])
def test_gsm8k_figures_are_reproduced(method):
    found = compare(data.published("GSM8K", method)).to_dict()
    table = EXPECTED["tables"][method]
    assert len(found["pay_per_compute"]) == len(table["pay_per_compute"]) == 3
    for row, expected in zip(found["pay_per_compute"], table["pay_per_compute"]):
        assert row["converged"]
        for name, value in expected.items():
            assert abs(row[NAMES.get(name, name)] - value) <= 1e-5, name
    auction, expected = found["auction"], table["auction"]
    assert auction["winner"] == expected["winner"]
    assert auction["runner_up"] == expected["runner_up"]
    for name, printed in (
        ("winner_welfare", "welfare"),
        ("runner_up_welfare", "user_value"),
        ("price", "user_cost"),
        ("provider_utility", "provider_utility"),
        ("user_value", "user_value"),
        ("welfare", "welfare"),
    ):
        assert abs(auction[printed] - expected[name]) <= 1e-5, name


@pytest.mark.parametrize("benchmark", ["AIME", "GPQA"])
@pytest.mark.parametrize("method", ["majority_voting", "best_of_n", "reasoning_effort"])
def test_other_benchmarks_run_by_the_same_code(benchmark, method):
    found = compare(data.published(benchmark, method))
    for row in found.pay_per_compute:
        assert row["converged"]
        assert row["optimal_welfare"] >= row["welfare"] - 1e-15
        assert np.isclose(row["welfare"], row["user_value"] + row["provider_utility"])
        assert row["price_of_anarchy"] >= row["price_of_stability"] >= 1 - 1e-12
        assert found.auction["welfare"] >= row["optimal_welfare"] - 1e-15


def test_sweep_covers_a_hundred_rationalities():
    found = sweep(data.published())
    assert len(found.points) == 100
    assert found.points[0]["rationality"] == 1 and found.points[-1]["rationality"] == 1e6
    assert all(point["converged"] and point["inefficiency"] >= -1e-12 for point in found.points)


def test_published_data_hold_every_market():
    dataset = data.load()
    assert dataset.benchmarks == ("GSM8K", "AIME", "GPQA") or set(dataset.benchmarks) == {
        "GSM8K",
        "AIME",
        "GPQA",
    }
    for benchmark in dataset.benchmarks:
        for method in dataset.methods(benchmark):
            market = dataset.select(benchmark, method).market
            assert market.quality.shape == ((3, 5) if method == "reasoning_effort" else (9, 6))
            assert bool(jnp.all(market.available))
