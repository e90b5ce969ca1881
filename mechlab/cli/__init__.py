"""The command line, `mechlab`."""

from mechlab.cli import learning, markets, samples
from mechlab.cli.app import app, main

__all__ = ["app", "learning", "main", "markets", "samples"]
