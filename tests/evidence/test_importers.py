"""Logs import to the right counts; what is broken is named by file and line, and the rest kept."""

import gzip
import io
import json
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechlab import InputError, cli
from mechlab.evidence import samples
from mechlab.evidence.curves import estimate
from mechlab.evidence.importers import Reading, Report, answers, detect, inspect_ai, read

if sys.version_info >= (3, 14):
    import zipfile

    from compression import zstd
else:
    from backports import zstd
    from backports.zstd import zipfile

RUNS = pathlib.Path(__file__).parents[1] / "data" / "runs"
QWEN = RUNS / "Qwen2-7B--temp-0.7--samples-128--max-512.jsonl"
LLAMA = RUNS / "reason-R1-D-Llama-8B--temp-0.6--samples-32--max-2048.jsonl"


def table(*paths, report=None, **options):
    return samples.table(read(paths, report=report or Report(strict=True), **options))


def collected(report=None):
    lines = []
    return lines, Report(warn=lines.append)


def test_the_real_records_import_to_the_right_counts():
    """Counts taken from the records with a pattern of their own."""
    rows = table(QWEN).to_pandas()
    assert len(rows) == 128 and rows["correct"].sum() == 31 and rows["tokens"].sum() == 18543
    counts = rows["answer"].value_counts()
    assert dict(counts) == {"C": 31, "A": 29, "B": 20, "D": 1}
    assert set(rows["model"]) == {"Qwen2-7B"} and set(rows["benchmark"]) == {"GPQA"}
    assert rows["reward"].sum() == 9.7509765625 and rows["thinking_tokens"].isna().all()
    assert (rows["finish_reason"] == "length").sum() == (rows["tokens"] == 512).sum() == 1
    rows = table(LLAMA).to_pandas()
    assert len(rows) == 32 and rows["correct"].sum() == 12 and rows["tokens"].sum() == 41249
    assert rows["thinking_tokens"].sum() == 9378 and rows["answer"].notna().sum() == 21
    assert set(rows["model"]) == {"R1-D-Llama-8B"}


def test_the_real_records_survive_parquet_and_give_curves(tmp_path):
    found = table(QWEN, LLAMA)
    path = tmp_path / "samples.parquet"
    assert samples.write(path, found.to_batches()) == 160
    assert samples.read(path).equals(found) and detect(path) == "samples"
    assert table(path).equals(found)
    curves = estimate(found, replicates=10).table
    first = curves[(curves["method"] == "majority_voting") & (curves["level"] == 0)]
    np.testing.assert_allclose(first["accuracy"], [31 / 128, 12 / 32])
    effort = curves[curves["method"] == "reasoning_effort"]
    kept = [x for x in json.loads(LLAMA.read_text())["num_tokens"] if x[0] > 5 and x[1] < 2048]
    assert effort["samples"].sum() == len(kept) and len(effort) == 5


@pytest.mark.parametrize(
    ("explanation", "answer"),
    [
        ("parsed='A'; truth='C'", "A"),
        ("boxed='18'; numeric compare: 18.0 vs 18.0; truth='18'", "18"),
        ("extracted='1,000'; truth='1000'", "1000"),
        ("boxed='1000.0'; truth='1000'", "1000"),
        ("pred=B; truth=B; boxed='B'", "B"),
        ("boxed=\"it's\"; truth='3'", "it's"),
        ("boxed='\\\\frac{1}{2}'; truth='0.5'", "1/2"),
        ("no numeric content found; truth='18'", None),
        ("no Answer: <LETTER> found; truth='B'", None),
        ("pred=None; truth=B", None),
    ],
)
def test_explanations_hold_the_answer(explanation, answer, tmp_path):
    assert table(published(tmp_path, explanations=[explanation]))["answer"].to_pylist() == [answer]


def record(**changes):
    base = dict(
        qid="gsm8k-1", correct=[True], explanations=["boxed='18'; truth='18'"], num_tokens=[7]
    )
    return json.dumps(base | changes)


def published(folder, *lines, **changes):
    path = folder / "Some-Model--temp-0.7--samples-1--max-512.jsonl"
    path.write_text("\n".join(lines or [record(**changes)]) + "\n")
    return path


def test_broken_and_duplicate_lines_are_named_and_the_rest_is_kept(tmp_path):
    path = published(
        tmp_path,
        record(),
        '{"qid": "gsm8k-2", "correct": [tr',
        record(qid="gsm8k-3", num_tokens=[1, 2]),
        record(qid="gsm8k-1"),
        "[1, 2]",
        record(qid="gsm8k-4", explanations=["who knows"]),
        record(qid="gsm8k-5", num_tokens=[-1]),
        "",
        record(qid="gsm8k-6", correct=["yes"]),
        '{"doc_id": 1, "filtered_resps": ["3"]}',  # of another format
        record(qid="gsm8k-7"),
    )
    lines, report = collected()
    assert table(path, report=report)["question_id"].to_pylist() == ["gsm8k-1", "gsm8k-7"]
    words = {
        2: "not JSON",
        3: "num_tokens has 2 entries",
        4: "a second record",
        5: "a list",
        6: "'who knows'",
        7: "not negative",
        9: "true and false",
        10: "no qid",
    }
    assert len(lines) == len(words) == report.faults
    for line, (number, fault) in zip(lines, words.items()):
        assert f"{path}, line {number}: " in line and fault in line
    with pytest.raises(InputError, match=r"line 2: not JSON .*without --strict"):
        table(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: the file is empty"),
        (b"\x00\x01\x02\xff" * 100, "line 1: binary"),
        (b"hello\nworld\n", "line 1: not a format that is known"),
        (b'{"something": 1}\n', "no column model, .* --mapping"),
        (b"PAR1 but not really", "not readable as Parquet"),
    ],
)
def test_files_of_no_known_kind_are_named(content, words, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        table(path)


def test_a_truncated_file_keeps_what_came_before(tmp_path):
    whole = record() + "\n" + record(qid="gsm8k-2")
    path = published(tmp_path, whole[:-20])
    lines, report = collected()
    assert table(path, report=report).num_rows == 1
    assert "line 2: not JSON" in lines[0]


def test_a_partial_import_leaves_no_parquet_behind(tmp_path, capsys):
    path = published(tmp_path, record(), "broken")
    out = tmp_path / "samples.parquet"
    assert cli.main(["curves", str(path), "--samples", str(out), "--strict"]) == 2
    assert "line 2" in capsys.readouterr().err
    assert sorted(x.name for x in tmp_path.iterdir()) == [path.name]
    out.write_bytes(b"before")
    assert cli.main(["curves", str(path), "--samples", str(out), "--strict"]) == 2
    assert out.read_bytes() == b"before"


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Batches leave as they fill: no more than one is held."""
    path = published(
        tmp_path,
        *(
            record(
                qid=f"gsm8k-{i}",
                correct=[True] * 64,
                num_tokens=[7] * 64,
                explanations=["boxed='18'; truth='18'"] * 64,
            )
            for i in range(3000)
        ),
    )
    sizes = [batch.num_rows for batch in read([path])]
    assert sum(sizes) == 3000 * 64 and max(sizes) < 2**16 + 64 and len(sizes) >= 2


def lm_eval(folder, *records):
    folder = folder / "org__small-model"
    folder.mkdir(exist_ok=True)
    path = folder / "samples_gsm8k_2026-01-01T00-00-00.000000.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in records))
    return path


def document(doc, answers, **changes):
    return (
        dict(
            doc_id=doc,
            doc={},
            target="text #### 18",
            resps=[[f"so {a}" for a in answers]],
            filtered_resps=answers,
            filter="strict-match",
            num_tokens=[3] * len(answers),
        )
        | changes
    )


def test_lm_eval_repeats_are_samples(tmp_path):
    path = lm_eval(
        tmp_path,
        document(0, ["18", "[invalid]", "17"]),
        document(0, ["18"], exact_match=1.0),
        document(0, ["99"], exact_match=0.0, filter="flexible-extract"),
        document(1, ["1,800"], exact_match=0.0),
        document(2, ["A"], exact_match=1.0),
        document(3, ["5"]),
    )
    lines, report = collected()
    rows = table(path, report=report).to_pandas()
    assert set(rows["model"]) == {"small-model"} and set(rows["benchmark"]) == {"gsm8k"}
    assert rows["question_id"].tolist() == ["0", "1", "2"] and detect(path) == "lm-eval"
    assert len(lines) == 3 and "line 1: none of exact_match" in lines[0]
    path.unlink()
    path.parent.rmdir()
    path = lm_eval(
        tmp_path,
        document(0, ["18", "[invalid]", "17"], exact_match=0.3),
        document(0, ["18"], exact_match=1.0),
    )
    rows = table(path).to_pandas()
    assert rows["sample"].tolist() == [0, 1, 2, 3]
    assert rows["correct"].tolist() == [True, False, False, True]
    assert rows["answer"].tolist()[1] is None or rows["answer"].isna()[1]


def test_lm_eval_needs_a_tokenizer_where_tokens_are_not_counted(tmp_path):
    one = document(0, ["18"], exact_match=1.0)
    del one["num_tokens"]
    path = lm_eval(tmp_path, one)
    with pytest.raises(InputError, match="--tokenizer"):
        table(path)


def inspect_log(folder, text=None):
    def sample(number, epoch, value, answer):
        return dict(
            id=number,
            epoch=epoch,
            input="?",
            target="18",
            output=dict(
                choices=[dict(message=dict(content="so 18"), stop_reason="stop")],
                usage=dict(output_tokens=9, reasoning_tokens=4),
            ),
            scores=dict(match=dict(value=value, answer=answer)),
        )

    log = dict(
        version=2,
        status="success",
        eval=dict(task="bench/gsm8k", model="openai/gpt-x"),
        samples=[
            sample(1, 1, "C", "18"),
            sample(1, 2, "I", "17"),
            sample(2, 1, 1.0, None),
            sample(3, 1, "?", "18"),
        ],
    )
    path = folder / "log.json"
    path.write_text(json.dumps(log, indent=1) if text is None else text(json.dumps(log, indent=1)))
    return path


def test_inspect_epochs_are_samples(tmp_path):
    path = inspect_log(tmp_path)
    lines, report = collected()
    rows = table(path, report=report).to_pandas()
    assert detect(path) == "inspect" and len(lines) == 1 and "sample 4: score '?'" in lines[0]
    assert rows["question_id"].tolist() == ["1", "1", "2"]
    assert rows["sample"].tolist() == [0, 1, 0] and rows["correct"].tolist() == [True, False, True]
    assert set(rows["model"]) == {"gpt-x"} and set(rows["benchmark"]) == {"gsm8k"}
    assert rows["thinking_tokens"].tolist() == [4, 4, 4]


def test_a_truncated_inspect_log_says_where_it_breaks_off(tmp_path):
    path = inspect_log(tmp_path, lambda text: text[: text.rindex('"id": 3')])
    lines, report = collected()
    assert table(path, report=report).num_rows == 3
    assert "near line" in lines[0] and "breaks off after sample 3" in lines[0]
    path.write_text('{"eval": nonsense')
    with pytest.raises(InputError, match="near line 1: not JSON"):
        table(path)


def inspect_sample(number, value="C", epoch=1, **changes):
    return (
        dict(
            id=number,
            epoch=epoch,
            input="?",
            target="18",
            output=dict(
                choices=[dict(message=dict(content="so 18"), stop_reason="stop")],
                usage=dict(output_tokens=9),
            ),
            scores=dict(match=dict(value=value, answer="18")),
        )
        | changes
    )


def inspect_file(folder, *inside, name="log.json", head=None):
    log = dict(version=2, eval=dict(task="t", model="openai/gpt-x") | (head or {}), samples=inside)
    path = folder / name
    path.write_text(json.dumps(log))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_ZSTANDARD])
def test_an_archive_is_the_same_as_json(method, tmp_path):
    inside = [inspect_sample(i, "CI"[i % 2], epoch) for i in (1, 2) for epoch in (1, 2)]
    plain = inspect_file(tmp_path, *inside)
    for head in ("header.json", "_journal/start.json"):
        path = tmp_path / "2026_t.eval"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(head, json.dumps(dict(eval=dict(task="t", model="openai/gpt-x"))))
            for x in inside:
                archive.writestr(f"samples/{x['id']}_epoch_{x['epoch']}.json", json.dumps(x))
        assert detect(path) == "inspect" and table(path).equals(table(plain))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not readable as an archive"):
        table(path)


def test_a_log_of_several_scorers_says_which_it_reads(tmp_path):
    scores = dict(format_ok=dict(value="C"), match=dict(value="I", answer="17"))
    path = inspect_file(tmp_path, inspect_sample(1, scores=scores))
    lines, report = collected()
    assert table(path, report=report)["correct"].to_pylist() == [True]
    assert len(lines) == 1 and "scorer 'format_ok' is read; it also has 'match'" in lines[0]
    lines, report = collected()
    chosen = table(path, report=report, reading=Reading(scorer="match"))
    assert chosen["correct"].to_pylist() == [False] and not lines
    with pytest.raises(InputError, match="no score by f1; it has format_ok, match"):
        table(path, reading=Reading(scorer="f1"))
    path = inspect_file(tmp_path, inspect_sample(1, dict(strict=0, loose=1)))
    assert table(path, reading=Reading(metric="loose"))["correct"].to_pylist() == [True]
    lines, report = collected()
    assert table(path, report=report)["correct"].to_pylist() == [False] and "'loose'" in lines[0]


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("C", True),
        ("I", False),
        ("P", False),
        ("N", False),
        ("yes", True),
        ("no", False),
        ("True", True),
        ("false", False),
        ("1.0", True),
        ("0", False),
        (1, True),
        (0.2, False),
        (True, True),
        ("CORRECT", True),
        ("incorrect", False),
    ],
)
def test_what_inspect_takes_for_a_grade_is_one(value, right, tmp_path):
    assert table(inspect_file(tmp_path, inspect_sample(1, value)))["correct"].to_pylist() == [right]


@pytest.mark.parametrize("value", [2, 10.0, -1, "7", 1.01])
def test_a_number_outside_0_and_1_is_no_grade(value, tmp_path):
    path = inspect_file(tmp_path, inspect_sample(1, 1), inspect_sample(2, value))
    with pytest.raises(InputError, match=r"outside 0…1.*--scorer"):
        table(path, report=Report())
    path = lm_eval(tmp_path, document(0, ["18"], exact_match=float(value)))
    with pytest.raises(InputError, match=r"outside 0…1.*--metric"):
        table(path, report=Report())


def test_tokens_are_those_of_all_generations_before_scoring(tmp_path):
    def generated(tokens, **where):
        usage = dict(output_tokens=tokens, reasoning_tokens=tokens - 1)
        return dict(event="model", output=dict(usage=usage)) | where

    spans = [
        generated(23),
        generated(17),
        dict(event="tool"),
        generated(207),
        dict(event="span_begin", id="s", type="scorers"),
        dict(event="span_begin", id="s1", type="scorer", parent_id="s"),
        generated(99, span_id="s1"),
    ]
    steps = [
        generated(5),
        dict(event="step", action="begin", type="scorer"),
        generated(99),
        dict(event="step", action="end", type="scorer"),
        generated(6),
    ]
    usage = {"openai/gpt-x": dict(output_tokens=281), "openai/judge": dict(output_tokens=999)}
    path = inspect_file(
        tmp_path,
        inspect_sample(1, events=spans),
        inspect_sample(2, events=steps),
        inspect_sample(3, model_usage=usage),
        inspect_sample(4),
    )
    rows = table(path)
    assert rows["tokens"].to_pylist() == [247, 11, 281, 9]
    assert rows["thinking_tokens"].to_pylist() == [244, 9, None, None]


def test_a_sample_that_ran_into_a_limit_did_not_finish(tmp_path):
    stopped = inspect_sample(3)
    stopped["output"]["choices"][0]["stop_reason"] = "max_tokens"
    failed = inspect_sample(4, scores=None, error=dict(message="timed out"))
    path = inspect_file(
        tmp_path,
        inspect_sample(1),
        inspect_sample(2, limit=dict(type="token", limit=5)),
        stopped,
        failed,
    )
    lines, report = collected()
    rows = table(path, report=report)
    assert rows["finish_reason"].to_pylist() == ["stop", "length", "length"]
    assert len(lines) == 1 and "timed out" in lines[0]


def test_confidence_is_the_mean_probability_of_the_tokens(tmp_path):
    sure = inspect_sample(1)
    logs = [dict(token="a", logprob=-0.1), dict(token="b", logprob=-0.3)]
    sure["output"]["choices"][0]["logprobs"] = dict(content=logs)
    rows = table(inspect_file(tmp_path, sure, inspect_sample(2)))
    np.testing.assert_allclose(rows["confidence"].to_pylist()[0], np.exp(-0.2))
    assert rows["confidence"].to_pylist()[1] is None


UNUSUAL = [
    "NaN",
    "-Infinity",
    str(2**70),
    '"\\ud83d"',
    '"\\ud83d\\ude00 NaN \\\\ud83d"',
    "18446744073709551615",
    "-0.00012345678901234567",
]


@pytest.mark.parametrize("written", UNUSUAL)
def test_json_is_read_as_its_writers_write_it(written, tmp_path):
    inside = [inspect_sample(1, note="@@"), inspect_sample(2)]
    path = inspect_file(tmp_path, *inside, head=dict(note="@@"))
    path.write_text(path.read_text().replace('"@@"', written))
    assert table(path)["question_id"].to_pylist() == ["1", "2"]
    path = lm_eval(tmp_path, document(0, ["18"], exact_match=1.0, note="@@"))
    path.write_text(path.read_text().replace('"@@"', written))
    assert table(path)["correct"].to_pylist() == [True]


def test_only_a_sample_without_a_score_is_left_out(tmp_path):
    path = inspect_file(
        tmp_path, inspect_sample(1), inspect_sample(2, float("nan")), inspect_sample(3)
    )
    lines, report = collected()
    assert table(path, report=report)["question_id"].to_pylist() == ["1", "3"] and len(lines) == 1


@given(st.text('aNI\\"0123456789ud{}[],:fity-', max_size=60), st.integers(1, 7))
def test_strings_stay_as_they_are_however_the_file_is_cut(text, size):
    whole = json.dumps([text, 2**70, float("nan"), {"a": text}, 0.00012345678901234567]).encode()
    lines, pieces = inspect_ai._Lines(io.BytesIO(whole)), []
    while piece := lines.read(size):
        pieces.append(piece)
    found = json.loads(b"".join(pieces))
    assert found[0] == found[3]["a"] == text and found[1] == 2.0**70 and found[2] is None
    assert found[4] == 0.00012345678901234567


def test_filters_that_are_not_named_are_not_repeats(tmp_path):
    lines = [
        document(i, [answer], exact_match=0.0, doc_hash=f"h{i}", resps=[["so 18"]])
        for answer in ("[invalid]", "18")
        for i in (0, 1)
    ]
    for line in lines:
        del line["filter"]
    path = lm_eval(tmp_path, *lines)
    with pytest.raises(InputError, match=r"line 3: .*cannot be told apart"):
        table(path, report=Report())
    assert sum(len(x.answer) for x in answers([path], texts=True)) == 2
    again = [document(0, [x], exact_match=1.0, doc_hash="h", resps=[[x]]) for x in ("18", "17")]
    path.unlink()
    path.parent.rmdir()
    assert table(lm_eval(tmp_path, *again))["sample"].to_pylist() == [0, 1]


def test_filters_that_are_named_are_chosen(tmp_path):
    path = lm_eval(
        tmp_path,
        *(
            document(0, [x], exact_match=y, filter=name, doc_hash="h")
            for name, x, y in (("strict", "17", 0.0), ("flexible", "18", 1.0))
        ),
    )
    lines, report = collected()
    assert table(path, report=report)["correct"].to_pylist() == [False]
    assert len(lines) == 1 and "filter 'strict' is read; it also has 'flexible'" in lines[0]
    assert table(path, reading=Reading(filter="flexible"))["correct"].to_pylist() == [True]
    with pytest.raises(InputError, match="no filter 'loose'; it has 'strict', 'flexible'"):
        table(path, reading=Reading(filter="loose"))


def test_repeats_whose_grades_are_not_in_the_log_are_graded(tmp_path, capsys):
    lines = [
        document(
            i,
            ["18"],
            exact_match=1.0,
            filter=name,
            doc_hash=f"h{i}",
            resps=[["The answer is 18.", "The answer is 17.", "#### 18"]],
        )
        for name in ("score-first", "maj@3")
        for i in (0, 1)
    ]
    path = lm_eval(tmp_path, *lines)
    with pytest.raises(InputError, match=r"no sample could be read .*mechlab grade"):
        table(path, report=Report())
    out = tmp_path / "graded.parquet"
    assert cli.main(["grade", str(path), "--out", str(out), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 6
    graded = samples.read(out)
    assert graded["sample"].to_pylist() == [0, 1, 2] * 2
    assert graded["correct"].to_pylist() == [True, False, True] * 2
    with pytest.raises(InputError, match="tokens are not counted"):
        estimate(graded)


def test_a_command_that_read_nothing_fails_and_writes_nothing(tmp_path, capsys):
    path = lm_eval(
        tmp_path,
        document(
            0,
            [],
            resps=[[["-1.5", "False"]]],
            arguments={"gen_args_0": {"arg_0": "?", "arg_1": " A"}},
        ),
    )
    out = tmp_path / "graded.parquet"
    assert cli.main(["grade", str(path), "--out", str(out)]) == 2
    assert "no text could be read" in capsys.readouterr().err and not out.exists()


def test_duplicates_are_found_over_all_files(tmp_path):
    one = inspect_file(tmp_path, inspect_sample(1), inspect_sample(2), name="a.json")
    two = inspect_file(tmp_path, inspect_sample(1, "I"), inspect_sample(3), name="b.json")
    lines, report = collected()
    assert table(one, two, report=report)["question_id"].to_pylist() == ["1", "2", "3"]
    assert (
        len(lines) == 1
        and "b.json" in lines[0]
        and "stands in" in lines[0]
        and "a.json" in lines[0]
    )
    pooled = table(one, two, pool=True).to_pandas()
    assert pooled["sample"].tolist() == [0, 0, 1, 0] and pooled["correct"].tolist()[2] is False
    kept = tmp_path / "kept.parquet"
    samples.write(kept, table(one).to_batches())
    lines, report = collected()
    assert table(kept, two, one, report=report, pool=False).num_rows == 3 and len(lines) == 3
    assert table(one, kept, pool=True)["sample"].to_pylist() == [0, 0, 1, 1]


TABLE = [
    ["m1", "q1", "True", "120", "204"],
    ["m1", "q1", "False", "140", "203"],
    ["m1", "q2", "True", "90", "113"],
]
HEADER = ["model", "question_id", "correct", "tokens", "answer"]


def separated(by):
    return "".join(by.join(row) + "\n" for row in [HEADER, *TABLE]).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", separated(",")),
        ("a.tsv", separated("\t")),
        ("a.csv", separated(";")),
        ("a.csv", b"\xef\xbb\xbf" + separated(",")),
        ("a.csv.gz", gzip.compress(separated(","))),
        ("a.csv.zst", zstd.compress(separated(","))),
        ("a.jsonl", b"".join(json.dumps(dict(zip(HEADER, row))).encode() + b"\n" for row in TABLE)),
        (
            "a.jsonl.gz",
            gzip.compress(
                b"".join(json.dumps(dict(zip(HEADER, row))).encode() + b"\n" for row in TABLE)
            ),
        ),
    ],
    ids=["commas", "tabs", "semicolons", "mark", "gzip", "zstd", "jsonl", "jsonl.gz"],
)
def test_a_table_is_read_in_any_dress(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    rows = table(path, benchmark="AIME").to_pandas()
    assert detect(path) == "table" and rows["correct"].tolist() == [True, False, True]
    assert rows["tokens"].tolist() == [120, 140, 90] and rows["answer"].tolist()[0] == "204"
    assert rows["sample"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "whole"),
    [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd.compress), ("a.csv.gz", gzip.compress)],
)
@pytest.mark.parametrize("kept", [40, 0.6])
def test_a_compressed_file_that_breaks_off_is_named(name, whole, kept, tmp_path):
    rows = [dict(zip(HEADER, TABLE[0])) | {"sample": i * 7919 % 104729} for i in range(20_000)]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if "csv" in name:
        text = (
            ",".join(HEADER).encode()
            + b"\n"
            + b"".join(f"m,q{i * 7919 % 104729},1,5,{i}\n".encode() for i in range(20_000))
        )
    path = tmp_path / name
    content = whole(text)
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(InputError, match=name):
        table(path, benchmark="AIME", report=Report())


def test_a_fault_in_json_lines_names_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(dict(zip(HEADER, TABLE[0])))
    path.write_text(f"{good}\n\nnonsense\n{good.replace('True', 'maybe')}\n")
    lines, report = collected()
    assert table(path, benchmark="AIME", report=report).num_rows == 1
    assert "line 3: not JSON" in lines[0] and "line 4: correct is 'maybe'" in lines[1]


def test_logs_may_be_compressed_and_lie_in_folders(tmp_path, capsys):
    folder = tmp_path / "out" / "org__m"
    folder.mkdir(parents=True)
    line = json.dumps(document(0, ["18"], exact_match=1.0)) + "\n"
    (folder / "samples_t_2026-01-01T00-00-00.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (folder / "results_2026-01-01T00-00-00.json").write_text("{}")
    assert cli.main(["curves", str(tmp_path / "out"), "--format", "json", "--replicates", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1


def test_details_of_lighteval_are_read(tmp_path):
    folder = tmp_path / "details" / "org" / "model-x" / "2026-01-01T00-00-00.000000"
    folder.mkdir(parents=True)
    path = folder / "details_lighteval|gsm8k|0_2026-01-01T00-00-00.000000.parquet"
    doc = dict(query="?", choices=["18"], gold_index=0, id="7", task_name="gsm8k")
    one = dict(
        doc=doc,
        model_response=dict(text=["so 18"], output_tokens=[[1, 2, 3]], logprobs=[]),
        metric=dict(extractive_match=1.0, length=1.0),
    )
    pq.write_table(pa.Table.from_pylist([one]), path)
    lines, report = collected()
    rows = table(path, report=report)
    assert detect(path) == "lighteval" and rows["tokens"].to_pylist() == [3]
    assert rows["model"].to_pylist() == ["model-x"] and rows["benchmark"].to_pylist() == ["gsm8k"]
    assert rows["correct"].to_pylist() == [True] and "metric 'extractive_match'" in lines[0]
    old = dict(
        full_prompt="?",
        gold=["18"],
        predictions=["a 18", "b 17"],
        hash="h",
        cont_tokens=[[1, 2], [3]],
        metrics=dict(em=0.5),
        specifics={"x": 1},
    )
    pq.write_table(pa.Table.from_pylist([old]), path)
    with pytest.raises(InputError, match="mechlab grade"):
        table(path, report=Report())
    record = next(answers([path], texts=True))
    assert record.texts == ["a 18", "b 17"] and record.truth == "18" and record.tokens == [2, 1]


def test_completions_of_search_and_learn_are_graded(tmp_path, capsys):
    path = tmp_path / "best_of_n_completions.jsonl"
    path.write_text(
        json.dumps(
            dict(
                problem="?",
                answer="\\frac{1}{2}",
                unique_id="test/1.json",
                completions=["\\boxed{0.5}", "\\boxed{2}"],
                scores=[[0.1, 0.9], [0.2, 0.3]],
                completion_tokens=[11, 12],
            )
        )
        + "\n"
    )
    assert detect(path) == "search-and-learn"
    out = tmp_path / "graded.parquet"
    arguments = ["grade", str(path), "--out", str(out), "--verifier", "math", "--model", "m"]
    assert cli.main(arguments) == 0
    rows = samples.read(out).to_pandas()
    assert rows["correct"].tolist() == [True, False] and rows["reward"].tolist() == [0.9, 0.3]
    assert rows["tokens"].tolist() == [11, 12] and set(rows["model"]) == {"m"}
    capsys.readouterr()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_outputs_of_matharena_are_read(kind, tmp_path):
    rows = [
        dict(
            problem_idx="1",
            model_name=f"o4-mini ({effort})",
            idx_answer=i,
            answer="\\boxed{70}",
            gold_answer="70",
            parsed_answer="70",
            correct=i == 0,
            output_tokens=100 + i,
            cost=0.1,
        )
        for effort in ("low", "high")
        for i in (0, 1)
    ]
    path = tmp_path / f"aime_2025.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(x) + "\n" for x in rows))
    found = table(path).to_pandas()
    assert detect(path) == "matharena" and set(found["benchmark"]) == {"aime_2025"}
    assert list(found["model"].unique()) == ["o4-mini (low)", "o4-mini (high)"]
    assert found["sample"].tolist() == [0, 1, 0, 1] and found["tokens"].tolist() == [100, 101] * 2


MAPPING = """
[columns]
model = "who"
question_id = "problem"
correct = "ok"
tokens = "length"
answer = "said"
[constants]
benchmark = "MINE"
"""


def test_any_table_is_read_by_a_mapping(tmp_path):
    mapping = tmp_path / "map.toml"
    mapping.write_text(MAPPING)
    path = tmp_path / "log.csv"
    path.write_text(
        'who,problem,ok,length,said\nm,1,true,10,"1,000"\nm,1,0,11,\nm,2,maybe,3,5\n'
        "m,2,1,x,5\nm,2,1,4\nm,2,yes,4,1000.0\n"
    )
    lines, report = collected()
    rows = table(path, report=report, mapping=str(mapping)).to_pandas()
    assert rows["sample"].tolist() == [0, 1, 0] and rows["answer"].tolist()[::2] == ["1000"] * 2
    assert rows["correct"].tolist() == [True, False, True]
    faults = "\n".join(lines)
    assert "line 4: correct is 'maybe'" in faults and "line 5: tokens is 'x'" in faults
    assert "line 6: 4 cells where the header has 5" in faults
    frame = rows.assign(
        who="m",
        problem=rows["question_id"],
        ok=rows["correct"],
        length=rows["tokens"],
        said=rows["answer"],
    )
    parquet = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(frame[["who", "problem", "ok", "length", "said"]]), parquet)
    assert table(parquet, mapping=str(mapping))["correct"].to_pylist() == [True, False, True]
    path.write_text("who,problem,ok,said\nm,1,true,5\n")
    with pytest.raises(InputError, match=r"no column length; it has who, problem, ok, said$"):
        table(path, mapping=str(mapping))
    with pytest.raises(InputError, match=r"no column model.* among who, problem.*--mapping"):
        table(path)


@pytest.mark.parametrize("numbered", [False, True])
def test_rows_that_repeat_others_are_told_where_nothing_numbers_them(numbered, tmp_path):
    header = "model,benchmark,question_id,correct,tokens,answer" + ",sample" * numbered
    rows = ["m,b,1,1,10,5", "m,b,1,0,12,6", "m,b,1,1,10,5", "m,b,2,1,10,5", "m,b,1,1,10,5"]
    path = tmp_path / "log.csv"
    lines = [f"{row},{i}" if numbered else row for i, row in enumerate(rows)]
    path.write_text("\n".join([header, *lines]))
    said, report = collected()
    assert table(path, report=report).num_rows == 5
    assert len(said) == (0 if numbered else 1)
    assert numbered or "repeat another in all that is read: 2" in said[0]


PRICED = MAPPING.replace('tokens = "length"', 'cost = "usd"') + (
    "[price_per_million_tokens]\nsmall = 1.0\nlarge = 30\n"
)


def test_costs_stand_in_place_of_tokens_in_tables_of_routers(tmp_path):
    mapping, path = tmp_path / "map.toml", tmp_path / "routed.csv"
    mapping.write_text(PRICED)
    path.write_text(
        "who,problem,ok,usd,said\nsmall,1,1,0.000121,\nlarge,1,1,0.0045,\nsmall,2,0,0.0000001,\n"
        "large,2,1,0,\nother,2,1,0.1,\nlarge,3,1,cheap,\n"
    )
    lines, report = collected()
    rows = table(path, report=report, mapping=str(mapping)).to_pandas()
    assert rows["tokens"].tolist() == [121, 150, 1]
    faults = "\n".join(lines)
    assert "line 5: cost is '0'; give USD above 0" in faults
    assert "line 6: the mapping has no price_per_million_tokens of other" in faults
    assert "line 7: cost is 'cheap'" in faults


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PRICED.partition("[price_per")[0], "cost in place of tokens needs a table"),
        (PRICED.replace("30", "-3"), "large = -3; give USD above 0"),
        ("[columns]\nmodel = 'who'", "nothing says what is benchmark, question_id"),
        (MAPPING + "color = 'x'", "color: the fields are"),
        ("nonsense", "not readable as TOML"),
        (MAPPING.replace('"who"', '"whom"'), "whom"),
    ],
)
def test_mappings_that_do_not_fit_are_named(text, words, tmp_path):
    mapping, path = tmp_path / "map.toml", tmp_path / "log.csv"
    mapping.write_text(text)
    path.write_text("who,problem,ok,length,said\nm,1,true,10,1\n")
    with pytest.raises(InputError, match=words):
        table(path, mapping=str(mapping))


def test_folders_of_mixed_files_are_read_each_by_its_kind(tmp_path, capsys):
    published(tmp_path, record(), record(qid="gsm8k-2"))
    samples.write(tmp_path / "other.parquet", table(QWEN).to_batches())
    assert cli.main(["curves", str(tmp_path), "-n", "1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found["curves"]} == {"Some-Model", "Qwen2-7B"}


def test_a_parquet_of_other_columns_is_named(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match="missing column model"):
        samples.read(path)
    found = table(QWEN).to_pandas().astype({"sample": object})
    found.loc[3, "sample"] = None
    pq.write_table(pa.Table.from_pandas(found), path)
    with pytest.raises(InputError, match="row 3: sample is missing"):
        samples.read(path)
