"""What every importer shares: lines of a file, faults with their place, and rows handed on."""

import dataclasses
import gzip
import json
import math
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypedDict, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mechlab.core.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LONGEST = 2**30  # bytes of a line: past it the file is not what it seems
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)  # of compressed files
_ZIPPED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"\x28\xb5\x2f\xfd": zstd.open}


class Fault(Exception):
    """A record that cannot be used; says why."""


@dataclasses.dataclass
class Report:
    """What was read, and what was not.

    Attributes:
        strict: raise InputError at the first fault.
        warn: called with each fault, and with each reading that was taken of several, a line.
        records, samples: that were taken.
        faults: records that were left out.
        first: the first of them, a line.
    """

    strict: bool = False
    warn: Callable[[str], None] = lambda line: None
    records: int = 0
    samples: int = 0
    faults: int = 0
    first: str = ""

    def fault(self, where: str, why: str) -> None:
        self.faults += 1
        self.first = self.first or f"{where}: {why}"
        if self.strict:
            raise InputError(f"{where}: {why}; mend it, or read on without --strict")
        self.warn(f"{where}: {why}; left out")

    def chosen(
        self, path: pathlib.Path, what: str, asked: str | None, taken: str, there: Iterable[str]
    ) -> None:
        """Say which of several readings of a file was taken, where none was asked for."""
        others = sorted(x for x in set(there) if x != taken)
        if others and asked is None:
            self.warn(
                f"{path}: {what} {taken!r} is read; it also has "
                f"{', '.join(map(repr, others))} (--{what} NAME)"
            )


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which reading of a log is wanted, where it holds several; None: the first, which is said."""

    filter: str | None = None
    metric: str | None = None
    scorer: str | None = None


@dataclasses.dataclass
class Answers:
    """The samples of one question; lists have an entry a sample.

    Attributes:
        model, benchmark, question: names.
        answer: canonical, None where none was found.
        correct: bool; None for all where the source has no grades.
        tokens: int, or None where the source has none.
        reward, confidence, thinking, finish: an entry a sample, or None for all.
        logprob_sum, logprob_mean: of the log-probabilities of its tokens, likewise.
        judged_tokens: that a reward model read, likewise.
        texts: as sampled, where they were asked for; None where the source has none.
        truth: the right answer, where the source has it.
        first: number of the first sample.
        where: file and line, for messages.
    """

    model: str
    benchmark: str
    question: str
    answer: list[str | None]
    correct: list[bool] | None
    tokens: list[int | None]
    reward: list[float | None] | None = None
    confidence: list[float | None] | None = None
    logprob_sum: list[float | None] | None = None
    logprob_mean: list[float | None] | None = None
    judged_tokens: list[int | None] | None = None
    thinking: list[int | None] | None = None
    finish: list[str | None] | None = None
    texts: list[str] | None = None
    truth: str | None = None
    first: int = 0
    where: str = ""


def open_file(path: pathlib.Path) -> BinaryIO:
    """The bytes of a file, decompressed where it is gzip or Zstandard; InputError."""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; name a file that exists") from None
    head = file.read(4)
    file.seek(0)
    for magic, unzipped in _ZIPPED.items():
        if head.startswith(magic):
            file.close()
            return cast(BinaryIO, unzipped(path))
    return file


def loads(text: bytes) -> Any:
    """JSON as its writers write it; raises ValueError.

    NaN is null, whole numbers may be of any size, and half of a pair of surrogates is U+FFFD.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            found = json.loads(text.decode("utf-8", "replace"), parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            raise error from None
        return _sound(found)


def _sound(value: Any) -> Any:
    """The value with texts that UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_sound(x) for x in value]
    if isinstance(value, dict):
        return {_sound(k): _sound(x) for k, x in value.items()}
    return value


def broken(path: pathlib.Path, error: Exception) -> InputError:
    """What to say of a compressed file that cannot be read on."""
    return InputError(f"{path}: breaks off ({' '.join(str(error).split())}); copy it again")


class LogProbs(TypedDict, total=False):
    """Of `Answers`."""

    confidence: list[float | None]
    logprob_sum: list[float | None]
    logprob_mean: list[float | None]


def of_logprobs(samples: Iterable[Iterable[Any]]) -> LogProbs:
    """What the log-probabilities of their tokens say of samples."""
    found = LogProbs(confidence=[], logprob_sum=[], logprob_mean=[])
    for logs in samples:
        there = [x for x in logs if isinstance(x, int | float) and x <= 0]
        total = math.fsum(there) if there else None
        mean = None if total is None else total / len(there)
        found["confidence"].append(None if mean is None else math.exp(mean))
        found["logprob_sum"].append(total)
        found["logprob_mean"].append(mean)
    return found


def json_lines(path: pathlib.Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each line that is a JSON object; others are faults. Streams."""
    empty = True
    with open_file(path) as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.isspace():
                continue
            empty = False
            where = f"{path}, line {number}"
            try:
                record = loads(line)
            except ValueError as error:
                reason = "no text" if b"\0" in line[:4096] else " ".join(str(error).split())
                report.fault(where, f"not JSON ({reason})")
                continue
            if not isinstance(record, dict):
                report.fault(where, f"a {type(record).__name__} where a record {{…}} belongs")
                continue
            yield where, record
    if empty:
        report.fault(str(path), "the file is empty")


def rows(path: pathlib.Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each row of Parquet, or line of JSON. Streams."""
    with open_file(path) as file:
        parquet = file.read(4) == b"PAR1"
    if not parquet:
        yield from json_lines(path, report)
        return
    row = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=256):  # rows hold long texts
                for record in batch.to_pylist():
                    yield f"{path}, row {row}", record
                    row += 1
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}, row {row}: not readable as Parquet ({reason})") from None


def entries(record: dict[str, Any], name: str, count: int | None = None) -> list[Any]:
    """A list of the record, with `count` entries; raises Fault."""
    value = record.get(name)
    if not isinstance(value, list):
        raise Fault(f"no list {name}")
    if count is not None and len(value) != count:
        raise Fault(f"{name} has {len(value)} entries where there are {count} samples")
    return value
