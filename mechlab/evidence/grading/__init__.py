"""Checking sampled texts: what they answer, and whether it is right."""

from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.grading.verifiers import Choice, FinalNumber, Grade, Verifier, named

__all__ = ["Choice", "FinalNumber", "Grade", "Verifier", "canonical", "named"]
