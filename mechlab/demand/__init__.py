"""Demand: how users answer to prices, what power it leaves to providers, and which β fits data."""

from mechlab.demand.calibration import Calibration, calibrate, reached
from mechlab.demand.power import Demand, at_profile, mean_elasticity

__all__ = ["Calibration", "Demand", "at_profile", "calibrate", "mean_elasticity", "reached"]
