"""A directory of part files that survives `kill -9`: nothing is lost and nothing is repeated.

Rows go to `part-NUMBER.parquet`, which appears by atomic rename when complete. `manifest.json`
says what the run is; a rerun of the same command continues it, another one is refused. One process
at a time holds `lock-PROCESS`, which the system releases however the process ends.
"""

import json
import os
import pathlib
from typing import Any

import filelock
import numpy as np

from mechlab.core.errors import InputError

Rows = dict[str, np.ndarray]


class RunDirectory:
    """Part files of one run.

    Args:
        path: made if it does not exist.
        manifest: what has to be the same for a rerun to continue; JSON.
        process: number of this process, each with its own lock.
        columns: names and dtypes of the rows; a part that has others is corrupt.
        option: what named the directory, for messages.

    Raises:
        InputError: the directory cannot be written, is in use, or holds another run.
    """

    def __init__(
        self,
        path: str,
        manifest: dict[str, Any],
        process: int = 0,
        columns: dict[str, str] | None = None,
        option: str = "--out",
    ) -> None:
        self._columns = columns
        self.path = pathlib.Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / f"lock-{process}")
        except OSError as error:
            raise InputError(
                f"{option} {path}: {error.strerror or error}; name a directory that can be written"
            ) from None
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(
                f"{option} {path}: another run is writing there; wait for it or name another "
                "directory"
            ) from None
        self._check(json.loads(json.dumps(manifest)))

    def _check(self, manifest: dict[str, Any]) -> None:
        file = self.path / "manifest.json"
        if not file.exists():
            if any(self.path.glob("part-*.parquet")):
                raise InputError(
                    f"{self.path}: part files without manifest.json; name another directory"
                )
            self.write_json("manifest.json", manifest)
            return
        try:
            before = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: not readable ({error}); name another directory") from None
        for key in sorted({*before, *manifest} if isinstance(before, dict) else {"contents"}):
            old = before.get(key) if isinstance(before, dict) else before
            if old != manifest.get(key):
                raise InputError(
                    f"{file}: this directory holds another run: {key} is {old!r} there and "
                    f"{manifest.get(key)!r} here; repeat its command or name another directory"
                )

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1) + "\n"
        self._appear(name, lambda file: file.write(text.encode()))

    def _appear(self, name: str, write: Any) -> None:
        """Write a file under another name, and let it appear complete."""
        hidden = self.path / f".{name}.{os.getpid()}"
        try:
            with open(hidden, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(hidden, self.path / name)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            raise InputError(
                f"{self.path / name}: cannot be written ({error.strerror or error}); what is "
                "complete is kept: free some space and run the same command again"
            ) from None

    def _file(self, part: int) -> pathlib.Path:
        return self.path / f"part-{part:08d}.parquet"

    def write(self, part: int, start: int, rows: Rows) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        count = len(next(iter(rows.values())))
        columns = {"market": np.arange(start, start + count, dtype=np.int64), **rows}
        table = pa.table(columns)
        self._appear(
            self._file(part).name,
            lambda file: pq.write_table(
                table, file, compression="zstd", write_page_checksum=True, use_dictionary=False
            ),
        )

    def read(self, part: int, start: int, count: int) -> Rows | None:
        """The rows of a part that is there and sound; None where it is missing.

        Raises:
            CorruptPart: it is there, but its checksums, columns or markets are not right.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self._file(part)
        if not file.exists():
            return None
        if not file.is_file():
            raise InputError(f"{file}: not a file; remove it or name another directory")
        try:
            table = pq.read_table(file, page_checksum_verification=True)
            rows = {name: table[name].to_numpy() for name in table.column_names}
            market = rows.pop("market")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise CorruptPart(f"{file}: {' '.join(str(error).split())}") from None
        if self._columns not in (None, {name: x.dtype.str for name, x in rows.items()}):
            raise CorruptPart(f"{file}: it does not hold the columns of this run")
        if not np.array_equal(market, np.arange(start, start + count)):
            raise CorruptPart(f"{file}: it does not hold markets {start} to {start + count - 1}")
        return rows


class CorruptPart(Exception):
    """A part file that is not what was written; it is computed again."""
