"""Accelerators round operands of float32 products, to bfloat16 or TF32, unless told not to.

Every product on the way to a number that is reported asks for the highest precision.
"""

import jax
import jax.numpy as jnp
import pytest

from mechlab import (
    ContinuousCompute,
    FirstPriceAuction,
    NoisyAuction,
    PayPerCompute,
    PriceBid,
    Published,
    SecondPriceAuction,
    continuous_equilibrium,
    evaluate,
    fit,
    search,
    smoothed_equilibrium,
)
from mechlab.evidence.curves.weighted import _vote

MARKET, USERS = Published(providers=3).markets(4)
LEVELS = jnp.zeros((4, 3), int)
RULES = {"today": PayPerCompute(), "auction": SecondPriceAuction(), "noisy": NoisyAuction(1e-3)}


def smoothed(market):
    return smoothed_equilibrium(market, USERS, precision=1e3).welfare.mean()


def spent(market):
    return continuous_equilibrium(market, USERS).welfare.mean()


WORK = {
    "evaluate": lambda m: evaluate(m, USERS, RULES),
    "smoothed": smoothed,
    "slope of smoothed": lambda m: jax.grad(lambda x: smoothed(m.replace(price=x)))(m.price),
    "continuous": spent,
    "slope of continuous": lambda m: jax.grad(lambda x: spent(m.replace(price=x)))(m.price),
    "fit": lambda m: fit(m, USERS, observed={"shares": jnp.full((4, 3), 0.3)}).parameters,
    "search": lambda m: (
        search(
            m, USERS, FirstPriceAuction(), LEVELS, space=(ContinuousCompute(), PriceBid()), steps=3
        ).gain
    ),
    "weighted voting": lambda m: _vote(
        jnp.zeros((3, 6), int), m.price[0], m.price[0] > 0, m.price[0], labels=2
    ),
}


def products(jaxpr):
    """The precision of every product of arrays in a program, those inside it included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("name", WORK)
def test_every_product_asks_for_the_highest_precision(name):
    found = list(products(jax.make_jaxpr(WORK[name])(MARKET).jaxpr))
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert all(precision == highest for precision in found), found


def test_a_product_that_does_not_ask_is_found():
    loose = jax.make_jaxpr(jax.jit(lambda x: jax.lax.map(lambda y: y @ y.T, x)))(MARKET.price)
    assert list(products(loose.jaxpr)) == [None]
