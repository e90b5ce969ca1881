"""The incentive report and certificates show what theory says, and count it right."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import (
    FirstPriceAuction,
    FixedPrice,
    InputError,
    Market,
    PayPerCompute,
    Population,
    Published,
    SecondPriceAuction,
    Users,
    certify,
    cli,
    grid_deviations,
    social_optimum,
)
from mechlab.incentives import certificates
from mechlab.incentives.certificates import directions
from mechlab.incentives.strategies import GridLevel, PriceBid, PriceMultiplier, QualityReport
from mechlab.study.survey import report

POPULATION = Published()


@pytest.mark.slow
def test_pay_per_compute_pushes_toward_more_compute_from_the_optimum():
    found = certify(POPULATION, PayPerCompute(), 500, GridLevel(), start="optimum").to_dict()
    assert found["share_profitable"] > 0.98
    more, less = (found["direction"][f"{way}_compute"] for way in ("more", "less"))
    assert more["market_share"] > 0.95
    np.testing.assert_allclose(more["count"] + less["count"], 1.0)
    low = certify(
        Published(rationality=(10.0, 200.0)), PayPerCompute(), 500, GridLevel(), start="optimum"
    )
    assert low.directions["less_compute"]["count"] == 0  # all of them, at low rationality


@pytest.mark.slow
def test_counts_are_those_of_each_market_by_itself():
    count = 40
    found = certify(POPULATION, PayPerCompute(), count, GridLevel(), start="optimum")
    market, users = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(float), POPULATION.markets(count)
    )
    profile = social_optimum(market, users).profile
    alone = grid_deviations(market, users, PayPerCompute(), profile)
    welfare = PayPerCompute()(market.at(profile, "price"), users).welfare
    relative = np.asarray(alone.gain / welfare[:, None])
    np.testing.assert_allclose(found.regret.largest, relative.max(), rtol=1e-6)
    np.testing.assert_allclose(found.regret.mean, relative.max(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(found.share_of_providers, (relative > 1e-9).mean())
    assert found.worst_market == int(relative.max(1).argmax())


def test_nobody_gains_on_the_grid_at_equilibrium():
    found = certify(POPULATION, PayPerCompute(), 300, GridLevel(), start="equilibrium")
    assert found.share_profitable == 0 and found.regret.largest < 1e-5


@pytest.mark.full
def test_the_auction_is_certified_under_realised_settlement_and_exploited_under_reported():
    space = (PriceBid(), QualityReport(), GridLevel())
    options = dict(restarts=2, steps=15)
    honest = certify(POPULATION, SecondPriceAuction(), 200, space, dtype=np.float32, **options)
    assert honest.share_profitable == 0 and honest.regret.largest <= 1e-5
    assert (honest.markets, honest.restarts, honest.steps) == (200, 2, 15)
    exact = certify(POPULATION, SecondPriceAuction(), 50, space, **options)
    assert exact.regret.largest <= 1e-9
    lies = certify(POPULATION, SecondPriceAuction("reported"), 200, QualityReport(), **options)
    assert lies.share_profitable == 1 and lies.regret.mean > 0.5
    assert lies.directions["overstated_quality"]["market_share"] > 0.99


def test_the_first_price_auction_shows_shading():
    found = certify(POPULATION, FirstPriceAuction(), 200, PriceBid(), restarts=4, steps=30)
    assert found.share_profitable > 0.8
    assert found.directions["raised_price"]["market_share"] == 1.0


@pytest.mark.full
def test_pairs_collude_in_the_auction():
    found = certify(
        POPULATION, SecondPriceAuction(), 64, PriceBid(), together=2, restarts=2, steps=30
    )
    assert found.share_profitable > 0.95
    np.testing.assert_allclose(found.share_of_providers, 1 / 36, rtol=0.1)  # of pairs


@pytest.mark.slow
def test_what_is_compiled_once_is_right_for_other_numbers_starts_and_populations():
    """As with nothing compiled before; a search knows no number of its rule, and no start."""

    def found(population, rule, start):
        return certify(population, rule, 64, GridLevel(), start=start).to_dict()

    calls = [
        (POPULATION, FixedPrice(0.001), "optimum"),
        (POPULATION, FixedPrice(0.002), "optimum"),
        (POPULATION, FixedPrice(0.002), "truthful"),
        (Published(price_shock=0.5), FixedPrice(0.002), "truthful"),
    ]
    certificates._searching.cache_clear()
    together = [found(*call) for call in calls]
    assert certificates._searching.cache_info().misses == 1
    for shared, call in zip(together[1:], calls[1:], strict=True):  # the first had its own
        certificates._starting.cache_clear()
        certificates._searching.cache_clear()
        assert found(*call) == shared
    assert len({one["mean_relative_gain"] for one in together}) == len(calls)


def costing(factor):
    """Two populations of it have one source, and another number in a closure."""

    def sample(key):
        cost = factor * jax.random.uniform(key, (3, 2))
        return Market.from_arrays(jnp.ones((3, 2)), 1.25 * cost, cost), Users.create(20.0)

    return sample


class Drawn(Population):
    def __init__(self, draw):
        self.draw = draw

    def sample(self, key):
        return self.draw(key)

    def describe(self):
        return {"population": "drawn by a function"}


class Within(Population):
    def __init__(self, part):
        self.part = part

    def sample(self, key):
        return self.part.sample(key)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [lambda x: x, Within])
def test_populations_that_differ_in_a_closure_alone_are_not_taken_for_each_other(wrapped):
    one, other = (wrapped(Drawn(costing(factor))) for factor in (0.1, 0.3))
    assert one.fingerprint() == other.fingerprint() and one.content() != other.content()
    costs = [np.asarray(population.markets(4)[0].cost) for population in (one, other)]
    np.testing.assert_allclose(3 * costs[0], costs[1], rtol=1e-6)
    draw = one.part.draw if wrapped is Within else one.draw
    assert one.content() == wrapped(Drawn(draw)).content()
    found = [
        certify(population, PayPerCompute(), 64, GridLevel()).regret.mean
        for population in (one, other)
    ]
    assert found[0] != found[1]


def test_directions_compare_with_what_is_played():
    market = jax.tree.map(lambda x: x[0], Published().markets(1)[0])
    now = market.at(jnp.zeros(9, int), "price")
    moved = {
        name for name, x in directions(now, market.at(jnp.ones(9, int), "price")).items() if x.all()
    }
    assert moved == {"more_compute"}  # the bill follows the level
    lie = now.replace(price=now.price * 1.1, reported_quality=now.quality * 0.9)
    moved = {name for name, x in directions(now, lie).items() if x.any()}
    assert moved == {"raised_price", "understated_quality"}


@pytest.mark.full
def test_the_command_prints_the_rows(capsys, tmp_path):
    plot = tmp_path / "incentives.png"
    arguments = ["incentives", "--markets", "20", "--mechanism", "second_price"]
    assert cli.main([*arguments, "--format", "json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["markets"] == 20 and plot.stat().st_size > 10_000
    fields = {
        "mechanism",
        "settlement",
        "start",
        "space",
        "share_profitable",
        "share_of_providers",
        "mean_relative_gain",
        "p99_relative_gain",
        "max_relative_gain",
        "direction",
    }
    assert all(set(row) == fields for row in found["rows"])
    assert {row["start"] for row in found["rows"]} == {"optimum", "truthful", "equilibrium"}
    none = [row for row in found["rows"] if row["space"] in ("level", "price", "report")]
    assert none and all(row["share_profitable"] == 0 for row in none)
    assert all(row["settlement"] == "realised" for row in found["rows"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(markets=0), "markets = 0"),
        (dict(start="anarchy"), "start: 'anarchy'"),
        (dict(together=3), "together = 3"),
        (dict(together=2, space=GridLevel()), "GridLevel: pairs"),
        (dict(steps=0), "steps = 0"),
    ],
)
def test_bad_input_names_the_parameter(options, words):
    arguments = dict(markets=10, space=PriceMultiplier()) | options
    with pytest.raises(InputError, match=words):
        certify(POPULATION, PayPerCompute(), **arguments)


def test_where_no_market_counts_nothing_is_claimed():
    found = certify(Worthless(), SecondPriceAuction(), 20, PriceBid(), restarts=1, steps=2)
    assert found.counted == 0 and found.share_profitable is None
    assert found.to_dict()["mean_relative_gain"] is None


class Worthless(Population):
    """Serving costs more than any answer is worth."""

    def sample(self, key):
        cost = 2.0 + jax.random.uniform(key, (3, 1))
        return Market.from_arrays(jnp.ones((3, 1)), cost, cost), Users.create(0.0)


@pytest.mark.full
def test_reports_leave_out_what_a_population_has_not():
    rules = {"second_price": SecondPriceAuction(), "fixed_price=0.001": FixedPrice(0.001)}
    effort = Published("AIME", "reasoning_effort")  # its tokens do not ascend
    rows = report(effort, 16, rules, axis="tokens").rows
    assert {row["space"] for row in rows} == {"level", "price", "report", "all", "pair"}
    alone = report(Published(providers=1), 16, {"pay_per_compute": PayPerCompute()}).rows
    assert "pair" not in {row["space"] for row in alone}


def test_a_single_provider_has_nobody_to_collude_with():
    with pytest.raises(InputError, match="one provider"):
        certify(Published(providers=1), SecondPriceAuction(), 10, PriceBid(), together=2)
