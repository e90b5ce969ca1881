"""Draws have the distribution of the truncated softmax, whatever its form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.sampling import BLOCK, choose, draw, greedy, gumbels

ROWS = 20_000


def truncated(logits, temperature, top_k, top_p):
    """The distribution by its definition, with a sort, in float64."""
    order = np.argsort(-np.asarray(logits, float), kind="stable")
    scaled = np.asarray(logits, float)[order] / temperature
    mass = np.exp(scaled - scaled.max())
    if top_k is not None:
        mass[top_k:] = 0
    mass /= mass.sum()
    if top_p is not None:
        mass[np.cumsum(mass) - mass >= top_p] = 0
    result = np.zeros(len(mass))
    result[order] = mass / mass.sum()
    return result


# tests compile without optimizations; what runs longer than it compiles gains by them
@functools.partial(
    jax.jit,
    static_argnames=("top_k", "top_p"),
    compiler_options={"xla_backend_optimization_level": 1},
)
def drawn(logits, seed, temperature, top_k, top_p):
    streams = jnp.stack([jnp.zeros(ROWS, jnp.uint32), jnp.arange(ROWS, dtype=jnp.uint32)], 1)
    noise = gumbels(seed, streams, jnp.zeros(ROWS, jnp.int32))
    rows = jnp.broadcast_to(logits, (ROWS, logits.size))
    return draw(rows, noise, temperature=temperature, top_k=top_k, top_p=top_p)


def sampled(logits, seed=0, *, temperature, top_k=None, top_p=None):
    """ROWS draws; the temperature is a number that a program is given, as it is of `decode`."""
    logits = np.asarray(logits, np.float32)
    return np.asarray(drawn(logits, seed, np.float32(temperature), top_k, top_p))


@pytest.mark.parametrize("size", [7, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, None), (5, None), (None, 0.8), (None, 0.3), (6, 0.7), (1, None)]
)
def test_draws_have_the_truncated_distribution(size, temperature, top_k, top_p):
    logits = np.random.default_rng(size).normal(scale=1.5, size=size).astype(np.float32)
    expected = truncated(logits, temperature, top_k, top_p)
    counts = np.bincount(
        sampled(logits, temperature=temperature, top_k=top_k, top_p=top_p), minlength=size
    )
    assert not counts[expected == 0].any()
    # cells of few draws go together, as the chi-square's approximation needs
    order = np.argsort(expected)
    expected, counts = expected[order] * ROWS, counts[order]
    few = np.cumsum(expected) < 20
    expected = np.append(expected[~few], expected[few].sum())
    counts = np.append(counts[~few], counts[few].sum())
    kept = expected > 0
    if kept.sum() > 1:
        assert stats.chisquare(counts[kept], expected[kept]).pvalue > 1e-4


SIZES = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 300, 5 * BLOCK, 700)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SIZES), st.floats(0, 1))
def test_a_token_without_mass_is_never_drawn(seed, size, full):
    random = np.random.default_rng(seed)
    mass = np.where(random.random(size) < full, random.integers(1, 1001, size), 0).astype("f4")
    if not mass.any():
        mass[random.integers(size)] = 1e-20
    assert (mass[chosen(mass, np.uint32(seed))] > 0).all()


@jax.jit
def chosen(mass, seed):
    streams = jnp.stack([jnp.full(64, 7, jnp.uint32), jnp.arange(64, dtype=jnp.uint32)], 1)
    noise = gumbels(seed, streams, jnp.zeros(64, jnp.int32))
    return choose(jnp.broadcast_to(mass, (64, mass.size)), noise)


def test_without_noise_the_heaviest_block_gives_its_heaviest_token():
    mass = np.full((1, 5 * BLOCK), 1e-3, np.float32)
    mass[0, [BLOCK + 3, BLOCK + 9, 3 * BLOCK]] = [4.0, 5.0, 7.0]
    assert int(choose(jnp.asarray(mass), lambda number, size: jnp.zeros((1, size)))[0]) == BLOCK + 9


def test_rounding_of_the_logits_changes_few_draws():
    """Other shapes of a matrix product move logits by about 1e-5 of a flat, large vocabulary."""
    random = np.random.default_rng(0)
    logits = random.normal(size=20_000).astype(np.float32)
    moved = logits + random.normal(scale=1e-5, size=logits.size).astype(np.float32)
    rows = 500
    streams = jnp.stack([jnp.zeros(rows, jnp.uint32), jnp.arange(rows, dtype=jnp.uint32)], 1)

    @jax.jit
    def said(logits, position):
        noise = gumbels(0, streams, jnp.full(rows, position))
        return draw(jnp.broadcast_to(logits, (rows, logits.size)), noise, temperature=1.0)

    differ = sum(int((said(logits, at) != said(moved, at)).sum()) for at in range(40))
    assert differ <= 2  # of 20,000; one uniform through the inverse CDF changed 41 of 50,000


def test_greedy_takes_the_first_of_equals():
    logits = jnp.asarray([[0.0, 3.0, 3.0], [5.0, 1.0, 5.0], [-1.0, -2.0, -0.5]], jnp.float32)
    assert greedy(logits).tolist() == [1, 0, 2]


def test_a_nucleus_keeps_all_equals_at_its_edge():
    drawn = sampled([1.0, 1.0, 1.0, -9.0], temperature=1.0, top_p=0.5)
    assert set(drawn.tolist()) == {0, 1, 2}


def test_random_numbers_are_named_by_question_sample_token_and_draw():
    @jax.jit
    def noise(question, sample, position, draw, seed):
        streams = jnp.asarray([[question, sample]], jnp.uint32)
        return gumbels(seed, streams, jnp.asarray([position]))(draw, 1)[0, 0]

    def number(question, sample, position, draw, seed=3):
        return float(noise(question, sample, position, draw, seed))

    names = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({number(*name) for name in names}) == len(names)
    assert number(5, 6, 7, 0) == number(5, 6, 7, 0) != number(5, 6, 7, 0, seed=4)


@pytest.mark.parametrize("top_p", [None, 0.9])
def test_a_row_of_nan_ends_inside_the_vocabulary(top_p):
    logits = jnp.full((1, 10), jnp.nan, jnp.float32)
    noise = gumbels(0, jnp.zeros((1, 2), jnp.uint32), jnp.zeros(1, jnp.int32))
    assert 0 <= int(draw(logits, noise, temperature=1.0, top_p=top_p)[0]) < 10
