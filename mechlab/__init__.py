"""mechlab: a differentiable mechanism lab for the market of LLM inference.

The flow is Market → Offers → Outcome: a `Market` holds what providers could do, `market.at` a
profile gives `Offers`, and a `Mechanism` turns offers and `Users` into an `Outcome`.
"""

from mechlab import data, quality, strategies
from mechlab.batch import Evaluator
from mechlab.certificates import Certificate, certify
from mechlab.coalitions import Coalitions, coalitions
from mechlab.comparison import Comparison, Sweep, compare, mechanism_table, sweep
from mechlab.data import NamedMarket
from mechlab.design import Design, Family, Settings, optimise, welfare_less_cost
from mechlab.deviations import Deviations, GridDeviations, grid_deviations, regret, search
from mechlab.enumeration import PureEquilibria, pure_equilibria
from mechlab.equilibrium import (
    Equilibrium,
    ExtremalEquilibria,
    History,
    Status,
    better_response,
    extremal_equilibria,
    has_potential,
    potential,
)
from mechlab.errors import InputError
from mechlab.market import Market, Offers, Outcome, UserMixture, Users
from mechlab.mechanisms import (
    FirstPriceAuction,
    FixedPrice,
    LogitChoice,
    Mechanism,
    MultiUnitAuction,
    NoisyAuction,
    PayPerCompute,
    ScoringAuction,
    SecondPriceAuction,
    SymmetricMarkup,
    Tariff,
    symmetric_markup,
)
from mechlab.optimum import Efficiency, Optimum, efficiency, optimum_bounds, social_optimum
from mechlab.population import Mixture, Parametric, Population, Published, WithUserTypes
from mechlab.quantal_response import SmoothedEquilibrium, smoothed_equilibrium
from mechlab.simulation import Simulation, simulate
from mechlab.summary import Summary

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "Coalitions",
    "Comparison",
    "Design",
    "Deviations",
    "Efficiency",
    "Equilibrium",
    "Evaluator",
    "ExtremalEquilibria",
    "Family",
    "FirstPriceAuction",
    "FixedPrice",
    "GridDeviations",
    "History",
    "InputError",
    "LogitChoice",
    "Market",
    "Mechanism",
    "Mixture",
    "MultiUnitAuction",
    "NamedMarket",
    "NoisyAuction",
    "Offers",
    "Optimum",
    "Outcome",
    "Parametric",
    "PayPerCompute",
    "Population",
    "Published",
    "PureEquilibria",
    "ScoringAuction",
    "SecondPriceAuction",
    "Settings",
    "Simulation",
    "SmoothedEquilibrium",
    "Status",
    "Summary",
    "Sweep",
    "SymmetricMarkup",
    "Tariff",
    "UserMixture",
    "Users",
    "WithUserTypes",
    "better_response",
    "certify",
    "coalitions",
    "compare",
    "data",
    "efficiency",
    "extremal_equilibria",
    "grid_deviations",
    "has_potential",
    "mechanism_table",
    "optimise",
    "optimum_bounds",
    "potential",
    "pure_equilibria",
    "quality",
    "regret",
    "search",
    "simulate",
    "smoothed_equilibrium",
    "social_optimum",
    "strategies",
    "sweep",
    "symmetric_markup",
    "welfare_less_cost",
]
