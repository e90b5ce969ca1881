"""This tree against a release, by turns in one run.

    python -m benchmarks.NAME --against 0.3.0 [--turns 3]

A benchmark runs as it is here, library and all, and as it was in that release, with the same
Python and JAX, each in a process of its own that keeps nothing it compiled. Every number that both
measured is printed with its ratio.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from mechlab.core.errors import InputError, checked_whole

ROOT = pathlib.Path(__file__).parent.parent
COMMITS = {"0.3.0": "23342c1"}  # of releases, for clones without tags

OPTIONS = argparse.ArgumentParser(add_help=False)
OPTIONS.add_argument("--against", metavar="VERSION", help="a release to measure by turns")
OPTIONS.add_argument("--turns", type=int, default=3, help="of each, with --against")


def compare(benchmark: str, given: argparse.Namespace, arguments: Sequence[str] = ()) -> None:
    """Measure this tree and the release `given.against`; print medians and ratios.

    Args:
        benchmark: a module of `benchmarks` that prints JSON when given the arguments.
    """
    try:
        checked_whole("--turns", given.turns, 1, 100)
        with tempfile.TemporaryDirectory() as folder:
            release = pathlib.Path(folder)
            checkout(given.against, release)
            pairs = []
            for turn in range(given.turns):
                trees = (ROOT, release) if turn % 2 == 0 else (release, ROOT)
                found = {tree: measured(tree, benchmark, arguments) for tree in trees}
                pairs.append((found[ROOT], found[release]))
    except InputError as error:
        raise SystemExit(f"benchmarks.{benchmark}: {error}") from None
    print(f"{f'median of {given.turns}':50} {'here':>12} {given.against:>12}  ratio (of each turn)")
    for name, here, there, each in ratios(pairs):
        shown = f"{statistics.median(each):.3g} ({', '.join(f'{x:.3g}' for x in each)})"
        print(f"{name:50} {here:12,.5g} {there:12,.5g}  {shown}")


def checkout(release: str, folder: pathlib.Path) -> None:
    """Write the files of a release into a folder.

    Raises:
        InputError: git has neither its tag nor its commit.
    """
    for name in filter(None, (f"v{release}", COMMITS.get(release))):
        archive = ["git", "-C", ROOT, "archive", "--format=zip", name]
        done = subprocess.run(archive, capture_output=True)
        if done.returncode == 0:
            zipfile.ZipFile(io.BytesIO(done.stdout)).extractall(folder)
            return
    raise InputError(f"git has no tag v{release} here: name a release, or git fetch --tags")


def measured(tree: pathlib.Path, benchmark: str, arguments: Sequence[str]) -> Any:
    """The JSON that a tree's benchmark of the tree's library prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "JAX_ENABLE_COMPILATION_CACHE": "0"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise InputError(f"{tree} does not measure: {' '.join([*arguments, *last])}")
    return json.loads(done.stdout)


def ratios(pairs: Sequence[tuple[Any, Any]]) -> Iterator[tuple[str, float, float, list[float]]]:
    """(name, median here, median of the release, ratio in each turn) of what both measured."""
    here, there = ([dict(_numbers(pair[side])) for pair in pairs] for side in (0, 1))
    for name in here[0]:
        if name in there[0]:
            ours, theirs = ([found[name] for found in side] for side in (here, there))
            each = [a / b if b else float("nan") for a, b in zip(ours, theirs, strict=True)]
            yield name, statistics.median(ours), statistics.median(theirs), each


def _numbers(result: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """What was measured, by name; whole numbers are counts and settings."""
    if isinstance(result, float):
        yield name.strip().replace("_", " "), result
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from _numbers(value, f"{name} {key}")
    elif isinstance(result, list):
        for place, value in enumerate(result):
            yield from _numbers(value, f"{name} {place}")
