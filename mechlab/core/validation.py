"""Checks of what a caller gives, outside jit: each fault is one line that names the entry."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mechlab.core.errors import InputError


def concrete(*values: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in values)


def levels_array(name: str, values: Any) -> tuple[Any, list[int] | None]:
    """Values as [..., N, K], and the rows' lengths where they were ragged (padded then)."""
    lengths = None
    if not hasattr(values, "shape"):
        rows = list(values) if isinstance(values, Sequence) else [values]
        sizes = [len(row) if np.ndim(row) or isinstance(row, Sequence) else -1 for row in rows]
        if len(set(sizes)) > 1:
            if min(sizes) < 1:
                raise InputError(f"{name}: row {sizes.index(min(sizes))} has no level")
            rows = [[*row, *[row[-1]] * (max(sizes) - len(row))] for row in rows]
            values, lengths = rows, sizes
        try:
            values = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            raise InputError(f"{name}: not an array of numbers [providers, levels]") from None
    if values.ndim == 0:
        return values, lengths
    if 0 in values.shape:
        raise InputError(f"{name}: shape {values.shape}: no providers or no levels")
    if name in ("quality", "accuracy") and values.ndim < 2:
        raise InputError(f"{name}: shape {values.shape}; give [..., providers, levels]")
    return values, lengths


def prefix_mask(shape: tuple[int, ...], lengths: list[int] | None) -> np.ndarray:
    if lengths is None:
        return np.ones(shape, bool)
    return np.arange(shape[-1]) < np.asarray(lengths)[:, None]


def checked_mask(available: Any, shape: tuple[int, ...]) -> Any:
    if not concrete(available):
        return available
    try:
        mask = np.broadcast_to(np.asarray(available, bool), shape)
    except ValueError:
        raise InputError(f"available: shape does not fit {shape}") from None
    holes = ~mask[..., :-1] & mask[..., 1:]
    bad = ~mask[..., :1].any(-1) | holes.any(-1)
    if bad.any():
        where = entry("available", np.argwhere(bad)[0])
        raise InputError(f"{where}: a provider offers a prefix of at least one level")
    return mask


def checked(
    name: str,
    values: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    where: Any = None,
    why: str = "",
) -> Any:
    """The values, or an InputError that names the first entry that is not finite or out of bounds.

    Tracers pass through unchecked: validation happens outside jit.
    """
    if not concrete(values, where):
        return values
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {values!r} is not a number or an array of numbers") from None
    faults = (
        (~np.isfinite(array), "is not a finite number"),
        (array < (-np.inf if minimum is None else minimum), f"is below {minimum}"),
        (array > (np.inf if maximum is None else maximum), f"is above {maximum}"),
        (array <= (-np.inf if above is None else above), f"is not above {above}"),
    )
    for bad, fault in faults:
        if where is not None:
            bad = bad & where
        if bad.any():
            index = np.argwhere(bad)[0] if array.ndim else ()
            value = array[tuple(index)]
            hint = f"; {why}" if why and np.isfinite(value) else ""
            raise InputError(f"{entry(name, index)} = {value:g} {fault}{hint}")
    return values


def check_ascending(compute: np.ndarray, available: np.ndarray) -> None:
    falls = (np.diff(compute, axis=-1) <= 0) & available[..., 1:]
    if falls.any():
        index = np.argwhere(falls)[0]
        index[-1] += 1
        raise InputError(f"{entry('compute', index)}: levels must have ascending compute")


def entry(name: str, index: Sequence[int]) -> str:
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if len(index) else name
