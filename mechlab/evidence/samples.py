"""The sample table: what models actually answered, a row for each sampled answer.

An Arrow table with `SCHEMA`, Parquet on disk. `models/` and the importers write it, the estimators
of `mechlab.evidence.curves` read it.
"""

import os
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mechlab.core.errors import InputError
from mechlab.core.files import appearing

SCHEMA = pa.schema(
    [
        pa.field("model", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("benchmark", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("answer", pa.string()),  # canonical; null where none was found
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("confidence", pa.float64()),  # mean probability of the answer's tokens, geometric
        pa.field("tokens", pa.int32()),  # generated, thinking included; null where nobody counted
        pa.field("thinking_tokens", pa.int32()),
        pa.field("finish_reason", pa.string()),  # "stop", "length", …
        # of the tokens' log-probabilities under the model at temperature 1, all tokens allowed
        pa.field("logprob_sum", pa.float64()),
        pa.field("logprob_mean", pa.float64()),
        pa.field("judged_tokens", pa.int32()),  # read by the reward model, the question included
        pa.field("token_ids", pa.list_(pa.int32())),
    ]
)
_LATER = ("confidence", "logprob_sum", "logprob_mean", "judged_tokens", "token_ids")
NEEDED = tuple(name for name in SCHEMA.names if name not in _LATER)  # what tables of 0.1 have
_ROWS = 2**16  # rows of a batch, and of a row group on disk


class Batches:
    """Collects columns, and hands them on as record batches of `SCHEMA`.

    `add` takes the samples of one question; `take` empties what has been collected.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def __len__(self) -> int:
        return len(self._columns["sample"])

    def add(self, count: int, **columns: Any) -> None:
        """Add `count` rows: a list for each column, or one value for all of them."""
        for name, collected in self._columns.items():
            value = columns.get(name)
            collected.extend(value if isinstance(value, list) else [value] * count)

    @property
    def full(self) -> bool:
        return len(self) >= _ROWS

    def take(self) -> pa.RecordBatch:
        """The rows collected; raises ValueError or ArrowException where a value does not fit."""
        columns, self._columns = self._columns, {name: [] for name in SCHEMA.names}
        arrays = [
            pa.array(columns[field.name], field.type.value_type).dictionary_encode()
            if pa.types.is_dictionary(field.type)
            else pa.array(columns[field.name], field.type)
            for field in SCHEMA
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """One table of all batches."""
    return pa.Table.from_batches(batches, SCHEMA).unify_dictionaries()


def write(path: str | os.PathLike[str], batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches to a Parquet file as they come, and return the number of rows.

    The file appears when it is complete: an error in the middle leaves what was there before.
    """
    rows = 0
    with (
        appearing(path) as hidden,
        pq.ParquetWriter(hidden, SCHEMA, compression="zstd", write_page_checksum=True) as file,
    ):
        for batch in batches:
            file.write_batch(batch)
            rows += batch.num_rows
    return rows


def read(path: str | os.PathLike[str]) -> pa.Table:
    """A sample table from Parquet; raises InputError, naming the column or row at fault."""
    try:
        found = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a sample table ({reason}); give Parquet") from None
    return checked(found, str(path))


def checked(found: pa.Table, where: str) -> pa.Table:
    """The table with the types of `SCHEMA`; raises InputError where a column does not fit it."""
    missing = [name for name in NEEDED if name not in found.column_names]
    if missing:
        raise InputError(
            f"{where}: missing column {', '.join(missing)}; a sample table has "
            f"{', '.join(SCHEMA.names)}"
        )
    columns = []
    for field in SCHEMA:
        if field.name not in found.column_names:
            columns.append(pa.nulls(found.num_rows, field.type))
            continue
        column = found[field.name]
        try:
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pa.types.is_dictionary(field.type):
                column = column.cast(pa.string()).dictionary_encode()
            column = column.cast(field.type)
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where}: column {field.name} does not hold {field.type}: {reason}"
            ) from None
        if column.null_count and not field.nullable:
            row = column.is_null().to_pylist().index(True)
            raise InputError(f"{where}, row {row}: {field.name} is missing; every sample has one")
        columns.append(column)
    return pa.table(columns, schema=SCHEMA).unify_dictionaries()
