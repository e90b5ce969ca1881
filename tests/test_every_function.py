"""Every public function of markets gives in every setting what it gives plainly in one market.

The plain call is that on one market whose waiting was taken off by hand, with users of one type.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mechlab
from mechlab import (
    FirstPriceAuction,
    Market,
    NestedLogit,
    PayPerCompute,
    PriceBid,
    SecondPriceAuction,
    UserMixture,
    Users,
    demand,
    evaluate,
)

N, K = 3, 4
SECOND = 2e-5  # USD per second of waiting
TODAY, AUCTION = PayPerCompute(), SecondPriceAuction()
OWNERS = ((0, 2), (1,))
EFFORT = dict(restarts=2, steps=3)


def nothing_offered(found):
    """What offers are worth before waiting differs where waiting was taken off by hand."""
    return found.replace(offers=None)


FUNCTIONS = {
    "equilibrium": lambda m, u, p: mechlab.equilibrium(m, u),
    "better_response": lambda m, u, p: mechlab.better_response(m, u, AUCTION, start=p),
    "extremal_equilibria": lambda m, u, p: mechlab.extremal_equilibria(m, u),
    "nested": lambda m, u, p: mechlab.equilibrium(m, u, NestedLogit(tuple("aab"), 0.5)),
    "social_optimum": lambda m, u, p: mechlab.social_optimum(m, u),
    "continuous_equilibrium": lambda m, u, p: nothing_offered(mechlab.continuous_equilibrium(m, u)),
    "smoothed_equilibrium": lambda m, u, p: mechlab.smoothed_equilibrium(m, u, precision=2000.0),
    "owners_equilibrium": lambda m, u, p: mechlab.owners_equilibrium(m, u, owners=OWNERS),
    "owner_deviations": lambda m, u, p: mechlab.owner_deviations(
        m, u, PayPerCompute(), p, owners=OWNERS
    ),
    "potential": lambda m, u, p: mechlab.potential(m, u, TODAY, p),
    "grid_deviations": lambda m, u, p: mechlab.grid_deviations(m, u, AUCTION, p),
    "search": lambda m, u, p: (
        mechlab.search(m, u, TODAY, p, space=mechlab.GridLevel(), **EFFORT).gain
    ),
    "coalitions": lambda m, u, p: (
        mechlab.coalitions(m, u, AUCTION, p, space=PriceBid(), **EFFORT).gain
    ),
    "symmetric_markup": lambda m, u, p: nothing_offered(
        mechlab.symmetric_markup(m, u, FirstPriceAuction())
    ),
    "demand": lambda m, u, p: demand.at_profile(m, u, PayPerCompute(), p),
    "truthful": lambda m, u, p: AUCTION(AUCTION.truthful(m, u), u),
    "outcome": lambda m, u, p: TODAY(TODAY.offers(m, p), u),
    "play": lambda m, u, p: nothing_offered(mechlab.Truthful()(m, u, AUCTION)),
    "evaluate": lambda m, u, p: evaluate(m, u, {"today": TODAY, "auction": AUCTION}),
}
ONE_TYPE = {
    "extremal_equilibria",
    "nested",
    "social_optimum",
    "continuous_equilibrium",
    "owners_equilibrium",
    "owner_deviations",
    "potential",
}
ERROR_ALONE = {"smoothed_equilibrium"}  # no tastes
CONTINUOUS = {"outcome", "truthful", "potential", "demand", "continuous_equilibrium", "evaluate"}
# how many steps a column took, and who comes second, which several types have no single answer to
OF_THE_WAY = ("iterations", "rounds", "runner_up")
# one of each kind by default; the rest take a minute of compiling
QUICK = {"equilibrium", "grid_deviations", "potential", "outcome"}


def functions(*left_out):
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(x, marks=() if x in QUICK else pytest.mark.slow)
            for x in FUNCTIONS
            if not any(x in names for names in left_out)
        ],
    )


def drawn(noise="error"):
    """Ragged markets [4, N, K] with latency, users [4] with v0 who wait, and profiles [4, N]."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(2, K + 1, (4, N))
    market = Market.from_curves(
        np.sort(rng.uniform(0.3, 0.95, (4, N, K)), axis=-1),
        np.cumsum(rng.uniform(200.0, 4000.0, (4, N, K)), axis=-1),
        rng.uniform(0.05, 0.3, (4, N)) * 1e-6,
        value_per_answer=rng.uniform(0.004, 0.016, 4),
        margin=rng.uniform(0.1, 0.4, (4, N)),
        available=np.arange(K) < lengths[..., None],
        latency=rng.uniform(1.0, 60.0, (4, N, K)),
    )
    users = Users.create(rng.uniform(200.0, 3000.0, 4), [0.0, 0.002, -0.001, 0.0], noise, SECOND)
    return market, users, rng.integers(0, lengths)


def by_hand(market, users):
    """Without waiting, which is taken off quality."""
    quality = market.quality - SECOND * market.latency
    return market.replace(quality=quality, latency=None), users.replace(latency_value=None)


def plainly(name, noise="error"):
    """[4, …] what the function gives on one market after the other."""
    market, users, profile = drawn(noise)
    market, users = by_hand(market, users)
    rows = [
        FUNCTIONS[name](*jax.tree.map(lambda x, i=i: x[i], (market, users, profile)))
        for i in range(4)
    ]
    return jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *rows)


def same(found, wanted, rtol=1e-9, atol=1e-13):
    """Leaves that both have; what several types cannot say is None there."""
    wanted = dict(jax.tree_util.tree_leaves_with_path(wanted))
    leaves = jax.tree_util.tree_leaves_with_path(found)
    assert leaves
    for path, x in leaves:
        if path in wanted and not any(name in jax.tree_util.keystr(path) for name in OF_THE_WAY):
            np.testing.assert_allclose(
                np.asarray(x).reshape(wanted[path].shape),
                wanted[path],
                rtol,
                atol,
                err_msg=jax.tree_util.keystr(path),
            )


@pytest.mark.float64
@functions()
def test_a_batch_that_waits_is_each_market_by_hand(name):
    market, users, profile = drawn()
    wide = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (market, users, profile))
    same(FUNCTIONS[name](*wide), plainly(name))


@pytest.mark.float64
@functions()
def test_jit_and_vmap_change_nothing(name):
    same(jax.jit(jax.vmap(FUNCTIONS[name]))(*drawn()), plainly(name))


@pytest.mark.float64
@functions(ERROR_ALONE)
@pytest.mark.full
def test_tastes_change_nothing_of_it(name):
    same(FUNCTIONS[name](*drawn("taste")), plainly(name, "taste"))


@pytest.mark.float64
@functions(ONE_TYPE)
@pytest.mark.full
def test_two_types_alike_are_one(name):
    market, users, profile = drawn()
    types = UserMixture.create(
        [0.3, 0.7],
        jnp.stack([users.rationality] * 2, axis=-1),
        jnp.stack([users.outside_value] * 2, axis=-1),
        latency_value=SECOND,
    )
    same(FUNCTIONS[name](market, types, profile), plainly(name), rtol=1e-6, atol=1e-9)


@pytest.mark.float64
@functions()
@pytest.mark.full
def test_an_ambient_mesh_changes_nothing(name):
    with jax.set_mesh(jax.make_mesh((2,), ("markets",))):
        spread = jax.sharding.NamedSharding(
            jax.sharding.get_mesh(), jax.sharding.PartitionSpec("markets")
        )
        given = jax.device_put(drawn(), spread)
        found = jax.tree.map(np.asarray, FUNCTIONS[name](*given))
    same(found, plainly(name))


@pytest.mark.float64
@functions()
@pytest.mark.full
def test_single_precision_is_near(name):
    narrow = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, drawn())
    found = FUNCTIONS[name](*narrow)
    floats = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(x.dtype == jnp.float32 for x in floats)
    loose = dict(rtol=2e-3, atol=2e-6)
    same(found, plainly(name), **loose)


@pytest.mark.float64
@functions({"owner_deviations"})  # whose loops have no derivative backwards
@pytest.mark.full
def test_derivatives_are_finite_and_those_of_differences(name):
    market, users, profile = jax.tree.map(lambda x: x[0], drawn())
    way = np.random.default_rng(1).uniform(-1, 1, market.quality.shape) * 1e-4

    @jax.jit
    def total(step):
        """Of what has a derivative: the ends of sweeps are constant to it."""
        found = FUNCTIONS[name](market.replace(quality=market.quality + step * way), users, profile)
        floats = [
            x
            for path, x in jax.tree_util.tree_leaves_with_path(found)
            if jnp.issubdtype(x.dtype, jnp.floating)
            and not any(end in jax.tree_util.keystr(path) for end in ("smallest", "largest"))
        ]
        return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0)) for x in floats) + 0.0 * step

    forward, back = jax.jvp(total, (0.0,), (1.0,))[1], jax.grad(total)(0.0)
    assert np.isfinite(forward)
    np.testing.assert_allclose(forward, back, rtol=1e-6, atol=1e-12)
    if name in CONTINUOUS:
        difference = (total(2e-2) - total(-2e-2)) / 4e-2
        np.testing.assert_allclose(forward, difference, rtol=1e-4, atol=1e-9)
