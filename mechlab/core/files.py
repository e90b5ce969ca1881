"""Files that are written whole, or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from mechlab.core.errors import InputError


def check_out(path: str | None, suffixes: tuple[str, ...], option: str = "--out") -> None:
    """InputError, before any work is done, where a file cannot be written there."""
    if path is None:
        return
    file = pathlib.Path(path)
    if file.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path}: the name must end in {', '.join(suffixes)}")
    try:
        if not file.parent.is_dir():
            raise InputError(f"{option} {path}: no folder {file.parent}; make it first")
        if file.is_dir():
            raise InputError(f"{option} {path}: is a folder; name a file")
        _hidden(file).touch()
        _hidden(file).unlink()
    except OSError as error:
        raise InputError(
            f"{option} {path}: cannot be written ({error.strerror or error}); name another file"
        ) from None


@contextlib.contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A path to write to; the file takes its name when the block ends well, or never appears."""
    target = pathlib.Path(path)
    hidden = _hidden(target)
    try:
        yield hidden
        with open(hidden, "rb") as file:
            os.fsync(file.fileno())
        os.replace(hidden, target)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); name another file"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)


def _hidden(file: pathlib.Path) -> pathlib.Path:
    return file.with_name(f".{file.name}.{os.getpid()}")
