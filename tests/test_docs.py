"""Every Python block of the README and of the documentation runs, in the order of its page."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from experiments.__main__ import NAMES
from mechlab import cli, quality
from mechlab.mechanisms.capabilities import METRICS
from mechlab.mechanisms.catalogue import RULES
from mechlab.mechanisms.play import PLAYS
from mechlab.populations import KINDS

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "gallery").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


OF_USERS = {x: y for x, y in os.environ.items() if x not in ("XLA_FLAGS", "JAX_ENABLE_X64")}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def scripts(page):
    """Blocks of the README stand alone; those of a page of the documentation follow each other."""
    return blocks(page) if page.name == "README.md" else ["\n".join(blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.name)
def test_python_blocks_run(page, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    for script in scripts(page):
        if "1_000_000" in script:  # as users run it: compiled for speed
            if page.name == "README.md":
                continue  # the same code stands in docs/many.md, and runs there
            run = [sys.executable, "-W", "error", "-W", "ignore:Error reading persistent"]
            subprocess.run([*run, "-c", script], env=OF_USERS, check=True)
        else:
            exec(compile(script, page.name, "exec"), {"__name__": "page"})
        assert capfd.readouterr().out.strip()


def test_the_readmes_million_markets_are_those_of_the_page():
    def parsed(page):
        [block] = [one for one in blocks(page) if "1_000_000" in one]
        return ast.dump(ast.parse(block))

    page = ROOT / "docs" / "many.md"
    assert page in PAGES and "1_000_000" in blocks(page)[0]  # with nothing before it
    assert parsed(ROOT / "README.md") == parsed(page)


@pytest.mark.slow
def test_commands_of_the_page_on_todays_market_run(tmp_path, monkeypatch, capsys):
    """In the order of the page, each with what the ones before it wrote."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "today.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^    (mechlab .*)$", text, re.M)
    assert len(commands) >= 6
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "today.html").stat().st_size > 1e6
    assert "implied cost" in capsys.readouterr().out


def test_the_page_of_names_has_every_catalogue():
    text = (ROOT / "docs" / "names.md").read_text()
    for catalogue in (RULES, KINDS, quality.SHAPES, METRICS, PLAYS):
        for name in catalogue:
            assert f"`{name}" in text, name


def test_the_shown_comparison_is_what_is_printed(capsys):
    shown = re.search(r"```\n(GSM8K.*?)```", README, re.S)[1]
    assert cli.main(["compare"]) == 0
    printed = capsys.readouterr().out

    def squeeze(text):
        return [line.split() for line in text.strip().splitlines()]

    assert squeeze(shown) == squeeze(printed)


def test_the_shown_constants_are_toml():
    assert tomllib.loads(re.search(r"```toml\n(.*?)```", COMMANDS, re.S)[1])["margin"] == 0.25


def test_pictures_and_pages_that_are_named_are_there():
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"| `mechlab {name}`" in COMMANDS


def test_the_front_page_fits():
    assert len(README.splitlines()) <= 160


def test_the_gallery_has_a_page_for_every_experiment():
    shown = (ROOT / "docs" / "gallery.md").read_text()
    assert re.findall(r"^gallery/(\w+)$", shown, re.M) == list(NAMES)
    for name in NAMES:
        page = (ROOT / "docs" / "gallery" / f"{name}.md").read_text()
        assert f"    python -m experiments {name}\n" in page and "](../images/" in page
        tables = re.findall(rf"`results/{name}/(\w+\.csv)`", page)
        assert tables and all((ROOT / "results" / name / table).exists() for table in tables)


def test_notebooks_are_stored_without_outputs_and_listed():
    """They are executed where the docs are built."""
    listed = (ROOT / "docs" / "index.md").read_text()
    assert len(NOTEBOOKS) >= 3
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert f"notebooks/{path.stem}" in listed
