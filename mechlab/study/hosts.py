"""What posted prices give where users find the hosts of one model alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mechlab import demand
from mechlab.core.errors import InputError
from mechlab.core.users import Users
from mechlab.data import NamedMarket
from mechlab.mechanisms import NestedLogit, PayPerCompute
from mechlab.solvers.equilibrium import equilibrium
from mechlab.study.mergers import numbers


def hosts_rule(named: NamedMarket, dissimilarity: float) -> NestedLogit:
    """Pay-per-compute where the hosts of a model (MODEL@HOST) are a nest.

    Raises:
        InputError: for ρ outside (0, 1], and where no model has two hosts.
    """
    models = [name.partition("@")[0] for name in named.names]
    if len(set(models)) == len(models):
        raise InputError(
            "dissimilarity: no model is sold by two hosts here, so that nobody is alike; give a "
            "market file with MODEL@HOST, as mechlab market writes"
        )
    return NestedLogit(tuple(models), dissimilarity)


def host_rows(
    named: NamedMarket, dissimilarity: float, rationality: Sequence[float], noise: str = "error"
) -> list[dict[str, Any]]:
    """A row for each rationality: NAME where hosts of a model are alike, NAME_apart where not.

    Both are at their own equilibrium of the providers' levels; mean_elasticity and hhi are
    `mechlab.demand`'s, and levels, shares by provider those where hosts are alike.
    """
    market, outside = named.net_of_waiting().market, named.constants.outside_value
    rules = {"": hosts_rule(named, dissimilarity), "_apart": PayPerCompute()}
    rows = []
    for beta in rationality:
        users = Users.create(beta, outside, noise)
        row: dict[str, Any] = {"rationality": float(beta), "converged": True}
        for end, rule in rules.items():
            found = equilibrium(market, users, rule)
            outcome = rule(rule.offers(market, found.profile), users)
            power = demand.at_profile(market, users, rule, found.profile)
            row |= numbers(outcome, end)
            row[f"mean_elasticity{end}"] = float(power.mean_elasticity)
            row[f"hhi{end}"] = float(power.hhi)
            row["converged"] &= bool(found.converged)
            if not end:
                for name, values in (("levels", outcome.compute), ("shares", outcome.shares)):
                    row[name] = dict(zip(named.names, np.asarray(values).tolist(), strict=True))
        rows.append(row)
    return rows
