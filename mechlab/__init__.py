"""mechlab: a differentiable mechanism lab for the market of LLM inference.

The flow is Market → Offers → Outcome: a `Market` holds what providers could do, `market.at` a
profile gives `Offers`, and a `Mechanism` turns offers and `Users` into an `Outcome`.
"""

from mechlab import data, quality
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
from mechlab.market import Market, Offers, Outcome, Users
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
from mechlab.optimum import Efficiency, Optimum, efficiency, social_optimum

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Efficiency",
    "Equilibrium",
    "ExtremalEquilibria",
    "FirstPriceAuction",
    "FixedPrice",
    "GridDeviations",
    "History",
    "InputError",
    "LogitChoice",
    "Market",
    "Mechanism",
    "NamedMarket",
    "Offers",
    "Optimum",
    "Outcome",
    "PayPerCompute",
    "PureEquilibria",
    "SecondPriceAuction",
    "Status",
    "Sweep",
    "SymmetricMarkup",
    "Users",
    "better_response",
    "compare",
    "data",
    "efficiency",
    "extremal_equilibria",
    "grid_deviations",
    "has_potential",
    "potential",
    "pure_equilibria",
    "quality",
    "social_optimum",
    "sweep",
    "symmetric_markup",
]
