"""Any CSV or Parquet file, with a TOML file that says which column is what.

    [columns]                  # field of the sample table = column of the file
    model = "provider"
    question_id = "problem"
    correct = "is_right"
    tokens = "completion_tokens"
    [constants]                # fields that are the same in every row
    benchmark = "GSM8K"

`model`, `benchmark`, `question_id`, `correct` and `tokens` are needed; `answer`, `reward`,
`thinking_tokens`, `finish_reason`, `sample`, `text` and `truth` may be given. Without `sample`,
rows of one question are numbered as they come.
"""

import collections
import pathlib
import tomllib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mechlab.core.errors import InputError
from mechlab.evidence.grading.canonical import canonical
from mechlab.evidence.importers.records import Answers, Fault, Report

NEEDED = ("model", "benchmark", "question_id", "correct", "tokens")
FIELDS = (
    *NEEDED, "answer", "reward", "thinking_tokens", "finish_reason", "sample", "text", "truth",
)  # fmt: skip
_TRUE, _FALSE = {"true", "1", "1.0", "yes", "c"}, {"false", "0", "0.0", "no", "i"}


def mapping(path: str) -> tuple[dict[str, str], dict[str, str]]:
    """{field: column} and {field: constant} of a TOML file; raises InputError."""
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
    missing = [field for field in NEEDED if field not in columns and field not in constants]
    if missing:
        raise InputError(f"{path}: nothing says what is {', '.join(missing)}; add it to [columns]")
    return dict(columns), {field: str(value) for field, value in constants.items()}


def read(
    path: pathlib.Path,
    report: Report,
    *,
    columns: dict[str, str],
    constants: dict[str, str],
    texts: bool,
) -> Iterator[Answers]:
    csv = path.suffix.lower() not in (".parquet", ".pq")
    row = 1 if csv else -1  # of the header
    numbers: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for batch in _batches(path, csv, list(columns.values()), report):
        fields = {field: batch[column].to_pylist() for field, column in columns.items()}
        fields |= {field: [value] * batch.num_rows for field, value in constants.items()}
        for values in zip(*fields.values(), strict=True):
            row += 1
            where = f"{path}, {'line' if csv else 'row'} {row}"
            try:
                found = _answers(dict(zip(fields, values, strict=True)), texts)
            except Fault as fault:
                report.fault(where, str(fault))
                continue
            found.where = where
            if "sample" not in fields:
                key = found.model, found.benchmark, found.question
                found.first = numbers[key]
                numbers[key] += 1
            yield found


def _batches(
    path: pathlib.Path, csv: bool, wanted: list[str], report: Report
) -> Iterator[pa.RecordBatch]:
    """Batches of the columns that are wanted; in CSV all are text."""
    line = 1

    def broken(bad: Any) -> str:
        number = line if bad.number is None else bad.number
        report.fault(
            f"{path}, line {number}",
            f"{bad.actual_columns} cells where the header has {bad.expected_columns}",
        )
        return "skip"

    try:
        if csv:
            with pa_csv.open_csv(
                path,
                read_options=pa_csv.ReadOptions(use_threads=False),  # which numbers the lines
                parse_options=pa_csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=broken
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()),
                    strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True,
                ),
            ) as file:  # fmt: skip
                for batch in file:
                    yield batch
                    line += batch.num_rows
        else:
            with pq.ParquetFile(path) as file:
                absent = [name for name in wanted if name not in file.schema_arrow.names]
                if absent:
                    raise InputError(
                        f"{path}: no column {', '.join(absent)}; it has "
                        f"{', '.join(file.schema_arrow.names)}"
                    )
                yield from file.iter_batches(columns=wanted)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}, line {line}: not readable as a table ({reason})") from None


def _answers(row: dict[str, Any], texts: bool) -> Answers:
    for field in NEEDED:
        if row[field] is None or row[field] == "":
            raise Fault(f"{field} is empty")
    answer, reward, thinking = row.get("answer"), row.get("reward"), row.get("thinking_tokens")
    finish = row.get("finish_reason")
    return Answers(
        model=str(row["model"]), benchmark=str(row["benchmark"]), question=str(row["question_id"]),
        answer=[None if answer is None else canonical(str(answer))],
        correct=[_truth(row["correct"])],
        tokens=[_whole("tokens", row["tokens"])],
        reward=None if reward is None else [_float("reward", reward)],
        thinking=None if thinking is None else [_whole("thinking_tokens", thinking)],
        finish=None if finish is None else [str(finish)],
        texts=[str(row["text"])] if texts and row.get("text") is not None else None,
        truth=None if row.get("truth") is None else str(row["truth"]),
        first=_whole("sample", row["sample"]) if row.get("sample") is not None else 0,
    )  # fmt: skip


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
