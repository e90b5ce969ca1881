"""Estimators equal brute force over all subsets, and simulation where that is too much."""

import collections
import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import oracles
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mechlab import InputError, cli, compare, data
from mechlab.evidence import samples
from mechlab.evidence.curves import (
    MonotoneCubic,
    Questions,
    SaturatingLaw,
    adaptive_consistency,
    as_levels,
    best_of,
    effort,
    effort_bins,
    estimate,
    joined,
    majority,
    pass_at,
    questions,
    single_sample,
    weighted_majority,
)


def made(rng, count, most, labels, ragged=True, rewards=4):
    """Random samples with missing answers, ties, equal and missing rewards."""
    size = rng.integers(max(most // 2, 1), most + 1, count) if ragged else np.full(count, most)
    there = np.arange(most) < size[:, None]
    shape = count, most
    answer = np.where(there & (rng.random(shape) > 0.2), rng.integers(0, labels, shape), -1)
    reward = np.where(rng.random(shape) < 0.15, np.nan, rng.integers(-1, rewards, shape) / 2)
    return Questions(
        model="m",
        benchmark="b",
        ids=np.array([f"q{i}" for i in range(count)], object),
        count=size,
        answer=answer,
        correct=there & (answer == 0),
        reward=np.where(there, reward, np.nan),
        confidence=np.full(shape, np.nan),
        logprob=np.where(there, rng.integers(-9, 0, shape), np.nan),
        judged=np.where(there, 25.0, np.nan),
        tokens=np.where(there, 10.0, 0.0),
        thinking=np.full(shape, np.nan),
        finished=np.ones(shape, bool),
    )


def everything(table):
    """Samples as a sample table."""
    batches = samples.Batches()
    for q, name in enumerate(table.ids):
        n = int(table.count[q])
        thinking = table.thinking[q, :n]
        batches.add(
            n,
            model=table.model,
            benchmark=table.benchmark,
            question_id=str(name),
            sample=list(range(n)),
            answer=[None if x < 0 else f"a{x}" for x in table.answer[q, :n]],
            correct=table.correct[q, :n].tolist(),
            reward=[None if np.isnan(x) else float(x) for x in table.reward[q, :n]],
            logprob_sum=table.logprob[q, :n].tolist(),
            judged_tokens=[int(x) for x in table.judged[q, :n]],
            tokens=[int(x) for x in table.tokens[q, :n]],
            thinking_tokens=[None if np.isnan(x) else int(x) for x in thinking],
            finish_reason=["stop" if x else "length" for x in table.finished[q, :n]],
        )
    return samples.table([batches.take()])


def subsets(table, q, n):
    return itertools.combinations(range(table.count[q]), n)


def probable(table, q, chosen):
    return oracles.best(dataclasses.replace(table, reward=table.logprob), q, chosen)


@functools.cache
def surely_ahead(first, second):
    return scipy.stats.beta(first + 1, second + 1).sf(0.5)


def until_decided(table, q, order, most, decided):
    """Accuracy and tokens of one order of a question's samples, by the rule as it is worded."""
    votes, tokens = collections.Counter(), 0.0
    for sample in order[:most]:
        tokens += table.tokens[q, sample]
        votes.update([table.answer[q, sample]] if table.answer[q, sample] >= 0 else [])
        first, second = sorted([*votes.values(), 0, 0])[-1:-3:-1]
        if surely_ahead(first, second) >= decided:
            break
    leaders = [a for a in votes if votes[a] == max(votes.values())]
    right = [table.correct[q][table.answer[q] == a].mean() for a in leaders]
    return (np.mean(right) if right else 0.0), tokens


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 6]), st.integers(1, 5))
def test_adaptive_consistency_is_the_mean_over_all_orders(seed, most, labels):
    rng = np.random.default_rng(seed)
    table = made(rng, 2, most, labels)
    table = dataclasses.replace(
        table, tokens=np.where(table.there, rng.integers(1, 40, (2, most)), 0)
    )
    sizes = tuple(range(1, int(table.count.min()) + 1))
    for decided in (0.6, 0.8, 0.95):
        accuracy, tokens, error = adaptive_consistency(table, sizes, decided=decided)
        assert not error.any()
        for q in range(2):
            for k, n in enumerate(sizes):
                found = [
                    until_decided(table, q, order, n, decided)
                    for order in itertools.permutations(range(table.count[q]))
                ]
                exact = np.mean(found, axis=0)
                np.testing.assert_allclose([accuracy[q, k], tokens[q, k]], exact, rtol=1e-10)


def test_adaptive_consistency_by_random_orders_where_states_are_too_many(monkeypatch):
    table = made(np.random.default_rng(3), 12, 24, 4)
    exact = adaptive_consistency(table, (1, 4, 12))
    assert exact[0][:, 2].mean() == pytest.approx(majority(table, (12,)).mean(), abs=0.1)
    assert (exact[1][:, 2] < 120).all() and np.allclose(exact[1][:, 0], 10)
    monkeypatch.setattr("mechlab.evidence.curves.adaptive._STATES", 3)
    drawn = adaptive_consistency(table, (1, 4, 12))
    assert not exact[2].any() and (drawn[2] > 0).any()
    for part in (0, 1):
        assert not np.array_equal(exact[part], drawn[part])
        np.testing.assert_allclose(exact[part].mean(0), drawn[part].mean(0), rtol=0.02)
    assert (np.abs(exact[0].mean(0) - drawn[0].mean(0)) <= 5 * drawn[2] + 1e-12).all()


def test_judges_tokens_are_counted_where_a_judge_chooses():
    asked = made(np.random.default_rng(4), 9, 8, 3, ragged=False)
    table = everything(dataclasses.replace(asked, reward=np.abs(asked.reward)))
    methods = ["majority_voting", "best_of_n", "weighted_majority", "most_probable_of_n"]
    found = estimate(table, methods, sizes=[1, 4], replicates=5).table
    read = found.set_index(["method", "compute"])["judged_tokens"]
    assert read["best_of_n"].tolist() == read["weighted_majority"].tolist() == [25.0, 100.0]
    assert not read["majority_voting"].any() and not read["most_probable_of_n"].any()
    free = table.set_column(
        table.column_names.index("judged_tokens"), "judged_tokens", pa.nulls(72, pa.int32())
    )
    assert "judged_tokens" not in estimate(free, methods, sizes=[1], replicates=5).table


def test_votes_that_weigh_less_than_nothing_are_refused():
    table = everything(made(np.random.default_rng(4), 9, 8, 3, ragged=False))
    with pytest.raises(InputError, match=r"a reward is -0.5, .* such as chances"):
        estimate(table, ["weighted_majority"], sizes=[1], replicates=5)
    found = estimate(table, sizes=[1, 2], replicates=5)
    assert "weighted_majority" not in set(found.table["method"])
    assert any("weighted_majority is left out: a reward is -0.5" in note for note in found.notes)


tables = st.builds(
    lambda seed, most, labels: made(np.random.default_rng(seed), 4, most, labels),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 4, 7]),
    st.integers(1, 8),
)


@pytest.mark.slow
@settings(max_examples=15)
@given(tables)
def test_estimators_are_the_means_over_all_subsets(table):
    sizes = tuple(range(1, int(table.count.min()) + 1))  # N = n included
    found = {
        "majority": majority(table, sizes),
        "best_of": best_of(table, sizes),
        "weighted": weighted_majority(table, sizes)[0],
        "probable": best_of(table, sizes, score="logprob"),
        "pass": pass_at(table, sizes),
    }
    for q in range(4):
        for k, n in enumerate(sizes):
            drawn = [[j for j in chosen] for chosen in subsets(table, q, n)]
            for name, credit in (
                ("majority", oracles.vote),
                ("best_of", oracles.best),
                ("weighted", oracles.weigh),
                ("pass", oracles.any_right),
                ("probable", probable),
            ):
                exact = np.mean([credit(table, q, chosen) for chosen in drawn])
                np.testing.assert_allclose(found[name][q, k], exact, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(single_sample(table)[q], found["pass"][q, 0])


def test_an_answer_that_is_right_now_and_then_counts_in_that_share():
    table = made(np.random.default_rng(0), 1, 3, 1, ragged=False)
    table = dataclasses.replace(
        table, answer=np.zeros((1, 3), int), correct=np.array([[True, False, False]])
    )
    np.testing.assert_allclose(majority(table, (1, 2, 3)), 1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "n"), [(128, 64), (1000, 20)])
def test_large_tables_agree_with_simulation(most, n):
    rng = np.random.default_rng(1)
    table = made(rng, 3, most, 12, rewards=30)
    draws = 2000
    sizes = (1, n)
    weights, error = weighted_majority(table, sizes)
    exact = {"majority": majority(table, sizes)[:, 1], "best": best_of(table, sizes)[:, 1]}
    for q in range(3):
        chosen = [rng.choice(table.count[q], n, replace=False) for _ in range(draws)]
        for name, credit in (("majority", oracles.vote), ("best", oracles.best)):
            drawn = [credit(table, q, one) for one in chosen]
            margin = 5 * np.std(drawn) / draws**0.5 + 5 / draws  # nothing seen: fewer than 5
            assert abs(np.mean(drawn) - exact[name][q]) < margin
        drawn = np.mean([oracles.weigh(table, q, one) for one in chosen])
        assert abs(drawn - weights[q, 1]) < 5 * (3 * error[1] + 0.5 / draws**0.5)
    assert error[0] == 0 and 0 < error[1] < 0.01


def test_scales_do_not_matter_where_both_can_be_used():
    rng = np.random.default_rng(2)
    table = made(rng, 2, 901, 5, ragged=False)  # beyond the samples that one scale serves
    fewer = dataclasses.replace(table, count=np.full(2, 900))
    each = majority(table, (1, 2, 12))
    np.testing.assert_allclose(each[:, 0], single_sample(table), rtol=1e-12)
    np.testing.assert_allclose(each[:, 0], each[:, 1], atol=0.05)
    assert np.all(np.isfinite(majority(fewer, (1, 12, 64))))


def reasoning(seed=0, count=5, most=40):
    rng = np.random.default_rng(seed)
    table = made(rng, count, most, 3)
    thinking = np.where(table.there, rng.integers(0, 400, table.answer.shape), np.nan)
    return dataclasses.replace(
        table,
        thinking=thinking,
        finished=rng.random(thinking.shape) > 0.1,
        tokens=np.where(table.there, np.nan_to_num(thinking) + 50, 0.0),
    )


def test_effort_bins_are_quantiles_of_what_is_kept():
    table = reasoning()
    bins = effort_bins(table)
    for q in range(5):
        kept = table.there[q] & table.finished[q] & (table.thinking[q] > 5)
        assert np.all(bins[q][~kept] == -1)
        expected = pd.qcut(table.thinking[q][kept], 5, labels=False)
        np.testing.assert_array_equal(bins[q][kept], expected)
    kept, correct, tokens = effort(table)
    for k in range(5):
        np.testing.assert_allclose(kept[:, k], (bins == k).sum(1))
        np.testing.assert_allclose(correct[:, k], ((bins == k) & table.correct).sum(1))
        np.testing.assert_allclose(tokens[:, k], (table.tokens * (bins == k)).sum(1))


def test_effort_curves_pool_samples_or_average_questions():
    table = reasoning(1)
    kept, correct, tokens = effort(table)
    pooled = estimate(everything(table), ["reasoning_effort"], replicates=10).table
    np.testing.assert_allclose(pooled["accuracy"], correct.sum(0) / kept.sum(0))
    np.testing.assert_allclose(pooled["tokens"], tokens.sum(0) / kept.sum(0))
    mean = estimate(everything(table), ["reasoning_effort"], by_question=True, replicates=10).table
    np.testing.assert_allclose(mean["accuracy"], (correct / kept).mean(0))
    assert list(pooled["compute"]) == [1, 2, 3, 4, 5]


def test_a_sample_table_keeps_what_the_arrays_say():
    table = made(np.random.default_rng(3), 7, 9, 4)
    back = questions(everything(table))[0]
    assert list(back.ids) == list(table.ids)
    np.testing.assert_array_equal(back.correct, table.correct)
    np.testing.assert_array_equal(back.reward, table.reward)
    np.testing.assert_allclose(majority(back, (1, 3)), majority(table, (1, 3)))
    twice = samples.table([*everything(table).to_batches()] * 2)
    with pytest.raises(InputError, match="a second sample 0 of question 'q0' by m"):
        questions(twice)


def test_intervals_cover_what_they_should():
    """Questions with known accuracies: 90 % intervals hold the mean in about 90 % of worlds."""
    rng = np.random.default_rng(4)
    held = 0
    for world in range(100):
        table = made(rng, 60, 8, 2, ragged=False)
        hard = rng.beta(1, 1, 60)
        right = rng.random((60, 8)) < hard[:, None]
        table = dataclasses.replace(table, answer=np.where(right, 0, 1), correct=right)
        row = estimate(
            everything(table), ["single_sample"], confidence=0.9, seed=world, replicates=300
        ).table.iloc[0]
        held += row["accuracy_low"] <= 0.5 <= row["accuracy_high"]
    assert 80 <= held <= 98


def test_models_share_the_questions_that_are_drawn():
    table = everything(made(np.random.default_rng(5), 30, 4, 2))
    other = table.set_column(
        0, "model", table["model"].cast("string").fill_null("").combine_chunks()
    )
    other = samples.checked(other.set_column(0, "model", [["other"] * other.num_rows]), "a copy")
    both = estimate(samples.table([*table.to_batches(), *other.to_batches()]), ["single_sample"])
    np.testing.assert_array_equal(both.accuracy[0], both.accuracy[1])


def test_replicates_are_joint_though_a_model_lacks_a_question():
    """Two models that are right on the same questions vary together, whatever one has missed."""
    rng = np.random.default_rng(12)
    right = rng.random((60, 1)) < 0.5
    parts = []
    for name, kept in (("a", 60), ("b", 59)):
        table = made(rng, kept, 1, 2, ragged=False)
        parts.append(
            everything(
                dataclasses.replace(
                    table, model=name, answer=np.zeros((kept, 1), int), correct=right[:kept]
                )
            )
        )
    found = estimate(pa.concat_tables(parts), ["single_sample"], replicates=500)
    assert np.corrcoef(found.accuracy)[0, 1] > 0.95
    assert set(found.table["confidence"]) == {0.95}


def test_questions_with_too_few_samples_are_left_out_and_named():
    table = made(np.random.default_rng(6), 20, 8, 2)
    found = estimate(everything(table), ["majority_voting"], sizes=[8], replicates=10)
    few = int((table.count < 8).sum())
    assert 0 < few < 20 and f"{few} of 20 questions" in found.notes[0]
    assert found.table["questions"].tolist() == [20 - few]
    with pytest.raises(InputError, match="no question has 9 samples"):
        estimate(everything(table), ["majority_voting"], sizes=[9])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(methods=["vote"]), "method 'vote'"),
        (dict(methods=["reasoning_effort"]), "no thinking tokens"),
        (dict(sizes=[0]), "sizes"),
        (dict(replicates=1), "replicates = 1"),
        (dict(confidence=1.0), "confidence"),
        (dict(bins=0), "bins = 0"),
        (dict(decided=0.5), "decided = 0.5"),
        (dict(methods=["confidence_majority"]), "no confidence"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(InputError, match=words):
        estimate(everything(made(np.random.default_rng(7), 3, 4, 2)), **options)


def test_the_law_recovers_its_own_curve_and_the_cubic_passes_through():
    compute = np.array([1.0, 2, 4, 8, 16, 32, 64])
    value = 0.9 - 0.4 * compute**-0.7
    law = SaturatingLaw.fit(compute, value)
    np.testing.assert_allclose([law.ceiling, law.gain, law.exponent], [0.9, 0.4, 0.7], rtol=1e-5)
    assert law.rmse < 1e-8 and law(1e9) < 0.9 + 1e-9
    np.testing.assert_allclose(law(128.0), 0.9 - 0.4 * 128**-0.7, rtol=1e-6)
    noisy = SaturatingLaw.fit(compute, value + 0.01 * np.array([1, -1, 1, -1, 1, -1, 1]))
    assert 0.003 < noisy.rmse <= 0.0101 and noisy.largest < 0.03
    cubic = MonotoneCubic.fit(compute, value)
    np.testing.assert_allclose(cubic(compute), value, rtol=1e-6)
    assert np.all(np.diff(cubic(np.linspace(1, 64, 200))) >= 0)
    np.testing.assert_allclose(cubic(1000.0), value[-1], rtol=1e-6)
    with pytest.raises(InputError, match="at least 3"):
        SaturatingLaw.fit(compute[:2], value[:2])


@pytest.fixture
def sampled(tmp_path):
    """Sample tables of two published models' names, and where they are."""
    rng = np.random.default_rng(8)
    for model, chance in (("Llama-3-8B", 0.5), ("Qwen2.5-7B", 0.75)):
        table = made(rng, 40, 8, 4, ragged=False)
        right = rng.random((40, 8)) < rng.beta(3 * chance, 3 - 3 * chance, 40)[:, None]
        table = dataclasses.replace(
            table,
            model=model,
            benchmark="GSM8K",
            answer=np.where(right, 0, rng.integers(1, 5, (40, 8))),
            correct=right,
            tokens=rng.integers(100, 300, (40, 8)).astype(float),
        )
        samples.write(tmp_path / f"{model}.parquet", everything(table).to_batches())
    return tmp_path


@pytest.mark.full
def test_curves_feed_compare_with_intervals(sampled, capsys):
    out = {kind: str(sampled / f"curves.{kind}") for kind in ("csv", "parquet")}
    runs = [str(x) for x in sorted(sampled.glob("*.parquet"))]
    plot = sampled / "curves.png"
    for path in out.values():
        assert (
            cli.main(["curves", *runs, "--out", path, "--plot", str(plot), "--format", "json"]) == 0
        )
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plot.stat().st_size > 10_000 and printed["samples"] == 2 * 40 * 8
    assert list(pd.read_csv(out["csv"]).columns[:7]) == list(data.COLUMNS)
    arguments = ["compare", "--curves", out["parquet"], "--uncertainty", "--format", "json"]
    assert cli.main(arguments) == 0
    for one in json.loads(capsys.readouterr().out)["pay_per_compute"]:
        low, high = one["intervals"]["welfare"]
        assert low < one["welfare"] < high
        assert one["intervals"]["price_of_anarchy"][0] >= 1 - 1e-12
    assert cli.main(["compare", "--curves", out["csv"], "--uncertainty"]) == 2
    assert "give the Parquet that mechlab curves --out writes" in capsys.readouterr().err
    assert cli.main(["compare", "--curves", out["parquet"], "--uncertainty"]) == 0
    assert "price of anarchy" in capsys.readouterr().out
    assert cli.main(["compare", "--uncertainty"]) == 2
    assert "have no replicates" in capsys.readouterr().err


@pytest.mark.full
def test_intervals_are_the_percentiles_of_each_replicates_own_solution(sampled, capsys):
    runs = [str(x) for x in sorted(sampled.glob("*.parquet"))]
    path = str(sampled / "curves.parquet")
    assert cli.main(["curves", *runs, "--replicates", "12", "--out", path]) == 0
    capsys.readouterr()
    named = data.load(path).select("GSM8K", "majority_voting")
    found = compare(named, [300.0], uncertainty=0.8)
    each = [
        compare(
            dataclasses.replace(named, market=jax.tree.map(lambda x, b=b: x[b], named.replicates)),
            [300.0],
        )
        for b in range(12)
    ]
    for name in ("welfare", "user_cost", "price_of_anarchy"):
        values = [one.pay_per_compute[0][name] for one in each]
        np.testing.assert_allclose(
            found.pay_per_compute[0]["intervals"][name], np.percentile(values, [10, 90]), rtol=1e-9
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="tokens_low"), "without tokens_low"),
        (lambda t: t.assign(accuracy_low="?"), r"line 2: accuracy_low is '\?'"),
        (lambda t: t.assign(tokens_high=0.0), r"line 2: tokens_high = 0 is on the wrong side"),
    ],
)
def test_intervals_that_do_not_hold_are_named(change, words, tmp_path):
    table = estimate(
        everything(made(np.random.default_rng(9), 20, 4, 2)), ["majority_voting"], replicates=10
    ).table
    path = tmp_path / "curves.csv"
    change(table).to_csv(path, index=False)
    with pytest.raises(InputError, match=words):
        data.load(str(path))


def test_settings_sampled_under_their_own_names_become_levels_of_one_provider():
    rng = np.random.default_rng(3)
    parts = []
    for name in ("short", "long"):
        parts.append(everything(dataclasses.replace(made(rng, 6, 5, 2, ragged=False), model=name)))
    single = estimate(pa.concat_tables(parts), ["single_sample"], replicates=20)
    effort = as_levels(single, {"mine": {1: "short", 2: "long"}, "other": {2: "long"}})
    assert effort.table[["model", "level", "compute"]].to_numpy().tolist() == [
        ["mine", 0, 1.0],
        ["mine", 1, 2.0],
        ["other", 0, 2.0],
    ]
    assert set(effort.table["method"]) == {"reasoning_effort"}
    voted = estimate(parts[0], ["majority_voting"], replicates=20)
    both = joined(voted, effort)
    assert len(both.table) == len(both.accuracy) == len(both.tokens) == len(voted.table) + 3
    # the numbers of a row, and its replicates, stay with it
    np.testing.assert_array_equal(both.accuracy[-1], single.accuracy[1])
    assert both.table["accuracy"].iloc[-2] == single.table["accuracy"].iloc[1]
    with pytest.raises(InputError, match="never: 0 rows"):
        as_levels(single, {"mine": {1: "never"}})
    # searches: what the judge has read stays with them
    found = estimate(pa.concat_tables(parts), ["best_of_n"], sizes=[1, 2], replicates=20)
    wide = as_levels(found, {"mine": {1: "short", 2: "long"}}, "beam_search", of="best_of_n")
    assert wide.table["judged_tokens"].tolist() == [25.0, 25.0]
    assert wide.table["accuracy"].tolist() == single.table["accuracy"].tolist()
