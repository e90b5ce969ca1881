"""Learned rules are those of theory; runs continue where they were killed and say what failed."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
from drawn import honest_bids

from mechlab import (
    Family,
    FirstPriceAuction,
    InputError,
    Market,
    NoisyAuction,
    PayPerCompute,
    Population,
    Published,
    ReverseAuction,
    ScoringAuction,
    SecondPriceAuction,
    Settings,
    Tariff,
    Users,
    continuous_equilibrium,
    data,
    optimize,
    welfare_less_cost,
)
from mechlab.incentives import design
from mechlab.incentives.strategies import PriceBid

QUICK = Settings(steps=120, batch=512, held_out=4096, restarts=2, search_steps=15)


class UniformCosts(Population):
    def sample(self, key):
        cost = jax.random.uniform(key, (2, 1))
        return Market.from_arrays(jnp.ones((2, 1)), cost, cost), Users.create(0.0)


def test_the_family_holds_both_auctions_and_the_tariff_both_posted_rules():
    market, crowd = data.published().market, Users.create(1000.0)
    offers = honest_bids(market)
    offers = offers.replace(price=offers.cost * 1.1, reported_quality=offers.quality * 1.05)
    for settlement in ("realised", "reported"):
        ours = ScoringAuction(settlement=settlement)(offers, crowd)
        np.testing.assert_allclose(
            ours.payment, SecondPriceAuction(settlement)(offers, crowd).payment, atol=1e-17
        )
    own = ScoringAuction(mix=0.0)(offers, crowd)
    np.testing.assert_allclose(own.payment, FirstPriceAuction()(offers, crowd).payment, atol=1e-17)
    posted = market.at(jnp.full(9, 3), "price")
    np.testing.assert_allclose(
        Tariff()(posted, crowd).payment, PayPerCompute()(posted, crowd).payment, rtol=1e-14
    )
    capped = Tariff(0.001, 0.5, 1e-7)(posted, crowd).payment
    np.testing.assert_allclose(
        capped, 0.001 + 0.5 * np.minimum(posted.price, 1e-7 * np.asarray(posted.tokens))
    )


def test_a_reserve_that_no_score_reaches_ends_trade():
    market, crowd = data.published().market, Users.create(1000.0)
    best = float(market.surplus.max())
    sold = ScoringAuction(reserve=best - 1e-9)(honest_bids(market), crowd)
    np.testing.assert_allclose(sold.user_value, best - 1e-9)
    unsold = ScoringAuction(reserve=best + 1e-9)(honest_bids(market), crowd)
    assert float(unsold.shares.sum()) == 0 and float(unsold.user_cost) == 0


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_with_welfare_and_no_regret_the_second_price_is_learned(seed):
    rows = []
    found = optimize(
        Published(),
        Family(free={"mix": (0.0, 1.0)}),
        settings=dataclasses.replace(QUICK, seed=seed, batch=128, held_out=256, every=1),
        start={"mix": 0.2 + 0.5 * seed},
        progress=rows.append,
    )
    assert found.parameters["mix"] > 0.99 and found.feasible
    assert rows == found.history and rows[0]["mix"] < 0.95


class TwoToTell(Population):
    """Two providers of one level each, whose accuracies a platform has to tell apart."""

    accuracy = np.array([[0.8], [0.7]])

    def sample(self, key):
        market = Market.from_curves(
            self.accuracy, [[1.0], [1.0]], 1e-5, value_per_answer=0.01, baseline=0.0
        )
        return market, Users.create(0.0)


@pytest.mark.slow
def test_the_best_number_of_checks_is_where_one_more_costs_what_it_saves():
    """Welfare less checks, S₁ − δΦ(−δ√m/(stake√Σa(1 − a))) − price·m, by a root of its slope."""
    stake, price = 0.01, 2e-6
    apart = stake * 0.1
    spread = stake * math.sqrt(0.8 * 0.2 + 0.7 * 0.3)

    def slope(m):
        z = apart * math.sqrt(m) / spread
        density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return apart * density * apart / spread / (2 * math.sqrt(m)) - price

    exact = scipy.optimize.brentq(slope, 1.0, 1e4)
    found = optimize(
        TwoToTell(),
        Family(
            NoisyAuction,
            {"answers": (1.0, 300.0)},
            space=(),
            expense=lambda rule: price * rule.answers,
        ),
        settings=dataclasses.replace(QUICK, steps=500, batch=8, held_out=64),
        start={"answers": 200.0},
    )
    np.testing.assert_allclose(found.parameters["answers"], exact, rtol=0.03)
    lost = apart * scipy.special.ndtr(-apart * math.sqrt(exact) / spread)
    best = 0.008 - 1e-5 - lost - price * exact
    np.testing.assert_allclose(found.objective, best, rtol=1e-4)


class ExponentialCosts(Population):
    def sample(self, key):
        cost = jax.random.exponential(key, (2, 1))
        return Market.from_arrays(jnp.ones((2, 1)), cost, cost), Users.create(0.0)


def myerson(gamma, inverse_hazard):
    """The reserve 1 − c, where 1 − c − γ(c + F(c)/f(c)) = 0 (Myerson 1981, for procurement)."""
    return 1 - scipy.optimize.brentq(lambda c: 1 - c - gamma * (c + inverse_hazard(c)), 0, 1)


@pytest.mark.full
@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize(
    ("population", "inverse_hazard"),
    [(UniformCosts(), lambda c: c), (ExponentialCosts(), lambda c: np.exp(c) - 1)],
)
def test_the_learned_reserve_is_myersons(population, inverse_hazard, gamma):
    family = Family(free={"reserve": (0.0, 1.0)}, space=())
    settings = Settings(steps=400, batch=2**14, temperature=(0.1, 0.003), every=100, held_out=4096)
    found = optimize(population, family, welfare_less_cost(gamma), settings=settings)
    wanted = myerson(gamma, inverse_hazard)
    np.testing.assert_allclose(found.parameters["reserve"], wanted, rtol=0.01)
    assert found.regret == 0 and 0 < found.objective_error < 0.01


@pytest.mark.slow
def test_a_reserve_is_for_what_users_pay_and_costs_no_truth():
    family = Family(free={"reserve": (0.0, 1.0)}, space=PriceBid())
    settings = dataclasses.replace(QUICK, steps=40)
    found = optimize(UniformCosts(), family, welfare_less_cost(0.0), settings=settings)
    assert found.regret < 1e-6 and found.parameters["reserve"] < 0.2


class One(Population):
    """One market, again and again."""

    def __init__(self, market, crowd):
        self.market, self.crowd = market, crowd

    def sample(self, key):
        return self.market, self.crowd

    def describe(self):
        return {"population": "one market"}


def of_one(market, crowd, family, objective, start):
    settings = Settings(steps=150, batch=8, held_out=8, every=50)
    return optimize(One(market, crowd), family, objective, settings=settings, start=start)


@pytest.mark.slow
def test_the_dearest_price_that_one_provider_gets_is_the_closed_form():
    """Of revenue t/(1 + e^{−β(q − t)}): t = (1 + W(e^{βq − 1}))/β, Lambert's function."""
    beta, quality = 1000.0, 0.005
    market = Market.from_arrays([[quality]], [[0.001]], [[0.0]])
    family = Family(Tariff, {"per_answer": (1e-4, 0.01)}, {"pass_through": 0.0})
    found = of_one(market, Users.create(beta), family, lambda o: o.user_cost, {"per_answer": 0.001})
    wanted = (1 + scipy.special.lambertw(np.exp(beta * quality - 1)).real) / beta
    np.testing.assert_allclose(found.parameters["per_answer"], wanted, rtol=1e-3)


@pytest.mark.full
def test_the_cap_of_two_providers_is_the_best_of_a_grid():
    market = jax.tree.map(lambda x: x[jnp.array([2, 5])], data.published().market)
    crowd, objective = Users.create(1000.0), welfare_less_cost(0.5)
    per_token = np.asarray(market.price / market.tokens)
    bounds = 0.7 * per_token.min(), per_token.min()  # where it binds
    family = Family(Tariff, {"token_cap": bounds}, {"per_answer": 2e-4})
    found = of_one(market, crowd, family, objective, {"token_cap": 0.95 * bounds[1]})
    caps = jnp.linspace(*bounds, 1001)
    reached = jax.vmap(
        lambda cap: objective(continuous_equilibrium(market, crowd, Tariff(2e-4, 1.0, cap)).outcome)
    )(caps)
    assert found.objective >= float(reached.max()) - 1e-4 * abs(float(reached.max()))


@pytest.mark.slow
def test_what_is_compiled_once_is_right_for_other_numbers_and_populations():
    """Each from programs that served another run, and from its own."""
    published, family = data.published().market, Family(free={"reserve": (0.0, 0.01)}, space=())
    settings = Settings(steps=20, batch=8, held_out=64)

    def pair(*who):
        return One(jax.tree.map(lambda x: x[jnp.array(who)], published), Users.create(1000.0))

    one, other = pair(2, 5), pair(0, 7)
    reported = dataclasses.replace(family, fixed={"settlement": "reported"})
    again = dataclasses.replace(settings, seed=1)
    runs = [
        (one, family, 0.5, settings),
        (one, family, 4.0, again),
        (one, reported, 4.0, settings),
        (other, family, 0.5, settings),
    ]
    programs = design._programs
    programs.cache_clear()

    def learned(population, family, gamma, settings):
        return optimize(population, family, welfare_less_cost(gamma), settings=settings)

    shared = [learned(*run) for run in runs]
    assert programs.cache_info().currsize == 2  # one for each market
    for run, found in zip(runs[1:3], shared[1:3], strict=True):  # the others had their own
        programs.cache_clear()
        alone = learned(*run)
        assert alone.parameters == found.parameters and alone.objective == found.objective
    assert len({found.objective for found in shared}) > 2


@pytest.mark.slow
def test_bounds_that_leave_providers_no_profit_are_an_error_that_says_so():
    family = Family(Tariff, {"pass_through": (0.0, 0.1)})
    with pytest.raises(InputError, match=r"of the markets have no equilibrium.*pass_through"):
        optimize(Published(), family, settings=Settings(steps=2, batch=8, held_out=8))


def weighed(table):
    return jax.jit(lambda outcome: table[1500] * outcome.welfare)


def taxed(rate):
    class Taxed(ReverseAuction):
        mix: float = 1.0

        def pay(self, offers, rival):
            return (1 - rate) * ScoringAuction(self.mix).pay(offers, rival)

    return Taxed


class Scaled(Population):
    def __init__(self, scale):
        self.scale = lambda cost: scale * cost

    def sample(self, key):
        market, users = UniformCosts().sample(key)
        return market.replace(cost=self.scale(market.cost)), users


def test_a_checkpoint_belongs_to_the_numbers_that_are_closed_over(tmp_path):
    changed = jnp.ones(3000).at[1500].set(2.0)
    one = (Scaled(1.0), Family(taxed(0.1), free={"mix": (0.0, 1.0)}, space=()), jnp.ones(3000))
    options = dict(
        settings=Settings(steps=1, batch=8, held_out=8), checkpoint=str(tmp_path / "design.npz")
    )

    def learned(population, family, table):
        return optimize(population, family, weighed(table), **options)

    assert learned(*one).parameters == learned(*one).parameters
    for other in (
        (Scaled(0.9), *one[1:]),
        (one[0], dataclasses.replace(one[1], rule=taxed(0.2)), one[2]),
        (*one[:2], changed),
    ):
        with pytest.raises(InputError, match="belongs to another"):
            learned(*other)


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_end(tmp_path):
    family, population = Family(free={"reserve": (0.0, 1.0)}, space=PriceBid()), UniformCosts()
    settings = Settings(steps=30, batch=64, held_out=256, restarts=1, search_steps=3)
    options = dict(settings=settings, objective=welfare_less_cost(1.0))
    whole = optimize(population, family, **options)
    path = str(tmp_path / "run" / "design.npz")

    class Killed(Exception):
        pass

    def kill(row):
        if row["step"] == 20:
            raise Killed

    with pytest.raises(Killed):
        optimize(population, family, checkpoint=path, progress=kill, **options)
    rows = []
    resumed = optimize(population, family, checkpoint=path, progress=rows.append, **options)
    assert [row["step"] for row in rows] == [30]
    assert resumed.parameters == whole.parameters and resumed.history == whole.history
    for other in (
        dict(options, settings=dataclasses.replace(settings, seed=1)),
        dict(options, objective=welfare_less_cost(2.0)),
        dict(options, optimizer=optax.sgd(0.1)),
    ):
        with pytest.raises(InputError, match="belongs to another"):
            optimize(population, family, checkpoint=path, **other)
    with open(path, "r+b") as file:
        file.truncate(200)
    with pytest.raises(InputError, match="not a checkpoint"):
        optimize(population, family, checkpoint=path, **options)
    pathlib.Path(path).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        optimize(population, family, checkpoint=path, **options)


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path):
    path = tmp_path / "design.npz"
    settings = Settings(steps=30, batch=64, held_out=256, restarts=1, search_steps=3, every=5)
    family = Family(free={"reserve": (0.0, 1.0)}, space=PriceBid())

    def spoilt(outcome):
        return jnp.where(outcome.welfare.mean() > -1, outcome.user_value, 0.0)

    calls = optax.adam(0.01)

    def update(grads, state, params):
        moves, state = calls.update(grads, state, params)
        return jnp.where(state[0].count > 12, jnp.nan, moves), state

    broken = optax.GradientTransformation(calls.init, update)
    with pytest.raises(InputError, match=r"not finite at step 13.*design.npz has the last good"):
        optimize(
            UniformCosts(),
            family,
            spoilt,
            settings=settings,
            optimizer=broken,
            checkpoint=str(path),
        )
    with np.load(path) as kept:
        assert all(np.all(np.isfinite(kept[name])) for name in kept if name.startswith("leaf"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Family(free={"mixx": (0, 1)}), "mixx: ScoringAuction has mix"),
        (lambda: Family(free={}), "free: name at least one"),
        (lambda: Family(free={"mix": (1.0, 1.0)}), "mix: bounds"),
        (lambda: Family(free={"reserve": (0.0, math.inf)}), "reserve: bounds"),
        (lambda: Family(free={"reserve": 0.02}), "reserve: 0.02; give its bounds"),
        (lambda: optimize(UniformCosts(), ScoringAuction()), "family: a ScoringAuction, where a F"),
        (lambda: optimize(UniformCosts(), Family(), 2.0), "objective = 2.0; give a function"),
        (lambda: Settings(steps=0), "steps = 0"),
        (lambda: Settings(epsilon=0.0), "epsilon = 0"),
        (lambda: Settings(temperature=0.1), "temperature = 0.1; give two"),
        (lambda: Family(free={"mix": (None, 1.0)}), "mix: bounds"),
        (lambda: Family(free={"mix": (0.0, 2.0)}), "mix = 2"),
        (lambda: optimize(UniformCosts(), Family(), start={"mix": 2.0}), "outside its bounds"),
        (lambda: optimize(UniformCosts(), Family(), start={"fee": 0.0}), "fee is not free"),
        (lambda: ScoringAuction(mix=2.0), "mix = 2"),
        (lambda: ScoringAuction(settlement="later"), "settlement"),
        (lambda: Tariff(per_answer=-1.0), "per_answer = -1"),
    ],
)
def test_bad_input_names_the_parameter(make, words):
    with pytest.raises(InputError, match=words):
        make()
