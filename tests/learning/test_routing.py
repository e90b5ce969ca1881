"""Queries one by one: exact numbers on small tables, and rules that never see what they serve."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mechlab
from mechlab import InputError, PayPerCompute, ScoringAuction, SecondPriceAuction, Tariff, Users
from mechlab.evidence.samples import SCHEMA
from mechlab.learning.questions import by_question
from mechlab.learning.routing import (
    ByMechanism,
    Cascade,
    Oracle,
    Router,
    SingleBest,
    agreement,
    default_rules,
    route,
    served,
)

pytestmark = pytest.mark.float64

LAB = mechlab.data.load("lab").constants
USERS = Users.create(1000.0)
MODELS = ("Lab-0.3M", "Lab-0.9M", "Lab-1.8M")


def table(questions=12, samples=6, seed=0, drop=None):
    """Random answers 0 to 3 of three models, of which 0 is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, model in enumerate(MODELS):
        for q in range(questions):
            if (model, q) == drop:
                continue
            weight = rng.dirichlet([1.0 + i, 1.0, 0.5, 0.5])
            for s in range(samples):
                answer = int(rng.choice(4, p=weight))
                rows.append(
                    {
                        "model": model,
                        "benchmark": "sums",
                        "question_id": f"q{q}",
                        "sample": s,
                        "answer": str(answer),
                        "correct": answer == 0,
                        "reward": rng.random(),
                        "confidence": None,
                        "tokens": int(rng.integers(5, 40)),
                        "thinking_tokens": None,
                        "finish_reason": "stop",
                    }
                )
    plain = pa.schema(
        [
            pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type)
            for f in SCHEMA
        ]
    )
    return pa.Table.from_pylist(rows, plain).cast(SCHEMA)


SMALL = table()


def test_pilots_are_kept_apart_and_nothing_is_lost():
    whole = by_question(SMALL, LAB, pilots=0)
    apart = by_question(SMALL, LAB, pilots=2)
    for one, other, tokens in zip(whole.samples, apart.samples, whole.samples, strict=True):
        assert np.all(other.count == one.count - 2)
        assert tokens.tokens.sum() >= other.tokens.sum()
    total = sum(one.tokens.sum(1) for one in whole.samples)
    left = sum(one.tokens.sum(1) for one in apart.samples)
    np.testing.assert_array_equal(apart.pilot_tokens, total - left)
    np.testing.assert_allclose(apart.pilot_price, apart.pilot_cost * (1 + LAB.margin))
    assert whole.pilot_price.sum() == 0 and set(whole.fold.tolist()) == {0, 1}


def test_markets_are_those_of_the_samples_by_brute_force():
    asked = by_question(SMALL, LAB, pilots=1, sizes=[1, 3])
    for i, one in enumerate(asked.samples):
        for q in range(len(asked.ids)):
            right = []
            for chosen in itertools.combinations(range(int(one.count[q])), 3):
                votes = np.bincount(one.answer[q, list(chosen)], minlength=5)
                top = np.flatnonzero(votes == votes.max())
                correct = {int(a): bool(c) for a, c in zip(one.answer[q], one.correct[q])}
                right.append(np.mean([correct[int(a)] for a in top]))
            np.testing.assert_allclose(asked.market.accuracy[q, i, 1], np.mean(right), atol=1e-12)
            tokens = one.tokens[q, : one.count[q]].mean() * 3
            np.testing.assert_allclose(asked.market.tokens[q, i, 1], tokens, rtol=1e-12)


def test_predictions_are_the_best_linear_ones_of_the_other_half():
    many = table(60, 8)
    asked = by_question(many, LAB, pilots=2, sizes=[1], seed=3)
    whole = by_question(many, LAB, pilots=0, sizes=[1])
    for i in range(3):
        # the pilots' share of right answers, from what is left
        total = whole.samples[i].correct.sum(1)
        seen = (total - asked.samples[i].correct.sum(1)) / 2
        truth = np.asarray(asked.market.accuracy[:, i, 0])
        for half in (0, 1):
            fit = asked.fold != half
            slope, start = np.polyfit(seen[fit], truth[fit], 1)
            np.testing.assert_allclose(
                asked.predicted.accuracy[~fit, i, 0],
                np.clip(start + slope * seen[~fit], 0, 1),
                atol=1e-9,
            )
    none = by_question(SMALL, LAB, pilots=0, sizes=[1])
    for half in (0, 1):
        mean = np.asarray(none.market.accuracy)[none.fold != half].mean(0)
        found = np.asarray(none.predicted.accuracy)[none.fold == half]
        np.testing.assert_allclose(found, np.broadcast_to(mean, found.shape))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 2), (4, 3), (5, 5)])
def test_agreement_is_counted_over_all_draws(n, m):
    asked = by_question(SMALL, LAB, pilots=0)
    for i, one in enumerate(asked.samples):
        accepted, right = agreement(asked, i, n, m)
        for q in range(len(asked.ids)):
            draws = list(itertools.combinations(range(6), n))
            agreed = correct = 0
            for chosen in draws:
                votes = np.bincount(one.answer[q, list(chosen)], minlength=5)
                if votes.max() >= m:
                    agreed += 1
                    winner = votes.argmax()
                    correct += bool(one.correct[q][one.answer[q] == winner][0])
            np.testing.assert_allclose(accepted[q], agreed / len(draws), atol=1e-12)
            np.testing.assert_allclose(right[q], correct / len(draws), atol=1e-12)


def test_a_cascade_is_the_mean_of_all_its_runs():
    """All draws of all providers, with the plan that it chose by the other half."""
    asked = by_question(SMALL, LAB, pilots=0, sizes=[1, 2])
    fit = asked.fold == 0
    n, rate = 2, np.asarray(asked.price_per_token)
    spent = np.stack([n * one.tokens.mean(1) for one in asked.samples], axis=1)
    order = np.argsort((spent[fit] * rate).mean(0), kind="stable")
    draws = list(itertools.combinations(range(6), n))
    best, plan = -np.inf, None
    for ends in (1, 2, 3):  # m = 2 alone is more than half of 2
        accuracy, payment = np.zeros(12), np.zeros(12)
        for q in range(12):
            results = []
            for run in itertools.product(draws, repeat=ends):
                paid = 0.0
                for place, chosen in enumerate(run):
                    i = order[place]
                    one = asked.samples[i]
                    paid += spent[q, i] * rate[i]
                    same = len(set(one.answer[q, list(chosen)].tolist())) == 1
                    if same or place == ends - 1:
                        credit = one.correct[q, list(chosen)].mean()
                        break
                results.append((credit, paid))
            accuracy[q], payment[q] = np.mean(results, axis=0)
        value = asked.wrong + (asked.right - asked.wrong) * accuracy - payment
        if value[fit].mean() > best:
            best, plan = value[fit].mean(), (accuracy, payment)
    found = Cascade((n,)).serve(asked, USERS, fit, ~fit)
    np.testing.assert_allclose(found.accuracy, plan[0][~fit], atol=1e-12)
    np.testing.assert_allclose(found.payment, plan[1][~fit], rtol=1e-9)


def test_router_and_single_best_by_loops():
    asked = by_question(SMALL, LAB, pilots=2, sizes=[1, 2, 4])
    believed, true = (np.asarray(m.offered_value) for m in (asked.predicted, asked.market))
    routed = served(asked, USERS, Router())
    for q in range(len(asked.ids)):
        i, k = max(
            itertools.product(range(3), range(3)), key=lambda at, q=q: believed[q, at[0], at[1]]
        )
        np.testing.assert_allclose(
            routed["user_value"][q], true[q, i, k] - asked.pilot_price[q], atol=1e-12
        )
    single = served(asked, USERS, SingleBest())
    for half in (0, 1):
        fit = asked.fold != half
        mean = true[fit].mean(0)
        i, k = np.unravel_index(mean.argmax(), mean.shape)
        np.testing.assert_allclose(single["user_value"][~fit], true[~fit, i, k], atol=1e-12)
        # on the half that it learned from, it is no worse than any provider
        trained = SingleBest().serve(asked, USERS, fit, fit)
        value = asked.wrong + (asked.right - asked.wrong) * trained.accuracy - trained.payment
        assert value.mean() >= mean.max() - 1e-15


def test_the_auction_pays_what_is_delivered_less_the_second_prediction():
    asked = by_question(SMALL, LAB, pilots=2, sizes=[1, 2])
    found = served(asked, USERS, ByMechanism(SecondPriceAuction()))
    score = np.asarray(asked.predicted.surplus).max(-1)
    level = np.asarray(asked.predicted.surplus).argmax(-1)
    for q in range(len(asked.ids)):
        i = int(score[q].argmax())
        rival = max(np.delete(score[q], i).max(), 0.0)
        quality = float(asked.market.quality[q, i, level[q, i]])
        np.testing.assert_allclose(
            found["user_cost"][q], quality - rival + asked.pilot_price[q], atol=1e-12
        )
        np.testing.assert_allclose(
            found["welfare"][q],
            float(asked.market.surplus[q, i, level[q, i]]) - asked.pilot_cost[q],
            atol=1e-12,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
@pytest.mark.parametrize("pilots", [0, 2])
def test_no_rule_is_better_than_the_oracle(seed, pilots):
    asked = by_question(table(20, 8, seed), LAB, pilots=pilots, seed=seed)
    every = {name: served(asked, USERS, rule) for name, rule in default_rules().items()}
    for name, found in every.items():
        assert np.all(found["welfare"] <= every["oracle"]["welfare"] + 1e-12), name
        balance = found["user_value"] + found["provider_utility"]
        np.testing.assert_allclose(found["welfare"], balance, atol=1e-15)
        assert np.all((found["accuracy"] >= -1e-12) & (found["accuracy"] <= 1 + 1e-12))


def test_tables_without_answers_are_single_samples():
    """As tables of routers are: correct or not, one row a model and question."""
    few = SMALL.filter(pc.equal(SMALL["sample"], 0))
    blank = few.set_column(4, SCHEMA.field("answer"), pa.nulls(few.num_rows, pa.string()))
    asked = by_question(blank, LAB, pilots=0)
    assert asked.method == "single_sample" and asked.sizes == (1,)
    truth = np.stack([one.correct[:, 0] for one in asked.samples], axis=1)
    np.testing.assert_array_equal(asked.market.accuracy[..., 0], truth)
    found = {name: served(asked, USERS, rule) for name, rule in default_rules().items()}
    cheapest = np.argmin([one.tokens.mean() for one in asked.samples] * asked.price_per_token)
    np.testing.assert_array_equal(found["cascade"]["accuracy"], truth[:, cheapest])
    with pytest.raises(InputError, match="no answers to vote with"):
        by_question(blank, LAB, pilots=0, method="majority_voting")
    with pytest.raises(InputError, match="a single sample has the size 1"):
        by_question(SMALL, LAB, pilots=0, method="single_sample", sizes=[2])


FAST = dataclasses.replace(
    LAB,
    tokens_per_second=dict.fromkeys(LAB.price_per_million_tokens, 10.0) | {MODELS[0]: 400.0},
    first_token_seconds={MODELS[1]: 0.5},
)


@pytest.mark.slow
def test_waiting_is_told_and_decides_where_time_has_a_value():
    asked = by_question(SMALL, FAST, pilots=2, sizes=[1, 4])
    start, rate = np.array([0.0, 0.5, 0.0]), np.array([400.0, 10.0, 10.0])
    one = np.stack([x.tokens.sum(1) / x.count for x in asked.samples], axis=1)
    np.testing.assert_allclose(asked.seconds, start + one / rate)  # samples are drawn at once
    np.testing.assert_allclose(asked.market.latency[..., 1], asked.seconds)
    plain = {name: served(asked, USERS, rule) for name, rule in default_rules().items()}
    assert np.all(plain["router"]["latency"] >= asked.pilot_seconds)
    untimed = by_question(SMALL, LAB, pilots=2, sizes=[1, 4])
    for name, rule in default_rules().items():  # nobody minds: nothing else changes
        for metric, values in served(untimed, USERS, rule).items():
            if metric != "latency":
                np.testing.assert_allclose(values, plain[name][metric], err_msg=metric)
    hurried = Users.create(1000.0, latency_value=0.002)
    found = {name: served(asked, hurried, rule) for name, rule in default_rules().items()}
    for name, rows in found.items():
        assert np.all(rows["welfare"] <= found["oracle"]["welfare"] + 1e-12), name
        np.testing.assert_allclose(rows["welfare"], rows["user_value"] + rows["provider_utility"])
    assert found["single_best"]["latency"].mean() < plain["single_best"]["latency"].mean()
    worth = asked.wrong + (asked.right - asked.wrong) * found["router"]["accuracy"]
    np.testing.assert_allclose(
        found["router"]["user_value"],
        worth - found["router"]["user_cost"] - 0.002 * found["router"]["latency"],
    )
    assert route(asked, hurried, draws=100)[0]["latency"] > 0
    assert route(untimed, USERS, draws=100)[0]["latency"] is None


@pytest.mark.parametrize("factor", [0.7, 0.95, 2.0])
def test_who_buys_nothing_has_what_that_is_worth(factor):
    asked = by_question(table(40, 8), LAB, pilots=2)
    outside = factor * asked.right
    crowd = Users.create(1000.0, outside)
    found = {name: served(asked, crowd, rule) for name, rule in default_rules().items()}
    for name, rows in found.items():
        assert np.all(rows["welfare"] <= found["oracle"]["welfare"] + 1e-12), name
    if factor == 2.0:  # nothing is worth buying
        for name in ("single_best", "cascade", "router", "auction", "oracle"):
            spent = asked.pilot_price if name in ("router", "auction") else 0.0
            np.testing.assert_allclose(found[name]["user_value"], outside - spent, err_msg=name)
            assert np.all(found[name]["accuracy"] == 0)


def test_what_is_served_was_not_learned_from():
    """Other answers to the questions that are served change nothing of how they are served."""
    asked = by_question(SMALL, LAB, pilots=0, sizes=[1, 2])
    fit = asked.fold == 0
    market = asked.market
    worse = market.replace(accuracy=market.accuracy.at[~fit].set(0.0))
    other = dataclasses.replace(asked, market=worse)
    for rule in (SingleBest(), Router(), ByMechanism(PayPerCompute())):
        one, two = (rule.serve(x, USERS, fit, ~fit) for x in (asked, other))
        np.testing.assert_allclose(one.tokens, two.tokens)


def test_intervals_hold_the_mean_and_are_paired():
    asked = by_question(mechlab.data.samples("lab"), LAB, pilots=1, sizes=[1, 4, 16])
    rules = {
        "router": Router(),
        "same": Router(),
        "auction": ByMechanism(SecondPriceAuction()),
        "oracle": Oracle(),
    }
    rows = {row["rule"]: row for row in route(asked, USERS, rules, draws=400)}
    assert rows["router"]["welfare_gain"] is None
    assert rows["same"]["welfare_gain"] == 0.0 == rows["same"]["welfare_gain_high"]
    for row in rows.values():
        assert row["welfare_low"] <= row["welfare"] <= row["welfare_high"]
    gain = rows["oracle"]["welfare"] - rows["router"]["welfare"]
    np.testing.assert_allclose(rows["oracle"]["welfare_gain"], gain, atol=1e-15)
    assert rows["auction"]["pilots"] == 1 and rows["oracle"]["pilots"] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_question(SMALL, LAB, pilots=6), "pilots = 6: a question has 6 samples"),
        (lambda: by_question(SMALL, LAB, pilots=-1), "pilots = -1"),
        (lambda: by_question(SMALL, LAB, method="best"), "'best' is not known; use majority"),
        (lambda: by_question(SMALL, LAB, sizes=[4, 2]), "ascending numbers of samples from 1 to 4"),
        (lambda: by_question(SMALL, LAB, benchmark="AIME"), "'AIME' is not in the table"),
        (lambda: by_question(table(drop=("Lab-0.9M", 3)), LAB), "Lab-0.9M never saw question 'q3'"),
        (lambda: by_question(table(drop=("Lab-0.3M", 3)), LAB), "Lab-0.3M never saw question 'q3'"),
        (
            lambda: by_question(SMALL, mechlab.data.load("published").constants),
            "no value_per_answer of sums",
        ),
        (lambda: by_question(table(1), LAB), "one question; give at least two"),
        (lambda: route(by_question(SMALL, LAB), USERS, {"x": Cascade((64,))}), "Cascade: samples"),
        (lambda: route(by_question(SMALL, LAB), USERS, draws=3), "draws = 3"),
        (
            lambda: route(by_question(SMALL, LAB), Users.create(1.0, latency_value=1.0)),
            "nobody knows how fast providers are",
        ),
        (
            lambda: by_question(
                SMALL, dataclasses.replace(LAB, tokens_per_second={MODELS[0]: 3.0})
            ),
            "no tokens_per_second.Lab-0.9M",
        ),
        (
            lambda: route(by_question(SMALL, LAB), Users.create([1.0, 2.0])),
            "give one type of users",
        ),
    ],
)
def test_bad_input_is_one_line(call, words):
    with pytest.raises(InputError, match=words):
        call()


# an answer is worth 0.008 USD, and a sample's tokens cost as much as a good part of it
DEAR = dataclasses.replace(
    LAB,
    price_per_million_tokens=LAB.price_per_million_tokens
    | dict(zip(MODELS, (40.0, 60.0, 90.0), strict=True)),
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "rule",
    [
        Tariff(token_cap=50e-6),
        Tariff(token_cap=20e-6),
        Tariff(per_answer=1e-4, pass_through=0.5, token_cap=70e-6),
    ],
    ids=["50", "20", "half"],
)
def test_a_cap_on_tokens_is_chosen_by_what_is_predicted(rule, seed):
    asked = by_question(table(24, 8, seed), DEAR, pilots=2, sizes=[1], seed=seed)
    found = served(asked, USERS, ByMechanism(rule))

    def asks(market):
        price, tokens = (np.asarray(x)[..., 0] for x in (market.price, market.tokens))
        return rule.per_answer + rule.pass_through * np.minimum(price, rule.token_cap * tokens)

    value = np.asarray(asked.predicted.quality)[..., 0] - asks(asked.predicted)
    weight = np.exp(1000.0 * value)
    share = weight / (1.0 + weight.sum(1, keepdims=True))
    paid = (share * asks(asked.market)).sum(1) + asked.pilot_price
    np.testing.assert_allclose(found["user_cost"], paid, rtol=1e-9)
    worth = (share * np.asarray(asked.market.quality)[..., 0]).sum(1)
    np.testing.assert_allclose(found["user_value"], worth - paid, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fee", [2e-5, 1e-4, 4e-4, -5e-5])
def test_a_fee_on_tokens_is_bid_by_those_predicted_and_paid_by_those_served(fee, seed):
    asked = by_question(table(24, 8, seed), LAB, pilots=2, sizes=[1, 2], seed=seed)
    found = served(asked, USERS, ByMechanism(ScoringAuction(fee=fee)))
    score = np.asarray(asked.predicted.surplus) - fee * np.asarray(asked.predicted.tokens)
    level, best = score.argmax(-1), score.max(-1)
    other = 0
    for q in range(len(asked.ids)):
        i = int(best[q].argmax())
        rival = max(np.delete(best[q], i).max(), 0.0)
        wins, k = best[q, i] >= 0, level[q, i]
        quality, tokens = (float(x[q, i, k]) for x in (asked.market.quality, asked.market.tokens))
        paid = (quality - fee * tokens - rival) * wins + asked.pilot_price[q]
        np.testing.assert_allclose(found["user_cost"][q], paid, atol=1e-12)
        served_tokens = tokens * wins + asked.pilot_tokens[q]
        np.testing.assert_allclose(found["tokens"][q], served_tokens, rtol=1e-12)
        true = np.asarray(asked.market.surplus)[q] - fee * np.asarray(asked.market.tokens)[q]
        other += int(true[np.arange(3), level[q]].argmax()) != i
    assert other  # who knows what is served chooses otherwise


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("outside", [0.0, -0.01, 0.0075])
@pytest.mark.parametrize("constants", [LAB, DEAR], ids=["cheap", "dear"])
def test_the_oracle_buys_the_sample_that_is_worth_most(constants, outside, seed):
    """All samples of all providers, one by one."""
    asked = by_question(table(20, 5, seed), constants, pilots=1, seed=seed)
    found = served(asked, Users.create(1000.0, outside), Oracle())
    for q in range(len(asked.ids)):
        best = (outside, 0.0, 0.0, 0.0)
        for i, one in enumerate(asked.samples):
            for s in range(int(one.count[q])):
                cost = one.tokens[q, s] * asked.price_per_token[i] / (1 + asked.margin)
                right = bool(one.correct[q, s])
                value = (asked.right if right else asked.wrong) - cost
                best = max(best, (value, float(right), cost, float(one.tokens[q, s])))
        names = ("welfare", "accuracy", "user_cost", "tokens")
        np.testing.assert_allclose([found[name][q] for name in names], best, atol=1e-15)


@pytest.mark.parametrize("outside", [0.0, 0.002, -0.001])
@pytest.mark.parametrize("noise", ["error", "taste"])
@pytest.mark.parametrize(
    "rule",
    [
        PayPerCompute(),
        Tariff(token_cap=50e-6),
        mechlab.NestedLogit((0, 0, 1), 0.5),
        mechlab.PersonalAuction(),
        SecondPriceAuction(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_with_sure_predictions_a_question_is_a_market(rule, noise, outside):
    """Tastes and v0 included, as in the outcome of the rule."""
    asked = by_question(table(16, 6), DEAR, pilots=0, sizes=[1])
    asked = dataclasses.replace(asked, predicted=asked.market)
    users = Users.create(400.0, outside, noise)
    found = served(asked, users, ByMechanism(rule))
    out = rule(rule.offers(asked.market, np.zeros((16, 3), int)), users)
    unsold = 1.0 - np.sum(out.shares, axis=-1)
    kept = outside * unsold if noise == "error" else 0.0  # part of the outcome under taste
    for name in ("welfare", "user_value"):
        wanted = np.asarray(getattr(out, name)) + kept
        np.testing.assert_allclose(found[name], wanted, rtol=1e-9, atol=1e-15, err_msg=name)
    [row] = route(asked, users, {"rule": ByMechanism(rule)}, draws=100)
    assert row["welfare"] == pytest.approx(found["welfare"].mean(), rel=1e-12)


PROMPTED = dataclasses.replace(
    LAB,
    input_tokens=100.0,
    cached_input_tokens=40.0,
    input_price_per_million_tokens=dict(zip(MODELS, (1.0, 2.0, 3.0), strict=True)),
    cached_input_price_per_million_tokens={MODELS[1]: 0.5},
    price_per_thousand_requests={MODELS[2]: 0.7},
)
EACH = np.array([100 * 1e-6, 60 * 2e-6 + 40 * 0.5e-6, 100 * 3e-6 + 0.7e-3])


@pytest.mark.parametrize("pilots", [0, 2])
def test_every_sample_pays_for_its_prompt_and_its_request(pilots):
    free = by_question(SMALL, LAB, pilots=pilots, sizes=[1, 3])
    asked = by_question(SMALL, PROMPTED, pilots=pilots, sizes=[1, 3])
    np.testing.assert_allclose(asked.price_per_sample, EACH, rtol=1e-12)
    for name in ("market", "predicted"):
        more = np.asarray(getattr(asked, name).price) - np.asarray(getattr(free, name).price)
        wanted = np.broadcast_to(EACH[:, None] * [1, 3], more.shape)
        np.testing.assert_allclose(more, wanted, rtol=1e-9)
    np.testing.assert_allclose(asked.pilot_price, free.pilot_price + pilots * EACH.sum())
    np.testing.assert_allclose(asked.pilot_cost, asked.pilot_price / (1 + LAB.margin))
    fit = asked.fold == 0
    plain, dear = (Cascade((3,)).serve(x, USERS, fit, ~fit) for x in (free, asked))
    assert np.all(dear.payment >= 3 * EACH.min())  # at least one provider is asked
    np.testing.assert_allclose(dear.cost, dear.payment / (1 + LAB.margin), rtol=1e-12)
    assert np.all(plain.payment < dear.payment)
    oracle = served(asked, USERS, Oracle())
    for q in range(len(asked.ids)):
        best = max(
            (asked.right if one.correct[q, s] else asked.wrong)
            - (one.tokens[q, s] * asked.price_per_token[i] + EACH[i]) / (1 + asked.margin)
            for i, one in enumerate(asked.samples)
            for s in range(int(one.count[q]))
        )
        np.testing.assert_allclose(oracle["welfare"][q], max(best, 0.0), atol=1e-15)
