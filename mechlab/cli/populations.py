"""Options that say which markets, how many, and which processes share them."""

import contextlib
import pathlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console

from mechlab import data, populations
from mechlab.cli.app import Noise
from mechlab.core.errors import InputError, checked_whole
from mechlab.simulation import hosts

PopulationName = Annotated[
    str, typer.Option(help="published, lab, parametric, or a TOML file that describes one.")
]


def whole_number(option: str, text: str) -> int:
    """A number such as 1e6, that an option was given."""
    try:
        count = float(text)
    except ValueError:
        count = 0.5
    if not 1 <= count <= populations.MOST or count % 1:
        raise InputError(f"{option} {text}: give a whole number from 1 to 4294967295, as in 1e6")
    return int(count)


def named_population(
    name: str,
    benchmark: str | None,
    method: str | None,
    curves: str,
    market: str | None,
    noise: Noise,
) -> populations.Population:
    """The population of a name or file, by the options that say of what."""
    drawn = _drawn(name, benchmark, method, curves, market)
    return drawn if noise is Noise.error else populations.WithTastes(drawn)


def _drawn(
    name: str, benchmark: str | None, method: str | None, curves: str, market: str | None
) -> populations.Population:
    if name in data.SHIPPED:
        if name != "published" and curves not in ("published", name):
            raise InputError(
                f"--population {name} has curves of its own; leave out --curves {curves}"
            )
        chosen = curves if name == "published" else name
        return populations.Published(benchmark, method, chosen, market)
    if name in populations.KINDS:
        return populations.named(name)
    if not name.endswith(".toml"):
        known = ", ".join(dict.fromkeys([*populations.KINDS, *data.SHIPPED]))
        raise InputError(f"--population: unknown kind {name!r}; use {known}, or FILE.toml")
    try:
        spec = tomllib.loads(pathlib.Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; give a TOML file of a population") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not readable as TOML: {error}") from None
    try:
        return populations.from_dict(spec)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def joined_hosts(
    distributed: bool | None, coordinator: str | None, processes: int, process: int, timeout: int
) -> hosts.Hosts:
    """The processes that share a run; InputError for one of several tasks without an option."""
    checked_whole("--timeout", timeout, 1, 10**6)
    if coordinator is not None:
        if distributed:
            raise InputError("--distributed: takes the coordinator from the cluster; use only one")
        return hosts.join(coordinator, processes, process, timeout)
    if processes != 1 or process != 0:
        raise InputError(
            "--processes and --process: name process 0 with --coordinator HOST:PORT, or use "
            "--distributed under srun or mpirun"
        )
    if distributed:
        return hosts.detected(timeout)
    task = hosts.task()
    if distributed is None and task is not None:
        raise InputError(
            f"this is task {task[0]} of {task[1]}, and each would compute all markets: use "
            "--distributed to share them, or --no-distributed to run each task alone"
        )
    return hosts.Hosts()


def on_one_host(command: str) -> None:
    """InputError where a launcher started several tasks of a command that does not share work."""
    task = hosts.task()
    if task is not None:
        raise InputError(
            f"{command} runs on one host, and this is task {task[0]} of {task[1]}: start one task "
            "(srun -n 1), or one job for each seed or rule"
        )


@contextlib.contextmanager
def spinner(first: str) -> Iterator[Callable[[str], None] | None]:
    """What is in hand, where stdout is a terminal."""
    if not sys.stdout.isatty():
        yield None
        return
    with Console(stderr=True).status(first) as status:
        yield status.update
