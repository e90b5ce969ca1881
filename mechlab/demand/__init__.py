"""Demand: how users answer to prices, what power it leaves to providers, and which β fits data."""

from mechlab.demand.calibration import Calibration, calibrate, reached
from mechlab.demand.power import (
    Demand,
    at_profile,
    diversion,
    elasticities,
    hhi,
    implied_costs,
    implied_markups,
    mean_elasticity,
)

__all__ = [
    "Calibration",
    "Demand",
    "at_profile",
    "calibrate",
    "diversion",
    "elasticities",
    "hhi",
    "implied_costs",
    "implied_markups",
    "mean_elasticity",
    "reached",
]
