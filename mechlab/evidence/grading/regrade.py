"""Grading sampled texts again, with a verifier in place of what the log says."""

import concurrent.futures
import dataclasses
import os
import queue
from collections.abc import Callable, Iterable, Iterator

from mechlab.core.errors import InputError
from mechlab.evidence.grading.verifiers import Grade, Verifier
from mechlab.evidence.importers.records import Answers


@dataclasses.dataclass
class Changes:
    """What grading again changed: samples graded, right before and after, and answers not found.

    `correct_before` and `changed` are of the samples that the log had graded, `graded_before`.
    """

    samples: int = 0
    graded_before: int = 0
    correct_before: int = 0
    correct: int = 0
    changed: int = 0
    without_answer: int = 0


def regrade(
    found: Iterator[Answers],
    make: Callable[[], Verifier],
    changes: Changes,
    *,
    truths: dict[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Answers]:
    """The samples with the verifier's answers and grades.

    Answers of one question that are the same by the verifier's equality get one form: that of the
    truth where they are right, and of the first of them elsewhere.

    Args:
        found: with texts.
        make: makes a verifier; one for each core, where it has a process of its own.
        changes: counts what changed.
        truths: right answers by question, in place of the log's.
        progress: told now and then how many samples are graded.

    Raises:
        InputError: where a record has no texts, or nothing says what is right.
    """
    with _Graders(make) as grade:
        for record in found:
            truth = (truths or {}).get(record.question, record.truth)
            if record.texts is None:
                raise InputError(f"{record.where}: no texts of the answers; nothing to grade")
            if truth is None:
                raise InputError(
                    f"{record.where}: no right answer for question {record.question!r}; give "
                    "them with --truths"
                )
            grades = grade(record.texts, truth)
            answers = grade.one_form((record.model, record.benchmark, record.question), grades)
            before = changes.samples
            changes.samples += len(grades)
            changes.correct += sum(x.correct for x in grades)
            if record.correct is not None:
                changes.graded_before += len(grades)
                changes.correct_before += sum(record.correct)
                changes.changed += sum(
                    x.correct != y for x, y in zip(grades, record.correct, strict=True)
                )
            changes.without_answer += sum(x.answer is None for x in grades)
            if progress and before // 1000 != changes.samples // 1000:
                progress(f"graded {changes.samples:,} samples")
            yield dataclasses.replace(record, answer=answers, correct=[x.correct for x in grades])


class _Graders:
    """Verifiers that grade texts, side by side where each waits for a process of its own."""

    def __init__(self, make: Callable[[], Verifier]) -> None:
        first = make()
        count = len(os.sched_getaffinity(0)) if first.waits else 1
        self._all = [first, *(make() for _ in range(count - 1))]
        self._idle: queue.SimpleQueue[Verifier] = queue.SimpleQueue()
        for verifier in self._all:
            self._idle.put(verifier)
        self._pool = concurrent.futures.ThreadPoolExecutor(count) if count > 1 else None
        self._forms: dict[tuple[str, str, str], list[str]] = {}

    def __enter__(self) -> "_Graders":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()
        for verifier in self._all:
            verifier.close()

    def __call__(self, texts: Iterable[str], truth: str) -> list[Grade]:
        if self._pool is None:
            return [self._all[0](text, truth) for text in texts]

        def grade(text: str) -> Grade:
            verifier = self._idle.get()
            try:
                return verifier(text, truth)
            finally:
                self._idle.put(verifier)

        return list(self._pool.map(grade, texts))

    def one_form(self, question: tuple[str, str, str], grades: list[Grade]) -> list[str | None]:
        """The answers, each that is the same as another of the question in the other's form."""
        forms = self._forms.setdefault(question, [])
        result: list[str | None] = []
        for grade in grades:
            answer = grade.answer
            if answer is not None and not grade.correct and answer not in forms:
                known = (form for form in forms if self._all[0].same(form, answer))
                answer = next(known, answer)
                if answer not in forms:
                    forms.append(answer)
            result.append(answer)
        return result
