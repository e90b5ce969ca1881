"""What an experiment leaves in results/NAME/: figures as PNG and PDF, and its table as CSV."""

import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import mechlab


class Output:
    """The folder of an experiment; files are called as it is, or by a name of their own.

    A variant has another folder, and says by which command it is remade.
    """

    def __init__(self, experiment: str, folder: str | None = None, command: str | None = None):
        self.experiment = experiment
        self.command = command or f"python -m experiments {experiment}"
        self.folder = pathlib.Path("results") / (folder or experiment)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"experiments: {self.folder}: {error.strerror}; move what is there away")

    def figure(self, figure: Figure, name: str | None = None) -> None:
        for suffix in ("png", "pdf"):
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            path = self.folder / f"{name or self.experiment}.{suffix}"
            figure.savefig(path, dpi=150, metadata=metadata)
        print(f"  {self.folder / (name or self.experiment)}.png, .pdf")

    def table(
        self, rows: pd.DataFrame | Iterable[dict[str, Any]], how: str = "", name: str | None = None
    ) -> pd.DataFrame:
        """Write rows below a line that says how to remake them (and `how`, such as the seed)."""
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
        path = self.folder / f"{name or self.experiment}.csv"
        note = ", ".join(filter(None, [f"mechlab {mechlab.__version__}", how]))
        with path.open("w", encoding="utf-8") as file:
            file.write(f"# remade by: {self.command} ({note})\n")
            table.to_csv(file, index=False, float_format="%.9g", lineterminator="\n")
        print(f"  {path}")
        return table
