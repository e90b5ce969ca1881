"""From a model and a benchmark to a sample table: nothing lost, nothing repeated, faults named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import hf_reference as reference
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mechlab.core.errors import InputError
from mechlab.evidence import samples as sample_table
from models import arithmetic, load, questions, save, score, settings
from models import sample as pipeline

CONFIG = """
out = "{out}"
[model]
spec = "{model}"
name = "tiny"
dtype = "float32"
[benchmark]
source = "arithmetic"
questions = {questions}
[sampling]
n = {n}
temperature = 1.0
max_tokens = {tokens}
"""


def write(tmp_path, models, **changes) -> Path:
    fields = {"out": tmp_path / "run", "model": models / "speaker", "questions": 6, "n": 5}
    file = tmp_path / "config.toml"
    file.write_text(CONFIG.format(**({"tokens": 12} | fields | changes)))
    return file


def sampled(file: Path) -> pa.Table:
    return sample_table.read(pipeline.sample(settings.read(file, pipeline.Config)))


LOGPROBS = ["confidence", "logprob_sum", "logprob_mean"]


def same(one: pa.Table, other: pa.Table) -> bool:
    """The same samples; log-probabilities of a batch of another shape may be rounded otherwise."""
    for name in LOGPROBS:
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), atol=1e-4)
    return one.drop_columns(LOGPROBS).equals(other.drop_columns(LOGPROBS))


def test_the_table_has_each_sample_once_graded_and_counted(tmp_path, model):
    table = sampled(write(tmp_path, model)).to_pandas()
    assert table.groupby("question_id")["sample"].apply(list).tolist() == [list(range(5))] * 6
    truths = {q.id: q for q in questions.read("arithmetic", count=6)}
    assert set(table.question_id) == set(truths)
    texts = {
        (line["question_id"], line["sample"]): line
        for line in map(json.loads, (tmp_path / "run" / "samples.jsonl").read_text().splitlines())
    }
    lm = load(model / "speaker", dtype="float32")
    for row in table.itertuples():
        line = texts[row.question_id, row.sample]
        assert row.correct == (row.answer == truths[row.question_id].truth)
        ended = row.finish_reason == "stop"
        assert row.tokens >= len(lm.encode(line["text"])) + ended  # a special token has no text
        assert ended or row.tokens == 12


@pytest.mark.slow
def test_a_run_killed_at_any_moment_loses_and_repeats_nothing(tmp_path, model):
    whole = sampled(write(tmp_path, model, out=tmp_path / "whole", questions=40, n=8, tokens=60))
    file = write(tmp_path, model, questions=40, n=8, tokens=60)
    journal = tmp_path / "run" / "samples.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "models.sample", file], stderr=-3, stdout=-3)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "samples.parquet").exists()
    before = journal.read_bytes()
    journal.write_bytes(before + b'{"question_id": "half a li')
    assert same(sampled(file), whole)
    assert journal.read_bytes().startswith(before)
    keys = [
        (line["question_id"], line["sample"])
        for line in map(json.loads, journal.read_text().splitlines())
    ]
    assert len(keys) == len(set(keys)) == 40 * 8


def test_two_runs_at_a_time_in_one_folder_are_refused(tmp_path, model):
    from mechlab.simulation.part_files import RunDirectory

    file = write(tmp_path, model)
    sampled(file)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    held = RunDirectory(str(tmp_path / "run"), manifest)
    with pytest.raises(InputError, match=r"out = .*: another run is writing there"):
        sampled(file)
    del held


def test_a_finished_run_is_not_sampled_again(tmp_path, model):
    file = write(tmp_path, model)
    first = sampled(file)
    told = []
    pipeline.sample(settings.read(file, pipeline.Config), tell=lambda **done: told.append(done))
    assert told == [] and sampled(file).equals(first)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": 4}, "n = 4 would lose some"),
        ({"questions": 5}, "is no more"),
        ({"tokens": 13}, "run"),
    ],
)
def test_another_config_refuses_to_append(tmp_path, model, change, says):
    sampled(write(tmp_path, model))
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    with pytest.raises(InputError, match=says):
        sampled(write(tmp_path, model, **change))
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_a_finished_run_grows_and_keeps_what_a_judge_said(tmp_path, model):
    small = sampled(write(tmp_path, model))
    judge = load(model / "judge", dtype="float32")
    score.score(judge, tmp_path / "run")
    rewards = sample_table.read(tmp_path / "run" / "samples.parquet")
    assert (rewards["judged_tokens"].to_numpy() > small["tokens"].to_numpy()).all()
    grown = sampled(write(tmp_path, model, n=7, questions=8))
    assert grown.num_rows == 56
    kept = grown.filter(pa.array(np.isin(grown["sample"], range(5))))
    assert kept.slice(0, 30)["reward"].equals(rewards["reward"])
    assert kept.slice(0, 30)["judged_tokens"].equals(rewards["judged_tokens"])
    assert grown["reward"].null_count == 26
    # as if it had been asked for at once
    once = sampled(write(tmp_path, model, n=7, questions=8, out=tmp_path / "once"))
    judged = ["reward", "judged_tokens"]
    assert same(grown.drop_columns(judged), once.drop_columns(judged))


@pytest.mark.slow
def test_a_run_of_searches_counts_what_was_pruned_and_judged(tmp_path, model):
    file = write(tmp_path, model, n=2)
    file.write_text(
        file.read_text() + f'[search]\njudge = "{model / "judge"}"\nboundaries = ["="]\n'
    )
    table = sampled(file)
    assert table.num_rows == 12 and not table["reward"].null_count
    for row in table.to_pylist():
        assert row["tokens"] > len(row["token_ids"])  # two continuations of each step
        assert row["judged_tokens"] >= len(row["question_id"]) + 1
        assert row["logprob_mean"] == pytest.approx(row["logprob_sum"] / len(row["token_ids"]))
    assert same(sampled(file), table)
    journal = tmp_path / "run" / "samples.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
    assert same(sampled(file), table)  # a search depends on its question and number alone


def test_a_runs_judge_is_part_of_it(tmp_path, model):
    models = shutil.copytree(model, tmp_path / "models")
    file = write(tmp_path, models, n=1)
    plain = file.read_text()

    def search(judge):
        file.write_text(plain + f'[search]\njudge = "{models / judge}"\nboundaries = ["="]\n')

    for judge, says in (("nowhere", "is not a folder"), ("speaker", "no reward model")):
        search(judge)
        with pytest.raises(InputError, match=says):
            sampled(file)
    search("judge")
    assert sampled(file).num_rows == 6  # nothing was begun before
    with pytest.raises(InputError, match="found by a search"):
        score.score(load(models / "judge"), tmp_path / "run")
    state = load(models / "judge", dtype="float32")
    changed = jax.tree.map(lambda leaf: leaf + 0.5, state.parameters)
    save(models / "judge", state.config, changed, special={"eos_token_id": arithmetic.END})
    with pytest.raises(InputError, match="another run: judge is"):
        sampled(file)


def test_questions_with_odd_line_ends_are_held_to(tmp_path, model):
    table = tmp_path / "table.jsonl"

    def write_questions(second):
        lines = [{"id": "a\u2028", "question": "1+1=", "answer": "2"}, second]
        table.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write_questions({"id": "b", "question": "1+2=", "answer": "3"})
    file = write(tmp_path, model)
    new = f'source = "table"\npath = "{table}"'
    text = file.read_text().replace('source = "arithmetic"', new)
    file.write_text(text.replace("questions = 6", ""))
    assert sampled(file).num_rows == 10
    write_questions({"id": "b", "question": "9+9=", "answer": "3"})
    with pytest.raises(InputError, match="question b was asked otherwise"):
        sampled(file)
    questions = tmp_path / "run" / "questions.jsonl"
    questions.write_text("xx\n" + questions.read_text())
    with pytest.raises(InputError, match=r"questions\.jsonl, line 1: no question"):
        sampled(file)


def test_a_table_that_was_cut_is_named(tmp_path, model):
    file = write(tmp_path, model)
    sampled(file)
    table = tmp_path / "run" / "samples.parquet"
    table.write_bytes(table.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"samples\.parquet: not a sample table"):
        sampled(file)
    table.unlink()
    assert sampled(file).num_rows == 30


def test_samples_record_log_probabilities_and_ids(tmp_path, model):
    file = write(tmp_path, model)
    file.write_text(file.read_text() + "token_ids = true\ntop_k = 3\n")
    table = sampled(file.parent / file.name)
    lm = load(model / "speaker", dtype="float32")
    for row in table.to_pylist()[:6]:
        prompt = lm.encode(row["question_id"] + "=")
        logits = np.asarray(lm.logits([prompt + row["token_ids"]]), np.float64)[0]
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        said = [
            chances[len(prompt) - 1 + place, token] for place, token in enumerate(row["token_ids"])
        ]
        assert row["logprob_sum"] == pytest.approx(sum(said), abs=1e-4)
        assert row["logprob_mean"] == pytest.approx(np.mean(said), abs=1e-4)
        assert row["confidence"] == pytest.approx(np.exp(np.mean(said)), abs=1e-4)
        assert row["tokens"] == len(row["token_ids"])


def test_other_weights_refuse_to_append(tmp_path, model):
    import dataclasses

    from flax import nnx

    from models.modeling import Decoder

    file = write(tmp_path, model, model=tmp_path / "model")
    config = dataclasses.replace(load(model / "speaker").config)
    for seed in (0, 1):
        state = nnx.split(Decoder(config, rngs=nnx.Rngs(seed)))[1]
        save(tmp_path / "model", config, state, special={"eos_token_id": arithmetic.END})
        arithmetic.save_tokenizer(tmp_path / "model")
        if seed == 0:
            sampled(file)
    with pytest.raises(InputError, match="weights"):
        sampled(file)


def edit_json(file: Path, **changes) -> None:
    fields = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(fields | changes))


def edit_weight(folder: Path) -> None:
    """Another last number of one tensor, in a file of the same size."""
    from safetensors.flax import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].at[-1, -1].set(0.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    changed = text.replace('"pre_tokenizer":null', '"pre_tokenizer": null')
    fields = json.loads(changed)
    fields["added_tokens"][0]["lstrip"] = not fields["added_tokens"][0]["lstrip"]
    file.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda at: edit_json(at / "generation_config.json", eos_token_id=[1, 5]), "weights stop"),
        (lambda at: edit_json(at / "config.json", eos_token_id=7), "weights stop"),
        (lambda at: edit_json(at / "config.json", rms_norm_eps=1e-3), "weights norm_epsilon"),
        (
            lambda at: edit_json(at / "config.json", rope_parameters={"rope_theta": 500.0}),
            "weights rope_theta is 10000.0 there and 500.0 here",
        ),
        (lambda at: edit_json(at / "config.json", max_position_embeddings=99), "max_positions"),
        (edit_weight, "weights is .*sha256"),
        (edit_token, "weights tokenizer"),
    ],
)
def test_another_model_under_the_same_name_refuses_to_append(tmp_path, model, edit, says):
    models = shutil.copytree(model, tmp_path / "models")
    file = write(tmp_path, models, n=1)
    sampled(file)
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    edit(models / "speaker")
    with pytest.raises(InputError, match=f"another run: {says}|another run: .*{says}"):
        sampled(write(tmp_path, models, n=2))
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_keys_that_decide_nothing_may_change(tmp_path, model):
    models = shutil.copytree(model, tmp_path / "models")
    first = sampled(write(tmp_path, models))
    edit_json(models / "speaker" / "config.json", transformers_version="9.9", use_cache=False)
    os.utime(models / "speaker" / "model.safetensors", (1, 1))  # read again, and the same
    assert sampled(write(tmp_path, models)).equals(first)


def test_weights_are_read_once_for_their_checksum(tmp_path, monkeypatch):
    digests = tmp_path / "digests.json"
    file, hashed = tmp_path / "weights", []
    file.write_bytes(b"0123456789")
    one = pipeline.hashlib.file_digest

    def counted(content, kind):
        hashed.append(content.name)
        return one(content, kind)

    monkeypatch.setattr(pipeline.hashlib, "file_digest", counted)

    def digest() -> str:
        known = pipeline.Digests(digests)
        said = [known.of(file) for _ in range(2)]
        known.write()
        assert said[0] == said[1]
        return said[0]

    first = digest()
    assert digest() == first and len(hashed) == 1
    file.write_bytes(b"9123456789")
    os.utime(file, ns=(5, 5))  # of the same size, by another time
    assert digest() != first and len(hashed) == 2
    (copied := tmp_path / "copy").write_bytes(b"0123456789")
    os.replace(copied, file)  # another inode
    assert digest() == first and len(hashed) == 3
    for damage in (b"", b"[1]", b"{", b'{"a": 1}'):
        digests.write_bytes(damage)
        assert digest() == first
    assert len(hashed) == 7


@pytest.mark.parametrize(
    "change", [{"tokens": 11}, {"correct": True}, {"text": "9"}, {"logprob_sum": -0.25}]
)
def test_two_lines_of_a_sample_that_differ_are_named(tmp_path, model, change):
    file = write(tmp_path, model)
    first = sampled(file)
    journal = tmp_path / "run" / "samples.jsonl"
    lines = journal.read_text().splitlines()
    old = json.loads(lines[2])
    assert old | change != old
    journal.write_text("\n".join([*lines, json.dumps(old | change)]) + "\n")
    with pytest.raises(InputError, match=r"samples\.jsonl, line 31: sample .* differs; remove one"):
        sampled(file)
    journal.write_text("\n".join([*lines, lines[2]]) + "\n")  # the same one twice is one
    assert sampled(file).equals(first)


def test_the_batch_changes_no_sample_and_may_change(tmp_path, model):
    file = write(tmp_path, model)
    first = sampled(file)
    file.write_text(file.read_text() + "batch = 3\n")
    assert same(sampled(file), first)  # goes on in the same folder
    file.write_text(file.read_text().replace(str(tmp_path / "run"), str(tmp_path / "other")))
    assert same(sampled(file), first)


def test_rewards_are_the_reward_models(tmp_path, model):
    file = write(tmp_path, model)
    samples = sampled(file)
    judge = load(model / "judge", dtype="float32")
    assert score.score(judge, tmp_path / "run") == samples.num_rows
    scored = sample_table.read(tmp_path / "run" / "samples.parquet")
    assert sampled(file).equals(scored)  # the command again keeps the rewards
    judged = ["reward", "judged_tokens"]
    assert scored.drop_columns(judged).equals(samples.drop_columns(judged))
    lines = {
        (line["question_id"], line["sample"]): line
        for line in map(json.loads, (tmp_path / "run" / "samples.jsonl").read_text().splitlines())
    }
    for row in scored.to_pylist()[:8]:
        line = lines[row["question_id"], row["sample"]]
        ids = judge.encode(row["question_id"] + "=" + line["text"])
        ids += [arithmetic.END] if row["finish_reason"] == "stop" else []
        assert row["reward"] == pytest.approx(float(judge.rewards([ids])[0]), abs=1e-5)
    with pytest.raises(InputError, match="no classification head"):
        score.score(load(model / "speaker"), tmp_path / "run")
    with pytest.raises(InputError, match="finish the run first"):
        score.score(judge, tmp_path)


@pytest.mark.full
def test_a_pretrained_model_goes_the_whole_way(tmp_path):
    """Chat template, procedural questions, verifier, table and curves with a real model."""
    from mechlab.evidence.curves import estimate

    reference.pretrained_file()
    shipped = Path(pipeline.__file__).parent / "configs" / "smollm2_direct.toml"
    text = shipped.read_text().replace("results/smollm2/direct", str(tmp_path / "run"))
    file = tmp_path / "config.toml"
    file.write_text(text.replace("questions = 40", "questions = 4").replace("n = 16", "n = 4"))
    table = sampled(file)
    assert table.num_rows == 16 and any(table["correct"].to_pylist())
    curve = estimate(table, ["majority_voting"], sizes=[1, 4], replicates=50).table
    assert 0 < curve["accuracy"].iloc[0] < 1


def test_a_runs_folder_is_what_curves_reads(tmp_path, model):
    from mechlab.cli import main

    sampled(write(tmp_path, model, questions=3, n=2))
    assert main(["curves", str(tmp_path / "run"), "--replicates", "10", "--format", "csv"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "tiny"', 'nam = "tiny"', "model.nam is not known"),
        ("n = 5", 'n = "5"', "sampling.n must be int, not '5'"),
        ("n = 5", "n = true", "sampling.n must be int, not True"),
        ("n = 5", "", "sampling.n is missing"),
        ("n = 5", "n = 0", "n = 0; give a whole number"),
        ("temperature = 1.0", "temperature = -1", "temperature must be"),
        ('source = "arithmetic"', 'source = "sums"', "'sums' is not known"),
        ('dtype = "float32"', 'dtype = "int8"', "model.dtype 'int8'"),
        ('dtype = "float32"', 'system = "Be brief."', "model.system needs a chat"),
        ('dtype = "float32"', "template.thinking = true", "model.template needs a chat"),
        (
            "questions = 6",
            'questions = 6\nprompt = "{question}<end>"',
            "holds <end>, which is text",
        ),
        ("questions = 6", 'questions = 6\nprompt = "Why?"', "must hold {question}"),
        ("questions = 6", 'questions = 6\nverifier = "oracle"', "verifier 'oracle'"),
        ("[sampling]", "[search]\nbeams = 1\n[sampling]", "search.judge is missing"),
        ("[sampling]", '[search]\njudge = "x"\nwidth = 0\n[sampling]', "width = 0"),
        ("questions = 6", "questions = 6\noptions = { effort = 3 }", "at most effort"),
        ("[sampling]", "[sampling", "is not TOML"),
        ("n = 5", "n = 5\nstop_strings = [1]", "sampling.stop_strings[0] must be str, not 1"),
        ("n = 5", 'n = 5\nstop_strings = ["a", []]', "stop_strings[1] must be str, not []"),
        ("n = 5", 'n = 5\nstop_strings = "a"', "sampling.stop_strings must be tuple, not 'a'"),
        ("n = 5", 'n = 5\nstop_strings = [""]', "stop_strings must be texts that are not empty"),
        ("[sampling]", '[search]\njudge = "x"\nboundaries = [2]\n[sampling]', "boundaries[0] must"),
        ("[model]", "[[model]]", "model must be a table"),
        ("questions = 6", "questions = 6\nseed = -1", "benchmark.seed = -1"),
    ],
)
def test_a_faulty_config_is_named(tmp_path, model, old, new, says):
    file = write(tmp_path, model)
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InputError) as error:
        pipeline.sample(settings.read(file, pipeline.Config))
    assert says in str(error.value)
    assert not (tmp_path / "run" / "samples.jsonl").exists()


@pytest.mark.parametrize("change", [{"tokens": 5000}, {"questions": 0}])
def test_a_refused_config_leaves_the_folder_free(tmp_path, model, change):
    with pytest.raises(InputError):
        sampled(write(tmp_path, model, **change))
    assert sampled(write(tmp_path, model)).num_rows == 30


def typed(**changes) -> bytes:
    record = dict(question_id="1", sample=0, answer=None, correct=False, tokens=3)
    record |= dict(thinking_tokens=None, finish_reason="stop", logprob_sum=-1.5, text="")
    return json.dumps(record | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        b'{"question_id": "64',
        b"",
        b'{"question_id": "x"}',
        b"[1]",
        typed(tokens="3"),
        typed(tokens=3.0),
        typed(tokens=True),
        typed(correct=1),
        typed(sample=-1),
        typed(logprob_sum=None),
        typed(logprob_sum=float("nan")),
        typed(tokens=10**20),
        typed(sample=2**40),
        typed(judged_tokens=3),
        typed(judged_tokens=3, token_ids=[]),
        typed(token_ids=["a"]),
        typed(reward="x"),
        b"gar\rbage",
    ],
)
def test_a_damaged_line_is_named_and_its_sample_drawn_again(tmp_path, model, damage):
    file = write(tmp_path, model)
    first = sampled(file)
    (tmp_path / "run" / "samples.parquet").unlink()
    journal = tmp_path / "run" / "samples.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([*lines[:3], damage, *lines[4:]]))
    with pytest.raises(InputError, match=r"samples\.jsonl, line 4: .*remove the line"):
        sampled(file)
    journal.write_bytes(b"\n".join([*lines[:3], *lines[4:]]))
    assert same(sampled(file), first)


def test_a_right_answer_that_the_verifier_cannot_read_is_named(tmp_path, model):
    table = tmp_path / "table.jsonl"
    table.write_text('{"question": "1+1=", "answer": "Paris"}\n')
    file = write(tmp_path, model)
    new = f'source = "table"\npath = "{table}"\nquestions = 1'
    file.write_text(
        file.read_text().replace('source = "arithmetic"', "").replace("questions = 6", new)
    )
    with pytest.raises(InputError, match=r"'Paris'; set benchmark\.verifier"):
        sampled(file)


def test_a_chat_is_scored_with_its_end_only_where_it_ended(model):
    judge = load(model / "judge", dtype="float32")
    judge.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}"
        "{% endfor %}"
    )
    prompt = [{"role": "user", "content": "1+2="}]
    ended, cut = (score.sequence(judge, prompt, "3", ended=ended) for ended in (True, False))
    assert ended == [*cut, arithmetic.END] and cut == arithmetic.encode("1+2=3")
    judge.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        score.sequence(judge, prompt, "3", ended=True)


def test_a_run_goes_on_only_with_the_prompts_it_began_with(tmp_path, model):
    """A template that writes today's date asks other questions tomorrow."""
    models = shutil.copytree(model, tmp_path / "models")
    template = models / "speaker" / "chat_template.jinja"
    template.write_text("{{ messages[0].content }}{{ date_string or '1' }}")
    file = write(tmp_path, models)
    first = sampled(file)
    template.write_text("{{ messages[0].content }}{{ date_string or '2' }}")
    with pytest.raises(InputError, match=r"asked otherwise \(prompt_ids differs; .*date_string"):
        sampled(file)
    file.write_text(
        file.read_text().replace("[benchmark]", 'template.date_string = "1"\n[benchmark]')
    )
    with pytest.raises(InputError, match="another run: model"):
        sampled(file)
    file.write_text(file.read_text().replace(str(tmp_path / "run"), str(tmp_path / "other")))
    assert same(sampled(file), first)


def test_what_a_tokenizer_lacks_is_named_with_its_question(tmp_path, model):
    table = tmp_path / "table.jsonl"
    table.write_text('{"id": "q7", "question": "1*1=", "answer": "1"}\n')
    file = write(tmp_path, model)
    new = f'source = "table"\npath = "{table}"\nquestions = 1'
    file.write_text(
        file.read_text().replace('source = "arithmetic"', "").replace("questions = 6", new)
    )
    with pytest.raises(InputError, match=r"question q7: the tokenizer has no token for '\*'"):
        sampled(file)


def test_the_command_says_faults_in_a_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "models.sample", "nowhere.toml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["models.sample: nowhere.toml is not there"]


# ------------------------------------------------------------------------------------- questions


def test_gsm8k_aime_and_gpqa_are_read_from_files(tmp_path):
    gsm8k = tmp_path / "gsm8k.jsonl"
    gsm8k.write_text(json.dumps({"question": "2 + 2?", "answer": "2+2=4\n#### 1,004"}) + "\n")
    assert questions.read("gsm8k", path=str(gsm8k)) == [questions.Question("0", "2 + 2?", "1,004")]
    aime = tmp_path / "aime.parquet"
    pq.write_table(pa.table({"ID": ["2024-I-1"], "Problem": ["P"], "Answer": [204]}), aime)
    assert questions.read("aime", path=str(aime)) == [questions.Question("2024-I-1", "P", "204")]
    gpqa = tmp_path / "gpqa.csv"
    names = ["Record ID", "Question", "Correct Answer"]
    names += [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    rows = [[f"rec{row}", "Which?", "yes", "no", "maybe", "never"] for row in range(40)]
    gpqa.write_text("\n".join(",".join(line) for line in [names, *rows]))
    read = questions.read("gpqa", path=str(gpqa))
    assert {question.truth for question in read} == set("ABCD")  # the right one moves about
    assert all(f"{question.truth}) yes" in question.text for question in read)
    assert questions.read("gpqa", path=str(gpqa), count=3) == read[:3]


def test_procedural_problems_need_no_download():
    pytest.importorskip("reasoning_gym", reason="not installed on Python 3.14: wants a compiler")
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    made = questions.read("reasoning-gym", task="chain_sum", count=20, seed=1, options=options)
    assert made == questions.read(
        "reasoning-gym", task="chain_sum", count=20, seed=1, options=options
    )
    assert len({question.id for question in made}) == len(made) > 10
    for question in made:
        expression = question.text.split(": ")[-1].removesuffix("=")
        assert eval(expression) == int(question.truth)


def test_without_reasoning_gym_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"pip install reasoning-gym .*3\.14.* C compiler"):
        questions.read("reasoning-gym", task="chain_sum", count=20)


def test_without_a_path_the_datasets_library_is_asked(monkeypatch):
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        if names[0] == "Idavidrein/gpqa":
            raise ConnectionError("no network\nat all")
        return [{"question": "2 + 2?", "answer": "#### 4", "ID": "a", "Problem": "P", "Answer": 4}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert [question.truth for question in questions.read("gsm8k")] == ["4"]
    assert questions.read("aime", count=1)[0].text == "P"
    with pytest.raises(InputError, match=r"gpqa could not be loaded: no network; give a path"):
        questions.read("gpqa")
    assert asked[0] == ("openai/gsm8k", "main", "test")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        questions.read("gsm8k")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no questions"),
        ('{"question": "a"}\n', "row 0: no answer"),
        ('{"question": "a", "answer": "1", "id": 1}\n' * 2, "ids repeat"),
        ("not json\n", "cannot be read"),
        ("[1]\n", "row 0: not an object"),
    ],
)
def test_a_broken_benchmark_file_is_named(tmp_path, content, says):
    file = tmp_path / "questions.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=says):
        questions.read("table", path=str(file))
    with pytest.raises(InputError, match=r"nowhere\.jsonl is not there"):
        questions.read("gsm8k", path="nowhere.jsonl")


def test_training_and_held_out_problems_have_none_in_common():
    import itertools

    training, held_out = (
        set(itertools.islice(arithmetic.problems(3, held_out=which), 5000))
        for which in (False, True)
    )
    assert not training & held_out
    random = np.random.default_rng(1)
    for problem in held_out:
        totals = np.cumsum(problem.operands)
        assert (totals >= 0).all() and problem.answer == totals[-1]
        for effort in (None, *arithmetic.EFFORTS):
            for order in (None, problem.drawn_order(random)):
                working = problem.working(effort, order)
                assert int(working.replace("=", ">").split(">")[-1]) == problem.answer
                text = problem.prompt(effort) + working
                assert len(arithmetic.encode(text)) < arithmetic.LONGEST


def test_a_solution_is_right_so_far_in_any_order_whose_totals_are_not_negative():
    problem = arithmetic.Problem((61, -12, 45, -80))
    assert {problem.working(None, order) for order in problem.orders()} == {
        "61-12=49+45=94-80=14",
        "61+45=106-12=94-80=14",
        "61+45=106-80=26-12=14",
    }
    random = np.random.default_rng(0)
    assert {problem.drawn_order(random) for _ in range(100)} == set(problem.orders())

    def judged(effort, text, *, ended=False):
        ids = [*arithmetic.encode(text), *([arithmetic.END] if ended else [])]
        return "".join("x+"[right] for right in problem.right_so_far(effort, ids))

    assert judged(None, "61+45=106-80=26-12=14", ended=True) == "+" * 22
    assert judged("long", "61+45=107-80=27") == "++++++++" + "x" * 7
    assert judged("long", "61-80=") == "+++xxx"  # −12 may come, −80 would be below zero
    assert judged("long", "61+45=106+45") == "+" * 9 + "xxx"  # each operand once
    assert judged("long", "61-12=49", ended=True) == "+" * 8 + "x"  # too early
    assert judged("medium", "49>94>14", ended=True) == "+" * 9
    assert judged("medium", "49>14") == "+++xx"
    assert judged("short", "14", ended=True) == "+++" and judged("short", "24") == "xx"
