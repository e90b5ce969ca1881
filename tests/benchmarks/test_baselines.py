"""What `benchmarks.headline` compares with does the same work: the baselines agree with the lab."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import markets as baselines
from mechlab.populations import Published
from mechlab.simulation.evaluator import Evaluator


@pytest.mark.full
def test_numpy_and_loop_agree_with_the_lab():
    population = Published()
    evaluator = Evaluator(population, 0, chunk=256, chunks=1, certificate=False)
    rows = dict(evaluator.parts(iter([(0, 256)])))[0]
    market, crowd = population.columns(jax.random.key(0), jnp.arange(256, dtype=jnp.uint32))
    arrays = {
        name: np.asarray(getattr(market, name))
        for name in ("quality", "price", "cost", "accuracy", "tokens")
    }
    arrays |= {name: np.asarray(getattr(crowd, name)) for name in ("rationality", "outside_value")}
    orders = baselines._orders(0, 9)
    vectorised = baselines.solve_chunk(arrays, orders)
    for name, values in vectorised.items():
        rule = "" if name.startswith("auction.") else "pay_per_compute."
        lab = rows[rule + name.replace("auction.", "second_price.")]
        close = np.isclose(values, lab, rtol=1e-4, atol=1e-9)
        assert close.mean() > 0.99, name
    for j in range(20):
        alone = baselines.solve_one(arrays, j, orders)
        for name, value in alone.items():
            np.testing.assert_allclose(value, vectorised[name][j], rtol=1e-4, atol=1e-8)
