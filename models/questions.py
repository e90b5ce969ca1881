"""Benchmarks: the questions that models are asked, from files, a hub or a generator."""

import csv
import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mechlab.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Question:
    id: str
    text: str
    truth: str


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How a known benchmark is read and graded."""

    read: Callable[[Mapping[str, Any], int], Question]
    """A question from a record and its row."""
    verifier: str
    prompt: str
    hub: tuple[str, str | None, str] | None = None
    """Where the `datasets` library finds it: path, subset and split."""


def _field(record: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise KeyError(" or ".join(names))


def _id(record: Mapping[str, Any], row: int, *names: str) -> str:
    return next((str(record[name]) for name in names if record.get(name) is not None), str(row))


def _gsm8k(record, row):
    answer = str(_field(record, "answer"))
    truth = answer.split("####")[-1].strip()
    return Question(_id(record, row, "id"), str(_field(record, "question")), truth)


def _aime(record, row):
    text = str(_field(record, "problem", "Problem", "question", "Question"))
    truth = str(_field(record, "answer", "Answer"))
    return Question(_id(record, row, "id", "ID"), text, truth)


def _gpqa(record, row):
    identity = _id(record, row, "Record ID", "id")
    right = _field(record, "Correct Answer")
    choices = [right, *(_field(record, f"Incorrect Answer {number}") for number in (1, 2, 3))]
    random.Random(identity).shuffle(choices)
    listed = "\n".join(
        f"{letter}) {str(choice).strip()}" for letter, choice in zip("ABCD", choices, strict=True)
    )
    text = f"{str(_field(record, 'Question')).strip()}\n\n{listed}"
    return Question(identity, text, "ABCD"[choices.index(right)])


def _plain(record, row):
    text, truth = _field(record, "question", "problem", "prompt"), _field(record, "answer", "truth")
    return Question(_id(record, row, "id", "question_id"), str(text), str(truth))


_NUMBER = "{question}\n\nReason step by step, and end with #### and the number."
_BOX = "{question}\n\nReason step by step, and put the final answer in \\boxed{}."
_LETTER = '{question}\n\nReason step by step, and end with "Answer:" and the letter.'
BENCHMARKS = {
    "gsm8k": Benchmark(_gsm8k, "number", _NUMBER, ("openai/gsm8k", "main", "test")),
    "aime": Benchmark(_aime, "number", _BOX, ("Maxwell-Jia/AIME_2024", None, "train")),
    "gpqa": Benchmark(_gpqa, "choice", _LETTER, ("Idavidrein/gpqa", "gpqa_diamond", "train")),
    "reasoning-gym": Benchmark(_plain, "number", "{question}"),
    "arithmetic": Benchmark(_plain, "number", "{question}"),
    "table": Benchmark(_plain, "number", "{question}"),
}


def read(
    kind: str,
    *,
    path: str | None = None,
    count: int | None = None,
    seed: int = 0,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Question]:
    """The questions of a benchmark, in the source's order.

    Args:
        kind: a name of `BENCHMARKS`.
        path: JSONL, Parquet or CSV with the benchmark's own fields ("table": question and answer);
            without it, GSM8K, AIME and GPQA come through the `datasets` library.
        count: the first so many questions; of a generator, how many it makes.
        seed: of a generator.
        task, options: of reasoning-gym: the data set's name and its parameters.

    Raises:
        InputError: the source is missing, or a record of it is broken.
    """
    if kind not in BENCHMARKS:
        raise InputError(f"benchmark source {kind!r} is not known; use {', '.join(BENCHMARKS)}")
    if count is not None and count < 1:
        raise InputError(f"questions = {count}; give at least 1, or leave it out")
    if seed < 0:
        raise InputError(f"benchmark.seed = {seed}; give 0 or more")
    benchmark = BENCHMARKS[kind]
    if kind == "reasoning-gym":
        return _procedural(task, count, seed, options or {})
    if kind == "arithmetic":
        return _arithmetic(count, seed, options or {})
    records, where = _records(benchmark, kind, path)
    questions = []
    for row, record in enumerate(itertools.islice(records, count)):
        if not isinstance(record, Mapping):
            raise InputError(f"{where}, row {row}: not an object with fields")
        try:
            questions.append(benchmark.read(record, row))
        except KeyError as error:
            raise InputError(
                f"{where}, row {row}: no {str(error).strip(chr(39))}; {kind} needs it"
            ) from None
    if not questions:
        raise InputError(f"{where} holds no questions")
    if len({question.id for question in questions}) < len(questions):
        raise InputError(f"{where}: question ids repeat; give each question its own")
    return questions


def _records(benchmark: Benchmark, kind: str, path: str | None) -> tuple[Iterable[Any], str]:
    if path is None:
        if benchmark.hub is None:
            raise InputError(f"benchmark {kind} needs a path: JSONL, Parquet or CSV")
        try:
            import datasets
        except ImportError:
            raise InputError(
                f"benchmark {kind} needs a path, or the library datasets (pip install datasets)"
            ) from None
        name, subset, split = benchmark.hub
        try:
            return datasets.load_dataset(name, subset, split=split), name
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{name} could not be loaded: {reason}; give a path") from None
    file = Path(path)
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file).to_pylist(), path
        with file.open(encoding="utf-8-sig", newline="") as opened:
            if file.suffix.lower() == ".csv":
                return list(csv.DictReader(opened)), path
            return [json.loads(line) for line in opened if line.strip()], path
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _procedural(task, count, seed, options) -> list[Question]:
    try:
        import reasoning_gym
    except ImportError:
        raise InputError(
            "procedural problems need reasoning-gym: pip install reasoning-gym (on Python 3.14 its "
            "dependency pycosat wants a C compiler)"
        ) from None
    if task is None or count is None:
        raise InputError("reasoning-gym needs a task and a number of questions")
    try:
        made = reasoning_gym.create_dataset(task, seed=seed, size=count, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"reasoning-gym {task}: {' '.join(str(error).split())}") from None
    found: dict[str, Question] = {}
    for record in made:
        text = record["question"]
        # Small tasks repeat themselves: a question is asked once
        found.setdefault(text, Question(text, text, str(record["answer"])))
    return list(found.values())


def _arithmetic(count, seed, options) -> list[Question]:
    from models import arithmetic

    effort = options.get("effort")
    if count is None or set(options) - {"effort"} or effort not in (None, *arithmetic.EFFORTS):
        raise InputError(
            "arithmetic needs a number of questions, and of options at most effort: "
            + ", ".join(arithmetic.EFFORTS)
        )
    found: dict[str, Question] = {}
    for problem in arithmetic.problems(seed, held_out=True):
        question = Question(problem.text, problem.prompt(effort), str(problem.answer))
        found.setdefault(problem.text, question)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("problems never end")
