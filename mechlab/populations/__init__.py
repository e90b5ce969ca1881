"""Distributions over markets: by name, from TOML, combined, or your own."""

from mechlab.populations.base import MOST, Population
from mechlab.populations.combinations import Mixture, WithTastes, WithUserTypes
from mechlab.populations.description import KINDS, from_dict, in_words, named
from mechlab.populations.parametric import Parametric
from mechlab.populations.published import Published

__all__ = [
    "KINDS",
    "MOST",
    "Mixture",
    "Parametric",
    "Population",
    "Published",
    "WithTastes",
    "WithUserTypes",
    "from_dict",
    "in_words",
    "named",
]
