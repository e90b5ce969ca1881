"""Grading sampled texts again, with a verifier in place of what the log says."""

import concurrent.futures
import dataclasses
import os
import queue
from collections.abc import Callable, Iterator

from mechlab.core.errors import InputError
from mechlab.evidence.grading.verifiers import Grade, Verifier
from mechlab.evidence.importers.records import Answers


@dataclasses.dataclass
class Changes:
    """What grading again changed: samples graded, right before and after, and answers not found."""

    samples: int = 0
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
) -> Iterator[Answers]:
    """The samples with the verifier's answers and grades.

    Args:
        found: with texts.
        make: makes a verifier; one for each core.
        changes: counts what changed.
        truths: right answers by question, in place of the log's.

    Raises:
        InputError: where a record has no texts, or nothing says what is right.
    """
    cores = len(os.sched_getaffinity(0))
    idle: queue.SimpleQueue[Verifier] = queue.SimpleQueue()
    verifiers = [make() for _ in range(cores)]
    for verifier in verifiers:
        idle.put(verifier)

    def grade(text: str, truth: str) -> Grade:
        verifier = idle.get()
        try:
            return verifier(text, truth)
        finally:
            idle.put(verifier)

    try:
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            for record in found:
                truth = (truths or {}).get(record.question, record.truth)
                if record.texts is None:
                    raise InputError(f"{record.where}: no texts of the answers; nothing to grade")
                if truth is None:
                    raise InputError(
                        f"{record.where}: no right answer for question {record.question!r}; give "
                        "them with --truths"
                    )
                grades = list(pool.map(grade, record.texts, [truth] * len(record.texts)))
                changes.samples += len(grades)
                changes.correct_before += sum(record.correct)
                changes.correct += sum(x.correct for x in grades)
                changes.changed += sum(
                    x.correct != y for x, y in zip(grades, record.correct, strict=True)
                )
                changes.without_answer += sum(x.answer is None for x in grades)
                yield dataclasses.replace(
                    record,
                    answer=[x.answer for x in grades],
                    correct=[x.correct for x in grades],
                )
    finally:
        for verifier in verifiers:
            verifier.close()
