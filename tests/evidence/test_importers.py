"""Logs import to the right counts; what is broken is named by file and line, and the rest kept."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mechlab import InputError, cli
from mechlab.evidence import samples
from mechlab.evidence.curves import estimate
from mechlab.evidence.importers import Report, detect, read

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
        ('boxed="it\'s"; truth=\'3\'', "it's"),
        ("boxed='\\\\frac{1}{2}'; truth='0.5'", "1/2"),
        ("no numeric content found; truth='18'", None),
        ("no Answer: <LETTER> found; truth='B'", None),
        ("pred=None; truth=B", None),
    ],
)  # fmt: skip
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
    words = {2: "not JSON", 3: "num_tokens has 2 entries", 4: "a second record", 5: "a list",
             6: "'who knows'", 7: "not negative", 9: "true and false",
             10: "no qid"}  # fmt: skip
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
        *(record(qid=f"gsm8k-{i}", correct=[True] * 64, num_tokens=[7] * 64,
                 explanations=["boxed='18'; truth='18'"] * 64) for i in range(3000)),
    )  # fmt: skip
    sizes = [batch.num_rows for batch in read([path])]
    assert sum(sizes) == 3000 * 64 and max(sizes) < 2**16 + 64 and len(sizes) >= 2


def lm_eval(folder, *records):
    folder = folder / "org__small-model"
    folder.mkdir()
    path = folder / "samples_gsm8k_2026-01-01T00-00-00.000000.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in records))
    return path


def document(doc, answers, **changes):
    return dict(
        doc_id=doc, doc={}, target="text #### 18", resps=[[f"so {a}" for a in answers]],
        filtered_resps=answers, filter="strict-match", num_tokens=[3] * len(answers),
    ) | changes  # fmt: skip


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
    assert len(lines) == 2 and "line 1: none of exact_match" in lines[0]
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
            id=number, epoch=epoch, input="?", target="18",
            output=dict(
                choices=[dict(message=dict(content="so 18"), stop_reason="stop")],
                usage=dict(output_tokens=9, reasoning_tokens=4),
            ),
            scores=dict(match=dict(value=value, answer=answer)),
        )  # fmt: skip

    log = dict(
        version=2, status="success", eval=dict(task="bench/gsm8k", model="openai/gpt-x"),
        samples=[sample(1, 1, "C", "18"), sample(1, 2, "I", "17"), sample(2, 1, 1.0, None),
                 sample(3, 1, "?", "18")],
    )  # fmt: skip
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
    frame = rows.assign(who="m", problem=rows["question_id"], ok=rows["correct"],
                        length=rows["tokens"], said=rows["answer"])  # fmt: skip
    parquet = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pandas(frame[["who", "problem", "ok", "length", "said"]]), parquet)
    assert table(parquet, mapping=str(mapping))["correct"].to_pylist() == [True, False, True]
    with pytest.raises(InputError, match="no column model.*--mapping"):
        table(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
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
