"""Demand and market power of a market with names: elasticities, concentration, implied markups."""

import dataclasses
from typing import Any

import jax
import numpy as np

from mechlab import demand
from mechlab.core.market import Market
from mechlab.core.users import Users
from mechlab.data import NamedMarket
from mechlab.mechanisms import PayPerCompute
from mechlab.solvers.equilibrium import equilibrium


@dataclasses.dataclass(frozen=True)
class Power:
    """Demand in the equilibrium of pay-per-compute; `to_dict` is the JSON of `mechlab calibrate`.

    Attributes:
        named: the market.
        rationality: β, 1/USD.
        elasticity: of shares in their own price, a mean weighted by share.
        hhi: Herfindahl–Hirschman index, up to 10,000.
        providers: a row for each: model, compute, share, price, elasticity, and diverted, the
            provider that most of its users go to when its price rises; cost, as the market has it,
            and implied_cost, what prices leave if they are a Bertrand–Nash equilibrium.
    """

    named: NamedMarket
    rationality: float
    elasticity: float
    hhi: float
    providers: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.named.benchmark,
            "method": self.named.method,
            "rationality": self.rationality,
            "elasticity": self.elasticity,
            "hhi": self.hhi,
            "providers": self.providers,
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: one for each provider."""
        shared = {name: x for name, x in self.to_dict().items() if name != "providers"}
        return [shared | row for row in self.providers]


def calibrated(named: NamedMarket, elasticity: float) -> Power:
    """Demand at the β at which it has an elasticity; InputError where none does."""
    found = demand.reached(named.net_of_waiting().market, elasticity, named.constants.outside_value)
    return market_power(named, float(found.rationality))


def market_power(named: NamedMarket, rationality: float) -> Power:
    """Demand in the equilibrium of pay-per-compute at a β."""
    market: Market = named.net_of_waiting().market
    users = Users.create(rationality, named.constants.outside_value)
    profile = equilibrium(market, users).profile
    offers = market.at(profile, "price")
    found = jax.tree.map(np.asarray, demand.at_profile(market, users, PayPerCompute(), profile))
    to = [*named.names, None]  # buying nothing stands last
    rows = []
    for i, name in enumerate(named.names):
        away = np.append(found.diversion[i], found.diversion[i, i])
        away[i] = -1.0
        rows.append(
            {
                "model": name,
                "compute": float(offers.compute[i]),
                "share": float(found.shares[i]),
                "price": float(offers.price[i]),
                "elasticity": float(found.elasticities[i, i]),
                "diverted_to": to[int(np.argmax(away))],
                "diverted": float(away.max()),
                "cost": float(offers.cost[i]),
                "implied_cost": float(found.costs[i]),
            }
        )
    return Power(named, rationality, float(found.mean_elasticity), float(found.hhi), rows)
