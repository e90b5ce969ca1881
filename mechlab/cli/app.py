"""The program itself: options that commands share, how they are run, and how errors end."""

import csv
import enum
import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

import jax
import typer

from mechlab import data
from mechlab.core.devices import use_all_cores
from mechlab.core.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A mechanism lab for the market of LLM inference.",
)


class Format(enum.StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


Benchmark = Annotated[
    str | None, typer.Option(help="Benchmark of the curves.", show_default="their first; GSM8K")
]
Method = Annotated[
    str | None,
    typer.Option(
        help="How test-time compute is spent.", show_default="their first; majority_voting"
    ),
]
Rationality = Annotated[
    list[float] | None,
    typer.Option(help="Rationality β of users, in 1/USD; repeatable.", show_default=False),
]
Curves = Annotated[
    str, typer.Option(help="A data set that ships (published, lab), or a CSV/Parquet.")
]
MarketFile = Annotated[
    str | None,
    typer.Option(
        help="TOML file of prices and constants, or a data set that ships.", show_default=False
    ),
]


class Noise(enum.StrEnum):
    error = "error"
    taste = "taste"


NoiseOption = Annotated[
    Noise,
    typer.Option("--noise", help="What the noise in users' choices is: error, or their tastes."),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="What to print.")]
Plot = Annotated[
    str | None,
    typer.Option(help="Write a figure to this file (PNG, PDF or SVG).", show_default=False),
]


@app.callback()
def _commands() -> None:
    """A mechanism lab for the market of LLM inference."""


def exact() -> None:
    """Figures of one market are computed in float64 on the CPU."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")


def fast() -> None:
    """Batches run in float32 on every device; each core of a CPU is one."""
    use_all_cores()


def checked_rationality(values: list[float] | None) -> list[float] | None:
    for value in values or ():
        if not 0 <= value <= data.LARGEST:
            raise InputError(f"--rationality {value:g}: give a number ≥ 0 and ≤ 1e12, in 1/USD")
    return list(dict.fromkeys(values)) if values else None


class Result(Protocol):
    """What a command found: as JSON, and as rows of a table."""

    def to_dict(self) -> dict[str, Any]: ...

    def flat_rows(self) -> list[dict[str, Any]]: ...


Found = TypeVar("Found", bound=Result)


def emit(result: Found, output: Format, show: Callable[[Found], None]) -> None:
    """Print a result: as JSON, as CSV, or by `show` for people."""
    if output is Format.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    elif output is Format.csv:
        rows = result.flat_rows()
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(sys.stdout, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        show(result)


def check_plot(path: str | None) -> None:
    if path is not None:
        from mechlab.study import plots

        plots.check_path(path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `mechlab`."""
    return run(app, "mechlab", arguments)


def run(program: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Run a command line; bad input is one line on stderr and status 2."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without β still shows its numbers
    try:
        status = program(args=arguments, prog_name=name, standalone_mode=False) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who reads has seen enough
        return 0
    except InputError as error:
        message = str(error)
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
    except OSError as error:
        message = f"cannot write: {error.strerror or error}; free some space or write elsewhere"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if message:
        print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return 2
