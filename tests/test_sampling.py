"""Draws have the distribution of the truncated softmax, whatever its form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.sampling import draw, greedy, inverse_cdf, uniforms

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


def sampled(logits, seed=0, **options):
    streams = jnp.stack([jnp.zeros(ROWS, jnp.uint32), jnp.arange(ROWS, dtype=jnp.uint32)], 1)
    positions = jnp.zeros(ROWS, jnp.int32)
    return np.asarray(
        jax.jit(
            lambda logits: draw(
                jnp.broadcast_to(logits, (ROWS, logits.size)),
                lambda number: uniforms(seed, streams, positions, number),
                **options,
            )
        )(jnp.asarray(logits, jnp.float32))
    )


@pytest.mark.parametrize("size", [7, 300])
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


@given(st.data())
def test_inverse_cdf_is_the_cumulated_masss_inverse(data):
    size = data.draw(st.integers(1, 700))
    weights = st.one_of(st.just(0.0), st.integers(1, 1000).map(float))
    mass = np.array(data.draw(st.lists(weights, min_size=size, max_size=size)))
    if not mass.any():
        mass[-1] = 1.0
    uniform = data.draw(st.floats(0, 1, exclude_max=True, width=32).filter(lambda u: u < 1))
    found = inverse_cdf(jnp.asarray(mass[None], jnp.float32), jnp.asarray([uniform], jnp.float32))
    found, cumulated = int(found[0]), np.cumsum(mass)
    assert mass[found] > 0
    target = uniform * cumulated[-1]
    slack = 1e-4 * cumulated[-1]
    assert cumulated[found] - mass[found] - slack <= target <= cumulated[found] + slack


def test_the_ends_of_the_unit_interval_draw_tokens_with_mass():
    mass = np.zeros((1, 5000), np.float32)
    mass[0, [130, 2600]] = [1e-3, 7.0]
    for uniform, token in ((0.0, 130), (1 - 2.0**-23, 2600)):
        drawn = inverse_cdf(jnp.asarray(mass), jnp.asarray([uniform], jnp.float32))
        assert int(drawn[0]) == token


def test_greedy_takes_the_first_of_equals():
    logits = jnp.asarray([[0.0, 3.0, 3.0], [5.0, 1.0, 5.0], [-1.0, -2.0, -0.5]], jnp.float32)
    assert greedy(logits).tolist() == [1, 0, 2]


def test_a_nucleus_keeps_all_equals_at_its_edge():
    drawn = sampled([1.0, 1.0, 1.0, -9.0], temperature=1.0, top_p=0.5)
    assert set(drawn.tolist()) == {0, 1, 2}


def test_random_numbers_are_named_by_question_sample_token_and_draw():
    def number(question, sample, position, draw, seed=3):
        streams = jnp.asarray([[question, sample]], jnp.uint32)
        return float(uniforms(seed, streams, jnp.asarray([position]), draw)[0])

    names = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({number(*name) for name in names}) == len(names)
    assert number(5, 6, 7, 0) == number(5, 6, 7, 0) != number(5, 6, 7, 0, seed=4)


def test_a_row_of_nan_ends():
    logits = jnp.full((1, 10), jnp.nan, jnp.float32)
    draw(logits, lambda number: jnp.asarray([0.5]), temperature=1.0, top_p=0.9)
