"""Dependencies point one way: a folder imports those below it in the list, never those above."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "mechlab"
FOLDERS = (
    "cli",
    "study",
    "incentives",
    "learning",
    "simulation",
    "populations",
    "demand",
    "solvers",
    "mechanisms",
    "data",
    "evidence",
    "core",
)


def imported(file):
    """Folders of mechlab that a file imports from, in functions as well."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = node.module.split(".")
            if parts[0] == "mechlab":
                names = parts[1:2] or [alias.name for alias in node.names]
                yield from (name for name in names if name in FOLDERS)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                assert parts[0] != "mechlab", f"{file}: import mechlab.{'.'.join(parts[1:])}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_is_below_it(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for other in imported(file):
            assert FOLDERS.index(other) >= FOLDERS.index(folder), f"{file} imports {other}"


def test_the_library_imports_neither_models_nor_experiments():
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] not in ("models", "experiments", "benchmarks")


def test_every_module_stands_in_a_folder():
    assert {x.name for x in ROOT.iterdir() if x.suffix == ".py"} == {"__init__.py"}
    folders = {x.name for x in ROOT.iterdir() if x.is_dir() and x.name != "__pycache__"}
    assert folders == set(FOLDERS)
