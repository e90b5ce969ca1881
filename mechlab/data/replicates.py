"""Markets that the uncertainty of measured curves allows.

Tables that `mechlab curves` writes as Parquet hold the bootstrap replicates themselves, as columns
of lists: joint draws of the questions, the same for all models. Intervals alone, as a CSV has them,
do not say how models vary together, and give no replicates.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

INTERVALS = ("accuracy_low", "accuracy_high", "tokens_low", "tokens_high")
LISTS = ("accuracy_replicates", "tokens_replicates")


def checked(table: "pd.DataFrame", where: str, fail: Callable[[Any, str], Any]) -> "pd.DataFrame":
    """The table with its intervals as numbers; raises InputError where they do not hold.

    Args:
        table: rows of curves, checked but for the intervals.
        where: the file.
        fail: raises for a row, with a message.
    """
    import pandas as pd

    named = [name for name in INTERVALS if name in table]
    if named and len(named) < len(INTERVALS):
        missing = ", ".join(name for name in INTERVALS if name not in named)
        raise InputError(f"{where}: {', '.join(named)} without {missing}; give all four or none")
    for name in named:
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        point = table[name.partition("_")[0]]
        bad = ~numbers.map(np.isfinite)
        row: Any = bad.idxmax()
        if bad.any():
            fail(row, f"{name} is {table[name][row]!r}; write a finite number")
        slack = 1e-9 * (1 + point.abs())
        bad = numbers > point + slack if name.endswith("low") else numbers < point - slack
        row = bad.idxmax()
        if bad.any():
            fail(row, f"{name} = {numbers[row]:g} is on the wrong side of its value")
        table = table.assign(**{name: numbers})
    lists = [name for name in LISTS if name in table]
    if lists:
        sizes = {len(x) if np.ndim(x) == 1 else 0 for name in lists for x in table[name]}
        if len(lists) < 2 or len(sizes) > 1 or min(sizes) < 2:
            raise InputError(
                f"{where}: {', '.join(LISTS)} have to be lists of one length in every row"
            )
    return table


def drawn(curves: "list[pd.DataFrame]") -> tuple[np.ndarray, np.ndarray] | None:
    """[B, N, K] accuracy and tokens of one market's curves; levels that a provider lacks repeat."""
    if not set(LISTS) <= set(curves[0].columns):
        return None
    levels = max(map(len, curves))
    accuracy, tokens = (
        [np.stack([np.asarray(x, float) for x in curve[name]], axis=1) for curve in curves]
        for name in LISTS
    )
    fill = [
        np.stack(
            [np.pad(x, ((0, 0), (0, levels - x.shape[1])), mode="edge") for x in field], axis=1
        )
        for field in (accuracy, tokens)
    ]
    return np.clip(fill[0], 0.0, 1.0), np.maximum(fill[1], 1e-9)
