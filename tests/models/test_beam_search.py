"""A search over a reward model is the slow one, token by token, and counts all that was drawn."""

import dataclasses
import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab.core.errors import InputError
from models import arithmetic, load
from models.sampling import draw, gumbels
from models.search import Search, Tree

PROMPTS = ["12+34+56-7=", "90-12+45+6="]
LONGEST = 14


@pytest.fixture(scope="module")
def speaker(model):
    return load(model / "speaker", dtype="float32")


@pytest.fixture(scope="module")
def judge(model):
    return load(model / "judge", dtype="float32")


@jax.jit
def said_next(logits, stream, number, position):
    noise = gumbels(0, jnp.stack([stream, number])[None], position[None])
    return draw(logits[None], noise, temperature=1.0)[0]


def steps_of(lm, prompt, stream, number, limit, ends):
    """A step token by token, each from a full pass over all before it."""
    said = []
    while len(said) < limit:
        padded = (prompt + said + [0] * 64)[:64]
        logits = np.asarray(lm.logits([padded]))[0, len(prompt) + len(said) - 1]
        names = np.uint32(stream), np.uint32(number), np.int32(len(said))
        said.append(int(said_next(logits, *names)))
        if said[-1] in ends:
            break
    return said


def slowly(lm, judge, prompt, stream, number, tree):
    """(ids, reward, tokens drawn, tokens judged) of a search."""
    encoded, equal = arithmetic.encode(prompt), arithmetic.VOCABULARY["="]
    roots = range(tree.beams if tree.diverse else 1)
    beams = [(root, [], -np.inf) for root in roots]
    drawn, judged, step = 0, len(encoded), 0

    def read(ids):  # padding has no letter, and the end stands where the answer ended
        ended = ids[-1:] == [arithmetic.END]
        return encoded + [token for token in ids if token > 1] + [arithmetic.END] * ended

    def over(ids):
        return len(ids) >= LONGEST or (bool(ids) and ids[-1] == arithmetic.END)

    while not all(over(ids) for _, ids, _ in beams):
        found = [beam for beam in beams if over(beam[1])]
        many = tree.width * (tree.beams if step == 0 and not tree.diverse else 1)
        for place, (root, ids, _) in enumerate(beams):
            if over(ids):
                continue
            name = zlib.crc32(repr((stream, number, step, place)).encode())
            for child in range(many):
                new = steps_of(
                    lm, encoded + ids, name, child, LONGEST - len(ids), (equal, arithmetic.END)
                )
                drawn += len(new)
                judged += max(1, len(read(ids + new)) - len(read(ids)))
                reward = float(judge.rewards([read(ids + new)])[0])
                if (root, ids + new) not in [beam[:2] for beam in found]:
                    found.append((root, ids + new, reward))
        found.sort(key=lambda beam: -beam[2])
        if tree.diverse:
            beams = [next(beam for beam in found if beam[0] == root) for root in roots]
        else:
            beams = found[: tree.beams]
        step += 1
    best = max(beams, key=lambda beam: beam[2])
    return tuple(best[1]), best[2], drawn, judged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beams", "width", "diverse"), [(1, 2, False), (2, 3, False), (2, 2, True)]
)
def test_a_search_is_the_slow_one(speaker, judge, beams, width, diverse):
    tree = Tree(beams, width, ("=",), diverse)
    options = speaker.options(max_tokens=LONGEST)
    for batch in (64, 3):
        found = Search(speaker, judge, PROMPTS, [range(2)] * 2, [7, 9], options, tree, batch=batch)
        answers = {(question, number): sample for question, number, sample in found}
        assert list(answers) == list(itertools.product(range(2), range(2)))
        assert found.generated == sum(sample.tokens for sample in answers.values())
    for (question, number), sample in answers.items():
        stream = (7, 9)[question]
        ids, reward, drawn, judged = slowly(speaker, judge, PROMPTS[question], stream, number, tree)
        assert sample.token_ids == ids and sample.reward == pytest.approx(reward, abs=1e-4)
        assert (sample.tokens, sample.judged_tokens) == (drawn, judged)
        assert sample.tokens > len(ids)  # what was pruned counts


@pytest.mark.slow
def test_a_stop_string_across_steps_ends_an_answer(speaker, judge):
    tree = Tree(1, 2, ("=",))
    strings = tuple(f"={digit}" for digit in range(10))
    options = speaker.options(max_tokens=40, stop_strings=strings)
    search = Search(speaker, judge, PROMPTS, [range(15)] * 2, [7, 9], options, tree, batch=64)
    found = [sample for *_, sample in search]
    # those past the string were drawn too
    assert sum(sample.tokens for sample in found) == search.generated
    ended = 0
    for sample in found:
        text = speaker.decode(sample.token_ids)
        there = [string for string in strings if string in text]
        assert len(sample.logprobs) == len(sample.token_ids)
        if there:
            ended += 1
            assert text.endswith(there[0]) and text.count(there[0]) == 1
            assert sample.text == text[:-2] and sample.finish_reason == "stop"
    assert ended > 3


def test_what_cannot_be_searched_is_said(speaker, judge):
    options = speaker.options(max_tokens=4)

    def search(lm, by, **changes):
        return Search(lm, by, PROMPTS, [[0]] * 2, [0, 1], options, Tree(**changes), batch=4)

    with pytest.raises(InputError, match="no reward model"):
        search(speaker, speaker)
    with pytest.raises(InputError, match="need tokenizers"):
        search(dataclasses.replace(speaker, tokenizer=None), judge)
    for changes in ({"beams": 0}, {"width": 1.5}, {"boundaries": ()}, {"boundaries": ("",)}):
        with pytest.raises(InputError):
            search(speaker, judge, **changes)
