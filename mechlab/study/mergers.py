"""What a merger does to users under each rule."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mechlab import demand
from mechlab.core.errors import InputError
from mechlab.core.market import Market, Outcome
from mechlab.core.users import Users
from mechlab.data import NamedMarket
from mechlab.mechanisms import PayPerCompute, SecondPriceAuction
from mechlab.solvers.owners import owners_equilibrium

METRICS = ("user_cost", "user_value", "provider_utility", "welfare")


def owners_by_name(named: NamedMarket, owners: Sequence[Sequence[str]]) -> list[list[int]]:
    """Provider numbers of each owner; who is not named owns itself.

    Raises:
        InputError: for a name that is no provider, an owner of nothing, and a provider named twice.
    """
    found: list[list[int]] = []
    for number, names in enumerate(owners):
        if not names:
            raise InputError(f"owners: owner {number} owns no provider; leave it out")
        for name in names:
            if name not in named.names:
                raise InputError(
                    f"owners: no provider {name!r}; the market has {', '.join(named.names)}"
                )
        found.append([named.names.index(name) for name in names])
    taken = [i for one in found for i in one]
    for i in taken:
        if taken.count(i) > 1:
            raise InputError(f"owners: {named.names[i]} is named twice; name it once")
    return found + [[i] for i in range(len(named.names)) if i not in taken]


def merger_rows(
    named: NamedMarket,
    owners: Sequence[Sequence[str]],
    rationality: Sequence[float],
    noise: str = "error",
) -> list[dict[str, Any]]:
    """A row for pay-per-compute at each rationality, and one for the second-price auction.

    NAME is the number with these owners, NAME_apart with every provider by itself. Under posted
    prices both are where owners end that answer each other (`owners_equilibrium`), and
    `converged` says whether they do. In the auction an owner bids its best provider alone: another
    one's bid would only lower what it is paid.
    """
    market, outside = named.net_of_waiting().market, named.constants.outside_value
    groups = owners_by_name(named, owners)
    alone = [[i] for i in range(market.providers)]
    rows = []
    for beta in rationality:
        users = Users.create(beta, outside, noise)
        row: dict[str, Any] = {"rule": "pay_per_compute", "rationality": float(beta)}
        settled = True
        for end, owned in (("", groups), ("_apart", alone)):
            found = owners_equilibrium(market, users, owners=owned)
            settled &= bool(found.converged)
            row |= numbers(PayPerCompute()(market.at(found.profile, "price"), users), end)
            power = demand.at_profile(market, users, PayPerCompute(), found.profile, owners=owned)
            row[f"hhi{end}"] = float(power.hhi)
        rows.append(row | {"converged": settled})
    users = Users.create(1.0, outside, noise)
    row = {"rule": "second_price_auction", "rationality": None}
    for end, owned in (("", groups), ("_apart", alone)):
        row |= numbers(_auction(market, users, owned), end)
    return [*rows, row]


def numbers(outcome: Outcome, end: str) -> dict[str, float]:
    """`METRICS` of an outcome, with an ending to their names."""
    return {f"{name}{end}": float(np.sum(getattr(outcome, name))) for name in METRICS}


def _auction(market: Market, users: Users, owners: list[list[int]]) -> Outcome:
    """Truthful play of every owner's best provider."""
    offers = SecondPriceAuction().truthful(market, users)
    score = np.asarray(offers.offered_value)
    bidders = np.array([one[int(np.argmax(score[one]))] for one in owners])
    return SecondPriceAuction()(jax.tree.map(lambda x: x[bidders], offers), users)
