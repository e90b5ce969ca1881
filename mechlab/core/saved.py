"""Markets, rules and results in one file: a zip archive of a JSON description and NumPy arrays.

The description, header.json, says what the value is made of; its arrays are members 0.npy, 1.npy,
… of the archive. Reading runs no code: nothing is pickled, no module is imported and no constructor
called. Classes are looked up by name among those that are imported.
"""

import dataclasses
import enum
import json
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.files import appearing

VERSION = 1
_HEADER = "header.json"
_LARGEST_HEADER = 2**26  # bytes
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    RuntimeError,  # of an archive that wants a password
)


def save(path: str | os.PathLike[str], x: Any) -> None:
    """Write a value to a file that `load` reads: markets, offers, users, outcomes, rules, results.

    Any dataclass whose fields are arrays, numbers, text, None, enumerations, other dataclasses, or
    lists, tuples and dictionaries of these. The file holds data, not code: no function is saved,
    and of a rule of your own only its name and parameters. A file that is there is replaced.

    Args:
        path: of the file; any name.
        x: the value.

    Raises:
        InputError: names the part that cannot be saved, under jit too, or a path that cannot be
            written.
    """
    arrays: list[np.ndarray] = []
    from mechlab import __version__

    value = _encoded(x, type(x).__name__, arrays)
    header = {"format": "mechlab", "version": VERSION, "mechlab": __version__, "value": value}
    text = json.dumps(header, allow_nan=False)
    with (
        appearing(path) as hidden,
        zipfile.ZipFile(hidden, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr(_HEADER, text)
        for number, array in enumerate(arrays):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load(path: str | os.PathLike[str], *, classes: Sequence[type] = ()) -> Any:
    """The value that `save` wrote, with the same types, dtypes and numbers.

    Arrays of JAX are put on the default device, whatever devices they were on.

    Args:
        path: of the file.
        classes: your own classes that the file names, where their module is not imported or they
            have moved to another.

    Raises:
        InputError: names the file and the remedy: no such file, truncated, written in another
            version, of a class that is not known, or with float64 where JAX has float32.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_HEADER).file_size > _LARGEST_HEADER:
                raise ValueError("header")
            header = json.loads(archive.read(_HEADER))
            if header["format"] != "mechlab":
                raise ValueError("format")
            if header["version"] != VERSION:
                raise InputError(
                    f"{path}: format {header['version']}, written by mechlab {header['mechlab']}; "
                    f"this mechlab reads format {VERSION}: save it again with this version, or "
                    "load it with that one"
                )
            return _Reader(path, header["mechlab"], archive, classes).value(header["value"])
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); name a file that mechlab.save "
            "wrote"
        ) from None
    except _FAULTS:
        raise InputError(
            f"{path}: truncated, damaged or not written by mechlab.save; save it again"
        ) from None


def _encoded(x: Any, where: str, arrays: list[np.ndarray]) -> Any:
    """A value as JSON: text, whole numbers, bool, None and finite floats are themselves; all else
    is {"kind": …}. Arrays are appended to the list."""
    if x is None or type(x) in (str, bool, int):
        return x
    if type(x) is float:
        return x if math.isfinite(x) else {"kind": "float", "value": repr(x)}
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return _encoded_array(x, where, arrays)
    if type(x) in (list, tuple):
        values = [_encoded(value, f"{where}[{i}]", arrays) for i, value in enumerate(x)]
        return {"kind": type(x).__name__, "values": values}
    if type(x) is dict:
        pairs = [
            [_encoded(key, f"{where}: a key", arrays), _encoded(value, f"{where}[{key!r}]", arrays)]
            for key, value in x.items()
        ]
        return {"kind": "dict", "values": pairs}
    if isinstance(x, enum.Enum):
        return {"kind": "enum", "class": _class_name(type(x)), "value": x.name}
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = {
            field.name: _encoded(getattr(x, field.name), f"{where}.{field.name}", arrays)
            for field in dataclasses.fields(x)
        }
        return {"kind": "dataclass", "class": _class_name(type(x)), "fields": fields}
    kind = "function" if callable(x) and not isinstance(x, type) else type(x).__name__
    raise InputError(
        f"{where}: a {kind} cannot be saved; only arrays, numbers, text and dataclasses, lists, "
        "tuples and dictionaries of these can"
    )


def _encoded_array(x: Any, where: str, arrays: list[np.ndarray]) -> dict[str, Any]:
    if isinstance(x, jax.core.Tracer):
        raise InputError(f"{where}: has no numbers under jit; save outside")
    if isinstance(x, jax.Array):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            raise InputError(f"{where}: random keys cannot be saved; save the seed")
        if not x.is_fully_addressable:
            raise InputError(f"{where}: parts are on other hosts; gather it first")
    kind = "jax" if isinstance(x, jax.Array) else "scalar" if isinstance(x, np.generic) else "numpy"
    array, name = np.asarray(x), str(x.dtype)
    if array.dtype.hasobject:
        raise InputError(f"{where}: an array of Python objects cannot be saved; give it a dtype")
    if array.dtype.isbuiltin == 2:  # such as bfloat16, which files of NumPy do not know
        array = array.view(f"u{array.dtype.itemsize}")
    arrays.append(array)
    return {"kind": kind, "number": len(arrays) - 1, "dtype": name}


class _Reader:
    """Values of one archive."""

    def __init__(
        self, path: Any, written: str, archive: zipfile.ZipFile, classes: Sequence[type]
    ) -> None:
        self.path, self.written, self.archive = path, written, archive
        self.classes = tuple(classes)

    def value(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        kind = node["kind"]
        if kind == "float":
            return float(node["value"])
        if kind in ("jax", "numpy", "scalar"):
            return self.array(kind, node)
        if kind in ("list", "tuple"):
            values = [self.value(value) for value in node["values"]]
            return values if kind == "list" else tuple(values)
        if kind == "dict":
            return {self.value(key): self.value(value) for key, value in node["values"]}
        if kind == "enum":
            found = self.known(node["class"])
            if issubclass(found, enum.Enum) and node["value"] in found.__members__:
                return found.__members__[node["value"]]
            raise self.other_class(node["class"])
        if kind == "dataclass":
            return self.made(node["class"], node["fields"])
        raise ValueError(kind)

    def array(self, kind: str, node: dict[str, Any]) -> Any:
        with self.archive.open(f"{int(node['number'])}.npy") as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):
                raise ValueError("more than an array")
        dtype = jnp.dtype(node["dtype"])
        array = array if array.dtype == dtype else array.view(dtype)
        if kind == "scalar":
            return array[()]
        if kind == "numpy":
            return array
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise InputError(
                f"{self.path}: holds {dtype} arrays; call jax.config.update('jax_enable_x64', "
                "True) before loading it"
            )
        return jnp.asarray(array)

    def made(self, name: str, nodes: dict[str, Any]) -> Any:
        """A dataclass of these fields, without its constructor: what was checked is the same."""
        found = self.known(name)
        if not dataclasses.is_dataclass(found):
            raise self.other_class(name)
        if {field.name for field in dataclasses.fields(found)} != nodes.keys():
            raise self.other_class(name)
        made = object.__new__(found)
        for field, node in nodes.items():
            object.__setattr__(made, field, self.value(node))
        return made

    def known(self, name: str) -> type:
        """The class of a name, of those given and those imported; InputError where there is none.

        Classes of mechlab go by their name alone, whatever module they are in.
        """
        module, _, qualified = name.partition(":")
        for given in self.classes:
            if _class_name(given) == name:
                return given
        for given in self.classes:
            if given.__qualname__ == qualified:
                return given
        modules = [x for x in (*sys.modules,) if x == module or x.startswith(f"{module}.")]
        for where in modules if module == "mechlab" else [module]:
            found: Any = sys.modules.get(where)
            for part in qualified.split("."):
                found = vars(found).get(part) if hasattr(found, "__dict__") else None
            if isinstance(found, type) and _class_name(found) == name:
                return found
        here = "" if module == "mechlab" else f"import {module}, or "
        raise InputError(
            f"{self.path}: class {qualified} of {module} is not known (written by mechlab "
            f"{self.written}); {here}give it: load(path, classes=[{qualified.rpartition('.')[2]}])"
        )

    def other_class(self, name: str) -> InputError:
        return InputError(
            f"{self.path}: {name.partition(':')[2]} has other fields here than in mechlab "
            f"{self.written}, which wrote it; save it again with this version"
        )


def _class_name(kind: type) -> str:
    module = kind.__module__
    return f"{'mechlab' if module.startswith('mechlab.') else module}:{kind.__qualname__}"
