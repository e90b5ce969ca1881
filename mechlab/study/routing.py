"""Queries one by one: rules side by side, by how many pilot samples predictions are made from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechlab.core.errors import InputError
from mechlab.core.users import Users
from mechlab.data import Constants
from mechlab.learning.questions import by_question
from mechlab.learning.routing import RoutingRule, route

if TYPE_CHECKING:
    import pyarrow as pa

PILOTS = (0, 1, 2, 4)


@dataclasses.dataclass
class Routing:
    """What each rule gives on the questions of a sample table; `to_dict` is JSON.

    Attributes:
        benchmark, method, names: of the samples; how levels make an answer; the providers.
        questions: how many.
        rationality: β of users, who choose at posted prices.
        rows: those of `mechlab.learning.route` for each number of pilots, with `predicted_from`,
            the pilots that predictions were made from.
    """

    benchmark: str
    method: str
    names: tuple[str, ...]
    questions: int
    rationality: float
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: the rows."""
        return self.rows


def routing(
    samples: "pa.Table",
    constants: Constants,
    *,
    benchmark: str | None = None,
    method: str | None = None,
    pilots: Sequence[int] = PILOTS,
    rationality: float = 1000.0,
    rules: Mapping[str, RoutingRule] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Routing:
    """Every rule on every question, by numbers of pilots.

    Args:
        samples, constants, benchmark, method, seed: as in `by_question`.
        pilots: numbers of samples of each provider to predict from.
        rationality: β of users, 1/USD.
        rules: name → rule; those of `mechlab.learning.routing.default_rules` where not given.
        progress: called with what was done.

    Raises:
        InputError: as `by_question` and `route` do.
    """
    if not pilots:
        raise InputError("pilots: give at least one number, such as 0")
    waits = constants.latency_value or None
    users = Users.create(rationality, constants.outside_value, latency_value=waits)
    rows: list[dict[str, Any]] = []
    for k in dict.fromkeys(pilots):
        asked = by_question(
            samples, constants, benchmark=benchmark, method=method, pilots=k, seed=seed
        )
        for row in route(asked, users, rules, seed=seed):
            rows.append({"predicted_from": k, **row})
        if progress:
            progress(f"{k} pilots")
    return Routing(
        benchmark=asked.benchmark,
        method=asked.method,
        names=asked.names,
        questions=len(asked.ids),
        rationality=rationality,
        rows=rows,
    )
