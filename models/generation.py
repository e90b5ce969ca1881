"""Many samples a prompt: shared prefixes, a rotating cache and continuous batching.

A batch has S rows in Q groups. The rows of a group sample one prompt, whose keys and values are
computed once and read by all of them together; what a row has generated itself lies in a cache of
C slots that all rows write at the same place, one slot a step, round and round. A row that ends
begins the next sample of its group's queue at once, on the device; a new row needs no cleaning, for
it sees only slots younger than itself. The host fills the queues between blocks of steps, gives
groups without work the next prompt, and lets the next block run while samples are handed out.

Prompts are prefilled many at a time, one after the other in a pack of tokens. C and the longest
prefix P grow in powers of two, and each pair is compiled once.

Random numbers are named by (seed, question, sample, token), so a sample does not depend on its
neighbours, on the batch or on the order of work; but for rounding, for a matrix product of another
shape may differ in its last bits (see `models/README.md`).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mechlab.core.errors import InputError
from models import decoding, triton
from models.decoding import Options, decode, insert, lengthen, prefill
from models.modeling import Config

SMALLEST = 64
"""The smallest bucket of the cache."""
PACK = 256
"""Tokens of prompts that are prefilled together, where there are so many. Prefixes up to this share
a bucket."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sampled answer."""

    text: str
    tokens: int
    """Generated, the one that ends the answer included."""
    thinking_tokens: int
    """Of them inside a thinking section; 0 for models without."""
    finish_reason: str
    """`stop`: the model ended; `length`: the limit did."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probabilities of its tokens under the model at temperature 1, with all tokens allowed."""
    judged_tokens: int = 0
    """That a reward model read to find it (`models.search`)."""
    reward: float | None = None
    """Of that model."""

    @property
    def logprob(self) -> float:
        """Of all its tokens together."""
        return math.fsum(self.logprobs)


def bucket(size: int, smallest: int | None = None) -> int:
    """The power of two, at least `smallest` (`SMALLEST`), that holds `size`."""
    return max(smallest or SMALLEST, 1 << (size - 1).bit_length())


@dataclasses.dataclass(eq=False)
class _Question:
    number: int
    """Its place in the list of prompts."""
    stream: int
    """Its name to the random numbers."""
    prompt: list[int]
    pending: list[int]
    """Samples that no group was given yet, the next one last."""
    limit: int
    """Most tokens of a sample."""
    pack: tuple[Any, int] | None = None
    """Keys and values that hold the prompt's, and where they begin."""

    @property
    def prefix(self) -> list[int]:
        """What is prefilled; the last token is the first that each sample feeds."""
        return self.prompt[:-1]


@dataclasses.dataclass
class _Part:
    """What is written of a sample."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    thought: list[int] = dataclasses.field(default_factory=list)
    """Tokens inside a thinking section, so far."""
    ended: bool = False
    searched: int = 0
    """Tokens in which no stop string ends."""


def check_prompts(config: Config, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
    """InputError that names a prompt which is empty, too long or not of this vocabulary.

    Args:
        limits: most tokens of a sample of each.
    """
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        if not len(prompt):
            raise InputError(f"prompt {number} is empty; give at least one token")
        if len(prompt) + limit > config.max_positions:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens, with max_tokens ="
                f" {limit} that is beyond the model's {config.max_positions}"
                " positions; shorten either"
            )
        if min(prompt) < 0 or max(prompt) >= config.vocabulary:
            raise InputError(f"prompt {number} holds a token outside 0..{config.vocabulary - 1}")


def shape(counts: Sequence[int], batch: int, *, long: bool = False) -> tuple[int, int]:
    """Rows, and rows of a group, for prompts of which so many samples are wanted.

    Rows that all work to the end: as many waves of samples as `batch` takes, spread evenly. Large
    groups read a prompt for many rows at once, which `long` prompts are worth; small ones wait less
    for their longest sample.
    """
    total, most = sum(counts), max(counts, default=1)
    if most * len(counts) <= batch:
        return max(1, most * len(counts)), most  # a row a sample
    rows = math.ceil(total / math.ceil(total / batch))
    group = rows if len(counts) == 1 else min(rows, max(1, most // (8 if long else 32)))
    return min(batch // group * group, math.ceil(rows / group) * group), group


class Generation:
    """Iterates over finished samples as (prompt's index, sample's number, `Sample`).

    Args:
        lm: a `models.LM`.
        prompts: token ids.
        samples: the numbers of the samples wanted of each prompt.
        streams: what names a prompt to the random numbers, in [0, 2**32).
        options: how to draw.
        batch: most rows S.
        limits: most tokens of a sample of each prompt; `max_tokens` of the options when left out.
        layout: rows, and how many of them share a prompt's cache; by `shape` when left out.
        prefix: prompts have room for so many tokens at least, so that later ones find what is
            compiled.

    Attributes:
        generated: tokens so far.
        steps: of the whole batch, so far.
        rows: of the batch.
    """

    def __init__(
        self,
        lm,
        prompts: Sequence[Sequence[int]],
        samples: Sequence[Sequence[int]],
        streams: Sequence[int],
        options: Options,
        *,
        batch: int,
        limits: Sequence[int] | None = None,
        layout: tuple[int, int] | None = None,
        prefix: int = 0,
    ):
        limits = [options.max_tokens] * len(prompts) if limits is None else limits
        check_prompts(lm.config, prompts, limits)
        self.lm, self.options = lm, options
        self.generated = self.steps = 0
        questions = [
            _Question(number, stream, list(prompt), list(reversed(wanted)), limit)
            for number, (prompt, wanted, stream, limit) in enumerate(
                zip(prompts, samples, streams, limits, strict=True)
            )
            if len(wanted)
        ]
        # Short prompts first: a batch is as wide as its longest one
        questions.sort(key=lambda question: bucket(len(question.prefix), PACK))
        self._waiting = questions[::-1]
        self._begun: list[_Question] = []
        counts = [len(question.pending) for question in questions]
        long = max((len(question.prefix) for question in questions), default=0) > PACK
        self.rows, group = layout or shape(counts, batch, long=long)
        self._group, self._groups = group, self.rows // group
        idle = decoding.idle_rows(self.rows, self._groups, thinking=options.thinking is not None)
        self._everywhere = lm.mesh and NamedSharding(lm.mesh, PartitionSpec())
        self._state: Any = jax.device_put(idle, self._everywhere)
        self._held: list[_Question | None] = [None] * self._groups
        self._given: list[dict[int, _Part]] = [{} for _ in range(self._groups)]
        self._queue = np.zeros((self._groups, 2 * decoding.STEPS * group), np.uint32)
        zeros = functools.partial(np.zeros, self._groups)
        self._about = {
            "prefix_lengths": zeros(np.int32),
            "first": zeros(np.int32),
            "question": zeros(np.uint32),
            "limit": zeros(np.int32),
            "filled": zeros(np.int32),
            "more": zeros(bool),
        }
        if options.thinking is not None:
            self._about["thinking"] = zeros(bool)
        self._taken, self._ended = zeros(np.int32), np.zeros(self.rows, bool)
        self._oldest = self._samples = 0
        self._limit = max(limits, default=1)
        lengths = [len(question.prefix) for question in questions]
        short = max((length for length in lengths if length <= PACK), default=PACK)
        self._longest = bucket(max(short, min(prefix, PACK)), 16)
        self._pack = bucket(min(sum(lengths), PACK), self._longest)
        self._write, self._slots = 0, SMALLEST
        self._prefix = self._empty(self._groups, self._longest)
        self._cache = self._empty(self.rows, self._slots)

    # ----------------------------------------------------------------- memory on the devices

    def _places(self):
        """Rows over the axis `data` and heads over `tensor`, as far as they divide; of a layer."""
        mesh = self.lm.mesh
        if mesh is None:
            return None

        def axis(name, *sizes):
            return name if all(size % mesh.shape[name] == 0 for size in sizes) else None

        spec = PartitionSpec(
            axis("data", self._groups, self.rows), axis("tensor", self.lm.config.kv_heads)
        )
        return (NamedSharding(mesh, spec),) * 2

    def _own_attention(self):
        if self.lm.attention is None:
            return None
        places = self._places()
        return triton.over(self.lm.mesh, places[0].spec if places else PartitionSpec())

    def _all_places(self):
        places = self._places()
        return places and [places] * self.lm.config.layers

    def _empty(self, rows: int, size: int):
        config, dtype, places = self.lm.config, self.lm.dtype, self._places()
        heads, place = (rows, config.kv_heads), places and places[0]
        return [
            (
                jnp.zeros((*heads, config.head_size, size), dtype, device=place),
                jnp.zeros((*heads, size, config.head_size), dtype, device=place),
            )
            for _ in range(config.layers)
        ]

    def _run(self, key, function, *arguments, donate=(), out=None):
        if self.lm.mesh is None:
            return self.lm.programs(key, function, *arguments, donate_argnums=donate)
        found = self.lm.programs(
            key, function, *arguments, donate_argnums=donate, out_shardings=out
        )
        if jax.default_backend() == "cpu":
            # two programs at once would wait for each other's collectives, on too few threads
            jax.block_until_ready(found)
        return found

    def _lengthened(self, layers, size: int, write: int):
        """Layer by layer, so that no more than one is there twice."""
        for layer, arrays in enumerate(layers):
            layers[layer] = self._run(
                ("lengthen", size),
                functools.partial(lengthen, size),
                *arrays,
                np.int32(write),
                out=self._places(),
            )
        return layers

    def _hold(self, group: int, question: _Question) -> None:
        """Gives a prompt to a group: its keys and values, and what its samples begin with."""
        self._held[group] = question
        about, prefix = self._about, question.prefix
        about["prefix_lengths"][group], about["first"][group] = len(prefix), question.prompt[-1]
        about["question"][group], about["limit"][group] = question.stream, question.limit
        thinking = self.options.thinking
        if thinking is not None:
            marks = [token for token in question.prompt if token in (thinking.start, thinking.end)]
            about["thinking"][group] = bool(marks) and marks[-1] == thinking.start
        if not prefix:
            return
        size = bucket(len(prefix), self._longest)
        if size > self._longest:
            self._prefix = self._lengthened(self._prefix, size, 0)
            self._longest = size
        if question.pack is None:
            self._prefill(question)
        assert question.pack is not None
        packed, start = question.pack
        self._prefix = self._run(
            "insert",
            insert,
            self._prefix,
            packed,
            np.int32(start),
            np.int32(group),
            donate=0,
            out=self._all_places(),
        )

    def _prefill(self, question: _Question) -> None:
        """Computes a prompt's keys and values, with those of the next prompts that have room."""
        together, tokens = [question], len(question.prefix)
        room = max(self._longest, self._pack)
        for other in reversed(self._waiting):
            if tokens + len(other.prefix) > room:
                break
            together.append(other)
            tokens += len(other.prefix)
        ids, owner = np.zeros(room, np.int32), np.full(room, -1, np.int32)
        positions, starts, start = np.zeros(room, np.int32), [], 0
        for number, one in enumerate(together):
            place = slice(start, start + len(one.prefix))
            ids[place], owner[place] = one.prefix, number
            positions[place] = np.arange(len(one.prefix))
            starts.append(start)
            start = place.stop
        function = functools.partial(prefill, self.lm.graph)
        packed = self._run("prefill", function, self.lm.parameters, ids, owner, positions)
        for one, begins in zip(together, starts, strict=True):
            one.pack = (packed, begins)

    def _room_for(self, steps: int) -> None:
        """Lengthens the cache until the oldest running row may go on for `steps`."""
        needed = min(self._oldest + steps, self._limit)
        if needed <= self._slots:
            return
        size = bucket(needed)
        self._cache = self._lengthened(self._cache, size, self._write)
        self._write, self._slots = self._slots, size

    # -------------------------------------------------------------------------------- work

    def _next_question(self) -> _Question | None:
        if self._waiting:
            question = self._waiting.pop()
            self._begun.append(question)
            return question
        self._begun = [question for question in self._begun if question.pending]
        return max(self._begun, key=lambda question: len(question.pending), default=None)

    def _fill(self) -> None:
        """Gives groups without work their next prompts, and all of them their next samples."""
        for group in range(self._groups):
            held = self._held[group]
            if not self._given[group] and (held is None or not held.pending):
                self._held[group] = None
                question = self._next_question()
                if question is not None:
                    self._hold(group, question)
        # To idle rows a sample each, and ahead of need as many as a block may finish; towards the
        # end no more than a fair share, or some groups would wait while others have a queue
        length = self.generated / self._samples if self._samples else decoding.STEPS
        left = sum(len(question.pending) for question in [*self._waiting, *self._begun])
        ahead = min(self._group * decoding.STEPS / length, left / self._groups)
        about, width = self._about, self._queue.shape[1]
        for group, held in enumerate(self._held):
            if held is None:
                continue
            queued = int(about["filled"][group] - self._taken[group])
            idle = self._group - (len(self._given[group]) - queued)
            for _ in range(min(idle + int(ahead), width) - queued):
                if not held.pending:
                    break
                sample = held.pending.pop()
                self._queue[group, about["filled"][group] % width] = sample
                about["filled"][group] += 1
                self._given[group][sample] = _Part()
            if not held.pending:
                held.pack = None  # no other group will need it
        for group, held in enumerate(self._held):
            about["more"][group] = held is not None and bool(held.pending)

    def _launch(self):
        """Sets a block of steps going; returns what it will have written, and its steps."""
        self._room_for(decoding.STEPS)
        # What a compiled program does not depend on is left out of its key
        static = dataclasses.replace(
            self.options,
            seed=0,
            max_tokens=1,
            stop_strings=(),
            temperature=float(self.options.temperature > 0),
        )
        control = {
            "ended": self._ended,
            "write": np.int32(self._write),
            "room": np.int32(max(1, self.rows // 16)),
            "prompts": np.bool_(
                bool(self._waiting) or any(question.pending for question in self._begun)
            ),
            "temperature": np.float32(self.options.temperature),
            "seed": np.uint32(self.options.seed),
        }
        self._cache, self._state, written, steps = self._run(
            ("decode", static),
            functools.partial(decode, self.lm.graph, static, self._slots, self._own_attention()),
            self.lm.parameters,
            self._prefix,
            self._cache,
            self._state,
            self._about | {"queue": self._queue},
            control,
            donate=2,
            out=(self._all_places(), self._everywhere, self._everywhere, self._everywhere),
        )
        return written, steps

    def _read(self, written, steps) -> list[tuple[_Question, int, _Part]]:
        """Waits for a block, and returns the samples that ended in it."""
        steps = int(steps)
        written = {name: np.asarray(value)[:, :steps] for name, value in written.items()}
        self._write, self.steps = (self._write + steps) % self._slots, self.steps + steps
        self._taken = np.asarray(self._state["taken"])
        self._ended = np.zeros(self.rows, bool)
        finished, self._oldest = [], 0
        samples = written["sample"]
        if not np.isfinite(written["logprob"][samples >= 0]).all():
            raise InputError(
                f"{self.lm.name} gives log-probabilities that are no numbers in {self.lm.dtype}:"
                " its weights are damaged or too large for it; try float32"
            )
        breaks = np.diff(samples, axis=1, prepend=-2) != 0
        breaks[:, 1:] |= written["ended"][:, :-1]
        for row in range(self.rows):
            group = row // self._group
            edges = [*np.flatnonzero(breaks[row]).tolist(), steps]
            for start, end in itertools.pairwise(edges):
                sample = int(samples[row, start])
                if sample < 0:
                    continue
                part = self._given[group][sample]
                before = len(part.tokens)
                part.tokens += written["token"][row, start:end].tolist()
                part.logprobs += written["logprob"][row, start:end].tolist()
                part.ended = bool(written["ended"][row, end - 1])
                if "thought" in written:
                    part.thought += written["thought"][row, start:end].tolist()
                running = not part.ended
                if self.options.stop_strings:
                    self._search(part)
                self.generated += len(part.tokens) - before
                if part.ended:
                    self._ended[row] = running
                    question = self._held[group]
                    assert question is not None
                    finished.append((question, sample, self._given[group].pop(sample)))
                else:
                    self._oldest = max(self._oldest, len(part.tokens))
        self._samples += len(finished)
        return finished

    def _search(self, part: _Part) -> None:
        """Ends a sample with the token that completes a stop string."""
        strings = self.options.stop_strings
        if not any(string in self.lm.decode(part.tokens) for string in strings):
            part.searched = len(part.tokens)
            return
        text = ""
        while not any(string in text for string in strings):
            part.searched += 1
            text = self.lm.decode(part.tokens[: part.searched])
        for written in (part.tokens, part.logprobs, part.thought):
            del written[part.searched :]
        part.ended = True

    def _sample(self, part: _Part) -> Sample:
        ids = part.tokens
        stopped = ids[-1] in self.options.stop
        text = self.lm.decode(ids[:-1] if stopped else ids)
        places = [text.find(string) for string in self.options.stop_strings if string in text]
        if places:
            text, stopped = text[: min(places)], True
        return Sample(
            text,
            len(ids),
            part.thought[-1] if part.thought else 0,
            "stop" if stopped else "length",
            tuple(ids),
            tuple(part.logprobs),
        )

    def __iter__(self) -> Iterator[tuple[int, int, Sample]]:
        finished: list[tuple[_Question, int, _Part]] = []
        self._fill()
        while any(self._given) or finished:
            running = self._launch() if any(self._given) else None
            # the devices work while these are handed out
            for question, number, part in finished:
                yield question.number, number, self._sample(part)
            finished = self._read(*running) if running is not None else []
            self._fill()
