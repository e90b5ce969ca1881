"""What a run depends on, by content: of two objects with one fingerprint either may stand in."""

import dataclasses
import functools
import hashlib
import inspect
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

_PLAIN = (str, int, float, bool, type(None))


def identity(value: Any) -> str:
    """Of an object of this process, while it lives: functions of one source may close over others'
    numbers."""
    return f"{type(value).__qualname__} {id(value)}"


def described(value: Any, other: Callable[[Any], str] | None = None) -> Any:
    """A value as JSON: plain numbers and names as they are, arrays and files by their checksum, and
    what is neither by `other`, the `code` of it where not given."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        if array.ndim == 0:
            return array.item()
        return f"{array.dtype}{list(array.shape)} {checksum(array.tobytes())}"
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): described(x, other) for name, x in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [described(x, other) for x in value]
    if hasattr(value, "fingerprint") and not isinstance(value, type):
        told = value.fingerprint()
        return told if other is None else [other(type(value)), described(vars(value), other), told]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **described(fields, other)}
    leaves, structure = jax.tree.flatten(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return {"structure": str(structure), "leaves": [described(x, other) for x in leaves]}
    return (other or code)(value)


def code(value: Any) -> str:
    """A checksum of the source of a function, a class or an object's class, and of its bases.

    An attribute `version` of a class or function stands in for its source.
    """
    stated = getattr(value, "version", None)
    if isinstance(stated, str | int | float):
        return f"version {stated}"
    if isinstance(value, functools.partial):
        given = repr(described([value.args, value.keywords]))
        return f"{code(value.func)} {checksum(given.encode())}"
    kind = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    parts = kind.__mro__ if inspect.isclass(kind) else (kind,)
    return checksum("\n".join(_source(part) for part in parts if part is not object).encode())


def _source(part: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):  # typed at a prompt, or built in: its compiled form
        functions = [part] if inspect.isroutine(part) else vars(part).values()
        compiled = [f.__code__ for f in functions if hasattr(f, "__code__")]
        return f"{part.__qualname__} " + " ".join(
            f"{c.co_code.hex()} {c.co_consts!r} {c.co_names!r}" for c in compiled
        )


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def file_checksum(path: str | pathlib.Path) -> str:
    """Of a file's content."""
    return checksum(pathlib.Path(path).read_bytes())
