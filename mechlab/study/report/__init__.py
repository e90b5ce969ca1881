"""One self-contained HTML page about a market: what it is, what each rule gives, who can gain."""

from mechlab.study.report.page import build, experiments, write

__all__ = ["build", "experiments", "write"]
