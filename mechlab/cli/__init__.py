"""The command line, `mechlab`."""

from mechlab.cli import markets, samples
from mechlab.cli.app import app, main

__all__ = ["app", "main", "markets", "samples"]
