"""The pipeline from a model and a benchmark to a sample table.

    python -m models.sample CONFIG.toml

The config's folder `out` receives `samples.jsonl` (each finished sample with its text, at once),
`questions.jsonl` and, when all are there, the sample table `samples.parquet`. Killed at any moment
and started again, the run goes on where it was, and a finished one grows when `questions` or `n`
do; another config is refused there.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mechlab.cli.app import run
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.files import appearing
from mechlab.evidence import grading
from mechlab.evidence import samples as sample_table
from mechlab.simulation.part_files import RunDirectory
from models import settings, tokenizer
from models.generation import Generation, check_prompts
from models.language_model import LM, load
from models.questions import BENCHMARKS, Question, read
from models.search import Search, Tree, check_judge


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    spec: str
    """See `models.load`."""
    name: str | None = None
    """In the sample table; the checkpoint's when left out."""
    dtype: str | None = None
    """float32 or bfloat16; by the device when left out."""
    weights: str | None = None
    """int8, or as dtype says when left out."""
    chat: bool | None = None
    """Ask through the chat template; by whether there is one when left out."""
    system: str | None = None
    """The system message of a chat."""
    template: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the chat template: enable_thinking = false, date_string = "26 Jul 2024"."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    source: str
    """gsm8k, aime, gpqa, reasoning-gym, arithmetic or table."""
    name: str | None = None
    """In the sample table; the source's when left out."""
    path: str | None = None
    questions: int | None = None
    seed: int = 0
    task: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompt: str | None = None
    """With {question} in it."""
    verifier: str | None = None
    """number, choice or math."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    n: int
    """Samples a question."""
    temperature: float = 1.0
    max_tokens: int = 512
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    batch: int = 64
    stop_strings: tuple[str, ...] = ()
    """End an answer, and are no part of it."""
    max_thinking_tokens: int | None = None
    min_thinking_tokens: int = 0
    token_ids: bool = False
    """Keep the ids of every sample's tokens."""

    def __post_init__(self):
        checked_whole("[sampling] n", self.n, 1, 2**31 - 1)
        checked_whole("[sampling] batch", self.batch, 1, 2**20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig(Tree):
    """Each sample is found by a search over a reward model; see `models.search`."""

    judge: str
    """The reward model's spec, see `models.load`."""


@dataclasses.dataclass(frozen=True)
class Config:
    out: str
    model: ModelConfig
    benchmark: BenchmarkConfig
    sampling: SamplingConfig
    search: SearchConfig | None = None


# ------------------------------------------------------------------------------------------- run

_RECORD: dict[str, Any] = {
    "question_id": str,
    "sample": int,
    "answer": str | None,
    "correct": bool,
    "tokens": int,
    "thinking_tokens": int | None,
    "finish_reason": str,
    "logprob_sum": float | int,
    "text": str,
}
"""What a line of the journal holds."""
_MORE: dict[str, Any] = {"token_ids": list, "judged_tokens": int, "reward": float | int}
"""What it may hold too: ids that were asked for, and all three of a search."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class Journal:
    """`samples.jsonl`: a line a finished sample; what a killed run left of a line is dropped."""

    def __init__(self, path: Path):
        self.records: dict[tuple[str, int], dict[str, Any]] = {}
        whole = 0
        if path.exists():
            *lines, _ = path.read_bytes().split(b"\n")
            for number, line in enumerate(lines, 1):
                record = self._read(f"{path}, line {number}", line)
                key = record["question_id"], record["sample"]
                if self.records.setdefault(key, record) != record:
                    raise InputError(
                        f"{path}, line {number}: sample {key[1]} of question {key[0]} has another"
                        " line that differs; remove one of the two"
                    )
                whole += len(line) + 1
        self._file = path.open("ab")
        self._file.truncate(whole)

    @staticmethod
    def _read(where: str, line: bytes) -> dict[str, Any]:
        remedy = "remove the line, and its sample is drawn again"
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{where}: no JSON object; {remedy}")
        needed = _RECORD | ({"token_ids": list} if "judged_tokens" in record else {})
        if missing := needed.keys() - record.keys():
            raise InputError(f"{where}: no {', '.join(sorted(missing))}; {remedy}")

        def fits(name: str, kind: Any) -> bool:
            value = record[name]
            if kind is list:
                return isinstance(value, list) and bool(value) and all(_is_count(x) for x in value)
            # in Python a bool is an int
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                return False
            if name == "logprob_sum":
                return -math.inf < value <= 1e-3
            if name == "reward":
                return math.isfinite(value)
            return not isinstance(value, int) or kind is bool or _is_count(value)

        for name, kind in (_RECORD | _MORE).items():
            if name in record and not (
                fits(name, kind) and (name != "tokens" or record[name] >= 1)
            ):
                raise InputError(f"{where}: {name} is {record[name]!r}; {remedy}")
        return record

    def add(self, record: dict[str, Any]) -> None:
        self.records[record["question_id"], record["sample"]] = record
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def sample(config: Config, *, tell: Callable[..., None] = lambda **done: None) -> Path:
    """Samples what the config's folder lacks; returns the sample table's path.

    Args:
        tell: called after each sample with `questions` and `samples` finished, `tokens` and
            `seconds` spent in this call, and `total` samples that were lacking.

    Raises:
        InputError: a config that does not fit the model or the benchmark, or that another run
            made the folder with.
    """
    benchmark, sampling = config.benchmark, config.sampling
    questions = read(
        benchmark.source,
        path=benchmark.path,
        count=benchmark.questions,
        seed=benchmark.seed,
        task=benchmark.task,
        options=benchmark.options,
    )
    known = BENCHMARKS[benchmark.source]
    verifier = grading.named(benchmark.verifier or known.verifier)
    _check_truths(verifier, questions)
    lm = _model(config.model)
    ask = _asker(lm, config.model, benchmark.prompt or known.prompt)
    prompts = [ask(question) for question in questions]
    drawing = dataclasses.asdict(sampling)
    for name in ("n", "batch", "token_ids"):
        del drawing[name]
    options = lm.options(**drawing)
    encoded = [
        _encoded(lm, question, prompt) for question, prompt in zip(questions, prompts, strict=True)
    ]
    check_prompts(lm.config, encoded, [options.max_tokens] * len(encoded))

    judge = None if config.search is None else load(config.search.judge, dtype=lm.dtype)
    if judge is not None:
        check_judge(lm, judge, options)

    directory = _directory(config, lm, judge, questions, prompts, encoded)
    table = directory.path / "samples.parquet"
    with Journal(directory.path / "samples.jsonl") as journal:
        most = max((number for _, number in journal.records), default=-1) + 1
        if sampling.n < most:
            raise InputError(
                f"{directory.path} holds {most} samples of a question; n = {sampling.n} would lose"
                f" some: give at least {most}, or name another folder"
            )
        wanted = [
            [number for number in range(sampling.n) if (question.id, number) not in journal.records]
            for question in questions
        ]
        finished = not any(wanted) and table.exists()
        if finished and sample_table.read(table).num_rows == len(journal.records):
            return table  # as it is: it may have rewards by now
        streams = [zlib.crc32(question.id.encode()) for question in questions]
        generation = (
            Generation(lm, encoded, wanted, streams, options, batch=sampling.batch)
            if config.search is None
            else Search(
                lm,
                judge,
                prompts,
                wanted,
                streams,
                options,
                config.search,
                batch=sampling.batch,
                encoded=encoded,
            )
        )
        ids = sampling.token_ids or config.search is not None
        _draw(generation, questions, verifier, journal, wanted, tell, ids=ids)
    name = benchmark.name or benchmark.source
    rows = _rows(journal, questions, config.model.name or lm.name, name, _judged(table))
    sample_table.write(table, [rows.take()])
    return table


def _judged(table: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What a reward model has said of the samples of a run that grows."""
    if not table.exists():
        return {}
    found = sample_table.read(table).select(["question_id", "sample", "reward", "judged_tokens"])
    return {(row.pop("question_id"), row.pop("sample")): row for row in found.to_pylist()}


def _check_truths(verifier: grading.Verifier, questions: list[Question]) -> None:
    if not isinstance(verifier, grading.FinalNumber):
        return
    for question in questions:
        if verifier.find(question.truth) is None:
            raise InputError(
                f"question {question.id}: the verifier number finds none in the right answer"
                f" {question.truth[:40]!r}; set benchmark.verifier to choice or math"
            )


def _encoded(lm: LM, question: Question, prompt: Any) -> list[int]:
    try:
        return lm.encode(prompt)
    except InputError as error:
        raise InputError(f"question {question.id}: {error}") from None


def _directory(
    config: Config,
    lm: LM,
    judge: LM | None,
    questions: list[Question],
    prompts: list[Any],
    encoded: list[list[int]],
) -> RunDirectory:
    """The run's folder, with what it is asked; refused where another run has made it.

    Of one question the same has to be asked each time: a template may write today's date, and then
    tomorrow's prompts are others.
    """
    lines = {
        question.id: {
            **dataclasses.asdict(question),
            "prompt": prompt,
            "prompt_ids": zlib.crc32(json.dumps(ids).encode()),
        }
        for question, prompt, ids in zip(questions, prompts, encoded, strict=True)
    }
    made_by = dataclasses.asdict(config)
    del made_by["out"], made_by["sampling"]["batch"]  # where and how fast, not what
    del made_by["sampling"]["n"], made_by["benchmark"]["questions"]  # a run may grow
    digests = Digests(Path(config.out) / "digests.json")
    made_by |= _identity("weights", lm, digests)
    if judge is not None:
        template = judge.tokenizer.chat_template
        made_by |= _identity("judge", judge, digests) | {"judge template": template}
    directory = RunDirectory(config.out, made_by, option="out =")
    digests.write()
    file = directory.path / "questions.jsonl"
    if file.exists():
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n")[:-1], 1):
            try:
                before = json.loads(line)
                before["id"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{file}, line {number}: no question; name another folder, or restore the file"
                ) from None
            now = lines.get(before["id"])
            if now is None:
                raise InputError(
                    f"{file}: question {before['id']} was asked and is no more; give at least as"
                    " many questions as before, or name another folder"
                )
            changed = [name for name in now if before.get(name) != now[name]]
            if changed:
                raise InputError(
                    f"{file}: question {before['id']} was asked otherwise ({changed[0]} differs;"
                    " a chat template that writes the date needs model.template.date_string); name"
                    " another folder"
                )
    text = "".join(
        json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines.values()
    )
    with appearing(file) as hidden:
        Path(hidden).write_text(text, encoding="utf-8")
    return directory


def _draw(
    generation: Generation | Search, questions, verifier, journal: Journal, wanted, tell, *, ids
) -> None:
    """Draws, grades and keeps the wanted samples, one after the other as they end."""
    left = [len(numbers) for numbers in wanted]
    total, samples, finished = sum(left), 0, left.count(0)
    thinks, started = generation.options.thinking is not None, time.perf_counter()
    found = isinstance(generation, Search)
    try:
        for index, number, drawn in generation:
            question = questions[index]
            grade = verifier(drawn.text, question.truth)
            journal.add(
                {
                    "question_id": question.id,
                    "sample": number,
                    "answer": grade.answer,
                    "correct": grade.correct,
                    "tokens": drawn.tokens,
                    "thinking_tokens": drawn.thinking_tokens if thinks else None,
                    "finish_reason": drawn.finish_reason,
                    "logprob_sum": drawn.logprob,
                    "text": drawn.text,
                }
                | ({"token_ids": drawn.token_ids} if ids else {})
                | ({"reward": drawn.reward, "judged_tokens": drawn.judged_tokens} if found else {})
            )
            left[index] -= 1
            samples, finished = samples + 1, finished + (left[index] == 0)
            tell(
                questions=finished,
                samples=samples,
                tokens=generation.generated,
                seconds=time.perf_counter() - started,
                total=total,
            )
    finally:
        verifier.close()


def _model(config: ModelConfig) -> LM:
    if config.dtype not in (None, "float32", "bfloat16"):
        raise InputError(f"model.dtype {config.dtype!r}; use float32 or bfloat16")
    return load(
        config.spec,
        dtype=config.dtype and jnp.dtype(config.dtype),
        weights=config.weights,
        template=config.template,
    )


def _asker(lm: LM, config: ModelConfig, template: str) -> Callable[[Question], Any]:
    """Makes a question a prompt: text, or the messages of a chat."""
    if "{question}" not in template:
        raise InputError("benchmark.prompt must hold {question}")
    chat = config.chat
    if chat is None:
        chat = lm.tokenizer is not None and lm.tokenizer.chat_template is not None
    if config.system is not None and not chat:
        raise InputError("model.system needs a chat; set model.chat, or leave it out")
    if config.template and not chat:
        raise InputError("model.template needs a chat; set model.chat, or leave it out")
    named = [] if chat or lm.tokenizer is None else tokenizer.control_in(lm.tokenizer, template)
    if named:
        raise InputError(
            f"benchmark.prompt holds {named[0]}, which is text and no control token where no chat"
            " template writes it; set model.chat"
        )
    system = [{"role": "system", "content": config.system}] if config.system is not None else []

    def ask(question: Question):
        text = template.replace("{question}", question.text)
        return [*system, {"role": "user", "content": text}] if chat else text

    return ask


def _identity(role: str, lm: LM, digests: "Digests") -> dict[str, Any]:
    """What decides the samples of a model beside its prompts: with another it is another run."""
    about: dict[str, Any] = {role: {file.name: digests.of(file) for file in lm.files}}
    about |= {f"{role} {name}": value for name, value in dataclasses.asdict(lm.config).items()}
    about[f"{role} stop"] = lm.stop
    if lm.tokenizer is not None:
        written = lm.tokenizer.backend_tokenizer.to_str().encode()
        about[f"{role} tokenizer"] = hashlib.sha256(written).hexdigest()
    return about


class Digests:
    """Checksums of large files, each read once: a file is told by its inode, size and time.

    They are kept in a file beside the run, so that a restart reads no weights but to load them.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = None
        self._known: dict[str, str] = kept if isinstance(kept, dict) else {}

    def of(self, file: Path) -> str:
        about = file.stat()
        key = f"{about.st_dev}-{about.st_ino}-{about.st_size}-{about.st_mtime_ns}"
        if not isinstance(self._known.get(key), str):
            with file.open("rb") as content:
                self._known[key] = hashlib.file_digest(content, "sha256").hexdigest()
        return f"{about.st_size} bytes, sha256 {self._known[key]}"

    def write(self) -> None:
        with appearing(self._path) as hidden:
            Path(hidden).write_text(json.dumps(self._known, indent=1) + "\n", encoding="utf-8")


def _rows(journal: Journal, questions, model: str, benchmark: str, judged) -> sample_table.Batches:
    rows = sample_table.Batches()
    order = {question.id: place for place, question in enumerate(questions)}
    asked = [key for key in journal.records if key[0] in order]
    for key in sorted(asked, key=lambda key: (order[key[0]], key[1])):
        record = {name: value for name, value in journal.records[key].items() if name != "text"}
        # of a search, the answer's own tokens are fewer than what was drawn
        length = len(record["token_ids"]) if "judged_tokens" in record else record["tokens"]
        mean = record["logprob_sum"] / length
        record |= {"logprob_mean": mean, "confidence": math.exp(mean)} | judged.get(key, {})
        # a list of ids is one row's value, not a row for each
        record["token_ids"] = [record.get("token_ids")]
        rows.add(1, model=model, benchmark=benchmark, **record)
    return rows


# --------------------------------------------------------------------------------------- command


@contextlib.contextmanager
def telling(name: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; its `tell` for `sample`."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(name, said="loading the model", total=None)

        def tell(*, questions, samples, tokens, seconds, total):
            speed = f"{tokens / seconds:.0f} tokens/s"
            said = f"{questions} questions  {samples}/{total} samples  {speed}"
            bar.update(task, completed=samples, total=total, said=said)

        yield tell


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG.toml…", show_default=False)],
) -> None:
    """Sample what each config asks for into its folder; a run that was stopped goes on."""
    for file in configs:
        config = settings.read(file, Config)
        with telling(file.stem) as tell:
            try:
                path = sample(config, tell=tell)
            except KeyboardInterrupt:
                raise InputError(
                    "stopped; what is finished is kept, the same command goes on"
                ) from None
        print(path)


if __name__ == "__main__":
    sys.exit(run(app, "models.sample"))
