"""Waiting: every rule, solver and search works on V = q − p − h·latency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    NoisyAuction,
    Parametric,
    PayPerCompute,
    PersonalAuction,
    PriceBid,
    Published,
    ScoringAuction,
    SecondPriceAuction,
    Truthful,
    UserMixture,
    Users,
    WithTastes,
    WithUserTypes,
    cli,
    compare,
    data,
    evaluate,
    populations,
    search,
)

pytestmark = pytest.mark.float64

RULES = [
    PayPerCompute(),
    SecondPriceAuction(),
    FirstPriceAuction(),
    FixedPrice(0.001),
    PersonalAuction(),
    ScoringAuction(),
    NoisyAuction(1e-4),
]


def timed(value=1e-4, batch=()):
    """A market with latencies and its users; and the same with waiting taken off by hand."""
    rng = np.random.default_rng(5)
    market = data.published().market
    latency = rng.uniform(0.2, 30.0, market.quality.shape)
    users = Users.create(np.full(batch, 800.0), 0.0005, latency_value=value)
    by_hand = market.replace(quality=market.quality - value * latency)
    return (
        market.replace(latency=latency),
        users,
        by_hand,
        Users.create(np.full(batch, 800.0), 0.0005),
    )


def same(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-15, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "rule",
    [pytest.param(x, marks=() if i < 2 else pytest.mark.slow) for i, x in enumerate(RULES)],
    ids=lambda rule: type(rule).__name__,
)
def test_rules_and_evaluation_take_waiting_off(rule):
    market, users, by_hand, plain = timed()
    profile = np.arange(9) % 4
    same(rule(rule.offers(market, profile), users), rule(rule.offers(by_hand, profile), plain))
    same(evaluate(market, users, rule), evaluate(by_hand, plain, rule))


@pytest.mark.full
def test_solvers_take_waiting_off():
    market, users, by_hand, plain = timed()
    key = jax.random.key(0)
    for solve in (
        mechlab.equilibrium,
        mechlab.extremal_equilibria,
        mechlab.social_optimum,
        mechlab.better_response,
        mechlab.continuous_equilibrium,
    ):
        options = dict(key=key) if solve is mechlab.better_response else {}
        found, wanted = solve(market, users, **options), solve(by_hand, plain, **options)
        if solve is mechlab.continuous_equilibrium:  # what is offered is worth more before waiting
            by_rule = PayPerCompute()(found.offers, users)
            np.testing.assert_allclose(by_rule.welfare, found.outcome.welfare, rtol=1e-12)
            found, wanted = found.replace(offers=None), wanted.replace(offers=None)
        same(found, wanted)
    listed, wanted = mechlab.pure_equilibria(market, users), mechlab.pure_equilibria(by_hand, plain)
    np.testing.assert_array_equal(listed.profiles, wanted.profiles)
    beta = Users.calibrate(market, -0.5, outside_value=0.0005, latency_value=1e-4).rationality
    by_hand_beta = Users.calibrate(by_hand, -0.5, outside_value=0.0005).rationality
    np.testing.assert_allclose(beta, by_hand_beta, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [PayPerCompute(), SecondPriceAuction()])
def test_searches_take_waiting_off(rule):
    market, users, by_hand, plain = timed()
    profile = np.zeros(9, int)
    space = mechlab.ContinuousCompute() if rule.asking == "price" else PriceBid()
    key, effort = jax.random.key(1), dict(restarts=4, steps=10)
    a = search(market, users, rule, profile, space=space, key=key, **effort)
    b = search(by_hand, plain, rule, profile, space=space, key=key, **effort)
    np.testing.assert_allclose(a.gain, b.gain, rtol=1e-9, atol=1e-15)
    offered = rule.offers(market, profile)
    c = search(market, users, rule, profile, space=space, key=key, offers=offered, **effort)
    np.testing.assert_allclose(c.gain, b.gain, rtol=1e-9, atol=1e-15)
    same(
        mechlab.grid_deviations(market, users, rule, profile),
        mechlab.grid_deviations(by_hand, plain, rule, profile),
    )


def test_no_value_of_time_changes_nothing_and_batches_go_along():
    market, _, _, plain = timed()
    untimed = market.replace(latency=None)
    same(evaluate(market, plain, RULES[0]), evaluate(untimed, plain, RULES[0]))
    waits = np.array([0.0, 1e-5, 1e-3])
    users = Users.create(800.0, 0.0005, latency_value=waits)
    found = jax.jit(lambda m, u: evaluate(m, u, PayPerCompute()))(market, users)
    assert found.welfare.shape == (3,) and found.welfare[0] > found.welfare[1] > found.welfare[2]
    for i, value in enumerate(waits):
        one = evaluate(market, Users.create(800.0, 0.0005, latency_value=value), PayPerCompute())
        np.testing.assert_allclose(found.welfare[i], one.welfare, rtol=1e-12)
    slope = jax.grad(
        lambda h: (
            PayPerCompute()(
                market.at(np.zeros(9, int), "price"),
                users.replace(
                    rationality=users.rationality[0],
                    outside_value=users.outside_value[0],
                    latency_value=h,
                ),
            ).welfare
        )
    )(1e-5)
    assert slope < 0


def test_truth_is_of_the_market_net_of_waiting():
    market, users, by_hand, plain = timed()
    for rule in (SecondPriceAuction(), PayPerCompute(), NoisyAuction(1e-4)):
        truth = rule.truthful(market, users)
        np.testing.assert_array_equal(truth.compute, rule.truthful(by_hand, plain).compute)
        same(rule(truth, users), rule(rule.truthful(by_hand, plain), plain))
        same(rule(truth, users), evaluate_truth(rule, market, users))


def evaluate_truth(rule, market, users):
    """The outcome of the play "truthful", by its own offers."""
    return rule(Truthful()(market, users, rule).offers, users)


@pytest.mark.slow
def test_offers_that_a_function_returns_are_those_that_the_rule_takes():
    market, users, by_hand, plain = timed()
    rule = SecondPriceAuction()
    profile = rule.truthful_profile(by_hand, plain)
    found = search(market, users, rule, profile, space=PriceBid(), restarts=2, steps=2)
    earned = rule(found.offers, users).provider_utility
    np.testing.assert_allclose(earned, found.utility, rtol=1e-12, atol=1e-15)
    bids = mechlab.symmetric_markup(market, users, FirstPriceAuction())
    wanted = mechlab.symmetric_markup(by_hand, plain, FirstPriceAuction())
    same(FirstPriceAuction()(bids.offers, users), FirstPriceAuction()(wanted.offers, plain))


class Slow(mechlab.Mechanism):
    """The best of those that answer within a number of seconds serves all, at its price."""

    seconds: float = 10.0

    def allocate(self, offers, users):
        value = jnp.where(offers.latency <= self.seconds, offers.quality - offers.price, -jnp.inf)
        first = jnp.arange(value.shape[-1]) == jnp.argmax(value, axis=-1, keepdims=True)
        return 1.0 * first, offers.price


def test_a_rule_of_ones_own_reads_the_latency_of_offers():
    market, users, _, _ = timed()
    profile = np.zeros(9, int)
    rule = Slow(float(np.median(np.asarray(market.latency[:, 0]))))
    found = evaluate(market, users, rule, play=mechlab.AtProfile((0,) * 9))
    value = np.asarray(market.quality - market.price - 1e-4 * market.latency)[:, 0]
    wanted = np.argmax(np.where(np.asarray(market.latency)[:, 0] <= rule.seconds, value, -np.inf))
    np.testing.assert_allclose(found.user_value, value[wanted], rtol=1e-12)
    gains = mechlab.grid_deviations(market, users, rule, profile)
    assert np.all(np.isfinite(gains.level_utility))


def test_the_potential_is_that_of_the_market_net_of_waiting():
    market, users, by_hand, plain = timed()
    profile = np.arange(9) % 4
    found = mechlab.potential(market, users, PayPerCompute(), profile)
    wanted = mechlab.potential(by_hand, plain, PayPerCompute(), profile)
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


@pytest.mark.slow
def test_a_rule_is_learned_on_markets_net_of_waiting(market_file):
    population = Published(market=str(market_file))
    family = mechlab.Family(ScoringAuction, {"mix": (0.0, 1.0)}, space=())
    settings = mechlab.Settings(steps=1, batch=64, held_out=256)
    found = mechlab.optimize(population, family, settings=settings)
    held_out = np.uint32(2**31) + np.arange(256, dtype=np.uint32)
    column = population.columns(jax.random.key(0), held_out)
    market, users = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), column)
    wanted = evaluate(market, users, found.rule).welfare
    np.testing.assert_allclose(found.objective, np.mean(wanted), rtol=1e-6)


@pytest.fixture
def market_file(tmp_path):
    text = (data._HERE / "published_market.toml").read_text()
    names = data.published().names
    lines = ["latency_value = 1e-4", text, "[tokens_per_second]"]
    lines += [f'"{name}" = {20 + 10 * i}' for i, name in enumerate(names)]
    lines += ["[first_token_seconds]", *(f'"{name}" = 0.5' for name in names[:3])]
    path = tmp_path / "market.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.full
def test_a_market_file_has_the_speed_of_providers(market_file, capsys):
    named = data.load("published", str(market_file)).select()
    market = named.market
    seconds = np.asarray(market.tokens) / np.asarray(market.compute)
    seconds = seconds / (20 + 10 * np.arange(9))[:, None]
    seconds[:3] += 0.5
    np.testing.assert_allclose(market.latency, seconds, rtol=1e-12)
    found = compare(named, [1000.0])
    one = data.load("published", str(market_file)).select().market
    by_hand = one.replace(quality=one.quality - 1e-4 * one.latency, latency=None)
    best = evaluate(by_hand, Users.create(1000.0), SecondPriceAuction()).welfare
    np.testing.assert_allclose(found.auction["welfare"], best, rtol=1e-12)
    shares = np.array(list(found.pay_per_compute[0]["shares"].values()))
    slowest, fastest = seconds.max() * shares.sum(), seconds.min() * shares.sum()
    assert fastest < found.pay_per_compute[0]["latency"] < slowest
    assert cli.main(["compare", "--market", str(market_file)]) == 0
    assert "users wait" in capsys.readouterr().out


def test_reasoning_takes_as_long_as_its_tokens(tmp_path, market_file):
    text = market_file.read_text().replace('"Llama-3-8B" = 20', '"R1-D-Llama-8B" = 20')
    rows = data.load().curves
    rows = rows[(rows["method"] == "reasoning_effort") & (rows["model"] == "R1-D-Llama-8B")]
    path = tmp_path / "curves.csv"
    rows.to_csv(path, index=False)
    market_file.write_text(text)
    market = data.load(str(path), str(market_file)).select().market
    np.testing.assert_allclose(market.latency, market.tokens / 20, rtol=1e-12)


@pytest.mark.full
def test_populations_draw_latencies_and_are_as_before_without(market_file):
    plain, users = Published().markets(40)
    slow, crowd = Published(market=str(market_file)).markets(40)
    assert plain.latency is None and users.latency_value is None
    for name in ("quality", "price", "cost", "accuracy", "tokens"):
        np.testing.assert_array_equal(getattr(slow, name), getattr(plain, name))
    assert np.all(np.asarray(slow.latency) > 0) and np.all(np.asarray(crowd.latency_value) > 0)
    whole = mechlab.simulate(Published(market=str(market_file)), 40)
    welfare = evaluate(slow, crowd, PayPerCompute()).welfare
    np.testing.assert_allclose(
        whole.to_dict()["mechanisms"]["pay_per_compute"]["welfare"]["mean"],
        np.mean(np.asarray(welfare, float)),
        rtol=1e-5,
    )
    tasteful, both = WithTastes(Published(market=str(market_file))).markets(2)
    assert tasteful.latency is not None and both.latency_value is not None


def by_hand(market, users, profile, rule):
    """Welfare of types who wait: each by itself, at the qualities that it holds."""
    total = 0.0
    for t, weight in enumerate(np.asarray(users.weight)):
        scale = float(users.value_scale[t])
        lost = float(users.latency_value[0]) * np.asarray(market.latency)
        own = market.replace(quality=scale * (np.asarray(market.quality) - lost), latency=None)
        one = Users.create(float(users.rationality[t]), float(users.outside_value[t]))
        total += weight * float(rule(own.at(profile, "price"), one).welfare)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("rule", [PayPerCompute(), SecondPriceAuction()])
def test_types_wait_each_by_what_an_answer_is_worth_to_it(rule):
    market, _, _, _ = timed()
    users = UserMixture.create(
        [0.3, 0.7], [100.0, 2000.0], [0.0, 0.001], [0.5, 1.5], latency_value=2e-4
    )
    assert users.latency_value.shape == (1,)
    profile = np.zeros(market.providers, int)
    exact = by_hand(market, users, profile, rule)
    np.testing.assert_allclose(rule(market.at(profile, "price"), users).welfare, exact, rtol=1e-12)
    found = evaluate(market, users, rule)
    np.testing.assert_allclose(
        found.welfare, by_hand(market, users, np.asarray(found.profile), rule), rtol=1e-9
    )
    many = jax.tree.map(lambda x: np.stack([x, x, x]), (market, users))
    batch = jax.jit(lambda m, u: evaluate(m, u, rule))(*many)
    np.testing.assert_allclose(batch.welfare, np.full(3, found.welfare), rtol=1e-12)
    with pytest.raises(InputError, match="all types of a market share one number"):
        UserMixture.create([0.3, 0.7], 100.0, latency_value=[1.0, 2.0])


@pytest.mark.full
def test_parametric_markets_draw_prompts_and_waiting_and_are_as_before_without():
    plain, users = Parametric().markets(50)
    more, crowd = Parametric(
        input_tokens=(100.0, 2000.0),
        input_price=(0.2, 0.3),
        tokens_per_second=(20.0, 200.0),
        latency_value=(1e-6, 1e-4),
    ).markets(50)
    assert plain.latency is None and users.latency_value is None
    for name in ("quality", "accuracy", "tokens", "compute"):
        np.testing.assert_array_equal(getattr(more, name), getattr(plain, name))
    np.testing.assert_array_equal(crowd.rationality, users.rationality)
    np.testing.assert_array_equal(more.latency[..., 0], more.latency[..., -1])
    speed = np.asarray(more.tokens[..., 0] / more.latency[..., 0])
    assert speed.min() >= 19.99 and speed.max() <= 200.1 and np.std(np.log(speed)) > 0.3
    assert np.all((crowd.latency_value >= 9.9e-7) & (crowd.latency_value <= 1.01e-4))
    # a prompt is sent once for every sample, at a share of the price of what is generated
    asked = np.asarray((more.price - plain.price) / more.compute)
    np.testing.assert_allclose(asked, np.broadcast_to(asked[..., :1], asked.shape), rtol=1e-3)
    rate = np.asarray(plain.price / plain.tokens)[..., 0]
    prompt = asked[..., 0] / rate
    assert prompt.min() > 100 * 0.19 and prompt.max() < 2000 * 0.31
    np.testing.assert_allclose(more.price / more.cost, plain.price / plain.cost, rtol=1e-5)
    described = populations.from_dict(
        {"kind": "parametric", "tokens_per_second": [20.0, 200.0], "latency_value": [1e-6, 1e-4]}
    )
    whole = mechlab.simulate(described, 40).to_dict()["mechanisms"]["pay_per_compute"]
    welfare = evaluate(*described.markets(40), PayPerCompute()).welfare
    np.testing.assert_allclose(
        whole["welfare"]["mean"], np.mean(np.asarray(welfare, float)), rtol=1e-5
    )
    typed = WithUserTypes(described, (1.0, 3.0), (1.0, 2.0), (1.0, 0.5))
    market, mixed = typed.markets(8)
    assert mixed.latency_value.shape == (8, 1) and mixed.weight.shape == (8, 2)
    out = mechlab.simulate(typed, 8).to_dict()["mechanisms"]["pay_per_compute"]
    same = evaluate(market, mixed, PayPerCompute()).welfare
    np.testing.assert_allclose(out["welfare"]["mean"], np.mean(np.asarray(same, float)), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"latency_value": (1e-6, 1e-4)}, "belong together; give both or none"),
        ({"input_tokens": (0.0, 10.0)}, "input_tokens = .* give a low and a high bound"),
        ({"input_tokens": 5}, r"input_tokens = 5; give a list like \[1.0, 2.0\]"),
    ],
)
def test_bounds_that_do_not_hold_are_named(given, words):
    with pytest.raises(InputError, match=words):
        populations.from_dict({"kind": "parametric", **given})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Users.create(1.0, latency_value=-1.0), "latency_value = -1 is below 0"),
        (
            lambda: Market.from_arrays([[1.0]], [[0.1]], [[0.1]], latency=[[-2.0]]),
            r"latency\[0, 0\] = -2 is below 0",
        ),
        (
            lambda: Market.from_curves(
                [[0.5]], [[10.0]], 1e-6, value_per_answer=1.0, latency=[[np.nan]]
            ),
            "latency",
        ),
    ],
)
def test_times_that_are_none_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"Qwen2-7B" = 80\n', "", r"no tokens_per_second.Qwen2-7B; give one for every provider"),
        ('"Qwen2-7B" = 80\n', '"Qwen2-7B" = -8\n', "tokens_per_second.Qwen2-7B = -8; give a"),
        ("[tokens_per_second]", "[tokens_per_seconds]", "unknown key 'tokens_per_seconds'"),
        ("latency_value = 1e-4", "latency_value = -1", "latency_value = -1; give a number"),
    ],
)
def test_speeds_that_do_not_hold_are_named(old, new, words, market_file):
    text = market_file.read_text()
    assert old in text
    market_file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=words):
        data.load("published", str(market_file)).select()


def test_columns_of_latency(tmp_path):
    table = data.load().curves
    table = table[table["benchmark"] == "GSM8K"].assign(latency=lambda t: t["tokens"] / 100)
    path = tmp_path / "curves.csv"
    table.to_csv(path, index=False)
    market = data.load(str(path)).select().market
    np.testing.assert_allclose(market.latency, market.tokens / 100, rtol=1e-9)
    table.assign(latency=-1).to_csv(path, index=False)
    with pytest.raises(InputError, match="line 2: latency is '-1'"):
        data.load(str(path))
    constants = tmp_path / "market.toml"
    constants.write_text(
        "latency_value = 1e-3\n" + (data._HERE / "published_market.toml").read_text()
    )
    with pytest.raises(
        InputError, match="latency_value without latencies; give the curves a column"
    ):
        data.load("published", str(constants)).select()
