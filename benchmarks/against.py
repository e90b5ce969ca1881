"""This tree against a release, by turns in one run, and where results are kept.

Each benchmark that prints JSON takes `--against VERSION`: it runs as it is here and as it was in that
version, by the same Python and JAX, one after the other in processes of their own, and prints every
number that both measured with its ratio. `--keep` writes the result to `results/VERSION/`.
"""

import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mechlab
from mechlab.core.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
COMMITS = {"0.3.0": "23342c1"}  # of versions, for clones without tags
TURNS = 3


def version(name: str) -> tuple[int, ...]:
    """The numbers of a release: 0.4.0 of 0.4.0.dev0."""
    return tuple(int(part) for part in name.split(".")[:3])


def kept(file: str) -> pathlib.Path:
    """A result of the newest version that has it."""
    found = sorted(RESULTS.glob(f"*/{file}"), key=lambda path: version(path.parent.name))
    if not found:
        raise InputError(f"no version in {RESULTS} has {file}")
    return found[-1]


def folder() -> pathlib.Path:
    """Where results of this version are kept; made if it is not there."""
    here = RESULTS / ".".join(map(str, version(mechlab.__version__)))
    here.mkdir(exist_ok=True)
    return here


def checkout(release: str, where: pathlib.Path) -> None:
    """Write the tree of a release into a folder.

    Raises:
        InputError: git has neither its tag nor its commit.
    """
    git = ["git", "-C", str(ROOT)]
    for name in (f"v{release}", COMMITS.get(release, "")):
        commit = f"{name}^{{commit}}"
        there = subprocess.run([*git, "rev-parse", "--verify", "--quiet", commit], stdout=-3)
        if name and there.returncode == 0:
            archive = where.with_suffix(".tar")
            subprocess.run([*git, "archive", "--output", archive, name], check=True)
            with tarfile.open(archive) as opened:
                opened.extractall(where, filter="data")
            return
    raise InputError(f"--against {release}: git has no tag v{release}: git fetch --tags --unshallow")


def measured(tree: pathlib.Path, benchmark: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON that a benchmark prints, of the library and the benchmark in a tree."""
    done = subprocess.run(
        [sys.executable, "-m", benchmark, *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def numbers(result: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every measured number of a result with its name; counts and settings are whole numbers."""
    if isinstance(result, float):
        yield name, result
    elif isinstance(result, dict | list):
        pairs = result.items() if isinstance(result, dict) else enumerate(result)
        for key, value in pairs:
            yield from numbers(value, f"{name} {key}".strip().replace("_", " "))


def ratios(here: Sequence[Any], there: Sequence[Any]) -> list[tuple[str, float, float, list[float]]]:
    """(name, median here, median there, ratio of each turn) of what both measured."""
    mine, others = [dict(numbers(x)) for x in here], [dict(numbers(x)) for x in there]
    rows = []
    for name in mine[0]:
        if name in others[0]:
            a, b = [x[name] for x in mine], [x[name] for x in others]
            each = [x / y if y else float("nan") for x, y in zip(a, b, strict=True)]
            rows.append((name, statistics.median(a), statistics.median(b), each))
    return rows


def compare(benchmark: str, release: str, arguments: Sequence[str], turns: int = TURNS) -> None:
    """Measure by turns, the order changed in each, and print the medians and ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = pathlib.Path(temporary) / release
        checkout(release, tree)
        found: dict[pathlib.Path, list[Any]] = {ROOT: [], tree: []}
        for turn in range(turns):
            for each in sorted(found, reverse=bool(turn % 2)):
                found[each].append(measured(each, benchmark, arguments))
        rows = ratios(found[ROOT], found[tree])
    print(f"{'':50} {'here':>12} {release:>12}  here / {release} (of {turns} turns)")
    for name, a, b, each in rows:
        spread = f"{min(each):.3g} … {max(each):.3g}"
        print(f"{name:50} {a:12,.5g} {b:12,.5g}  {statistics.median(each):.3g} ({spread})")


def main(
    benchmark: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    parser: argparse.ArgumentParser | None = None,
    json_arguments: Sequence[str] = (),
    file: str | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> None: ...
