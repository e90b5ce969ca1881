"""mechlab: a differentiable mechanism lab for the market of LLM inference.

The flow is Market → Offers → Outcome: a `Market` holds what providers could do, `market.at` a
profile gives `Offers`, and a `Mechanism` turns offers and `Users` into an `Outcome`. By folder
(`help(mechlab.Market)` says more of each):

core, data: what a market is
    Market, Offers, Outcome; Users, UserMixture; Solution, Status, NotSolved;
    InputError; quality (from accuracy to USD); NamedMarket, data (published and lab's markets,
    files); save, load; use_all_cores

mechanisms: pricing rules, and how they are played
    Mechanism, for rules of your own; per_provider, for their parameters; PayPerCompute,
    PayPerCharacter, FixedPrice, Tariff, LogitChoice, NestedLogit; ReverseAuction,
    SecondPriceAuction, FirstPriceAuction, ScoringAuction, MultiUnitAuction, PersonalAuction,
    NoisyAuction; Verifier, Audited, TokenTest, SequentialTest; SymmetricMarkup, symmetric_markup;
    Play, Played, Truthful, AtProfile, CommonMarkup

solvers: equilibria and optimum
    equilibrium, Equilibrium; better_response, Dynamics, History; pure_equilibria, PureEquilibria;
    extremal_equilibria, ExtremalEquilibria; continuous_equilibrium, ContinuousEquilibrium;
    smoothed_equilibrium, SmoothedEquilibrium; owners_equilibrium, OwnersEquilibrium,
    owner_deviations, OwnerDeviations; social_optimum, Optimum, optimum_bounds; efficiency,
    Efficiency; potential, has_potential; fit, Fit; the plays AtOptimum, BetterResponse

incentives: who gains by deviating, and design
    grid_deviations, GridDeviations; search, Deviations, regret; certify, Certificate; coalitions,
    Coalitions; the coordinates GridLevel, ContinuousCompute, PriceMultiplier, PriceBid,
    QualityReport, TokenReport, Substitution; least_deterrent, Deterrence; optimize, Design,
    Family, Settings, welfare_less_cost

populations, simulation: many markets
    Population, Published, Parametric, Mixture, WithTastes, WithUserTypes; evaluate, Evaluation
    (arrays of markets, to be jitted); simulate, Simulation; Evaluator, Summary; check_rule

learning: quality that is not known
    repeated, Repeated; Learner, Seen, Known, Greedy, UCB, Thompson, ExploreThenCommit; growth,
    Growth; gaming, Gaming; by_question, QuestionMarkets; route, RoutingRule, Router, Cascade,
    SingleBest, ByMechanism, Oracle

demand, study, evidence: measurement, comparisons, and curves from samples
    demand (elasticities, markups), power; compare, Comparison, mechanism_table; sweep, Sweep;
    plots, tables, report; samples, importers, grading, curves
"""

import importlib as _importlib
from typing import TYPE_CHECKING
from typing import Any as _Any

from mechlab import data, demand
from mechlab.core import quality
from mechlab.core.devices import use_all_cores
from mechlab.core.errors import InputError
from mechlab.core.market import Market, Offers, Outcome
from mechlab.core.saved import load, save
from mechlab.core.solution import NotSolved, Solution, Status
from mechlab.core.users import UserMixture, Users
from mechlab.data import NamedMarket
from mechlab.incentives.audits import Deterrence, least_deterrent
from mechlab.incentives.certificates import Certificate, certify
from mechlab.incentives.coalitions import Coalitions, coalitions
from mechlab.incentives.design import Design, Family, Settings, optimize, welfare_less_cost
from mechlab.incentives.deviations import (
    Deviations,
    GridDeviations,
    grid_deviations,
    regret,
    search,
)
from mechlab.incentives.strategies import (
    ContinuousCompute,
    GridLevel,
    PriceBid,
    PriceMultiplier,
    QualityReport,
    Substitution,
    TokenReport,
)
from mechlab.learning import (
    UCB,
    ExploreThenCommit,
    Gaming,
    Greedy,
    Growth,
    Known,
    Learner,
    Repeated,
    Seen,
    Thompson,
    gaming,
    growth,
    repeated,
)
from mechlab.mechanisms import (
    AtProfile,
    Audited,
    CommonMarkup,
    FirstPriceAuction,
    FixedPrice,
    LogitChoice,
    Mechanism,
    MultiUnitAuction,
    NestedLogit,
    NoisyAuction,
    PayPerCharacter,
    PayPerCompute,
    PersonalAuction,
    Play,
    Played,
    ReverseAuction,
    ScoringAuction,
    SecondPriceAuction,
    SequentialTest,
    SymmetricMarkup,
    Tariff,
    TokenTest,
    Truthful,
    Verifier,
    symmetric_markup,
)
from mechlab.mechanisms.parameters import per_provider
from mechlab.populations import (
    Mixture,
    Parametric,
    Population,
    Published,
    WithTastes,
    WithUserTypes,
)
from mechlab.simulation.contract import check_rule
from mechlab.simulation.evaluate import Evaluation, evaluate
from mechlab.simulation.evaluator import Evaluator
from mechlab.simulation.simulate import Simulation, simulate
from mechlab.simulation.summary import Summary
from mechlab.solvers import (
    AtOptimum,
    BetterResponse,
    ContinuousEquilibrium,
    Dynamics,
    Efficiency,
    Equilibrium,
    ExtremalEquilibria,
    Fit,
    History,
    Optimum,
    OwnerDeviations,
    OwnersEquilibrium,
    PureEquilibria,
    SmoothedEquilibrium,
    better_response,
    continuous_equilibrium,
    efficiency,
    equilibrium,
    extremal_equilibria,
    fit,
    has_potential,
    optimum_bounds,
    owner_deviations,
    owners_equilibrium,
    potential,
    pure_equilibria,
    smoothed_equilibrium,
    social_optimum,
)
from mechlab.study.comparison import Comparison, Sweep, compare, mechanism_table, sweep

__version__ = "0.4.0.dev0"

# modules for the work on samples and for output, imported when they are first asked for
_MODULES = {
    "curves": "evidence.curves",
    "grading": "evidence.grading",
    "importers": "evidence.importers",
    "plots": "study.plots",
    "power": "study.power",
    "report": "study.report",
    "samples": "evidence.samples",
    "tables": "study.tables",
}


if TYPE_CHECKING:
    from mechlab.learning.questions import QuestionMarkets, by_question
    from mechlab.learning.routing import (
        ByMechanism,
        Cascade,
        Oracle,
        Router,
        RoutingRule,
        SingleBest,
        route,
    )

    # not at run time: `help(mechlab)` would print every class of it in full
    __all__ = [
        "UCB",
        "AtOptimum",
        "AtProfile",
        "Audited",
        "BetterResponse",
        "ByMechanism",
        "Cascade",
        "Certificate",
        "Coalitions",
        "CommonMarkup",
        "Comparison",
        "ContinuousCompute",
        "ContinuousEquilibrium",
        "Design",
        "Deterrence",
        "Deviations",
        "Dynamics",
        "Efficiency",
        "Equilibrium",
        "Evaluation",
        "Evaluator",
        "ExploreThenCommit",
        "ExtremalEquilibria",
        "Family",
        "FirstPriceAuction",
        "Fit",
        "FixedPrice",
        "Gaming",
        "Greedy",
        "GridDeviations",
        "GridLevel",
        "Growth",
        "History",
        "InputError",
        "Known",
        "Learner",
        "LogitChoice",
        "Market",
        "Mechanism",
        "Mixture",
        "MultiUnitAuction",
        "NamedMarket",
        "NestedLogit",
        "NoisyAuction",
        "NotSolved",
        "Offers",
        "Optimum",
        "Oracle",
        "Outcome",
        "OwnerDeviations",
        "OwnersEquilibrium",
        "Parametric",
        "PayPerCharacter",
        "PayPerCompute",
        "PersonalAuction",
        "Play",
        "Played",
        "Population",
        "PriceBid",
        "PriceMultiplier",
        "Published",
        "PureEquilibria",
        "QualityReport",
        "QuestionMarkets",
        "Repeated",
        "ReverseAuction",
        "Router",
        "RoutingRule",
        "ScoringAuction",
        "SecondPriceAuction",
        "Seen",
        "SequentialTest",
        "Settings",
        "Simulation",
        "SingleBest",
        "SmoothedEquilibrium",
        "Solution",
        "Status",
        "Substitution",
        "Summary",
        "Sweep",
        "SymmetricMarkup",
        "Tariff",
        "Thompson",
        "TokenReport",
        "TokenTest",
        "Truthful",
        "UserMixture",
        "Users",
        "Verifier",
        "WithTastes",
        "WithUserTypes",
        "better_response",
        "by_question",
        "certify",
        "check_rule",
        "coalitions",
        "compare",
        "continuous_equilibrium",
        "curves",
        "data",
        "demand",
        "efficiency",
        "equilibrium",
        "evaluate",
        "extremal_equilibria",
        "fit",
        "gaming",
        "grading",
        "grid_deviations",
        "growth",
        "has_potential",
        "importers",
        "least_deterrent",
        "load",
        "mechanism_table",
        "optimize",
        "optimum_bounds",
        "owner_deviations",
        "owners_equilibrium",
        "per_provider",
        "plots",
        "potential",
        "power",
        "pure_equilibria",
        "quality",
        "regret",
        "repeated",
        "report",
        "route",
        "samples",
        "save",
        "search",
        "simulate",
        "smoothed_equilibrium",
        "social_optimum",
        "sweep",
        "symmetric_markup",
        "tables",
        "use_all_cores",
        "welfare_less_cost",
    ]

_BY_QUESTION = dict.fromkeys(("QuestionMarkets", "by_question"), "questions") | dict.fromkeys(
    ("ByMechanism", "Cascade", "Oracle", "Router", "RoutingRule", "SingleBest", "route"), "routing"
)


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _importlib.import_module(f"mechlab.{_MODULES[name]}")
    if name in _BY_QUESTION:
        return getattr(_importlib.import_module(f"mechlab.learning.{_BY_QUESTION[name]}"), name)
    raise AttributeError(f"module 'mechlab' has no attribute {name!r}")
