"""Speed, measured side by side in one run: `python -m benchmarks.NAME`.

Results are kept by version, in `results/VERSION/`.
"""

import pathlib

import mechlab

RESULTS = pathlib.Path(__file__).parent / "results"


def newest(file: str) -> pathlib.Path:
    """A result, of the newest version that has it."""
    return max(
        RESULTS.glob(f"*/{file}"), key=lambda path: [int(x) for x in path.parent.name.split(".")]
    )


def of_this_version() -> pathlib.Path:
    """The folder of this version's results: 0.4.0 also while it is 0.4.0.dev0."""
    folder = RESULTS / ".".join(mechlab.__version__.split(".")[:3])
    folder.mkdir(exist_ok=True)
    return folder
