"""Settings in TOML, read into frozen dataclasses: a table for each, a key for each field."""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from mechlab.core.errors import InputError

T = TypeVar("T")


def read(file: Path, kind: type[T]) -> T:
    """The settings of a file, checked; raises InputError that names the key at fault.

    A field of a dataclass's type is a table, one of a tuple an array; an int will do for a float.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}") from None
    return _table(file, "", kind, content)


def _table(file: Path, prefix: str, kind: Any, content: Mapping[str, Any]):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in content:
        if key not in fields:
            raise InputError(f"{file}: {prefix}{key} is not known; use {', '.join(fields)}")
    values = {}
    for key, field in fields.items():
        inner = [one for one in _alternatives(field.type) if dataclasses.is_dataclass(one)]
        if inner and (key in content or field.default is not None):
            table = content.get(key, {})
            if not isinstance(table, Mapping):
                raise InputError(f"{file}: {prefix}{key} must be a table, [{prefix}{key}]")
            values[key] = _table(file, f"{prefix}{key}.", inner[0], table)
        elif key in content:
            values[key] = _value(f"{file}: {prefix}{key}", field.type, content[key])
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{file}: {prefix}{key} is missing")
    return kind(**values)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = isinstance(annotation, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _value(where: str, annotation: Any, value: Any) -> Any:
    allowed = [typing.get_origin(one) or one for one in _alternatives(annotation)]
    if tuple in allowed and isinstance(value, list):
        one = next(item for item in _alternatives(annotation) if typing.get_origin(item) is tuple)
        kind, *_ = typing.get_args(one)
        return tuple(_value(f"{where}[{place}]", kind, item) for place, item in enumerate(value))
    # in Python a bool is an int
    number = float in allowed and isinstance(value, int)
    if isinstance(value, bool) == (bool in allowed) and (
        number or isinstance(value, tuple(allowed))
    ):
        return value
    said = "a table" if isinstance(value, Mapping) else repr(value)
    raise InputError(f"{where} must be {allowed[0].__name__}, not {said}")
