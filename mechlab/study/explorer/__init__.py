"""A local page on which a person moves a market by hand and sees every rule answer at once."""

from mechlab.study.explorer.state import Provider, State

__all__ = ["Provider", "State"]
