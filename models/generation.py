"""Many samples a prompt: shared prefixes, a rotating cache and continuous batching.

A batch has S rows in Q groups. The rows of a group sample one prompt, whose keys and values are
computed once and read by all of them together; what a row has generated itself lies in a cache of
C slots that all rows write at the same place, one slot a step, round and round. A row that ends
makes room for the next sample of its group's prompt, a group that ends for the next prompt; a new
row needs no cleaning, for it sees only slots younger than itself. C, and the longest prefix P,
grow in powers of two, and each pair is compiled once.

Random numbers are named by (seed, question, sample, token), so a sample does not depend on its
neighbours, on the batch or on the order of work; but for rounding, for a matrix product of another
shape may differ in its last bits (see `models/README.md`).
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mechlab.core.errors import InputError
from models import decoding
from models.decoding import Options, decode, insert, lengthen, prefill
from models.modeling import Config

SMALLEST = 64
"""The smallest bucket of a prefix or of the cache."""


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


def bucket(size: int) -> int:
    """The power of two, at least `SMALLEST`, that holds `size`."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


@dataclasses.dataclass
class _Question:
    number: int
    """Its place in the list of prompts."""
    stream: int
    """Its name to the random numbers."""
    prompt: list[int]
    pending: list[int]
    """Samples not yet begun, the next one last."""


def check_prompts(config: Config, prompts: Sequence[Sequence[int]], options: Options) -> None:
    """InputError that names a prompt which is empty, too long or not of this vocabulary."""
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {number} is empty; give at least one token")
        if len(prompt) + options.max_tokens > config.max_positions:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens, with max_tokens ="
                f" {options.max_tokens} that is beyond the model's {config.max_positions}"
                " positions; shorten either"
            )
        if min(prompt) < 0 or max(prompt) >= config.vocabulary:
            raise InputError(f"prompt {number} holds a token outside 0..{config.vocabulary - 1}")


class Generation:
    """Iterates over finished samples as (prompt's index, sample's number, `Sample`).

    Args:
        lm: a `models.LM`.
        prompts: token ids.
        samples: the numbers of the samples wanted of each prompt.
        streams: what names a prompt to the random numbers, in [0, 2**32).
        options: how to draw.
        batch: rows S.
        group: rows that share a prompt's cache; chosen from the number of samples when left out.

    Attributes:
        generated: tokens so far.
        steps: of the whole batch, so far.
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
        group: int | None = None,
    ):
        check_prompts(lm.config, prompts, options)
        self.lm, self.options = lm, options
        self.generated = self.steps = 0
        questions = [
            _Question(number, stream, list(prompt), list(reversed(wanted)))
            for number, (prompt, wanted, stream) in enumerate(
                zip(prompts, samples, streams, strict=True)
            )
            if len(wanted)
        ]
        # Short prompts first: a batch is as wide as its longest one
        questions.sort(key=lambda question: bucket(len(question.prompt)))
        self._waiting = questions[::-1]
        self._begun: list[_Question] = []
        most = max((len(question.pending) for question in questions), default=1)
        total = sum(len(question.pending) for question in questions)
        rows = min(batch, 1 << max(total - 1, 0).bit_length())
        if group is None:
            # A group waits for its longest sample before it takes the next prompt
            group = 1 << (max(1, most // 8).bit_length() - 1)
            group = max(size for size in range(1, min(group, rows) + 1) if rows % size == 0)
        elif batch % group:
            raise InputError(f"batch = {batch} does not divide into groups of {group}")
        else:
            rows = min(batch, -(-total // group) * group)
        self._group, self._groups = group, rows // group
        self._held: list[_Question | None] = [None] * self._groups
        self._jobs: list[tuple[_Question, int] | None] = [None] * rows
        self._written: list[list[int]] = [[] for _ in range(rows)]
        self._rows = {
            "token": np.zeros(rows, np.int32),
            "length": np.zeros(rows, np.int32),
            "limit": np.full(rows, options.max_tokens, np.int32),
            "active": np.zeros(rows, bool),
            "stream": np.zeros((rows, 2), np.uint32),
            "prefix_lengths": np.zeros(self._groups, np.int32),
        }
        if options.thinking is not None:
            self._rows |= {
                "thinking": np.zeros(rows, bool),
                "thought": np.zeros(rows, np.int32),
                "cursor": np.full(rows, -1, np.int32),
            }
        self._write, self._slots, self._longest = 0, SMALLEST, SMALLEST
        self._prefix = self._empty(self._groups, self._longest)
        self._cache = self._empty(rows, self._slots)
        self._prefilled: tuple[int, Any] | None = None

    # ----------------------------------------------------------------- memory on the devices

    def _places(self):
        """Rows over the axis `data` and heads over `tensor`, as far as they divide."""
        mesh = self.lm.mesh
        if mesh is None:
            return None

        def axis(name, *sizes):
            return name if all(size % mesh.shape[name] == 0 for size in sizes) else None

        spec = PartitionSpec(
            axis("data", self._groups, len(self._jobs)), axis("tensor", self.lm.config.kv_heads)
        )
        return [(NamedSharding(mesh, spec),) * 2] * self.lm.config.layers

    def _empty(self, rows: int, size: int):
        config, dtype, places = self.lm.config, self.lm.dtype, self._places()
        heads = (rows, config.kv_heads)

        def layer(index):
            place = places and places[index][0]
            return (
                jnp.zeros((*heads, config.head_size, size), dtype, device=place),
                jnp.zeros((*heads, size, config.head_size), dtype, device=place),
            )

        return [layer(index) for index in range(config.layers)]

    def _run(self, key, function, *arguments, donate=(), out=None):
        options = {"donate_argnums": donate}
        if self.lm.mesh is not None:
            options["out_shardings"] = out
        return self.lm.programs(key, function, *arguments, **options)

    def _hold(self, group: int, question: _Question) -> None:
        """Computes a prompt's keys and values and gives them to a group."""
        self._held[group] = question
        # The last token of the prompt is the first that each row feeds
        prefix = question.prompt[:-1]
        self._rows["prefix_lengths"][group] = len(prefix)
        if not prefix:
            return
        size = bucket(len(prefix))
        places = self._places()
        if size > self._longest:
            self._prefix = self._run(
                ("prefix", size),
                functools.partial(lengthen, size),
                self._prefix,
                np.int32(0),
                out=places,
            )
            self._longest = size
        if self._prefilled is None or self._prefilled[0] != question.number:
            tokens = np.zeros((1, size), np.int32)
            tokens[0, : len(prefix)] = prefix
            function = functools.partial(prefill, self.lm.graph)
            new = self._run("prefill", function, self.lm.parameters, tokens)
            self._prefilled = (question.number, new)
        self._prefix = self._run(
            "insert",
            insert,
            self._prefix,
            self._prefilled[1],
            np.int32(group),
            donate=0,
            out=places,
        )

    def _room_for(self, steps: int) -> None:
        """Lengthens the cache until the oldest running row may go on for `steps`."""
        active = self._rows["active"]
        needed = min(
            int(self._rows["length"][active].max()) + steps, int(self._rows["limit"].max())
        )
        if needed <= self._slots:
            return
        size = bucket(needed)
        self._cache = self._run(
            ("cache", size),
            functools.partial(lengthen, size),
            self._cache,
            np.int32(self._write),
            out=self._places(),
        )
        self._write, self._slots = self._slots, size

    # -------------------------------------------------------------------------------- rows

    def _next_question(self) -> _Question | None:
        if self._waiting:
            question = self._waiting.pop()
            self._begun.append(question)
            return question
        self._begun = [question for question in self._begun if question.pending]
        return max(self._begun, key=lambda question: len(question.pending), default=None)

    def _fill(self) -> None:
        """Gives idle rows their next samples, and idle groups their next prompts."""
        for group in range(self._groups):
            members = range(group * self._group, (group + 1) * self._group)
            held = self._held[group]
            if (held is None or not held.pending) and all(
                self._jobs[row] is None for row in members
            ):
                held = self._next_question()
                if held is None:
                    self._held[group] = None
                    continue
                self._hold(group, held)
            assert held is not None  # or some row of the group is at work
            for row in members:
                if held.pending and self._jobs[row] is None:
                    self._start(row, held, held.pending.pop())

    def _start(self, row: int, question: _Question, sample: int) -> None:
        self._jobs[row], self._written[row] = (question, sample), []
        rows = self._rows
        rows["token"][row], rows["length"][row] = question.prompt[-1], 0
        rows["active"][row], rows["stream"][row] = True, (question.stream, sample)
        if self.options.thinking is not None:
            marks = [
                token
                for token in question.prompt
                if token in (self.options.thinking.start, self.options.thinking.end)
            ]
            rows["thinking"][row] = bool(marks) and marks[-1] == self.options.thinking.start
            rows["thought"][row], rows["cursor"][row] = 0, -1

    def _finish(self, row: int) -> tuple[int, int, Sample]:
        job, ids = self._jobs[row], self._written[row]
        assert job is not None
        (question, sample), self._jobs[row] = job, None
        stopped = ids[-1] in self.options.stop
        thought = int(self._rows["thought"][row]) if self.options.thinking is not None else 0
        text = self.lm.decode(ids[:-1] if stopped else ids)
        reason = "stop" if stopped else "length"
        return question.number, sample, Sample(text, len(ids), thought, reason, tuple(ids))

    def __iter__(self) -> Iterator[tuple[int, int, Sample]]:
        while True:
            self._fill()
            if not self._rows["active"].any():
                return
            self._room_for(decoding.STEPS)
            before = self._rows["length"]
            written = self._decode()
            counts = self._rows["length"] - before
            self.generated += int(counts.sum())
            for row in np.flatnonzero(counts).tolist():
                self._written[row].extend(written[row, : counts[row]].tolist())
            for row, job in enumerate(self._jobs):
                if job is not None and not self._rows["active"][row]:
                    yield self._finish(row)

    def _decode(self) -> np.ndarray:
        """Runs a block of steps; returns its tokens [S, decoding.STEPS]."""
        # What a compiled program does not depend on is left out of its key
        static = dataclasses.replace(
            self.options, seed=0, max_tokens=1, temperature=float(self.options.temperature > 0)
        )
        more = bool(self._waiting) or any(question.pending for question in self._begun)
        control = {
            "write": np.int32(self._write),
            "steps": np.int32(decoding.STEPS),
            "room": np.int32(1 if more else len(self._jobs)),
            "temperature": np.float32(self.options.temperature),
            "seed": np.uint32(self.options.seed),
        }
        self._cache, *rest = self._run(
            ("decode", static),
            functools.partial(decode, self.lm.graph, static, self._slots),
            self.lm.parameters,
            self._prefix,
            self._cache,
            self._rows,
            control,
            donate=2,
            out=(self._places(), None, None, None),
        )
        self._rows, written, steps = jax.tree.map(np.array, rest)
        self._write = (self._write + int(steps)) % self._slots
        self.steps += int(steps)
        return written
