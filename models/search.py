"""Beam search over a process reward model, and diverse verifier trees.

An answer is written step by step; a step ends with a boundary, such as a line break or "=". Each
round continues every beam in several ways, a reward model reads them all, and the best go on
(Snell et al., "Scaling LLM Test-Time Compute Optimally", 2024). Diverse trees keep the best of each
tree instead of the best of all (Beeching et al., "Scaling test-time compute with open models",
2024).

All tokens count, those of what was pruned too; of the judge's reading each token counts once, as a
judge reads that keeps what it has read, and the question once.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from mechlab.core.errors import InputError, checked_whole
from models.decoding import Options
from models.generation import Generation, Sample, check_prompts
from models.score import sequence


@dataclasses.dataclass(frozen=True)
class Tree:
    """How wide a search is, and where its steps end."""

    beams: int = 1
    """Kept after each step; of diverse trees, how many trees."""
    width: int = 2
    """Continuations of each."""
    boundaries: tuple[str, ...] = ("\n\n",)
    """Strings that end a step."""
    diverse: bool = False
    """Keep the best of each tree, and not the best of all."""

    def __post_init__(self):
        checked_whole("beams", self.beams, 1, 2**16)
        checked_whole("width", self.width, 1, 2**16)
        if not self.boundaries or not all(self.boundaries):
            raise InputError("boundaries: give at least one string, none of them empty")


@dataclasses.dataclass(frozen=True)
class _Beam:
    tree: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    read: int = 0
    """Tokens of it and its question, as the judge has them."""
    reward: float = float("-inf")
    reason: str | None = None
    """Why it ended; None while it goes on."""


@dataclasses.dataclass
class _Job:
    question: int
    number: int
    beams: list[_Beam]
    tokens: int = 0
    judged: int = 0


def check_judge(lm, judge, options: Options) -> None:
    """InputError where a model cannot search with a judge, or not so."""
    if not judge.config.labels:
        raise InputError(f"{judge.name} has no classification head: it is no reward model")
    if lm.tokenizer is None or judge.tokenizer is None:
        raise InputError("a search reads texts: the model and the judge need tokenizers")
    if options.thinking is not None and (options.thinking.minimum or options.thinking.closing):
        raise InputError("a search has steps of its own: leave the thinking budget out")


class Search:
    """Iterates over answers found as (prompt's index, sample's number, `Sample`).

    Args:
        lm: a `models.LM` with a tokenizer.
        judge: a reward model; a process reward model, or one that can read unfinished answers.
        prompts: texts or chats.
        samples: the numbers of the searches wanted of each prompt.
        streams: what names a prompt to the random numbers, in [0, 2**32).
        options: how to draw; `max_tokens` is of one answer.
        tree: how to search.
        batch: rows decoded together.
        encoded: the prompts' ids, checked, where the caller has them.

    A search depends on its prompt, stream and number alone, not on `batch` or on other prompts.
    """

    def __init__(
        self,
        lm,
        judge,
        prompts: Sequence[Any],
        samples: Sequence[Sequence[int]],
        streams: Sequence[int],
        options: Options,
        tree: Tree,
        *,
        batch: int,
        encoded: Sequence[Sequence[int]] | None = None,
    ):
        check_judge(lm, judge, options)
        self.lm, self.judge, self.options, self.tree = lm, judge, options, tree
        self.generated, self._batch, self._prompts = 0, batch, prompts
        if encoded is None:
            encoded = [lm.encode(prompt) for prompt in prompts]
            check_prompts(lm.config, encoded, [options.max_tokens] * len(prompts))
        self._encoded = encoded
        self._streams = streams
        self._longest = options.max_tokens + max(map(len, encoded), default=0)
        # a token that holds a boundary ends a step at once, others when their text is read
        special = {*lm.tokenizer.all_special_ids}
        self._ends = tuple(
            token
            for token in range(min(len(lm.tokenizer), lm.config.vocabulary))
            if token not in special
            and any(string in lm.decode([token]) for string in tree.boundaries)
        )
        self._wanted = [
            (question, number) for question, numbers in enumerate(samples) for number in numbers
        ]

    def __iter__(self) -> Iterator[tuple[int, int, Sample]]:
        # two batches at once: rows that ended have others to take their place
        together = max(1, 2 * self._batch // (self.tree.beams * self.tree.width))
        for first in range(0, len(self._wanted), together):
            jobs = [
                self._root(question, number)
                for question, number in self._wanted[first : first + together]
            ]
            step = 0
            while any(beam.reason is None for job in jobs for beam in job.beams):
                self._advance(jobs, step)
                step += 1
            for job in jobs:
                yield job.question, job.number, self._sample(job)

    def _root(self, question: int, number: int) -> _Job:
        read = len(sequence(self.judge, self._prompts[question], "", ended=False))
        trees = range(self.tree.beams if self.tree.diverse else 1)
        return _Job(question, number, [_Beam(tree, read=read) for tree in trees], judged=read)

    def _advance(self, jobs: list[_Job], step: int) -> None:
        """A step of every beam that goes on."""
        growing = [
            (job, place, beam)
            for job in jobs
            for place, beam in enumerate(job.beams)
            if beam.reason is None
        ]
        # one beam, the root, is continued as often as all of a later step
        first = self.tree.beams if step == 0 and not self.tree.diverse else 1
        continuations = first * self.tree.width
        drawn = Generation(
            self.lm,
            [[*self._encoded[job.question], *beam.ids] for job, _, beam in growing],
            [range(continuations)] * len(growing),
            [self._stream(job, step, place) for job, place, _ in growing],
            dataclasses.replace(
                self.options,
                stop=(*self.options.stop, *self._ends),
                stop_strings=(*self.options.stop_strings, *self.tree.boundaries),
            ),
            batch=self._batch,
            limits=[self.options.max_tokens - len(beam.ids) for _, _, beam in growing],
            layout=self._layout(continuations * len(growing)),
            prefix=self._longest,
        )
        grown = []
        for index, number, sample in drawn:
            job, _, parent = growing[index]
            job.tokens += sample.tokens  # those past a stop string too: they were drawn
            grown.append((index, number, self._continued(parent, sample)))
        grown.sort(key=lambda found: found[:2])
        read = [
            sequence(
                self.judge,
                self._prompts[growing[index][0].question],
                self._text(beam),
                ended=beam.reason == "stop",
            )
            for index, _, beam in grown
        ]
        self.generated += drawn.generated
        rewards = self.judge.rewards(read).tolist()
        children: dict[int, list[_Beam]] = {id(job): [] for job in jobs}
        for (index, _, beam), ids, reward in zip(grown, read, rewards, strict=True):
            job, _, parent = growing[index]
            job.judged += max(1, len(ids) - parent.read)
            children[id(job)].append(dataclasses.replace(beam, read=len(ids), reward=reward))
        for job in jobs:
            ended = [beam for beam in job.beams if beam.reason is not None]
            self._prune(job, ended + children[id(job)])

    def _layout(self, wanted: int) -> tuple[int, int]:
        """Rows for so many continuations, and rows that share a beam's cache: all that a batch
        holds, or a half, a fourth…, for each number of rows is compiled by itself."""
        group = min(self.tree.width, self._batch)
        most = self._batch // group
        while 2 * wanted <= most * group and most > 1:
            most = -(-most // 2)
        return most * group, group

    def _prune(self, job: _Job, beams: list[_Beam]) -> None:
        different = {(beam.tree, beam.ids): beam for beam in reversed(beams)}
        best = sorted(reversed(different.values()), key=lambda beam: -beam.reward)
        if self.tree.diverse:
            of_tree = {beam.tree: beam for beam in reversed(best)}
            job.beams = [of_tree[tree] for tree in sorted(of_tree)]
        else:
            job.beams = best[: self.tree.beams]

    def _stream(self, job: _Job, step: int, place: int) -> int:
        name = (self._streams[job.question], job.number, step, place)
        return zlib.crc32(repr(name).encode())

    def _continued(self, beam: _Beam, sample: Sample) -> _Beam:
        ids, logprobs = beam.ids + sample.token_ids, beam.logprobs + sample.logprobs
        reason: str | None = "length" if len(ids) >= self.options.max_tokens else None
        if ids[-1] in self.options.stop:
            reason = "stop"
        if self._stops(ids):
            # a string may begin in an earlier step, so that this one has gone past its end
            length = next(n for n in range(len(beam.ids) + 1, len(ids) + 1) if self._stops(ids[:n]))
            ids, logprobs, reason = ids[:length], logprobs[:length], "stop"
        return dataclasses.replace(beam, ids=ids, logprobs=logprobs, reason=reason)

    def _stops(self, ids: tuple[int, ...]) -> bool:
        if not self.options.stop_strings:
            return False
        text = self.lm.decode(ids)
        return any(string in text for string in self.options.stop_strings)

    def _text(self, beam: _Beam) -> str:
        stopped = beam.ids[-1] in self.options.stop
        text = self.lm.decode(beam.ids[:-1] if stopped else beam.ids)
        places = [text.find(string) for string in self.options.stop_strings if string in text]
        return text[: min(places)] if places else text

    def _sample(self, job: _Job) -> Sample:
        best = max(job.beams, key=lambda beam: beam.reward)
        assert best.reason is not None
        return Sample(
            self._text(best),
            job.tokens,
            0,
            best.reason,
            best.ids,
            best.logprobs,
            job.judged,
            best.reward,
        )
