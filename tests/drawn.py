"""Random small markets for hypothesis. Levels are masked, not cut, so that few shapes compile."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from mechlab import Market, Users

LEVELS = 4
BATCH = 32  # enough that solvers leave the slowest markets of a batch to be settled apart
_SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def markets(draw, max_providers: int = 4, min_providers: int = 1, losses: bool = False) -> Market:
    """Markets in thousandths of USD, as published ones are; `losses` allows price below cost."""
    providers = draw(st.integers(min_providers, max_providers))
    return _market(np.random.default_rng(draw(_SEEDS)), (providers, LEVELS), losses)


def _market(rng: np.random.Generator, shape: tuple[int, ...], losses: bool) -> Market:
    quality = rng.uniform(0, 0.01, shape)
    price = np.sort(rng.uniform(1e-5, 0.004, shape), axis=-1)
    margin = rng.uniform(-0.3, 0.6, shape) if losses else rng.uniform(0.02, 0.6, shape)
    lengths = rng.integers(1, LEVELS + 1, shape[:-1])
    return Market.from_arrays(
        quality,
        price,
        price / (1 + margin),
        accuracy=rng.uniform(0, 1, shape),
        tokens=rng.uniform(0, 5000, shape),
        available=np.arange(LEVELS) < lengths[..., None],
    )


@st.composite
def users(draw, betas=(0.0, 30.0, 300.0, 2000.0, 2e4)) -> Users:
    return Users.create(draw(st.sampled_from(betas)), draw(st.sampled_from([0.0, -0.003, 0.004])))


@st.composite
def batches(
    draw,
    providers=(1, 2, 4),
    betas=(0.0, 30.0, 300.0, 2000.0, 2e4),
    outsides=(0.0, -0.003, 0.004),
    losses: bool = False,
) -> tuple[Market, Users]:
    """Markets [BATCH, N, LEVELS] as `markets` has them, each with users of its own [BATCH]: what a
    library call takes at once, so that a property compiles once for each N."""
    n, rng = draw(st.sampled_from(providers)), np.random.default_rng(draw(_SEEDS))
    market = _market(rng, (BATCH, n, LEVELS), losses)
    return market, Users.create(rng.choice(betas, BATCH), rng.choice(outsides, BATCH))


def profiles(market: Market, seed: int) -> np.ndarray:
    """[..., N] random levels that are there."""
    counts = np.asarray(market.available).sum(axis=-1)
    return np.random.default_rng(seed).integers(0, counts)


def one_by_one(*batch: Any) -> Iterator[Any]:
    """The entries of a batch of pytrees one after the other, in NumPy: what oracles loop over."""
    arrays = jax.tree.map(np.asarray, batch)
    for i in range(len(jax.tree.leaves(arrays)[0])):
        yield jax.tree.map(lambda x, i=i: x[i], arrays)


def honest_bids(market):
    """Offers in an auction: the level of the largest surplus, bid at cost; nobody waits."""
    return market.at(market.best_surplus_profile(), "cost")
