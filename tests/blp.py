"""pyblp as an oracle of demand: shares, elasticities, diversion, markups and HHI."""

import numpy as np
import pandas as pd
import pytest


def agrees(found, market, beta, owners=None, nests=None, dissimilarity=1.0):
    """Assert that pyblp's Bertrand–Nash equilibrium with our implied costs is at our prices.

    Args:
        found: a `Demand` at the first levels of the market.
        owners, nests: as in `at_profile` and `NestedLogit`; pyblp's ρ is 1 less the dissimilarity.
    """
    pyblp = pytest.importorskip("pyblp")
    pyblp.options.verbose = False
    count, price = market.providers, np.asarray(market.price)[:, 0]
    firm = np.arange(count)
    for number, one in enumerate(owners or ()):
        firm[list(one)] = number
    product = pd.DataFrame({"market_ids": "m", "firm_ids": firm, "quality": market.quality[:, 0]})
    if nests is not None:
        product["nesting_ids"] = nests
    formulations = [pyblp.Formulation(f"0 + {x}") for x in ("prices + quality", "quality")]
    theirs = pyblp.Simulation(
        (formulations[0], None, formulations[1]),
        product,
        beta=[-beta, beta],
        gamma=[1.0],
        xi=np.zeros(count),
        omega=np.zeros(count),
        rho=None if nests is None else 1 - dissimilarity,
    ).replace_endogenous(costs=np.asarray(found.costs)[:, None], prices=1.02 * price[:, None])
    for ours, other in (
        (price, theirs.product_data.prices[:, 0]),
        (found.shares, theirs.product_data.shares[:, 0]),
        (found.elasticities, theirs.compute_elasticities()),
        (found.diversion, theirs.compute_diversion_ratios()),
        (found.markups / price, theirs.compute_markups()[:, 0]),
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.hhi, theirs.compute_hhi()[0, 0], rtol=1e-8)
