"""Any table, with a TOML file that says which column is what.

CSV, TSV or semicolons, JSON lines (each also as gzip or Zstandard) and Parquet.

    [columns]                  # field of the sample table = column of the file
    model = "provider"
    question_id = "problem"
    correct = "is_right"
    tokens = "completion_tokens"
    [constants]                # fields that are the same in every row
    benchmark = "GSM8K"

`model`, `benchmark`, `question_id`, `correct` and `tokens` are needed (to grade texts, `text` in
place of the last two); `answer`, `reward`, `judged_tokens`, `confidence`, `logprob_sum`,
`logprob_mean`, `thinking_tokens`, `finish_reason`, `sample`, `text` and `truth` may be given.
Without `sample`, rows of one question are numbered as they come. Columns that are called as the
fields are need no file.
"""

import collections
import csv
import pathlib
import tomllib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report, json_lines, loads, open_file

NAMES = ("model", "benchmark", "question_id")
NEEDED = (*NAMES, "correct", "tokens")
FIELDS = (
    *NEEDED,
    "answer",
    "reward",
    "confidence",
    "thinking_tokens",
    "finish_reason",
    "sample",
    "text",
    "truth",
    "cost",
    "logprob_sum",
    "logprob_mean",
    "judged_tokens",
)
_ROWS = 2**14  # of a batch of JSON lines
_TRUE, _FALSE = {"true", "1", "1.0", "yes", "c"}, {"false", "0", "0.0", "no", "i"}


def needed(texts: bool) -> tuple[str, ...]:
    """The fields that a table has to have: to grade its texts, or to take its grades."""
    return (*NAMES, "text") if texts else NEEDED


def mapping(
    path: str, given: dict[str, str], texts: bool
) -> tuple[dict[str, str], dict[str, str], dict[str, float] | None]:
    """{field: column}, {field: constant} and {model: USD per token} of a TOML file, the last where
    costs stand in place of tokens; `given` are constants that take the place of the file's.
    Raises InputError."""
    try:
        raw = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as TOML ({error}); give a column mapping") from None
    columns, constants = raw.get("columns", {}), raw.get("constants", {})
    for section in ("columns", "constants"):
        part = raw.get(section, {})
        if not isinstance(part, dict):
            raise InputError(f"{path}: {section} is no table; write [{section}]")
        for field, value in part.items():
            if field not in FIELDS:
                raise InputError(f"{path}: [{section}] {field}: the fields are {', '.join(FIELDS)}")
            if not isinstance(value, str | int):
                raise InputError(f"{path}: [{section}] {field} = {value!r}; give a name")
    constants = {field: str(value) for field, value in constants.items()} | given
    columns = {field: column for field, column in columns.items() if field not in given}
    here = {*columns, *constants}
    prices = None
    if "cost" in here and "tokens" not in here:
        prices = _prices(path, raw.get("price_per_million_tokens"))
        here.add("tokens")
    missing = [field for field in needed(texts) if field not in here]
    if missing:
        raise InputError(f"{path}: nothing says what is {', '.join(missing)}; add it to [columns]")
    return columns, constants, prices


def _prices(path: str, table: Any) -> dict[str, float]:
    said = f"{path}: cost in place of tokens needs a table [price_per_million_tokens]"
    if not isinstance(table, dict) or not table:
        raise InputError(f"{said}, USD by model")
    for name, value in table.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise InputError(f"{said}, where {name} = {value!r}; give USD above 0")
    return {name: value * 1e-6 for name, value in table.items()}


def header(path: pathlib.Path) -> list[str]:
    """The columns of a table."""
    kind = _kind(path)
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    if kind == "jsonl":
        with open_file(path) as lines:
            found = loads(lines.readline(2**28).removeprefix(b"\xef\xbb\xbf"))
        return list(found) if isinstance(found, dict) else []
    with open_file(path) as text:
        line = text.readline(2**20).decode("utf-8-sig", "replace")
    return next(csv.reader([line], delimiter=_delimiter(line)), [])


def _kind(path: pathlib.Path) -> str:
    with open_file(path) as file:
        head = file.read(2**12).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "parquet" if head[:4] == b"PAR1" else "jsonl" if head[:1] == b"{" else "csv"


def _delimiter(line: str) -> str:
    return max(",\t;", key=line.count)  # the first of those that are there as often


def read(
    path: pathlib.Path,
    report: Report,
    *,
    columns: dict[str, str],
    constants: dict[str, str],
    texts: bool,
    prices: dict[str, float] | None = None,
) -> Iterator[Answers]:
    """The answers of a table; tokens are those that a cost buys at `prices`, USD per token, where
    prices are given."""
    kind = _kind(path)
    row = {"csv": 1, "jsonl": 0, "parquet": -1}[kind]  # before the first
    numbers: collections.Counter[tuple[str, str, str]] = collections.Counter()
    seen: set[int] = set()
    repeats = 0
    for places, batch in _batches(path, kind, list(dict.fromkeys(columns.values())), report):
        fields = {field: batch[column] for field, column in columns.items()}
        rows = len(next(iter(fields.values())))
        fields |= {field: [value] * rows for field, value in constants.items()}
        for i, values in enumerate(zip(*fields.values(), strict=True)):
            row += 1
            where = f"{path}, {'row' if kind == 'parquet' else 'line'} {row}"
            where = places[i] if places else where
            try:
                record = dict(zip(fields, values, strict=True))
                if prices is not None:
                    record["tokens"] = _bought(record, prices)
                found = _answers(record, texts)
            except Fault as fault:
                report.fault(where, str(fault))
                continue
            found.where = where
            if "sample" not in fields:
                key = found.model, found.benchmark, found.question
                found.first = numbers[key]
                numbers[key] += 1
                repeats += (told := hash(repr(values))) in seen
                seen.add(told)
            yield found
    if repeats:
        report.warn(
            f"{path}: rows that repeat another in all that is read: {repeats:,}; without a column "
            "sample they are taken for further samples, with one repeats are told apart"
        )


def _batches(
    path: pathlib.Path, kind: str, wanted: list[str], report: Report
) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    """Columns that are wanted, a batch of rows at a time; in CSV all are text.

    Before them the place of each row; nothing where rows are counted.
    """
    if kind == "jsonl":
        yield from _json_batches(path, wanted, report)
        return
    line = 1

    def broken(bad: Any) -> str:
        number = line if bad.number is None else bad.number
        report.fault(
            f"{path}, line {number}",
            f"{bad.actual_columns} cells where the header has {bad.expected_columns}",
        )
        return "skip"

    try:
        if kind == "csv":
            with open_file(path) as head:
                delimiter = _delimiter(head.readline(2**20).decode("utf-8-sig", "replace"))
            with (
                open_file(path) as raw,
                pa_csv.open_csv(
                    raw,
                    read_options=pa_csv.ReadOptions(use_threads=False),  # which numbers the lines
                    parse_options=pa_csv.ParseOptions(
                        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=broken
                    ),
                    convert_options=pa_csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, pa.string()),
                        strings_can_be_null=True,
                        null_values=[""],
                        quoted_strings_can_be_null=True,
                    ),
                ) as file,
            ):
                for batch in file:
                    yield [], batch.to_pydict()
                    line += batch.num_rows
        else:
            with pq.ParquetFile(path) as file:
                _all_there(path, wanted, file.schema_arrow.names)
                for batch in file.iter_batches(columns=wanted):
                    yield [], batch.to_pydict()
    except (EOFError, OSError, pa.ArrowException) as error:
        if "include_columns" in str(error):
            _all_there(path, wanted, header(path))
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}, line {line}: not readable as a table ({reason})") from None


def _all_there(path: pathlib.Path, wanted: list[str], names: list[str]) -> None:
    if absent := [name for name in wanted if name not in names]:
        raise InputError(f"{path}: no column {', '.join(absent)}; it has {', '.join(names)}")


def _json_batches(
    path: pathlib.Path, wanted: list[str], report: Report
) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    places: list[str] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    missing = set(wanted)
    for where, record in json_lines(path, report):
        missing -= record.keys()
        places.append(where)
        for name, column in columns.items():
            column.append(record.get(name))
        if len(places) >= _ROWS:
            yield places, columns
            places, columns = [], {name: [] for name in wanted}
    yield places, columns
    if missing:
        raise InputError(f"{path}: no record has {', '.join(sorted(missing))}")


def _answers(row: dict[str, Any], texts: bool) -> Answers:
    for field in needed(texts):
        if row[field] is None or row[field] == "":
            raise Fault(f"{field} is empty")
    answer, finish, tokens = row.get("answer"), row.get("finish_reason"), row.get("tokens")

    def each(name, kind):
        value = row.get(name)
        return None if value is None else [kind(name, value)]

    return Answers(
        model=str(row["model"]),
        benchmark=str(row["benchmark"]),
        question=str(row["question_id"]),
        answer=[None if answer is None else canonical(str(answer))],
        correct=None if texts else [_truth(row["correct"])],
        tokens=[None if texts and tokens in (None, "") else _whole("tokens", tokens)],
        reward=each("reward", _float),
        confidence=each("confidence", _float),
        logprob_sum=each("logprob_sum", _float),
        logprob_mean=each("logprob_mean", _float),
        judged_tokens=each("judged_tokens", _whole),
        thinking=each("thinking_tokens", _whole),
        finish=None if finish is None else [str(finish)],
        texts=[str(row["text"])] if texts and row.get("text") is not None else None,
        truth=None if row.get("truth") is None else str(row["truth"]),
        first=_whole("sample", row["sample"]) if row.get("sample") is not None else 0,
    )


def _bought(record: dict[str, Any], prices: dict[str, float]) -> int:
    """The tokens that an answer's cost buys."""
    model, cost = str(record["model"]), _float("cost", record["cost"])
    if model not in prices:
        raise Fault(f"the mapping has no price_per_million_tokens of {model}")
    if cost <= 0:
        raise Fault(f"cost is {record['cost']!r}; give USD above 0")
    return max(round(cost / prices[model]), 1)


def _truth(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise Fault(f"correct is {value!r}; write true or false")


def _float(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number - number != 0:
        raise Fault(f"{name} is {value!r}; write a finite number")
    return number


def _whole(name: str, value: Any) -> int:
    number = _float(name, value)
    if number % 1 or not 0 <= number < 2**31:
        raise Fault(f"{name} is {value!r}; write a whole number, not negative")
    return int(number)
