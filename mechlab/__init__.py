"""mechlab: a differentiable mechanism lab for the market of LLM inference.

The flow is Market → Offers → Outcome: a `Market` holds what providers could do, `market.at` a
profile gives `Offers`, and a `Mechanism` turns offers and `Users` into an `Outcome`.
"""

from mechlab import data
from mechlab.core import quality
from mechlab.core.errors import InputError
from mechlab.core.market import Market, Offers, Outcome, UserMixture, Users
from mechlab.data import NamedMarket
from mechlab.incentives import strategies
from mechlab.incentives.certificates import Certificate, certify
from mechlab.incentives.coalitions import Coalitions, coalitions
from mechlab.incentives.design import Design, Family, Settings, optimise, welfare_less_cost
from mechlab.incentives.deviations import (
    Deviations,
    GridDeviations,
    grid_deviations,
    regret,
    search,
)
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
from mechlab.populations import Mixture, Parametric, Population, Published, WithUserTypes
from mechlab.simulation.evaluator import Evaluator
from mechlab.simulation.simulate import Simulation, simulate
from mechlab.simulation.summary import Summary
from mechlab.solvers.enumeration import PureEquilibria, pure_equilibria
from mechlab.solvers.equilibrium import (
    Equilibrium,
    ExtremalEquilibria,
    History,
    Status,
    better_response,
    extremal_equilibria,
    has_potential,
    potential,
)
from mechlab.solvers.optimum import Efficiency, Optimum, efficiency, optimum_bounds, social_optimum
from mechlab.solvers.smoothed import SmoothedEquilibrium, smoothed_equilibrium
from mechlab.study.comparison import Comparison, Sweep, compare, mechanism_table, sweep

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
