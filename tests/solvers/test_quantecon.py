"""An independent enumeration of pure equilibria: quantecon's, on the full payoff tables."""

import itertools

import numpy as np
import oracles
import pytest
from quantecon.game_theory import NormalFormGame, pure_nash_brute

from mechlab import Market, Users, pure_equilibria


@pytest.mark.parametrize("seed", range(6))
def test_pure_equilibria_agree_with_quantecon(seed):
    rng = np.random.default_rng(seed)
    n, k = 3, 3
    quality = rng.uniform(0, 0.01, (n, k))
    price = np.sort(rng.uniform(1e-4, 0.008, (n, k)), axis=1)
    market = Market.from_arrays(quality, price, price * rng.uniform(0.3, 0.95, (n, k)))
    crowd = Users.create(800.0)
    payoffs = np.zeros((k,) * n + (n,))
    for profile in itertools.product(range(k), repeat=n):
        payoffs[profile] = oracles.utilities(market, crowd, profile)
    expected = set(pure_nash_brute(NormalFormGame(payoffs)))
    found = pure_equilibria(market, crowd)
    assert {tuple(map(int, p)) for p in found.profiles} == {tuple(map(int, p)) for p in expected}
