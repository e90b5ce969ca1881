"""Distributions over markets: by name, from TOML, combined, or your own."""

from mechlab.populations.base import MOST, Population
from mechlab.populations.combinations import Mixture, WithUserTypes
from mechlab.populations.description import KINDS, from_dict, named
from mechlab.populations.parametric import Parametric
from mechlab.populations.published import Published

__all__ = [
    "KINDS",
    "MOST",
    "Mixture",
    "Parametric",
    "Population",
    "Published",
    "WithUserTypes",
    "from_dict",
    "named",
]
