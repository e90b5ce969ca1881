"""Quality-versus-compute curves from sampled answers, with intervals (exact in the samples)."""

from mechlab.curves.effort import effort, effort_bins
from mechlab.curves.estimate import METHODS, Curves, as_levels, estimate, joined
from mechlab.curves.models import MonotoneCubic, SaturatingLaw
from mechlab.curves.questions import Questions, questions
from mechlab.curves.selection import best_of, pass_at, single_sample
from mechlab.curves.voting import majority
from mechlab.curves.weighted import weighted_majority

__all__ = [
    "METHODS",
    "Curves",
    "MonotoneCubic",
    "Questions",
    "SaturatingLaw",
    "as_levels",
    "best_of",
    "effort",
    "effort_bins",
    "estimate",
    "joined",
    "majority",
    "pass_at",
    "questions",
    "single_sample",
    "weighted_majority",
]
