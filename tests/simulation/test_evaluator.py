"""Populations, and the evaluator against the solvers of one market."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from benchmarks.headline import precision
from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    Mechanism,
    Users,
    better_response,
    pure_equilibria,
    social_optimum,
    symmetric_markup,
)
from mechlab import populations as pop
from mechlab.populations.base import Words
from mechlab.simulation.evaluator import Evaluator


def test_markets_are_those_of_the_seed_from_an_index_on():
    population = pop.WithUserTypes(pop.Published())
    every, some = population.markets(5, seed=4), population.markets(3, seed=4, first=2)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[2:], every), some)
    assert some[0].quality.shape == (3, 9, 6) and some[1].rationality.shape == (3, 2)
    assert every[0].available.all()


@pytest.mark.parametrize(
    "bad",
    [
        {"count": 0},
        {"count": 2.5},
        {"count": True},
        {"count": "3"},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.5},
        {"first": -1},
        {"first": 1.7},
        {"first": 2**32 - 1},
    ],
)
def test_what_is_no_number_of_markets_is_named(bad):
    with pytest.raises(InputError, match=rf"{next(iter(bad))} = .*; give a whole number from"):
        pop.Published().markets(**{"count": 2, **bad})


@pytest.mark.full
@pytest.mark.parametrize("population", [pop.Published(providers=5), pop.Parametric(providers=4)])
def test_equilibria_of_sampled_markets_are_exact(population):
    drawn = population.markets(40, seed=3)
    rows = next(Evaluator(population, 3, chunk=64, chunks=1).parts(iter([(0, 40)])))[1]
    for j in range(40):
        one, who = jax.tree.map(
            lambda x, j=j: x[j] if x.dtype == bool else x[j].astype(jnp.float64), drawn
        )
        found = pure_equilibria(one, who)
        assert bool(rows["pay_per_compute.unique"][j]) == (len(found.profiles) == 1)
        reached = rows["pay_per_compute.welfare"][j]
        assert np.min(np.abs(found.welfare / reached - 1)) < 1e-5
        optimal = float(social_optimum(one, who).welfare)
        np.testing.assert_allclose(rows["pay_per_compute.optimal_welfare"][j], optimal, rtol=1e-5)
        chosen = float(jnp.max(one.surplus)) / rows["second_price.welfare"][j]
        np.testing.assert_allclose(rows["second_price.price_of_anarchy"][j], chosen, rtol=1e-5)
        # the row is a lower bound on the price of anarchy, exact where the equilibrium is unique
        exact = optimal / found.worst_welfare
        ratio = rows["pay_per_compute.price_of_anarchy"][j]
        assert ratio <= exact * (1 + 1e-5)
        if len(found.profiles) == 1:
            np.testing.assert_allclose(ratio, exact, rtol=1e-5)


@pytest.mark.full
def test_a_market_is_the_same_whatever_the_chunk_the_device_or_the_start():
    population = pop.Published(providers=3)
    reference = dict(Evaluator(population, 7, chunk=128, chunks=2).parts(iter([(0, 200)])))[0]
    assert len(jax.local_devices()) == 2  # as conftest asks
    for chunk, devices in ((32, None), (100, jax.local_devices()[:1])):
        evaluator = Evaluator(population, 7, chunk=chunk, chunks=1, devices=devices)
        rows = dict(evaluator.parts(iter([(150, 30)])))[150]
        for name, values in rows.items():
            np.testing.assert_allclose(values, reference[name][150:180], rtol=2e-6, atol=1e-9)


def test_populations_have_the_distributions_that_they_name():
    population = pop.Published(price_shock=0.0, token_shock=0.0, accuracy_shock=0.0)
    index = jnp.arange(4000, dtype=jnp.uint32)
    market, crowd = jax.jit(population.columns)(jax.random.key(0), index)
    source = population._named.market
    tokens = {tuple(np.asarray(row, np.float32)) for row in source.tokens}
    drawn = {tuple(x) for x in np.asarray(market.tokens).transpose(0, 2, 1).reshape(-1, 6)}
    assert drawn <= tokens and len(drawn) == len(tokens)
    margin = np.asarray(market.price / market.cost - 1)
    assert 0.1 <= margin.min() < 0.11 and 0.39 < margin.max() <= 0.4001
    logs = np.log(np.asarray(crowd.rationality))
    np.testing.assert_allclose(logs.mean(), (np.log(10) + np.log(1e5)) / 2, atol=0.15)
    np.testing.assert_allclose(logs.std(), np.log(1e4) / np.sqrt(12), rtol=0.05)
    shocked, _ = pop.Published(token_shock=0.3).columns(jax.random.key(0), index)
    ratio = np.log(np.asarray(shocked.tokens / market.tokens))
    np.testing.assert_allclose(ratio[:, 0].std(), 0.3, rtol=0.03)
    np.testing.assert_allclose(ratio[:, 0], ratio[:, 5], atol=1e-5)  # one shock per provider


def test_random_words_are_uniform_and_independent():
    words = Words.draw(jax.random.key(1), jnp.arange(50_000, dtype=jnp.uint32), 6).uniform
    words = np.asarray(words)
    assert 0 < words.min() and words.max() < 1
    np.testing.assert_allclose(words.mean(1), 0.5, atol=0.006)
    np.testing.assert_allclose(words.var(1), 1 / 12, rtol=0.02)
    assert np.abs(np.corrcoef(words) - np.eye(len(words))).max() < 0.02
    other = Words.draw(jax.random.key(2), jnp.arange(50_000, dtype=jnp.uint32), 6).uniform
    assert not np.any(np.all(words == np.asarray(other), axis=0))


def test_a_mixture_draws_each_part_as_often_as_its_weight_says():
    cheap = pop.Parametric(price=(0.05, 0.05))
    dear = pop.Parametric(price=(0.3, 0.3))
    market, _ = pop.Mixture((cheap, dear), (1.0, 3.0)).columns(
        jax.random.key(0), jnp.arange(4000, dtype=jnp.uint32)
    )
    per_token = np.asarray(market.price / market.tokens)[0, 0]
    np.testing.assert_allclose((per_token > 0.2e-6).mean(), 0.75, atol=0.03)


class Pair(pop.Population):
    """A population as a user would write it."""

    def sample(self, key):
        quality = jax.random.uniform(key, (2, 3), jnp.float32, 0.005, 0.01)
        price = jnp.broadcast_to(jnp.array([0.001, 0.002, 0.003], jnp.float32), (2, 3))
        market = Market(
            quality=quality,
            price=price,
            cost=price / 1.2,
            accuracy=quality,
            tokens=price,
            compute=price,
            available=None,
        )
        return market, Users(rationality=jnp.float32(500.0), outside_value=jnp.float32(0.0))


def test_a_population_of_ones_own_and_metrics_of_ones_own():
    evaluator = Evaluator(
        Pair(),
        0,
        chunk=16,
        chunks=1,
        devices=jax.local_devices()[:1],
        metrics={
            "gap": lambda market, crowd, rows: (
                rows["second_price.welfare"] - rows["pay_per_compute.welfare"]
            )
        },
    )
    rows = dict(evaluator.parts(iter([(0, 10)])))[0]
    np.testing.assert_allclose(
        rows["gap"], rows["second_price.welfare"] - rows["pay_per_compute.welfare"]
    )


@pytest.mark.full
def test_other_rules_run_through_the_general_path():
    class Cheapest(Mechanism):
        def allocate(self, offers, crowd):
            first = jnp.argmin(offers.cost, axis=-1, keepdims=True)
            shares = (jnp.arange(offers.cost.shape[-1]) == first).astype(offers.cost.dtype)
            return shares, offers.cost

    rules = {"mine": Cheapest(), "first": FirstPriceAuction(), "flat": FixedPrice(0.001)}
    population = pop.Parametric(providers=3, compute=(1.0, 4.0))
    evaluator = Evaluator(population, 0, rules, chunk=8, chunks=1)
    rows = dict(evaluator.parts(iter([(0, 8)])))[0]
    market, crowd = population.columns(jax.random.key(0), jnp.arange(8, dtype=jnp.uint32))
    market = market.replace(available=jnp.ones(market.quality.shape, bool))
    for j in range(8):
        one, who = jax.tree.map(lambda x, j=j: x[..., j], (market, crowd))
        cheapest = float(jnp.min(one.cost[:, 0]))
        np.testing.assert_allclose(rows["mine.user_cost"][j], cheapest, rtol=1e-5)
        bids = symmetric_markup(one, who, FirstPriceAuction()).offers
        expected = FirstPriceAuction()(bids, who).user_cost
        np.testing.assert_allclose(rows["first.user_cost"][j], expected, rtol=1e-5)
        flat = better_response(one, who, FixedPrice(0.001), key=jax.random.key(0))
        expected = FixedPrice(0.001)(one.at(flat.profile, "price"), who).welfare
        np.testing.assert_allclose(rows["flat.welfare"][j], expected, rtol=1e-4)


@pytest.mark.slow
def test_several_user_types_give_bounds_and_say_whether_they_converged():
    mixed = pop.WithUserTypes(pop.Parametric(providers=3, compute=(1.0, 4.0, 16.0)))
    rows = dict(Evaluator(mixed, 0, chunk=64, chunks=1).parts(iter([(0, 64)])))[0]
    low, high = (rows[f"pay_per_compute.optimal_welfare{x}"] for x in ("", "_bound"))
    assert np.all(low <= high * (1 + 1e-6)) and np.all(rows["pay_per_compute.welfare"] <= low)
    assert "pay_per_compute.unique" not in rows
    assert rows["pay_per_compute.converged"].mean() > 0.9
    market, crowd = mixed.markets(64)
    best = rows["pay_per_compute.optimal_welfare"]
    for j in range(5):
        one, who = jax.tree.map(lambda x, j=j: np.asarray(x[j]), (market, crowd))
        exact = -np.inf
        for profile in oracles.profiles(one):
            total = 0.0
            for t in range(2):
                scaled = one.replace(quality=one.quality * who.value_scale[t])
                single = Users.create(who.rationality[t], who.outside_value[t])
                total += float(who.weight[t]) * oracles.welfare(scaled, single, profile)
            exact = max(exact, total)
        assert best[j] <= exact * (1 + 1e-5) <= high[j] * (1 + 2e-5)


@pytest.mark.full
def test_float32_is_almost_always_the_equilibrium_of_float64():
    same, error = precision(seed=1, markets=4000)
    assert same >= 0.999 and error <= 1e-5
