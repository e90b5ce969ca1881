"""What counts as equal, by the precision of the numbers: one place for every threshold."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """A threshold in float64 and in float32."""

    double: float
    single: float

    def of(self, like: Any) -> float:
        """That of an array's dtype, or of a dtype."""
        return self.double if jnp.finfo(getattr(like, "dtype", like)).bits == 64 else self.single


TIE = Tolerance(1e-12, 1e-6)  # relative: utilities that are no different
STEP = Tolerance(1e-8, 1e-6)  # of log utility: the least that the published dynamics move for
GAIN = Tolerance(1e-12, 1e-7)  # USD: the least that dynamics of other rules move for
NEGLIGIBLE = Tolerance(1e-9, 1e-6)  # relative to welfare: gains below are rounding
