"""Samples depend on prompt, seed and number alone: not on cache, batch, buckets or devices."""

import dataclasses
import itertools
import subprocess
import sys

import hf_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab.core.errors import InputError
from models import LM, Generation, Options, Thinking, arithmetic, decoding, load
from models import generation as engine
from models.sampling import draw, gumbels

FIELDS = reference.CONFIGS["qwen2"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> LM:
    folder = tmp_path_factory.mktemp("tiny")
    reference.write(folder, FIELDS)
    return load(folder, dtype=jnp.float32)


@pytest.fixture
def prompts():
    random = np.random.default_rng(2)
    return [random.integers(0, FIELDS["vocab_size"], size).tolist() for size in (1, 5, 70, 12, 2)]


def ids(results):
    return [[sample.token_ids for sample in samples] for samples in results]


@jax.jit
def said_next(logits, seed, stream, number, position, temperature):
    noise = gumbels(seed, jnp.stack([stream, number])[None], position[None])
    return draw(logits[None], noise, temperature=temperature)[0]


def by_full_pass(lm, prompt, question, sample, *, tokens, temperature, seed):
    """A sample token by token, each from a full pass over all before it."""
    said = list(prompt)
    for position in range(tokens):
        padded = said + [0] * (96 - len(said))  # one shape is compiled; what follows is not seen
        logits = np.asarray(lm.logits([padded]))[0, len(said) - 1]
        names = np.uint32(question), np.uint32(sample), np.int32(position)
        said.append(int(said_next(logits, seed, *names, np.float32(temperature))))
    return tuple(said[len(prompt) :])


def test_cached_decoding_is_the_full_pass(lm, prompts):
    results = lm.generate(prompts, n=2, temperature=0.8, max_tokens=12, seed=5)
    for question, prompt in enumerate(prompts):
        for sample in range(2):
            expected = by_full_pass(
                lm, prompt, question, sample, tokens=12, temperature=0.8, seed=5
            )
            assert results[question][sample].token_ids == expected


@pytest.mark.full
def test_results_are_the_same_for_any_batch_and_bucket(lm, prompts, monkeypatch):
    options = {"n": 5, "temperature": 1.0, "max_tokens": 100, "seed": 1, "stop": (3, 50, 77)}
    results = lm.generate(prompts, **options)
    lengths = {sample.tokens for samples in results for sample in samples}
    assert len(lengths) > 10 and max(lengths) > 64  # rows end apart, and the cache has grown
    for batch in (1, 16):
        assert ids(lm.generate(prompts, **options, batch=batch)) == ids(results)
    monkeypatch.setattr(engine, "SMALLEST", 16)
    assert ids(lm.generate(prompts, **options, batch=8)) == ids(results)
    monkeypatch.setattr(decoding, "STEPS", 5)
    assert ids(
        dataclasses.replace(lm, programs=decoding.Programs()).generate(prompts, **options)
    ) == (ids(results))


def test_a_prompts_samples_do_not_depend_on_how_many_there_are(lm, prompts):
    few = lm.generate(prompts, n=2, max_tokens=20)
    many = lm.generate(prompts, n=20, max_tokens=20)
    assert ids(few) == [samples[:2] for samples in ids(many)]
    assert ids(lm.generate(prompts, n=2, max_tokens=20, seed=1)) != ids(few)


@pytest.mark.slow
def test_a_cache_that_goes_round_holds_what_a_row_needs(lm, prompts):
    """Rows begin and end at all places of a cache of 64 slots, over many rounds of it."""
    options = {"n": 40, "temperature": 1.0, "max_tokens": 60, "stop": tuple(range(8))}
    assert ids(lm.generate(prompts, **options, batch=4)) == ids(
        lm.generate(prompts, **options, batch=256)
    )


def test_nothing_is_compiled_twice(lm, prompts):
    fresh = dataclasses.replace(lm, programs=decoding.Programs())
    fresh.generate(prompts * 3, n=4, max_tokens=30, batch=8)
    count = fresh.programs.count
    fresh.generate(prompts[::-1] * 3, n=4, max_tokens=25, temperature=0.3, seed=9, batch=8)
    assert fresh.programs.count == count


def test_top_k_and_top_p_bound_what_is_said(lm):
    prompt = [4, 8, 15]
    logits = np.asarray(lm.logits([prompt]))[0, -1]
    for options, allowed in (
        ({"top_k": 3}, np.argsort(-logits)[:3]),
        ({"top_p": 1e-6}, [logits.argmax()]),
    ):
        samples = lm.generate([prompt], n=200, max_tokens=1, temperature=3.0, **options)[0]
        said = {sample.token_ids[0] for sample in samples}
        assert said <= {int(token) for token in allowed}
        assert len(said) == len(allowed)


def test_finish_reasons_and_counts(lm, prompts):
    samples = lm.generate(prompts, n=30, max_tokens=40, stop=(3, 50))
    for sample in (sample for of_one in samples for sample in of_one):
        assert sample.tokens == len(sample.token_ids) <= 40
        if sample.finish_reason == "stop":
            assert sample.token_ids[-1] in (3, 50)
        else:
            assert sample.finish_reason == "length" and sample.tokens == 40
        assert not {3, 50} & set(sample.token_ids[:-1])


@pytest.mark.slow
def test_log_probabilities_are_the_models_whatever_is_drawn_from(lm, prompts):
    for how in ({"temperature": 0.5}, {"temperature": 0}, {"temperature": 2.0, "top_k": 5}):
        for prompt, samples in zip(prompts, lm.generate(prompts, n=2, max_tokens=9, **how)):
            for sample in samples:
                ids = [*prompt, *sample.token_ids]
                padded = ids + [0] * (96 - len(ids))
                logits = np.asarray(lm.logits([padded]), np.float64)[0, : len(ids)]
                chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                said = chances[len(prompt) - 1 :][range(sample.tokens), sample.token_ids]
                assert sample.logprob == pytest.approx(said.sum(), abs=1e-4)


class Letters:
    """A tokenizer of a letter a token."""

    def decode(self, ids, **_):
        return "".join(chr(ord("!") + token) for token in ids)

    def get_vocab(self):
        return {}


def test_stop_strings_end_a_sample_where_they_are_complete(lm, prompts):
    lettered = dataclasses.replace(lm, tokenizer=Letters())
    free = lettered.generate(prompts, n=40, max_tokens=50, stop=(3,))
    strings = ["A", "BC", "0"]
    for batch in (7, 64):
        cut = lettered.generate(
            prompts, 40, max_tokens=50, stop=(3,), stop_strings=strings, batch=batch
        )
        ended = 0
        for was, now in zip(itertools.chain(*free), itertools.chain(*cut)):
            text = Letters().decode(was.token_ids)
            places = [text.find(string) + len(string) for string in strings if string in text]
            assert now.token_ids == was.token_ids[: min(places, default=None)]
            if places:
                ended += 1
                assert now.finish_reason == "stop" and not any(s in now.text for s in strings)
                assert was.text.startswith(now.text)
            else:
                assert now == dataclasses.replace(was, logprobs=now.logprobs)
        assert 50 < ended < 200
    with pytest.raises(ValueError, match="give a list of strings"):
        lettered.generate(prompts, stop_strings="A")
    with pytest.raises(ValueError, match="stop_strings need"):
        lm.generate(prompts, stop_strings=["A"])


def test_a_stop_string_that_names_a_special_token_is_that_token(model):
    speaker = load(model / "speaker", dtype="float32")
    names = {token.content for token in speaker.tokenizer.added_tokens_decoder.values()}
    assert "<end>" in names
    options = {"n": 30, "max_tokens": 20, "stop": ()}
    prompts = ["12+34=", "7="]
    free = speaker.generate(prompts, **options)
    ended = speaker.generate(prompts, **options, stop_strings=["<end>"])
    assert ended == speaker.generate(prompts, **(options | {"stop": (arithmetic.END,)}))
    said = [sample for samples in ended for sample in samples]
    assert 5 < sum(sample.finish_reason == "stop" for sample in said)
    assert any(arithmetic.END in sample.token_ids[:-1] for samples in free for sample in samples)
    both = speaker.generate(prompts, **options, stop_strings=["<end>", "4"])
    for sample in (sample for samples in both for sample in samples):
        assert arithmetic.END not in sample.token_ids[:-1] and "4" not in sample.text
    for string in ("<end>\n", "1<end>", "a<end><pad>"):
        with pytest.raises(InputError, match="a special token, which has no text"):
            speaker.options(stop_strings=[string])


def test_weights_too_large_for_numbers_are_named(lm, prompts):
    """Finite weights whose products are not: no table of NaN."""
    large = dataclasses.replace(
        lm, parameters=jax.tree.map(lambda leaf: leaf * 1e30, lm.parameters)
    )
    with pytest.raises(InputError, match="log-probabilities that are no numbers"):
        large.generate(prompts[:1], max_tokens=3)


@pytest.mark.parametrize(
    ("counts", "batch", "rows"),
    [
        ([64] * 20, 64, 64),
        ([1] * 400, 64, 58),
        ([5], 64, 5),
        ([3] * 4, 64, 12),
        ([60, 1, 1], 16, 16),
        ([3000] * 5, 16, 16),
    ],
)
def test_rows_are_as_many_as_work_to_the_end(counts, batch, rows):
    assert engine.shape(counts, batch)[0] == rows
    for long in (False, True):
        rows, group = engine.shape(counts, batch, long=long)
        assert 1 <= group <= rows <= batch and rows % group == 0


@pytest.mark.slow
def test_few_programs_and_full_batches(lm):
    """Prompts of 34 to 89 tokens, answers of many lengths."""
    random = np.random.default_rng(4)
    asked = [random.integers(0, 97, size).tolist() for size in np.linspace(34, 89, 20, dtype=int)]
    fresh = dataclasses.replace(lm, programs=decoding.Programs())
    for questions, n, least in ((asked, 64, 0.85), (asked * 20, 1, 0.75)):
        options = fresh.options(max_tokens=60, stop=(3, 50), temperature=1.0)
        count = fresh.programs.count
        drawn = Generation(
            fresh,
            questions,
            [range(n)] * len(questions),
            range(400)[: len(questions)],
            options,
            batch=64,
        )
        assert sum(1 for _ in drawn) == n * len(questions)
        assert fresh.programs.count - count <= 5
        assert drawn.generated / (drawn.steps * drawn.rows) > least


# --------------------------------------------------------------------------------- budget forcing

START, END = 90, 91


def thought(lm, thinking, prompt=(5, START), n=60, max_tokens=80):
    options = Options(max_tokens=max_tokens, stop=(3,), thinking=thinking)
    found = {}
    for _, number, sample in Generation(lm, [prompt], [range(n)], [0], options, batch=16):
        found[number] = sample
    assert sorted(found) == list(range(n))
    return [found[number] for number in range(n)]


def count_thinking(tokens, inside=True):
    """Thinking tokens by the definition: what is inside a section, with its two marks."""
    count = 0
    for token in tokens:
        before, inside = inside, (inside or token == START) and token != END
        count += before or inside
    return count


@pytest.mark.slow
def test_thinking_tokens_are_counted(lm):
    samples = thought(lm, Thinking(START, END))
    assert {sample.thinking_tokens for sample in samples} != {80}
    for sample in samples:
        assert sample.thinking_tokens == count_thinking(sample.token_ids)
    for sample in thought(lm, Thinking(START, END), prompt=(5, START, 7, END)):
        assert sample.thinking_tokens == count_thinking(sample.token_ids, inside=False)


@pytest.mark.slow
def test_a_budget_closes_the_section(lm):
    closing = (7, END, 9)
    free, forced = (
        thought(lm, Thinking(START, END, maximum=maximum, closing=tokens))
        for maximum, tokens in ((None, ()), (10, closing))
    )
    closed = 0
    for was, sample in zip(free, forced):
        tokens = sample.token_ids
        if END in was.token_ids[:10] or 3 in was.token_ids[:10]:
            continue  # ended by itself
        assert tokens[:10] == was.token_ids[:10]
        assert tokens[10:13] == closing
        closed += 1
    assert closed > 10


@pytest.mark.slow
def test_a_stop_inside_the_section_is_an_early_end(lm):
    thinking = Thinking(START, END, minimum=25, extension=(11, 12))
    free, forced = thought(lm, Thinking(START, END)), thought(lm, thinking)
    assert any(was.tokens < 25 and END not in was.token_ids for was in free)
    for sample in forced:
        assert sample.tokens >= 25 and 3 not in sample.token_ids[:25]


def test_a_budget_that_cannot_be_kept_is_refused():
    for budget in (
        {"maximum": 3},
        {"maximum": 3, "closing": (7,)},
        {"minimum": 4, "maximum": 3, "closing": (END,)},
        {"minimum": 4},
    ):
        with pytest.raises(ValueError):
            Thinking(START, END, **budget)


@pytest.mark.full
def test_an_early_end_is_extended(lm):
    extension = (11, 12)
    thinking = Thinking(START, END, minimum=25, extension=extension)
    free, forced = thought(lm, Thinking(START, END)), thought(lm, thinking)
    extended = 0
    for was, sample in zip(free, forced):
        if END in was.token_ids[:25]:
            at = was.token_ids.index(END)
            assert sample.token_ids[:at] == was.token_ids[:at]
            assert sample.token_ids[at : at + 2] == extension
            extended += 1
        before = sample.token_ids[:25]
        assert END not in before
    assert extended > 0


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"n": 0}, "n = 0; give a whole number"),
        ({"n": 2.5}, "n = 2.5"),
        ({"batch": True}, "batch = True"),
        ({"max_tokens": 3.0}, "max_tokens = 3.0; give a whole number"),
        ({"min_thinking_tokens": 1.5}, "min_thinking_tokens = 1.5"),
        ({"max_tokens": 255}, "prompt 0 has 2 tokens"),
        ({"max_thinking_tokens": 5}, "<think>"),
        ({"stop": ["a"]}, "stop = .*; give token ids, which are whole numbers"),
        ({"stop": [1.0]}, "give token ids"),
        ({"stop": [97]}, r"stop = \(97,\); give tokens in 0..96"),
        ({"stop": [3, -1]}, "give tokens in 0..96"),
        ({"stop_strings": [1]}, "stop_strings must be texts that are not empty"),
        ({"stop_strings": ["a", None]}, "stop_strings must be texts"),
    ],
)
def test_an_option_out_of_range_is_named(lm, options, says):
    with pytest.raises(ValueError, match=says):
        lm.generate([[1, 2]], **options)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([[]], "prompt 0 is empty"),
        ([[1], [97]], "prompt 1 holds a token outside 0..96"),
        ([[1.5, 2]], "give token ids, which are whole numbers"),
        ([["1", 2]], "give token ids"),
        ([[1, None]], "give token ids"),
        ("text", "must be a list"),
        ([{"role": "user", "content": "text"}], "must be a list"),
        (["text"], "has no tokenizer"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named(lm, prompts, says):
    with pytest.raises(ValueError, match=says):
        lm.generate(prompts, max_tokens=5)


def test_token_ids_that_are_not_whole_are_refused(lm):
    for ids in ([[1.5, 2.0]], [["1"]], [[True, False]], [[None]]):
        with pytest.raises(InputError, match="token ids must be whole numbers"):
            lm.logits(ids)
    with pytest.raises(InputError, match="all rows of a length"):
        lm.logits([[1], [1, 2]])


# --------------------------------------------------------------------------------------- devices

SHARDED = """
import itertools, os, sys
flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = flags + " --xla_force_host_platform_device_count=4"
import jax, numpy as np, jax.numpy as jnp
import models
assert jax.device_count() == 4
mesh = jax.make_mesh((2, 2), ("data", "tensor"))
for folder, weights in itertools.product(sys.argv[1:], (None, "int8")):
    one = models.load(folder, dtype=jnp.float32, weights=weights)
    four = models.load(folder, dtype=jnp.float32, weights=weights, mesh=mesh)
    shards = {leaf.sharding.spec for leaf in jax.tree.leaves(four.parameters)}
    assert any("tensor" in spec for spec in shards), shards
    ids = np.random.default_rng(0).integers(0, 97, (2, 40))
    np.testing.assert_allclose(four.logits(ids), one.logits(ids), atol=1e-4)
    options = dict(max_tokens=70, batch=8, stop=(3, 50))
    prompts = [ids[0, :30].tolist(), ids[1, :3].tolist()]
    for n in (8, 64):  # rows in groups of another size on the same devices
        a, b = (lm.generate(prompts, n, **options) for lm in (one, four))
        for x, y in zip(itertools.chain(*a), itertools.chain(*b), strict=True):
            assert x.token_ids == y.token_ids
            assert abs(x.logprob - y.logprob) < 1e-3
print("same")
"""


@pytest.mark.slow
def test_four_devices_give_what_one_gives(tmp_path):
    for name in ("qwen2.5", "smollm2"):  # two key-value heads, and one that cannot be divided
        reference.write(tmp_path / name, reference.CONFIGS[name])
    folders = [str(tmp_path / name) for name in ("qwen2.5", "smollm2")]
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, *folders], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr[-3000:]


@pytest.mark.slow
def test_bfloat16_is_close(lm, tmp_path):
    reference.write(tmp_path, FIELDS)
    half = load(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.parameters)} == {jnp.dtype("bfloat16")}
    tokens = reference.token_ids(FIELDS)
    exact, close = np.asarray(lm.logits(tokens)), np.asarray(half.logits(tokens))
    assert np.abs(exact - close).max() < 0.1 * np.abs(exact).max()
    assert half.generate([[1, 2]], n=2, max_tokens=5)[0][0].tokens == 5
