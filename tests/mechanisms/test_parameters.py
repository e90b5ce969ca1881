"""Parameters of rules: a number, one for each provider, or one for each market of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import (
    Audited,
    FixedPrice,
    InputError,
    Mechanism,
    MultiUnitAuction,
    NoisyAuction,
    PayPerCompute,
    Published,
    ScoringAuction,
    SecondPriceAuction,
    Tariff,
    UserMixture,
    Users,
    evaluate,
    per_provider,
    search,
)

pytestmark = pytest.mark.float64

MARKETS, _ = jax.tree.map(
    lambda x: x if x.dtype == bool else x.astype(float), Published(providers=3).markets(3, seed=1)
)
USERS = Users.create([300.0, 1000.0, 5000.0], [0.0, 0.001, 0.0])
TYPES = UserMixture.create([0.4, 0.6], [300.0, 2000.0], 0.0005, [1.0, 1.3])
PROFILE = np.array([0, 1, 2])


def each(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def same(found, wanted, rtol=1e-12):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol, atol=1e-15, err_msg=jax.tree_util.keystr(path))


QUICK = {("mix", False)}
BATCHED = {
    "mix": (ScoringAuction, {"mix": [0.0, 0.5, 1.0]}),
    "reserve": (ScoringAuction, {"reserve": [0.0, 0.004, 0.006]}),
    "liability": (
        lambda liability: SecondPriceAuction("per_answer", liability),
        {"liability": [0.0, 0.001, 0.004]},
    ),
    "price": (FixedPrice, {"price": [0.0005, 0.001, 0.002]}),
    "cap": (lambda token_cap: Tariff(0.0, 1.0, token_cap), {"token_cap": [1e-7, 3e-7, 1e-5]}),
    "noise": (NoisyAuction, {"noise": [1e-5, 1e-4, 1e-3]}),
    "rate": (lambda rate: Audited(PayPerCompute(), rate, fine=1e-4), {"rate": [0.0, 0.1, 1.0]}),
}


@pytest.mark.parametrize(
    ("name", "mixed"),
    [
        pytest.param(name, mixed, marks=() if (name, mixed) in QUICK else pytest.mark.slow)
        for name in BATCHED
        for mixed in (False, True)
    ],
)
def test_a_parameter_with_batch_axes_has_one_value_for_each_market(name, mixed):
    """Three markets of three providers: an axis of 3 is that of markets, not of providers."""
    kind, given = BATCHED[name]
    (field, values), users = *given.items(), TYPES if mixed else USERS
    rule = kind(**{field: jnp.asarray(values)})
    offers = rule.offers(MARKETS, PROFILE)
    whole = (rule(offers, users), evaluate(MARKETS, users, rule))
    for i, value in enumerate(values):
        one, market = kind(**{field: value}), each(MARKETS, i)
        crowd = users if mixed else each(users, i)
        alone = one(one.offers(market, PROFILE), crowd), evaluate(market, crowd, one)
        same(each(whole, i), alone, 1e-9)


def test_one_market_and_many_values_are_a_batch():
    reserve, market = np.linspace(0.0, 0.04, 5), each(MARKETS, 0)
    users = Users.create(1000.0)
    found = evaluate(market, users, ScoringAuction(reserve=reserve)).welfare
    wanted = [evaluate(market, users, ScoringAuction(reserve=r)).welfare for r in reserve]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found[0] > 0 == found[-1]
    table = evaluate(market, users, ScoringAuction(np.ones((2, 1)), reserve)).welfare
    np.testing.assert_allclose(table, [found, found], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solve",
    [
        mechlab.equilibrium,
        mechlab.better_response,
        mechlab.continuous_equilibrium,
        mechlab.social_optimum,
        lambda market, users, rule: mechlab.grid_deviations(market, users, rule, PROFILE),
        lambda market, users, rule: search(
            market, users, rule, PROFILE, space=mechlab.GridLevel(), restarts=1, steps=1
        ),
    ],
    ids=["equilibrium", "better response", "continuous", "optimum", "grid", "search"],
)
def test_solvers_take_parameters_with_batch_axes(solve):
    price = np.array([0.0005, 0.001, 0.002])
    found = solve(MARKETS, USERS, FixedPrice(jnp.asarray(price)))
    for i in range(3):
        wanted = solve(each(MARKETS, i), each(USERS, i), FixedPrice(price[i]))
        same(each(found, i), wanted, 1e-9)


@pytest.mark.slow
def test_a_value_for_each_provider_is_that_providers():
    price, rule = np.array([0.0005, 0.001, 0.003]), FixedPrice(per_provider([5e-4, 1e-3, 3e-3]))
    market = MARKETS.replace(price=jnp.broadcast_to(price[:, None], MARKETS.price.shape))
    found, wanted = evaluate(MARKETS, USERS, rule), evaluate(market, USERS, PayPerCompute())
    same(found, wanted)
    same(
        mechlab.grid_deviations(MARKETS, USERS, rule, PROFILE),
        mechlab.grid_deviations(market, USERS, PayPerCompute(), PROFILE),
    )


@pytest.mark.slow
def test_a_value_for_each_provider_is_that_providers_in_continuous_compute():
    price, rule = np.array([0.0005, 0.001, 0.003]), FixedPrice(per_provider([5e-4, 1e-3, 3e-3]))
    market = MARKETS.replace(price=jnp.broadcast_to(price[:, None], MARKETS.price.shape))
    found = mechlab.continuous_equilibrium(MARKETS, USERS, rule)
    wanted = mechlab.continuous_equilibrium(market, USERS, PayPerCompute())
    np.testing.assert_allclose(found.compute, wanted.compute, rtol=1e-9)


def test_a_fee_for_each_provider_moves_its_score_and_its_level():
    fee = np.array([0.0, 2e-7, -1e-7])
    rule, market, users = ScoringAuction(fee=per_provider(fee)), each(MARKETS, 0), Users.create(1.0)
    charged = market.surplus - fee[:, None] * market.tokens
    profile = np.argmax(np.where(market.available, charged, -np.inf), axis=1)
    np.testing.assert_array_equal(rule.truthful_profile(market, users), profile)
    score = np.take_along_axis(np.asarray(charged), profile[:, None], 1)[:, 0]
    out, first = rule(rule.truthful(market, users), users), int(np.argmax(score))
    assert int(out.winner) == first
    tokens = market.tokens[first, profile[first]]
    paid = market.quality[first, profile[first]] - fee[first] * tokens - np.sort(score)[-2]
    np.testing.assert_allclose(out.payment[first], paid, rtol=1e-12)
    same(
        evaluate(MARKETS, users, rule),
        stacked([evaluate(each(MARKETS, i), users, rule) for i in range(3)]),
    )


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@pytest.mark.slow
@pytest.mark.parametrize("users", [Users.create(1000.0), TYPES], ids=["one type", "types"])
def test_searches_face_each_provider_with_its_own_value(users):
    fee = np.array([0.0, 2e-7, -1e-7])
    rule, market = ScoringAuction(0.0, fee=per_provider(fee)), each(MARKETS, 0)
    found = search(market, users, rule, PROFILE, space=mechlab.PriceBid(), restarts=4, steps=20)
    offers = rule.offers(market, PROFILE)
    for i in range(3):
        moved = jax.tree.map(lambda x, y, i=i: x.at[i].set(y[i]), offers, found.offers)
        earned = rule(moved, users).provider_utility[i] - rule(offers, users).provider_utility[i]
        np.testing.assert_allclose(earned, found.gain[i], rtol=1e-9, atol=1e-15)


class CostPlus(Mechanism):
    """The docs' rule, written for one market: whole arrays, no axes."""

    margin: float = 0.1

    def allocate(self, offers, users):
        best = jnp.argmax(offers.quality - offers.cost)
        return 1.0 * (jnp.arange(3) == best), offers.cost * (1 + self.margin)


def test_a_rule_is_written_for_one_market():
    profile = np.zeros((3, 3), int)
    found = evaluate(MARKETS, USERS, CostPlus(), play=mechlab.AtProfile((0, 0, 0)))
    out = CostPlus()(CostPlus().offers(MARKETS, profile), USERS)
    np.testing.assert_allclose(out.welfare, found.welfare, rtol=1e-12)
    for i in range(3):
        one = CostPlus()(CostPlus().offers(each(MARKETS, i), profile[i]), each(USERS, i))
        same(each(out, i), one)
    margins = CostPlus(per_provider([0.1, 0.2, 0.3]))
    paid = margins(margins.offers(MARKETS, profile), USERS).payment
    np.testing.assert_allclose(paid, MARKETS.cost[..., 0] * np.array([1.1, 1.2, 1.3]), rtol=1e-12)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda: per_provider(0.1), "per_provider: a single number"),
        (
            lambda: evaluate(MARKETS, USERS, ScoringAuction(mix=jnp.zeros(4))),
            r"batch axes .* do not fit each other",
        ),
        (
            lambda: mechlab.pure_equilibria(
                each(MARKETS, 0), Users.create(1.0), FixedPrice(jnp.ones(2))
            ),
            r"pure_equilibria: parameters of FixedPrice have batch axes \(2,\)",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_told(run, said):
    with pytest.raises(InputError, match=said):
        run()


@pytest.mark.slow
def test_queries_are_static_and_need_no_axis():
    offers = MultiUnitAuction(2).offers(MARKETS, PROFILE)
    assert MultiUnitAuction(2)(offers, USERS).welfare.shape == (3,)
