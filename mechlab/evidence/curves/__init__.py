"""Quality-versus-compute curves from sampled answers, with intervals (exact in the samples)."""

from mechlab.evidence.curves.adaptive import adaptive_consistency
from mechlab.evidence.curves.effort import effort, effort_bins
from mechlab.evidence.curves.estimate import METHODS, Curves, as_levels, estimate, joined
from mechlab.evidence.curves.models import MonotoneCubic, SaturatingLaw
from mechlab.evidence.curves.questions import Questions, questions
from mechlab.evidence.curves.selection import best_of, pass_at, single_sample
from mechlab.evidence.curves.voting import majority
from mechlab.evidence.curves.weighted import weighted_majority

__all__ = [
    "METHODS",
    "Curves",
    "MonotoneCubic",
    "Questions",
    "SaturatingLaw",
    "adaptive_consistency",
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
