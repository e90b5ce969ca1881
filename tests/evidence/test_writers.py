"""Logs that the tools wrote themselves (`make writers`) give the figures put into them."""

import json
import pathlib

import pytest

from mechlab import cli
from mechlab.evidence import samples
from mechlab.evidence.importers import Reading, Report, read

WRITTEN = pathlib.Path(__file__).parents[1] / "data" / "writers"


def rows(name, **options):
    lines = []
    table = samples.table(read([WRITTEN / name], report=Report(warn=lines.append), **options))
    return table.to_pandas(), lines


def test_inspect_writes_an_archive_of_several_scorers():
    found, lines = rows("inspect_agent.eval")
    assert found["correct"].all() and len(found) == 6
    assert "scorer 'format_ok' is read; it also has 'match'" in lines[-1]
    assert sum("the tool is broken" in line for line in lines) == 2
    found, _ = rows("inspect_agent.eval", reading=Reading(scorer="match"))
    right = found.groupby("question_id", observed=True)["correct"].agg(["sum", "count"])
    assert right.loc[["6 + 3", "9 * 2", "2 ** 5"]].to_numpy().tolist() == [[2, 2], [2, 2], [0, 2]]
    tokens = found.groupby("question_id", observed=True)[["tokens", "thinking_tokens"]].first()
    assert tokens.loc[["6 + 3", "9 * 2", "2 ** 5"]].to_numpy().tolist() == [
        [22, 8],
        [26, 10],
        [34, 12],
    ]


def test_a_limit_is_an_end_by_length():
    found, _ = rows("inspect_limited.eval")
    assert found["finish_reason"].tolist() == ["length"] and found["tokens"].tolist() == [7]


def test_the_harness_writes_repeats_that_are_graded(tmp_path, capsys):
    assert cli.main(["curves", str(WRITTEN / "stand-in")]) == 2
    assert "mechlab grade" in capsys.readouterr().err
    out = tmp_path / "graded.parquet"
    assert (
        cli.main(["grade", str(WRITTEN / "stand-in"), "--out", str(out), "--format", "json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["correct"] == 4
    found = samples.read(out)
    assert found["correct"].to_pylist() == [True, False, True, False, True, True]
    assert found["answer"].to_pylist() == ["9", "8", "9", "17", "18", "18"]


@pytest.mark.parametrize("name", ["inspect_agent.eval", "inspect_limited.eval"])
def test_curves_are_made_of_what_was_written(name, capsys):
    arguments = ["curves", str(WRITTEN / name), "--replicates", "2", "--format", "json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["curves"]
