"""`evaluate` against brute force and the one-market path; what readers found wrong stays mended."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from drawn import honest_bids, markets, users
from hypothesis import given, settings

import mechlab
from mechlab import (
    FirstPriceAuction,
    InputError,
    Market,
    Mechanism,
    NoisyAuction,
    Offers,
    PayPerCompute,
    ScoringAuction,
    SecondPriceAuction,
    UserMixture,
    Users,
    data,
    evaluate,
)
from mechlab.mechanisms.capabilities import METRICS
from mechlab.mechanisms.catalogue import named_rule
from mechlab.populations import Published
from mechlab.simulation.evaluate import default_rules
from mechlab.simulation.evaluator import Evaluator


def holds(market, crowd):
    """Everything that `evaluate` says of one market, by brute force in float64."""
    found = evaluate(market, crowd, default_rules())
    today, auction = found["pay_per_compute"], found["second_price"]
    profiles = oracles.profiles(market)
    stable = [p for p in profiles if oracles.slack(market, crowd, p) <= 1e-11]
    if bool(today.converged):
        assert oracles.slack(market, crowd, tuple(int(x) for x in today.profile)) <= 1e-7
    if bool(today.unique):
        welfare = [oracles.welfare(market, crowd, p) for p in stable]
        assert np.ptp(welfare) <= 1e-12
    best = max(oracles.welfare(market, crowd, p) for p in profiles)
    np.testing.assert_allclose(today.optimal_welfare, best, rtol=1e-10, atol=1e-14)
    outcome = PayPerCompute()(market.at(today.profile, "price"), crowd)
    truth = SecondPriceAuction()(honest_bids(market), crowd)
    for one, expected in ((today, outcome), (auction, truth)):
        for name in METRICS:
            np.testing.assert_allclose(
                getattr(one, name), jnp.sum(getattr(expected, name)), rtol=1e-9, atol=1e-13
            )
    reached = oracles.welfare(market, crowd, tuple(int(x) for x in today.profile))
    np.testing.assert_allclose(today.welfare, reached, rtol=1e-9, atol=1e-13)
    return bool(today.unique), len(stable)


@pytest.mark.float64
@given(markets(losses=True), users((0.0, 30.0, 300.0, 2000.0, 2e4, 1e6)))
@settings(max_examples=50)
def test_every_number_is_that_of_brute_force(market, crowd):
    holds(market, crowd)


@pytest.mark.full
@given(markets(losses=True, max_providers=3), users((0.0, 30.0, 300.0, 2000.0, 2e4, 1e6)))
@settings(max_examples=5000)
def test_every_number_is_that_of_brute_force_in_five_thousand_markets(market, crowd):
    holds(market, crowd)


@pytest.mark.full
def test_ten_thousand_published_markets_are_those_of_the_dynamics():
    market, crowd = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(jnp.float64),
        Published().markets(10_000, seed=11),
    )
    found = evaluate(market, crowd, PayPerCompute())
    path = mechlab.better_response(market, crowd)
    same = np.all(found.profile == path.profile, axis=-1)
    assert bool(jnp.all(path.converged)) and same.mean() == 1.0
    best = mechlab.social_optimum(market, crowd)
    np.testing.assert_allclose(found.optimal_welfare, best.welfare, rtol=1e-12)
    outcome = PayPerCompute()(market.at(path.profile, "price"), crowd)
    np.testing.assert_allclose(found.user_cost, outcome.user_cost, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(), *(pytest.param(x, marks=pytest.mark.full) for x in ((7,), (2, 3)))]
)
def test_any_batch_shape_jitted_vmapped_and_eager(shape):
    count = int(np.prod(shape))
    market, crowd = jax.tree.map(
        lambda x: x.reshape(*shape, *x.shape[1:]), Published(providers=3).markets(count, seed=2)
    )
    eager = evaluate(market, crowd, default_rules())
    jitted = jax.jit(lambda m, u: evaluate(m, u, default_rules()))(market, crowd)
    runs = [jitted]
    if shape:
        runs.append(jax.vmap(lambda m, u: evaluate(m, u, default_rules()))(market, crowd))
    for run in runs:
        for x, y in zip(jax.tree.leaves(eager), jax.tree.leaves(run), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-9)
    assert eager["second_price"].welfare.shape == shape
    assert eager["pay_per_compute"].profile.shape == (*shape, 3)


@pytest.mark.full
def test_derivatives_are_those_of_differences_where_profiles_hold():
    market, crowd = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(jnp.float64),
        Published(providers=3).markets(20, seed=4),
    )

    def total(scale):
        raised = market.replace(price=market.price * scale)
        found = evaluate(raised, crowd, default_rules())
        one, other = found["pay_per_compute"], found["second_price"]
        return jnp.sum(one.welfare + one.user_cost + other.user_cost + one.optimal_welfare)

    step = 1e-7
    slope = jax.grad(total)(1.0)
    difference = (total(1.0 + step) - total(1.0 - step)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


@pytest.mark.slow
def test_the_mesh_of_a_script_shares_the_markets():
    market, crowd = Published(providers=3).markets(100, seed=4)
    plain = jax.jit(lambda m, u: evaluate(m, u, PayPerCompute()))(market, crowd)
    mesh = jax.make_mesh((2,), ("markets",))
    with jax.set_mesh(mesh):
        shared = jax.jit(lambda m, u: evaluate(m, u, PayPerCompute()))(market, crowd)
    np.testing.assert_allclose(plain.welfare, shared.welfare, rtol=1e-6)


class Half(Mechanism):
    def allocate(self, offers, users):
        shares, paid = PayPerCompute().allocate(offers, users)
        return shares, 0.5 * paid


@pytest.mark.full
def test_what_spreads_by_itself_is_not_troubled_by_a_scripts_mesh():
    market, crowd = Published(providers=2).markets(600, seed=4)
    rule, level = SecondPriceAuction(), jnp.zeros((600, 2), int)

    def all_of_it():
        return (
            evaluate(market, crowd, rule).welfare.mean(),
            mechlab.search(market, crowd, rule, level, space=mechlab.GridLevel()).gain.mean(),
            mechlab.simulate(Published(providers=2), 600).summaries["second_price.welfare"].mean,
        )

    plain = all_of_it()
    with jax.set_mesh(jax.make_mesh((2,), ("markets",))):
        np.testing.assert_allclose(all_of_it(), plain, rtol=1e-6)


@pytest.mark.slow
def test_a_rule_that_halves_the_payment_is_evaluated_as_it_is():
    # at published rationalities shares in float32 carry errors of 1e-4
    market, crowd = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(float),
        Published(providers=3).markets(12, seed=1),
    )
    found = evaluate(market, crowd, {"half": Half(), "whole": PayPerCompute()})
    outcome = Half()(market.at(found["half"].profile, "price"), crowd)
    np.testing.assert_allclose(found["half"].user_cost, outcome.user_cost, rtol=1e-5)
    assert found["half"].optimal_welfare is None and found["whole"].optimal_welfare is not None
    evaluator = Evaluator(Published(providers=3), 1, {"half": Half()}, dtype=np.float64)
    rows = dict(evaluator.parts(iter([(0, 12)])))[0]
    np.testing.assert_allclose(rows["half.user_cost"], found["half"].user_cost, rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "make",
    [lambda: PayPerCompute(), lambda: SecondPriceAuction(), lambda: FirstPriceAuction()],
    ids=["pay_per_compute", "second_price", "first_price"],
)
def test_one_type_that_equals_the_plain_users_gives_what_they_give(make):
    market, crowd = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(jnp.float64),
        Published(providers=3).markets(8, seed=3),
    )
    beta = jnp.minimum(crowd.rationality, 3000.0)
    crowd = crowd.replace(rationality=beta)
    types = UserMixture.create(jnp.ones((8, 1)), beta[:, None], crowd.outside_value[:, None])
    plain, typed = evaluate(market, crowd, make()), evaluate(market, types, make())
    for name in METRICS:
        np.testing.assert_allclose(
            getattr(plain, name), getattr(typed, name), rtol=1e-6, atol=1e-12
        )


@pytest.mark.slow
def test_float32_dynamics_hold_where_a_provider_loses_at_every_level():
    population = Published(providers=2, margin=(-0.3, 0.6), rationality=(1e3, 1e6))
    market, crowd = population.markets(400, seed=7)
    narrow = evaluate(market, crowd, PayPerCompute())
    wide = evaluate(
        *jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float64), (market, crowd)),
        PayPerCompute(),
    )
    both = np.asarray(narrow.converged & wide.converged)
    assert both[143] and both.mean() > 0.9
    ratio = np.asarray(narrow.user_cost / wide.user_cost)[both]
    assert np.mean(np.abs(ratio - 1) < 1e-3) > 0.99 and abs(ratio - 1)[:144].max() < 0.5


@pytest.mark.slow
def test_a_market_that_has_not_settled_has_no_price_of_anarchy():
    """Two providers without any profit can chase each other; see also NO_POTENTIAL."""
    market, crowd = Published(providers=2, margin=(-0.3, 0.1), rationality=(1e3, 1e4)).markets(
        3000, seed=5
    )
    found = evaluate(market, crowd, PayPerCompute())
    open_ = ~np.asarray(found.converged)
    assert np.isnan(np.asarray(found.price_of_anarchy)[open_]).all()
    assert not np.asarray(found.unique)[open_].any()


@pytest.mark.float64
def test_without_rationality_equal_profits_are_no_single_equilibrium():
    market = Market.from_arrays([[0.005, 0.009]], [[0.002, 0.003]], [[0.001, 0.002]])
    assert not bool(mechlab.equilibrium(market, Users.create(0.0)).unique)
    assert len(mechlab.pure_equilibria(market, Users.create(0.0)).profiles) == 2


def test_a_provider_that_earns_nothing_anywhere_is_said_to_be_indifferent():
    market = Market.from_arrays([[0.005, 0.009]], [[0.002, 0.003]], [[0.002, 0.003]])
    found = mechlab.equilibrium(market, Users.create(1000.0))
    assert int(found.status) == mechlab.Status.INDIFFERENT and not bool(found.unique)
    assert "give it a margin" in found.message


def test_one_terrible_level_does_not_blur_the_optimum():
    quality = np.array([[0.0050, 0.0050004], [0.004, -100.0]])
    price = np.full((2, 2), 0.001)
    market = Market.from_arrays(quality, price, 0.9 * price)
    crowd = Users.create(1e5)
    exact = max(oracles.welfare(market, crowd, p) for p in oracles.profiles(market))
    found = mechlab.social_optimum(
        *jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), (market, crowd))
    )
    assert int(found.profile[0]) == 1
    np.testing.assert_allclose(found.welfare, exact, rtol=1e-5)


def offers_of(scores, width):
    quality = jnp.asarray(scores, width) + jnp.asarray(0.002, width)
    cost, none = jnp.full_like(quality, 0.002), jnp.zeros_like(quality)
    return Offers(
        quality=quality,
        reported_quality=quality,
        price=cost,
        cost=cost,
        accuracy=none,
        tokens=none,
        compute=none,
    )


@pytest.mark.float64
@pytest.mark.parametrize("width", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "scores", [[0.01, 0.005, 0.005], [0.01, 0.005, 0.005, 0.005], [0.01, 0.0099]]
)
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_clear_winner_pays_for_the_runner_up_however_many_there_are(width, scores, noise):
    crowd = Users(rationality=jnp.asarray(1.0, width), outside_value=jnp.asarray(0.0, width))
    offers = offers_of(scores, width)
    exact = SecondPriceAuction()(offers, crowd).user_cost
    found = NoisyAuction(noise)(offers, crowd).user_cost
    np.testing.assert_allclose(found, exact, atol=2 * noise + 2e-7)


def test_no_noise_and_no_score_are_no_number_that_is_none():
    crowd = Users(rationality=jnp.float32(1.0), outside_value=jnp.float32(-0.01))
    found = NoisyAuction(0.0)(offers_of([0.0, 0.0], jnp.float32), crowd)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(found))


@pytest.mark.float64
def test_the_runner_up_is_the_one_that_the_rule_ranks_second():
    offers = offers_of([0.009, 0.008, 0.007], jnp.float64)
    offers = offers.replace(tokens=jnp.array([0.0, 5000.0, 0.0]))
    found = ScoringAuction(fee=1e-6)(offers, Users.create(1.0))
    assert int(found.winner) == 0 and int(found.runner_up) == 2


@pytest.mark.slow
def test_truthful_play_is_one_thing():
    rule = ScoringAuction(fee=2e-7)
    market, crowd = Published().markets(30, seed=1)
    found = evaluate(market, crowd, rule)
    outcome = rule(rule.truthful(market, crowd), crowd)
    np.testing.assert_allclose(found.user_cost, outcome.user_cost, rtol=1e-5)
    np.testing.assert_array_equal(found.profile, rule.truthful_profile(market, crowd))


@pytest.mark.slow
def test_users_hold_the_outside_option_that_they_do_not_give_up():
    market, crowd = Published().markets(200, seed=0)
    crowd = crowd.replace(outside_value=jnp.full_like(crowd.outside_value, 0.009))
    found = evaluate(market, crowd, default_rules())
    for one in found.values():
        outcome_sold = (one.user_value - one.net_user_value) / 0.009
        assert np.all((outcome_sold > -1e-4) & (outcome_sold < 1 + 1e-4))
    simulated = mechlab.simulate(Published(), 200)
    assert "second_price.better_for.users" in simulated.summaries


class NotTwo(Mechanism):
    def allocate(self, offers, users):
        return offers.price


class Six(Mechanism):
    def allocate(self, offers, users):
        return jnp.full_like(offers.cost, 2.0), offers.price


class Named(Mechanism):
    kind: str = "mine"

    def allocate(self, offers, users):
        return PayPerCompute().allocate(offers, users)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, u: mechlab.better_response(u, m), "market: a Users, where a Market belongs"),
        (lambda m, u: evaluate(m, u, "first"), "rules: give a rule"),
        (lambda m, u: evaluate(m, u, PayPerCompute), r"call it, PayPerCompute\(\)"),
        (lambda m, u: PayPerCompute()(m, u), "offers: a Market, where Offers belong"),
        (lambda m, u: evaluate(m, u, Named()), "Named: kind is text"),
        (lambda m, u: named_rule("fixed_price"), "needs its price.*fixed_price=0.001"),
        (lambda m, u: evaluate(m, PayPerCompute(), PayPerCompute()), "users: a PayPerCompute"),
        (lambda m, u: evaluate(m, u, NotTwo()), "return two arrays, shares and payment"),
        (lambda m, u: evaluate(m, u, Six()), "sum to at most 1"),
        (lambda m, u: evaluate(m, u, PayPerCompute(), play="best"), "play: 'best' is not known"),
        (
            lambda m, u: mechlab.grid_deviations(m, u, PayPerCompute(), [0, 0, 9]),
            r"profile\[2\] = 9",
        ),
        (
            lambda m, u: mechlab.certify(PayPerCompute(), Published(), 5, mechlab.GridLevel()),
            "give a Population, then a Mechanism",
        ),
    ],
)
def test_what_is_called_wrongly_is_told_in_one_line(call, said):
    market, crowd = jax.tree.map(lambda x: x[0], Published(providers=3).markets(1))
    with pytest.raises(InputError, match=said) as error:
        call(market, crowd)
    assert "\n" not in str(error.value)


def test_rules_come_back_in_the_order_that_was_given():
    market, crowd = data.published().market, Users.create(1000.0)
    rules = {"z": PayPerCompute(), "a": SecondPriceAuction()}
    assert list(evaluate(market, crowd, rules)) == ["z", "a"]


def test_a_solver_that_is_asked_to_throw_does():
    market, crowd = Published().markets(4, seed=0)
    with pytest.raises(mechlab.NotSolved, match="more rounds"):
        mechlab.better_response(market, crowd, max_rounds=1, throw=True)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_compiled_path_lowers_for_accelerators(platform):
    market, crowd = Published(providers=3).markets(64, seed=0)
    narrow = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(jnp.float32), (market, crowd)
    )
    with jax.enable_x64(False):
        for work in (
            lambda m, u: evaluate(m, u, default_rules()),
            lambda m, u: jax.grad(
                lambda p: evaluate(m.replace(price=p), u, PayPerCompute()).welfare.sum()
            )(m.price),
            lambda m, u: mechlab.better_response(m, u, history=True, max_rounds=5),
            lambda m, u: jax.grad(
                lambda p: mechlab.continuous_equilibrium(m.replace(price=p), u).welfare.sum()
            )(m.price),
            lambda m, u: (
                mechlab.search(
                    m,
                    u,
                    SecondPriceAuction(),
                    m.best_surplus_profile(),
                    space=mechlab.PriceBid(),
                    steps=3,
                ).gain
            ),
        ):
            exported = jax.export.export(jax.jit(work), platforms=[platform])(*narrow)
            assert exported.platforms == (platform,)


@pytest.mark.slow
def test_a_run_is_not_continued_after_its_code_or_data_changed(tmp_path):
    def own(text):
        scope = {"Published": Published}
        exec(text, scope)
        return scope["Mine"]

    first = own("class Mine(Published):\n    version = 1\n")
    second = own("class Mine(Published):\n    version = 2\n")
    options = dict(out=str(tmp_path / "run"))
    mechlab.simulate(first(providers=2), 20, **options)
    mechlab.simulate(first(providers=2), 20, **options)
    with pytest.raises(InputError, match="holds another run"):
        mechlab.simulate(second(providers=2), 20, **options)
    with pytest.raises(InputError, match="holds another run"):
        mechlab.simulate(
            first(providers=2),
            20,
            metrics={"m": lambda market, users, rows: users.rationality},
            **options,
        )


class Held(mechlab.Population):
    """A population that holds arrays."""

    def __init__(self, quality):
        self.quality = jnp.asarray(quality, jnp.float32)

    def sample(self, key):
        price = jnp.full_like(self.quality, 0.001)
        market = Market(
            quality=self.quality,
            price=price,
            cost=0.8 * price,
            accuracy=price,
            tokens=price,
            compute=jnp.broadcast_to(jnp.arange(1.0, 3.0, dtype=jnp.float32), price.shape),
            available=None,
        )
        return market, Users(rationality=jnp.float32(500.0), outside_value=jnp.float32(0.0))


@pytest.mark.slow
def test_a_population_that_holds_arrays_is_described_by_them(tmp_path):
    options = dict(out=str(tmp_path / "run"))
    mechlab.simulate(Held([[0.01, 0.02]]), 10, **options)
    with pytest.raises(InputError, match="holds another run"):
        mechlab.simulate(Held([[0.01, 0.03]]), 10, **options)


# of 200,000 two- and three-provider AIME markets: one equilibrium has a positive welfare, and
# another has not
SEVERAL = [(2, i) for i in (2918, 31361, 42898, 48765, 141091, 149234, 182595)] + [(3, 33689)]


@pytest.mark.parametrize(("providers", "index"), SEVERAL)
def test_a_market_with_a_positive_welfare_has_a_price_of_anarchy(providers, index):
    """The worst equilibrium of positive welfare counts: a ratio to another means nothing."""
    population = Published("AIME", "majority_voting", providers=providers)
    market, crowd = population.markets(1, first=index)
    found = evaluate(market, crowd, PayPerCompute())
    assert found.welfare[0] > 0 and bool(found.has_ratio[0]) and not bool(found.unique[0])
    one = jax.tree.map(lambda x: x[0], market)
    all_ = mechlab.pure_equilibria(one, jax.tree.map(lambda x: x[0], crowd))
    assert all_.worst_welfare <= 0 < all_.best_welfare
    least = all_.welfare[all_.welfare > 0].min()
    most = float(mechlab.social_optimum(one, jax.tree.map(lambda x: x[0], crowd)).welfare)
    ratio = float(found.price_of_anarchy[0])
    assert 1 <= ratio <= most / least * (1 + 1e-4)
    assert ratio == pytest.approx(float(found.optimal_welfare[0]) / least, rel=1e-3)


@pytest.mark.parametrize(
    "population",
    [
        Published("AIME", "majority_voting", providers=2),
        Published("AIME", "best_of_n"),
        Published(providers=3, margin=(-0.99, 0.2), rationality=(1.0, 1e4)),
        Published(providers=2, value_factor=(0.01, 1.0)),
    ],
    ids=["two", "best of n", "losses", "little worth"],
)
def test_means_leave_out_markets_without_a_ratio(population):
    market, crowd = population.markets(3000, seed=1)
    rules = {"posted": PayPerCompute(), "auction": SecondPriceAuction()}
    for found in evaluate(market, crowd, rules).values():
        valid = np.asarray(found.has_ratio)
        np.testing.assert_array_equal(valid, ~np.isnan(np.asarray(found.price_of_anarchy)))
        np.testing.assert_array_equal(
            valid, np.asarray(found.status == 0) & np.asarray(found.welfare > 0)
        )
        means = jax.jit(lambda one: one.means())(found)
        ratios = np.asarray(found.price_of_anarchy, float)[valid]
        assert ratios.min() >= 1 - 1e-5
        assert float(means["price_of_anarchy"]) == pytest.approx(ratios.mean(), rel=1e-4)
        assert float(means["has_ratio"]) == pytest.approx(valid.mean(), abs=1e-6)
        assert float(means["welfare"]) == pytest.approx(
            float(np.asarray(found.welfare, float).mean()), rel=1e-4
        )
    assert not np.asarray(evaluate(market, crowd, PayPerCompute()).has_ratio).all()


def test_a_mean_of_no_ratio_is_nan():
    market = Market.from_arrays([[0.001]], [[0.003]], [[0.002]])
    found = evaluate(market, Users.create(0.0), PayPerCompute())
    assert not bool(found.has_ratio) and np.isnan(found.means()["price_of_anarchy"])
