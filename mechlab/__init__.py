"""mechlab: a differentiable mechanism lab for the market of LLM inference.

The flow is Market → Offers → Outcome: a `Market` holds what providers could do, `market.at` a
profile gives `Offers`, and a `Mechanism` turns offers and `Users` into an `Outcome`.
"""

from mechlab import data, quality
from mechlab.batch import Evaluator
from mechlab.comparison import Comparison, Sweep, compare, sweep
from mechlab.data import NamedMarket
from mechlab.deviations import GridDeviations, grid_deviations
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
    PayPerCompute,
    SecondPriceAuction,
    SymmetricMarkup,
    symmetric_markup,
)
from mechlab.optimum import Efficiency, Optimum, efficiency, optimum_bounds, social_optimum
from mechlab.population import Mixture, Parametric, Population, Published, WithUserTypes
from mechlab.simulation import Simulation, simulate
from mechlab.summary import Summary

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Efficiency",
    "Equilibrium",
    "Evaluator",
    "ExtremalEquilibria",
    "FirstPriceAuction",
    "FixedPrice",
    "GridDeviations",
    "History",
    "InputError",
    "LogitChoice",
    "Market",
    "Mechanism",
    "Mixture",
    "NamedMarket",
    "Offers",
    "Optimum",
    "Outcome",
    "Parametric",
    "PayPerCompute",
    "Population",
    "Published",
    "PureEquilibria",
    "SecondPriceAuction",
    "Simulation",
    "Status",
    "Summary",
    "Sweep",
    "SymmetricMarkup",
    "UserMixture",
    "Users",
    "WithUserTypes",
    "better_response",
    "compare",
    "data",
    "efficiency",
    "extremal_equilibria",
    "grid_deviations",
    "has_potential",
    "optimum_bounds",
    "potential",
    "pure_equilibria",
    "quality",
    "simulate",
    "social_optimum",
    "sweep",
    "symmetric_markup",
]
