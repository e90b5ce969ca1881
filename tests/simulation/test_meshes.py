"""Results are ordinary arrays: with and without a mesh, inside and outside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import PayPerCompute, Published, SecondPriceAuction, evaluate

RULES = {"today": PayPerCompute(), "auction": SecondPriceAuction()}
run = jax.jit(lambda market, users: evaluate(market, users, RULES, certificate=False))


@pytest.fixture(scope="module")
def drawn():
    return Published(providers=2).markets(1024, seed=4)


@pytest.fixture(scope="module")
def plain(drawn):
    return {name: np.asarray(found.welfare) for name, found in run(*drawn).items()}


@pytest.fixture(params=["explicit", pytest.param("auto", marks=pytest.mark.slow)])
def mesh(request):
    kind = getattr(jax.sharding.AxisType, request.param.title())
    return jax.make_mesh((2,), ("markets",), axis_types=(kind,))


@pytest.mark.slow
def test_results_under_a_mesh_are_sliced_sorted_and_subtracted(drawn, plain, mesh):
    before = evaluate(*drawn, RULES, certificate=False)
    with jax.set_mesh(mesh):
        found = run(*drawn)
        today, auction = found["today"].welfare, found["auction"].welfare
        np.testing.assert_allclose(today[:5], plain["today"][:5], rtol=1e-6)
        np.testing.assert_allclose(jnp.sort(today)[-3:], np.sort(plain["today"])[-3:], rtol=1e-6)
        ahead = today > auction
        np.testing.assert_allclose(
            (today - auction)[ahead], (plain["today"] - plain["auction"])[ahead], atol=1e-8
        )
        outside = evaluate(*drawn, RULES, certificate=False)
        for other in (before, outside):
            assert float(jnp.max(jnp.abs(other["today"].welfare - today))) < 1e-8
    assert float(jnp.max(jnp.abs(before["today"].welfare - found["today"].welfare))) < 1e-8
    np.testing.assert_allclose(found["today"].welfare[3:8], plain["today"][3:8], rtol=1e-6)


@pytest.mark.slow
def test_rules_and_solvers_take_results_and_markets_that_are_spread(drawn, plain, mesh):
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("markets"))
    rule = RULES["today"]
    with jax.set_mesh(mesh):
        market, users = jax.device_put(drawn, spread)
        found = run(market, users)["today"]
        out = rule(rule.offers(market, found.profile), users)
        np.testing.assert_allclose(out.welfare, plain["today"], rtol=1e-5)
        reached = mechlab.equilibrium(market, users)
        np.testing.assert_array_equal(reached.profile[:4], found.profile[:4])
        inside = jax.jit(lambda m, u: run(m, u)["today"].welfare[:5] - u.outside_value[:5])
        np.testing.assert_allclose(inside(*drawn), plain["today"][:5], rtol=1e-6)


def test_what_was_spread_over_devices_goes_with_all_other_arrays(drawn):
    market, users = jax.tree.map(lambda x: x[:64], drawn)
    gain = mechlab.search(
        market, users, RULES["today"], np.zeros((64, 2), int), space=mechlab.GridLevel(), steps=1
    ).gain
    with jax.set_mesh(jax.make_mesh((2,), ("markets",))):
        assert float(jnp.max(gain - jnp.zeros((64, 2)))) >= 0
