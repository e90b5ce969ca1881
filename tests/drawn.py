"""Random small markets for hypothesis. Levels are masked, not cut, so that few shapes compile."""

import numpy as np
from hypothesis import strategies as st

from mechlab import Market, Users

LEVELS = 4


@st.composite
def markets(draw, max_providers: int = 4, min_providers: int = 1, losses: bool = False) -> Market:
    """Markets in thousandths of USD, as published ones are; `losses` allows price below cost."""
    providers = draw(st.integers(min_providers, max_providers))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = (providers, LEVELS)
    quality = rng.uniform(0, 0.01, shape)
    price = np.sort(rng.uniform(1e-5, 0.004, shape), axis=1)
    margin = rng.uniform(-0.3, 0.6, shape) if losses else rng.uniform(0.02, 0.6, shape)
    lengths = rng.integers(1, LEVELS + 1, providers)
    return Market.from_arrays(
        quality,
        price,
        price / (1 + margin),
        accuracy=rng.uniform(0, 1, shape),
        tokens=rng.uniform(0, 5000, shape),
        available=np.arange(LEVELS) < lengths[:, None],
    )


@st.composite
def users(draw, betas=(0.0, 30.0, 300.0, 2000.0, 2e4)) -> Users:
    return Users.create(draw(st.sampled_from(betas)), draw(st.sampled_from([0.0, -0.003, 0.004])))
