"""What every importer shares: lines of a file, faults with their place, and rows handed on."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson

from mechlab.core.errors import InputError

_LONGEST = 2**30  # bytes of a line: past it the file is not what it seems


class Fault(Exception):
    """A record that cannot be used; says why."""


@dataclasses.dataclass
class Report:
    """What was read, and what was not.

    Attributes:
        strict: raise InputError at the first fault.
        warn: called with each fault, a line.
        records, samples: that were taken.
        faults: records that were left out.
    """

    strict: bool = False
    warn: Callable[[str], None] = lambda line: None
    records: int = 0
    samples: int = 0
    faults: int = 0

    def fault(self, where: str, why: str) -> None:
        self.faults += 1
        if self.strict:
            raise InputError(f"{where}: {why}; mend it, or read on without --strict")
        self.warn(f"{where}: {why}; left out")


@dataclasses.dataclass
class Answers:
    """The samples of one question; lists have an entry a sample.

    Attributes:
        model, benchmark, question: names.
        answer: canonical, None where none was found.
        correct: bool.
        tokens: int, or None where the source has none.
        reward, thinking, finish: an entry a sample, or None for all.
        texts: as sampled, where they were asked for; None where the source has none.
        truth: the right answer, where the source has it.
        first: number of the first sample.
        where: file and line, for messages.
    """

    model: str
    benchmark: str
    question: str
    answer: list[str | None]
    correct: list[bool]
    tokens: list[int | None]
    reward: list[float | None] | None = None
    thinking: list[int | None] | None = None
    finish: list[str | None] | None = None
    texts: list[str] | None = None
    truth: str | None = None
    first: int = 0
    where: str = ""


def open_file(path: pathlib.Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; name a file that exists") from None


def json_lines(path: pathlib.Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each line that is a JSON object; others are faults. Streams."""
    empty = True
    with open_file(path) as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            if line.isspace():
                continue
            empty = False
            where = f"{path}, line {number}"
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = "no text" if b"\0" in line[:4096] else " ".join(str(error).split())
                report.fault(where, f"not JSON ({reason})")
                continue
            if not isinstance(record, dict):
                report.fault(where, f"a {type(record).__name__} where a record {{…}} belongs")
                continue
            yield where, record
    if empty:
        report.fault(str(path), "the file is empty")


def entries(record: dict[str, Any], name: str, count: int | None = None) -> list[Any]:
    """A list of the record, with `count` entries; raises Fault."""
    value = record.get(name)
    if not isinstance(value, list):
        raise Fault(f"no list {name}")
    if count is not None and len(value) != count:
        raise Fault(f"{name} has {len(value)} entries where there are {count} samples")
    return value
