"""Populations by name, and as a TOML file describes them."""

import dataclasses
from typing import Any

from mechlab.core.errors import InputError
from mechlab.populations.base import Population, Range, is_number
from mechlab.populations.combinations import Mixture, WithTastes, WithUserTypes
from mechlab.populations.parametric import Parametric
from mechlab.populations.published import Published

KINDS = {"published": Published, "parametric": Parametric}


def named(kind: str, **parameters: Any) -> Population:
    """The population called `kind`, published or parametric; InputError names what is known."""
    if kind not in KINDS:
        raise InputError(f"population: unknown kind {kind!r}; use {', '.join(KINDS)}")
    kinds = {field.name: field.type for field in dataclasses.fields(KINDS[kind])}
    known = list(kinds)
    for name, value in parameters.items():
        if name not in known:
            raise InputError(f"{kind}: unknown parameter {name!r}; it has {', '.join(known)}")
        default = getattr(KINDS[kind], name)
        if value is None and default is None:
            continue
        if isinstance(default, tuple) or kinds[name] == Range | None:
            good = isinstance(value, list | tuple) and all(is_number(x) for x in value)
            good &= good and (name == "compute" or len(value) == 2)
            if not good:
                raise InputError(
                    f"{kind}: {name} = {value!r}; give a list like {list(default or (1.0, 2.0))}"
                )
            parameters[name] = tuple(float(x) for x in value)
        elif isinstance(default, float) and not is_number(value):
            raise InputError(f"{kind}: {name} = {value!r}; give a number")
        elif name == "providers" and not (isinstance(value, int) and is_number(value)):
            raise InputError(f"{kind}: {name} = {value!r}; give a whole number")
        elif name in ("benchmark", "method", "curves", "market") and not isinstance(value, str):
            raise InputError(f"{kind}: {name} = {value!r}; give a name")
    return KINDS[kind](**parameters)


def from_dict(spec: dict[str, Any]) -> Population:
    """The inverse of `Population.describe`, as a TOML file has it.

    {kind: published or parametric, PARAMETER: …}, {kind: mixture, weights, parts: [spec, …]} or
    {kind: user_types, part: spec, weights, rationality_factor, value_factor}, or
    {kind: tastes, part: spec}.
    """
    spec = dict(spec)
    kind = spec.pop("kind", None)
    try:
        if kind == "mixture":
            parts = tuple(from_dict(part) for part in spec.pop("parts"))
            return Mixture(parts, tuple(spec.pop("weights")), **spec)
        if kind == "user_types":
            part = from_dict(spec.pop("part"))
            return WithUserTypes(part, **{name: tuple(x) for name, x in spec.items()})
        if kind == "tastes":
            return WithTastes(from_dict(spec.pop("part")), **spec)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"population: {kind}: {error}; see mechlab.populations") from None
    if not isinstance(kind, str):
        raise InputError(
            "population: no kind; use published, parametric, mixture, user_types or tastes"
        )
    return named(kind, **spec)


def in_words(description: dict[str, Any]) -> tuple[str, str]:
    """The kind of markets that a description draws, and what the noise of their users is."""
    if description["kind"] == "tastes":
        return in_words(description["part"])[0], "taste"
    return description["kind"], "error"
