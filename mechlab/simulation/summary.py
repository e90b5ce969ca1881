"""Streaming summaries: moments and quantiles of millions of values in constant memory.

Moments merge by Chan's update (Chan, Golub & LeVeque 1983). Quantiles come from a histogram whose
bins have edges in geometric progression, as in DDSketch (Masson, Rim & Lee 2019): the value
returned is within `RELATIVE_ERROR` of the true sample quantile, and counts merge exactly.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.results import Result, numbers

if TYPE_CHECKING:
    import pandas as pd

RELATIVE_ERROR = 1e-3
_SMALLEST, _LARGEST = 1e-12, 1e12  # in size; smaller values count as 0
_LOG_RATIO = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_BINS = math.ceil(math.log(_LARGEST / _SMALLEST) / _LOG_RATIO) + 1


@dataclasses.dataclass(repr=False)
class Summary(Result):
    """Count, mean, variance, extremes and quantiles of the finite values that were added.

    Values that are not a number are left out: a ratio that means nothing in some market does not
    enter (`count` says how many did).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # Σ(x − mean)²
    smallest: float = math.inf
    largest: float = -math.inf
    bins: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2 * _BINS + 1, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Add values [B]."""
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
        if not len(values):
            return
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        self._merge_moments(len(values), mean, squares)
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        size = np.clip(np.abs(values), _SMALLEST / 2, _LARGEST)
        step = np.floor(np.log(size / _SMALLEST) / _LOG_RATIO).astype(np.int64) + 1
        step = np.clip(step, 0, _BINS) * np.where(values < 0, -1, 1)
        self.bins += np.bincount(step + _BINS, minlength=len(self.bins))

    def merge(self, other: "Summary") -> None:
        """Add all that another summary holds."""
        if other.count:
            self._merge_moments(other.count, other.mean, other.squares)
            self.smallest = min(self.smallest, other.smallest)
            self.largest = max(self.largest, other.largest)
            self.bins += other.bins

    def _merge_moments(self, count: int, mean: float, squares: float) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.squares += squares + shift * shift * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def variance(self) -> float:
        """Of the population, with Bessel's correction."""
        return self.squares / (self.count - 1) if self.count > 1 else 0.0

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return math.sqrt(self.variance / self.count) if self.count else 0.0

    def quantile(self, q: float) -> float | None:
        """The sample quantile, to `RELATIVE_ERROR` (1e-12 near 0); None where nothing was added."""
        if not self.count:
            return None
        rank = min(int(q * (self.count - 1) + 0.5), self.count - 1)
        step = int(np.searchsorted(np.cumsum(self.bins), rank + 1)) - _BINS
        if step == 0:
            return 0.0
        edge = _SMALLEST * math.exp((abs(step) - 1) * _LOG_RATIO)
        value = math.copysign(edge * (1 + RELATIVE_ERROR), step)
        return min(max(value, self.smallest), self.largest)

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres [M] and counts [M] of the bins that hold anything, ascending."""
        used = np.flatnonzero(self.bins)
        step = used - _BINS
        centre = _SMALLEST * np.exp((np.abs(step) - 0.5) * _LOG_RATIO) * np.sign(step)
        return centre, self.bins[used]

    def to_dict(self) -> dict[str, float | None]:
        """The mean, its standard error, and the 5th, 50th and 95th percentiles."""
        return {
            "mean": self.mean if self.count else None,
            "standard_error": self.standard_error if self.count else None,
            "p05": self.quantile(0.05),
            "p50": self.quantile(0.50),
            "p95": self.quantile(0.95),
        }

    def inline(self, unit: str = "") -> str:
        """In one line: mean ± standard error (5th, 50th, 95th percentile)."""
        if not self.count:
            return "no values"
        parts = [x for x in self.to_dict().values() if x is not None]
        return numbers(parts, unit, "{} ± {} ({}, {}, {})")

    def _headline(self) -> list[str]:
        return [f"{self.count:,} values"]

    def _shown(self) -> dict[str, Any]:
        if not self.count:
            return {}
        return self.to_dict() | {"smallest": self.smallest, "largest": self.largest}

    def to_frame(self) -> "pd.DataFrame":
        """One row: count, mean, standard_error, p05, p50, p95, smallest, largest."""
        import pandas as pd

        return pd.DataFrame([self.row()])

    def row(self) -> dict[str, float | None]:
        """The numbers of `to_frame` by name; None where nothing was added."""
        ends = {"smallest": self.smallest, "largest": self.largest}
        return (
            {"count": self.count} | self.to_dict() | (ends if self.count else dict.fromkeys(ends))
        )

    def pack(self) -> np.ndarray:
        """As bytes of a fixed length, to send to another process."""
        head = np.array(
            [self.count, self.mean, self.squares, self.smallest, self.largest], np.float64
        )
        return np.concatenate([head.view(np.uint8), self.bins.view(np.uint8)])

    @classmethod
    def unpack(cls, packed: np.ndarray) -> "Summary":
        packed = np.ascontiguousarray(packed, np.uint8)
        head = packed[:40].view(np.float64)
        count, mean, squares, smallest, largest = map(float, head)
        bins = packed[40:].view(np.int64).copy()
        return cls(int(count), mean, squares, smallest, largest, bins)
