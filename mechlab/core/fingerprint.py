"""What a run depends on, by content: of two objects with one fingerprint either may stand in."""

import dataclasses
import functools
import hashlib
import inspect
import pathlib
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
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
    if isinstance(value, set | frozenset):
        return sorted((described(x, other) for x in value), key=repr)
    if isinstance(value, list | tuple):
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
    """A checksum of what a function, a class or an object's class computes by: its source, that of
    its bases and of what it calls in its module, and the constants that these close over or find
    there.

    An attribute `version` of a class or function stands in for all of it. Of an object that is no
    constant, and of what is called in other modules, only the name counts.
    """
    value = inspect.unwrap(value)  # of what is jitted, say
    stated = getattr(value, "version", None)
    if isinstance(stated, str | int | float):
        return f"version {stated}"
    if isinstance(value, functools.partial):
        given = repr(described([value.args, value.keywords]))
        return f"{code(value.func)} {checksum(given.encode())}"
    kind = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    return checksum("\n".join(_written(kind, set())).encode())


def _written(part: Any, seen: set[int]) -> Iterator[str]:
    if id(part) in seen or part is object:
        return
    seen.add(id(part))
    yield _source(part)
    for function in _functions(part):
        for name, value in sorted(_names(function).items()):
            value = inspect.unwrap(value)
            while isinstance(value, functools.partial):
                yield f"{name} {_constant([value.args, value.keywords])}"
                value = inspect.unwrap(value.func)
            if inspect.isroutine(value) or inspect.isclass(value):
                if value.__module__ == function.__module__:
                    yield from _written(value, seen)
                else:
                    yield f"{name} {value.__module__}.{value.__qualname__}"
            elif not inspect.ismodule(value):
                yield f"{name} {_constant(value)}"
    for base in part.__bases__ if inspect.isclass(part) else ():
        yield from _written(base, seen)


def _source(part: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):  # typed at a prompt, or built in: its compiled form
        blocks = [block for function in _functions(part) for block in _blocks(function.__code__)]
        constants = [
            [x for x in block.co_consts if not isinstance(x, types.CodeType)] for block in blocks
        ]
        return f"{part.__qualname__} " + " ".join(
            f"{block.co_code.hex()} {plain!r} {block.co_names!r}"
            for block, plain in zip(blocks, constants, strict=True)
        )


def _functions(part: Any) -> list[types.FunctionType]:
    """A function, or those of a class, without what wraps them."""
    found = [part] if inspect.isroutine(part) else list(vars(part).values())
    found = [getattr(f, "fget", None) or getattr(f, "__func__", f) for f in found]
    return [g for f in found if isinstance(g := inspect.unwrap(f), types.FunctionType)]


def _blocks(compiled: types.CodeType) -> Iterator[types.CodeType]:
    """What is compiled of a function, and of those within it."""
    yield compiled
    for within in compiled.co_consts:
        if isinstance(within, types.CodeType):
            yield from _blocks(within)


def _names(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over, and what it finds in its module, by name."""
    within = function.__globals__
    found = {
        name: within[name]
        for block in _blocks(function.__code__)
        for name in block.co_names
        if name in within
    }
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    return found


def _constant(value: Any) -> str:
    return str(described(value, lambda other: type(other).__qualname__))


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def file_checksum(path: str | pathlib.Path) -> str:
    """Of a file's content."""
    return checksum(pathlib.Path(path).read_bytes())
