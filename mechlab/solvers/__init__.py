"""Equilibria and the optimum, one solver a file."""

from mechlab.solvers.better_response import Dynamics, History, better_response
from mechlab.solvers.continuous import ContinuousEquilibrium, continuous_equilibrium
from mechlab.solvers.enumeration import PureEquilibria, pure_equilibria
from mechlab.solvers.equilibrium import Equilibrium, equilibrium
from mechlab.solvers.extremal import ExtremalEquilibria, extremal_equilibria
from mechlab.solvers.inverse import Fit, fit
from mechlab.solvers.optimum import Efficiency, Optimum, efficiency, optimum_bounds, social_optimum
from mechlab.solvers.owners import (
    OwnerDeviations,
    OwnersEquilibrium,
    owner_deviations,
    owners_equilibrium,
)
from mechlab.solvers.plays import AtOptimum, BetterResponse
from mechlab.solvers.potential import has_potential, potential
from mechlab.solvers.smoothed import SmoothedEquilibrium, smoothed_equilibrium

__all__ = [
    "AtOptimum",
    "BetterResponse",
    "ContinuousEquilibrium",
    "Dynamics",
    "Efficiency",
    "Equilibrium",
    "ExtremalEquilibria",
    "Fit",
    "History",
    "Optimum",
    "OwnerDeviations",
    "OwnersEquilibrium",
    "PureEquilibria",
    "SmoothedEquilibrium",
    "better_response",
    "continuous_equilibrium",
    "efficiency",
    "equilibrium",
    "extremal_equilibria",
    "fit",
    "has_potential",
    "optimum_bounds",
    "owner_deviations",
    "owners_equilibrium",
    "potential",
    "pure_equilibria",
    "smoothed_equilibrium",
    "social_optimum",
]
