"""The lab's own providers: what ships is what the checkpoints give, and it buys what is said."""

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import hf_reference as reference
import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from flax import nnx

from experiments import lab_market
from mechlab import cli, data
from models import arithmetic, load, settings, train
from models.questions import read

LAB = Path("models/lab")
CONSTANTS = Path(data.__file__).parent / "lab_market.toml"


@pytest.fixture(scope="module")
def shipped():
    return data.samples("lab")


@pytest.fixture(scope="module")
def curves():
    return data.load("lab").curves


def of(curves, method, **equal):
    rows = curves[curves["method"] == method]
    for name, value in equal.items():
        rows = rows[rows[name] == value]
    return rows.set_index("model")["accuracy"]


# ------------------------------------------------------------------------------ claims of the data


def test_single_samples_are_right_some_of_the_time_and_differ(curves):
    single = of(curves, "majority_voting", compute=1)
    assert tuple(single.index) == lab_market.PROVIDERS
    assert single.between(0.2, 0.95).all()
    assert np.diff(np.sort(single)).min() > 0.02


def test_thinking_buys_what_greedy_decoding_does_not_have(curves):
    single = of(curves, "majority_voting", compute=1)
    greedy = of(curves, "greedy")
    assert greedy.between(0.3, 0.85).mean() > 0.5
    voted = of(curves, "majority_voting", compute=64)
    assert (voted >= greedy + 0.05).mean() > 0.5
    assert (voted - single >= 0.1).mean() >= 0.5
    assert (of(curves, "best_of_n", compute=64) > single).all()
    assert (of(curves, "beam_search", compute=4) > single).all()
    effort = curves[(curves["method"] == "reasoning_effort") & (curves["model"] == "Lab-0.8M")]
    assert effort["compute"].tolist() == [1, 2, 3]
    assert np.all(np.diff(effort["accuracy"]) > 0) and np.all(np.diff(effort["tokens"]) > 0)


def test_who_reads_is_counted(curves):
    """Tokens of the reward model, in the methods that ask it and in no other."""
    judged = curves.groupby("method")["judged_tokens"].min()
    asked = ["beam_search", "best_of_n"]
    assert (judged[asked] > 0).all()
    assert not judged.drop(asked).fillna(0).any()


def test_prices_are_a_dollar_per_million_tokens_and_million_parameters():
    prices = tomllib.loads(CONSTANTS.read_text())["price_per_million_tokens"]
    assert set(prices) == set(lab_market.PROVIDERS)
    for name, price in prices.items():
        lm = load(LAB / name)
        millions = sum(leaf.size for leaf in jax.tree.leaves(lm.parameters)) / 1e6
        assert price == pytest.approx(millions, abs=5e-4)
        assert 0.3 <= millions <= 3.5


def test_what_ships_is_small_and_says_how_it_was_made():
    for folder in (*(LAB / name for name in lab_market.PROVIDERS), LAB / "Lab-reward"):
        files = {file.name for file in folder.iterdir()}
        assert {"recipe.toml", "log.csv", "config.json", "tokenizer.json"} <= files
        assert (folder / "model.safetensors").stat().st_size <= 8e6
        assert "unfinished.npz" not in files
    assert (CONSTANTS.parent / "lab_samples.parquet").stat().st_size <= 6e6


# --------------------------------------------------------------------- the data are what they say


@pytest.mark.slow
def test_the_curves_are_those_of_the_samples(shipped, curves):
    # what all orders of 64 samples make takes minutes; that it is right is tested on small tables
    quick = [method for method in lab_market.METHODS if method != "adaptive_consistency"]
    found = lab_market.curves(shipped, quick, replicates=2).table
    expected = curves[curves["method"] != "adaptive_consistency"].reset_index()
    for name in ("model", "method", "compute"):
        assert found[name].tolist() == expected[name].tolist()
    for name in ("accuracy", "tokens", "judged_tokens"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    # one that is decided early has what a vote of all has, for far fewer tokens
    one, all_of_them = (
        of(curves, method, compute=64) for method in ("adaptive_consistency", "majority_voting")
    )
    np.testing.assert_allclose(one, all_of_them, atol=0.005)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=() if i == 0 else pytest.mark.slow)
        for i, x in enumerate(lab_market.PROVIDERS)
    ],
)
def test_a_checkpoint_gives_the_shipped_samples(shipped, curves, name):
    """The same seed gives the same samples; another one the same accuracy, within its interval."""
    effort = "long" if name == lab_market.LEVER else None
    options = {} if effort is None else {"effort": effort}
    few, n = 60, 8
    questions = read("arithmetic", count=few, options=options)
    lm = load(LAB / name)
    mine = shipped.filter(pc.equal(shipped["model"].cast(pa.string()), name)).to_pylist()
    stored = {(row["question_id"], row["sample"]): row for row in mine}

    def right(seed):
        said = lm.generate(
            [q.text for q in questions],
            n,
            lab_market.TEMPERATURE,
            max_tokens=48,
            seed=seed,
            batch=256,
        )
        return np.array(
            [
                [sample.text.split(">")[-1].split("=")[-1] == question.truth for sample in samples]
                for question, samples in zip(questions, said)
            ]
        )

    was = np.array([[stored[q.id, j]["correct"] for j in range(n)] for q in questions])
    now = right(seed=12345)
    # questions are shared, so what differs is the luck of the draws: within questions
    spread = np.sqrt(2 * (was.var(axis=1, ddof=1) / n).mean() / few)
    assert abs(now.mean() - was.mean()) < 4 * spread + 1e-9
    row = curves[(curves["model"] == name) & (curves["method"] == "majority_voting")].iloc[0]
    error = np.sqrt(now.mean(axis=1).var(ddof=1) / few)  # over questions
    assert abs(now.mean() - row["accuracy"]) < 4 * error


@pytest.mark.slow
def test_a_run_of_the_pipeline_repeats_the_shipped_rows(shipped, tmp_path):
    """Reduced: the first problems and samples of the smallest, rewards included."""
    found = []
    for run in lab_market.runs("Lab-0.3M"):
        folder = lab_market.sampled(tmp_path, run, (10, 4, 1))
        found += lab_market.scored(run, folder).to_pylist()
    key = ("model", "question_id", "sample")
    stored = {tuple(row[k] for k in key): row for row in shipped.to_pylist()}
    same = 0
    for row in found:
        was = stored[tuple(row[k] for k in key)]
        if row["answer"] == was["answer"] and row["tokens"] == was["tokens"]:
            same += 1
            for name, much in (("reward", 0.05), ("logprob_sum", 0.01)):
                assert row[name] == pytest.approx(was[name], abs=much)
            assert row["judged_tokens"] == was["judged_tokens"]
    assert len(found) == 10 * (4 + 1 + 2)
    assert same >= 0.9 * len(found)  # rounding on another machine may turn a tie


@pytest.mark.parametrize("name", (*lab_market.PROVIDERS, "Lab-reward"))
def test_a_shipped_checkpoint_is_hugging_faces(name):
    with np.load(reference.GOLDEN) as stored:
        golden = {key: stored[key] for key in stored if key.startswith(f"{name}/")}
    expected = (
        reference.of_torch(LAB / name)
        if reference.TORCH
        else {key.split("/")[1]: value for key, value in golden.items()}
    )
    lm = load(LAB / name, dtype="float32")
    ids = reference.token_ids({"vocab_size": lm.config.vocabulary})
    if name == "Lab-reward":
        network = nnx.merge(lm.graph, lm.parameters)
        scores = network.output(network(ids, np.arange(ids.shape[1])))[:, -1]
        np.testing.assert_allclose(scores, expected["scores"], atol=2e-4)
    else:
        assert np.abs(expected["logits"]).max() > 5
        np.testing.assert_allclose(lm.logits(ids), expected["logits"], atol=2e-4)


# ------------------------------------------------------------------------------------ a market


@pytest.mark.full
def test_both_rules_run_on_the_lab_market(capsys):
    assert cli.main(["compare", "--curves", "lab", "--uncertainty", "--format", "csv"]) == 0
    assert "second_price_auction" in capsys.readouterr().out
    assert cli.main(["sweep", "--curves", "lab", "--rationality", "500"]) == 0
    assert "sums" in capsys.readouterr().out
    for arguments in (["--population", "lab"], ["--curves", "lab"]):
        assert cli.main(["simulate", "--markets", "500", "--format", "json", *arguments]) == 0
        assert '"benchmark": "sums"' in capsys.readouterr().out
    effort = data.load("lab").select("sums", "reasoning_effort")
    assert np.asarray(effort.market.available).sum() == len(lab_market.PROVIDERS) + 2


def said_of(letter: str, total: int, order: tuple[int, ...]) -> str:
    """The solution in this order, at this length; nothing where a total would be negative."""
    text, totals = str(total), []
    for value in order:
        total += value
        if total < 0:
            return ""
        totals.append(str(total))
        text += f"{value:+d}={total}"
    return {"s": totals[-1], "m": ">".join(totals)}.get(letter, text)


@pytest.mark.slow
def test_the_reward_model_is_taught_by_right_and_wrong_solutions_alike():
    recipe = settings.read(LAB / "Lab-reward" / "recipe.toml", train.Recipe)
    recipe = dataclasses.replace(recipe, judges=("Lab-0.3M", "Lab-0.8M"), problems=12, samples=4)
    tokens, judged, right = train.judged(recipe, LAB)
    letters = {index: letter for letter, index in arithmetic.VOCABULARY.items()}
    good = []
    for ids, mine, labels in zip(tokens, judged, right):
        *working, end = np.flatnonzero(mine)
        assert ids[end] == arithmetic.END
        problem = "".join(letters[i] for i in ids[: working[0] - 1])
        said = "".join(letters[i] for i in ids[working])
        terms = list(itertools.accumulate(map(int, re.findall(r"[+-]?\d+", problem))))
        good.append(re.split("[>=]", said)[-1] == str(terms[-1]))
        assert labels[end] == good[-1]
        # so far it is right: while the solution begins as one in some order does
        first, *others = map(int, re.findall(r"[+-]?\d+", problem))
        possible = {said_of(problem[0], first, order) for order in itertools.permutations(others)}
        for place, index in enumerate(working):
            begun = said[: place + 1]
            assert labels[index] == any(text.startswith(begun) for text in possible)
    assert 0.2 < np.mean(good) < 0.9


def test_rewards_tell_right_from_wrong(shipped):
    """In held-out problems with both, right answers are the better rewarded."""
    rows = shipped.to_pandas()
    rows = rows[rows["model"].isin(lab_market.PROVIDERS)]
    means = rows.groupby(["model", "question_id", "correct"], observed=True)["reward"].mean()
    both = means.unstack("correct").dropna()
    assert len(both) > 1000 and (both[True] > both[False]).mean() > 0.75


@pytest.mark.full
def test_retraining_the_smallest_gives_its_accuracy(tmp_path, curves):
    folder = tmp_path / "Lab-0.3M"
    folder.mkdir()
    shutil.copy(LAB / "Lab-0.3M" / "recipe.toml", folder)
    # as the command does it, and not as the tests compile: rounding decides where the plateau ends
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "models.train", folder / "recipe.toml"]
    subprocess.run(command, env=plain, check=True)
    lm = load(folder)
    questions = read("arithmetic", count=500)
    said = lm.generate(
        [q.text for q in questions], 16, lab_market.TEMPERATURE, max_tokens=48, batch=256
    )
    right = np.mean(
        [
            sample.text.split("=")[-1] == q.truth
            for q, samples in zip(questions, said)
            for sample in samples
        ]
    )
    assert abs(right - of(curves, "majority_voting", compute=1)["Lab-0.3M"]) < 0.03


def test_held_out_problems_are_never_trained_on():
    held = {q.id for q in read("arithmetic", count=500)}
    trained = set()
    for step in range(0, 1000, 50):
        stream = arithmetic.problems(11 + (step << 32), held_out=False)
        trained |= {next(stream).text for _ in range(128)}
    assert len(trained) > 2000 and not held & trained
