"""What the page shows of a state, by the library's own functions."""

import dataclasses
from typing import Any

import jax
import numpy as np

from mechlab.core.market import Market, Outcome
from mechlab.core.users import Users
from mechlab.data import Dataset, NamedMarket
from mechlab.incentives.deviations import grid_deviations, search
from mechlab.mechanisms import Mechanism, Played, named_play
from mechlab.study.comparison import sweep
from mechlab.study.explorer.state import State
from mechlab.study.mergers import merger_rows
from mechlab.study.survey import default_spaces

BETAS = tuple(np.logspace(1, 6, 31).tolist())
"""Of the curve of waste."""
LEVERS = {"level": "another level", "price": "another price", "report": "another report"}


@dataclasses.dataclass(frozen=True)
class Ruled:
    """One rule on the market.

    Attributes:
        played: what providers play; outcome: what it gives; numbers as NumPy arrays.
        level_utility: [N, K] USD per query, of a provider at each of its levels while the others
            stay; None where offers are not honest.
    """

    played: Played
    outcome: Outcome
    level_utility: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """All that is shown at once.

    Attributes:
        names: of the providers, as the page has them.
        rules: by name.
        waste: (β, inefficiency or None) of pay-per-compute, and here: that of the state's β.
        merger: as `mechlab.study.mergers.merger_rows`, where owners have several.
    """

    state: State
    named: NamedMarket
    names: tuple[str, ...]
    rules: dict[str, Ruled]
    waste: list[tuple[float, float | None]]
    here: float | None
    merger: list[dict[str, Any]]


def answer(state: State, dataset: Dataset) -> Answer:
    """InputError in one line where the state describes no market."""
    named = state.checked().market(dataset)
    net, users = named.net_of_waiting(), state.users()
    rules = state.mechanisms()
    found = {
        name: jax.tree.map(np.asarray, _solved(net.market, users, rule))
        for name, rule in rules.items()
    }
    points = sweep(named, [*BETAS, state.rationality], noise=state.noise).points
    waste = [(point["rationality"], point["inefficiency"]) for point in points]
    owners = state.owners()
    merger = merger_rows(named, owners, [state.rationality], state.noise) if owners else []
    shown = {one.key: one.name for one in state.taking_part}
    return Answer(
        state,
        named,
        tuple(shown[key] for key in named.names),
        {name: Ruled(*values) for name, values in found.items()},
        sorted(waste[:-1], key=lambda point: point[0]),
        waste[-1][1],
        merger,
    )


@jax.jit
def _solved(market: Market, users: Users, rule: Mechanism) -> tuple[Played, Outcome, Any]:
    played = named_play(None, rule)(market, users, rule)
    levels = None
    if played.markup is None:
        levels = grid_deviations(market, users, rule, played.profile).level_utility
    assert played.offers is not None
    return played, rule(played.offers, users), levels


def gains(state: State, dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """{rule: {lever: [N] USD per query}}, the most that a provider gains alone by each lever.

    By the search of `mechlab.incentives`: a lower bound.
    """
    named = state.checked().market(dataset)
    market, users = named.net_of_waiting().market, state.users()
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, rule in state.mechanisms().items():
        played = named_play(None, rule)(market, users, rule)
        spaces = default_spaces(rule)
        found[name] = {
            lever: np.asarray(
                search(
                    market,
                    users,
                    rule,
                    played.profile,
                    space=spaces[lever],
                    offers=played.offers,
                    restarts=4,
                    steps=40,
                ).gain
            )
            for lever in LEVERS
        }
    return found
