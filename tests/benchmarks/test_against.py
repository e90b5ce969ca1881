"""A release and this tree are measured by turns, each by its own benchmark of its own library."""

import argparse
import subprocess

import pytest

import benchmarks
from benchmarks import against

GIVEN = argparse.Namespace(against="1.2.0", turns=2)


def tree(folder, rate):
    """A tree whose library has a rate, and a benchmark that prints it."""
    (folder / "mechlab").mkdir(parents=True)
    (folder / "mechlab" / "__init__.py").write_text(f"RATE = {rate}\n")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "speed.py").write_text(
        "import json, sys, mechlab\n"
        "open(sys.argv[1], 'a').write(f'{mechlab.RATE} ')\n"
        "print(json.dumps({'markets': 7, 'of': [{'markets_per_second': mechlab.RATE}],"
        " f'only_{mechlab.RATE:.0f}': 1.0}))\n"
    )


def test_both_are_measured_by_turns_and_compared_where_both_measured(tmp_path, monkeypatch, capsys):
    tree(tmp_path / "here", 30.0)
    monkeypatch.setattr(against, "ROOT", tmp_path / "here")
    monkeypatch.setattr(against, "checkout", lambda release, folder: tree(folder, 12.0))
    against.compare("speed", GIVEN, [str(tmp_path / "order")])
    assert (tmp_path / "order").read_text() == "30.0 12.0 12.0 30.0 "
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["median", "of", "2", "here", "1.2.0"]
    assert row.split() == [
        "of",
        "0",
        "markets",
        "per",
        "second",
        "30",
        "12",
        "2.5",
        "(2.5,",
        "2.5)",
    ]


def test_medians_and_the_ratio_of_each_turn_are_given():
    pairs = [
        ({"rate": 4.0}, {"rate": 2.0}),
        ({"rate": 9.0}, {"rate": 3.0}),
        ({"rate": 5.0}, {"rate": 0.0}),
    ]
    [(name, here, there, each)] = against.ratios(pairs)
    assert (name, here, there, each[:2]) == ("rate", 5.0, 2.0, [2.0, 3.0])
    assert each[2] != each[2]


def test_what_cannot_be_measured_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^benchmarks.headline: git has no tag v1.2.0 here"):
        against.compare("headline", GIVEN)
    monkeypatch.setattr(against, "ROOT", tmp_path)
    monkeypatch.setattr(against, "checkout", lambda release, folder: None)
    with pytest.raises(SystemExit, match=r"does not measure: .*No module named"):
        against.compare("speed", GIVEN)
    with pytest.raises(SystemExit, match="--turns"):
        against.compare("speed", argparse.Namespace(against="1.2.0", turns=0))


def test_a_release_is_what_its_tag_or_commit_holds(tmp_path):
    commit = against.COMMITS["0.3.0"]
    git = ["git", "-C", against.ROOT, "cat-file", "-e", commit]
    if subprocess.run(git, capture_output=True).returncode:
        pytest.skip(f"this checkout does not hold commit {commit}")
    against.checkout("0.3.0", tmp_path)
    assert '__version__ = "0.3.0"' in (tmp_path / "mechlab" / "__init__.py").read_text()
    assert (tmp_path / "benchmarks" / "headline.py").is_file()


def test_results_are_kept_by_version_and_the_newest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    for version in ("0.3.0", "0.10.0", "0.4.0"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "speed.json").touch()
    (tmp_path / "0.3.0" / "old.json").touch()
    assert benchmarks.newest("speed.json").parent.name == "0.10.0"
    assert benchmarks.newest("old.json").parent.name == "0.3.0"
    monkeypatch.setattr(benchmarks.mechlab, "__version__", "0.5.1.dev0")
    assert benchmarks.of_this_version() == tmp_path / "0.5.1"
    assert (tmp_path / "0.5.1").is_dir()
