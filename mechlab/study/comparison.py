"""Both pricing rules side by side on one market, and pay-per-compute over rationality."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab import demand
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market, Outcome, take_level
from mechlab.core.results import Result
from mechlab.core.solution import Status
from mechlab.core.users import Users
from mechlab.data import NamedMarket
from mechlab.mechanisms import (
    FirstPriceAuction,
    PayPerCompute,
    PersonalAuction,
    SecondPriceAuction,
    symmetric_markup,
)
from mechlab.solvers.enumeration import PureEquilibria, pure_equilibria
from mechlab.solvers.equilibrium import Equilibrium, equilibrium
from mechlab.solvers.extremal import extremal_equilibria
from mechlab.solvers.optimum import Optimum, efficiency, social_optimum
from mechlab.study.hosts import host_rows
from mechlab.study.mergers import merger_rows
from mechlab.study.uncertainty import auction_intervals

if TYPE_CHECKING:
    import pandas as pd

READ_RULES = {
    "pay_per_compute": "pay-per-compute",
    "second_price_auction": "auction",
    "personal_auction": "auction for each user's taste",
}
RATIONALITIES = tuple(float(beta) for beta in np.logspace(0, 6, 100))
METRICS = (
    "user_value",
    "user_cost",
    "quality",
    "accuracy",
    "tokens",
    "provider_utility",
    "welfare",
)


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Result):
    """What `compare` found; `to_dict` is the JSON of `mechlab compare`.

    Attributes:
        named: the market.
        pay_per_compute: one row per rationality, at the equilibrium that better response reaches.
        auction: the reverse second-price auction at truthful play.
        noise: what the noise in users' choices is taken for, "error" or "taste".
        owners: the names that were taken for one owner each, and
        merger: what that changes, as `mechlab.study.mergers.merger_rows` says; empty without.
        dissimilarity: ρ of nested logit in which the hosts of a model are a nest, or None, and
        hosts: what that changes, as `mechlab.study.hosts.host_rows` says; empty without.
        readings: both: a row per rationality and rule (`pay_per_compute`, `second_price_auction`,
            `personal_auction`), with user_value and welfare under either, None where tastes have
            no bound (β = 0).
    """

    named: NamedMarket
    pay_per_compute: list[dict[str, Any]]
    auction: dict[str, Any]
    noise: str
    readings: list[dict[str, Any]]
    owners: tuple[tuple[str, ...], ...] = ()
    merger: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    dissimilarity: float | None = None
    hosts: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def _headline(self) -> list[str]:
        return [f"{self.named.benchmark}, {self.named.method}"]

    def to_frame(self) -> "pd.DataFrame":
        """The rows of `flat_rows`; money in USD per query."""
        import pandas as pd

        return pd.DataFrame(self.flat_rows())

    def _shown(self) -> dict[str, Any]:
        """The auction's numbers, and how many rows there are of the rest."""
        shown = super()._shown()
        return {name: shown[name] for name in ("auction", "pay_per_compute", "noise")}

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.named.benchmark,
            "method": self.named.method,
            "noise": self.noise,
            "pay_per_compute": self.pay_per_compute,
            "auction": self.auction,
            "readings": self.readings,
            **({"owners": self.owners, "merger": self.merger} if self.owners else {}),
            **({"dissimilarity": self.dissimilarity, "hosts": self.hosts} if self.hosts else {}),
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: one for each rationality, and the auction's."""
        market = {
            "benchmark": self.named.benchmark,
            "method": self.named.method,
            "noise": self.noise,
        }
        ruled = [("pay_per_compute", row) for row in self.pay_per_compute]
        ruled.append(("second_price_auction", self.auction))
        return [market | {"rule": rule} | _flat(row) for rule, row in ruled]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "intervals":
            for metric, ends in value.items():
                flat[f"{metric}_low"], flat[f"{metric}_high"] = ends or (None, None)
        elif isinstance(value, dict):
            flat.update({f"{name}.{model}": entry for model, entry in value.items()})
        else:
            flat[name] = value
    return flat


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep(Result):
    """What `sweep` found, a row per rationality; `to_dict` is the JSON of `mechlab sweep`."""

    named: NamedMarket
    points: list[dict[str, Any]]
    noise: str

    def _headline(self) -> list[str]:
        return [f"{self.named.benchmark}, {self.named.method}"]

    def to_frame(self) -> "pd.DataFrame":
        """The rows of `flat_rows`; money in USD per query."""
        import pandas as pd

        return pd.DataFrame(self.flat_rows())

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.named.benchmark,
            "method": self.named.method,
            "noise": self.noise,
            "points": self.points,
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """For CSV: the points."""
        return self.points


def _pay_per_compute(
    market: Market, users: Users, key: Array
) -> tuple[Equilibrium, Outcome, Optimum, dict[str, Array]]:
    """InputError where some provider earns nothing at any level: nothing says what it plays."""
    found = _equilibrium_and_optimum(market, users, key)
    if bool(jnp.any(found[0].status == Status.INDIFFERENT)):
        raise InputError(
            "margin: some provider earns nothing at any of its levels, so that each is a best "
            "response and no equilibrium is a prediction; give the market file a margin above 0"
        )
    return found


@jax.jit
def _equilibrium_and_optimum(
    market: Market, users: Users, key: Array
) -> tuple[Equilibrium, Outcome, Optimum, dict[str, Array]]:
    reached = equilibrium(market, users, key=key)
    outcome = PayPerCompute()(market.at(reached.profile, "price"), users)
    means = {
        name: jnp.mean(take_level(values, reached.profile), axis=-1)
        for name, values in (
            ("mean_value", market.offered_value),
            ("mean_price", market.price),
            ("mean_margin", market.unit_profit),
        )
    }
    return reached, outcome, social_optimum(market, users), means


@jax.jit
def _auction(market: Market, users: Users) -> Outcome:
    rule = SecondPriceAuction()
    return rule(rule.truthful(market, users), users)


def _users(named: NamedMarket, rationality: Sequence[float], noise: str = "error") -> Users:
    if not len(rationality):
        raise InputError("rationality: give at least one number, in 1/USD")
    return Users.create(np.asarray(rationality, float), named.constants.outside_value, noise)


def compare(
    named: NamedMarket,
    rationality: Sequence[float] | None = None,
    *,
    seed: int = 0,
    uncertainty: float | None = None,
    noise: str = "error",
    owners: Sequence[Sequence[str]] = (),
    dissimilarity: float | None = None,
) -> Comparison:
    """Pay-per-compute at each rationality, and the auction (which no rationality enters).

    Args:
        named: the market, as `mechlab.data` reads it.
        rationality: β values in 1/USD; those of the market's constants where not given.
        seed: of the visiting orders.
        uncertainty: confidence, such as 0.95, of the intervals of each row's numbers over the
            replicates of the market; none where not given.
        noise: what the noise in users' choices is, "error" or "taste"; see `Users.create`. No
            choice depends on it, but what choices are worth does.
        owners: lists of providers' names that one owner has each; it adds what that changes.
        dissimilarity: ρ in (0, 1] of nested logit in which the hosts of a model (`MODEL@HOST`) are
            a nest; it adds what that changes.

    Raises:
        InputError: where intervals are asked for and the market's table has none.

    price_of_anarchy and price_of_stability compare with the worst and the best of *all* pure
    equilibria, and are None where there is none, its welfare is not positive, or exact ties gave
    too many to list. latency, where the market has any, is the mean of those who buy, and quality
    is less what it costs users; mean_elasticity and hhi are `mechlab.demand`'s.
    """
    seconds, given, named = named.market.latency, named, named.net_of_waiting()
    market = named.market
    betas = named.constants.rationality if rationality is None else rationality
    users = _users(named, betas, noise)
    found = _pay_per_compute(market, users, jax.random.key(seed))
    reached, outcome, optimum, means = jax.tree.map(np.asarray, found)
    power = jax.tree.map(
        np.asarray, demand.at_profile(market, users, PayPerCompute(), found[0].profile)
    )
    rows = []
    for i, beta in enumerate(np.asarray(users.rationality)):
        one = Users.create(beta, named.constants.outside_value, noise)
        equilibria = pure_equilibria(market, one)

        def against(
            welfare: np.ndarray, i: int = i, equilibria: PureEquilibria = equilibria
        ) -> float | None:
            if not len(welfare) or equilibria.status == Status.CAPPED:
                return None
            lost = efficiency(optimum.welfare[i], welfare[0])
            return float(lost.ratio) if lost.valid else None

        row: dict[str, Any] = {"rationality": float(beta)}
        for name in METRICS:
            row[name] = float(np.sum(getattr(outcome, name)[i]))
        row["net_welfare"] = float(outcome.net_welfare[i])
        row["optimal_welfare"] = float(optimum.welfare[i])
        row["price_of_anarchy"] = against(equilibria.welfare[-1:])
        row["price_of_stability"] = against(equilibria.welfare[:1])
        row["consumer_surplus"] = float(outcome.consumer_surplus[i])
        row.update({name: float(values[i]) for name, values in means.items()})
        if seconds is not None:
            row["latency"] = float(_met(seconds, reached.profile[i], outcome.shares[i]))
        row["mean_elasticity"] = float(power.mean_elasticity[i])
        row["hhi"] = float(power.hhi[i])
        row["converged"] = bool(reached.converged[i])
        row["unique"] = bool(reached.unique[i])
        row["levels"] = dict(zip(named.names, outcome.compute[i].tolist(), strict=True))
        row["shares"] = dict(zip(named.names, outcome.shares[i].tolist(), strict=True))
        rows.append(row)
    auction = _auction_row(named, noise)
    if seconds is not None:
        played, shares = market.best_surplus_profile(), _auction(market, users).shares
        auction["latency"] = float(_met(seconds, played, shares[0]))
    if uncertainty is not None:
        _add_intervals(named, users, [*rows, auction], uncertainty, seed)
    readings = _readings(market, betas, named.constants.outside_value, found[0].profile)
    merger = merger_rows(given, owners, betas, noise) if owners else []
    names = tuple(tuple(one) for one in owners)
    hosts = [] if dissimilarity is None else host_rows(given, dissimilarity, betas, noise)
    return Comparison(given, rows, auction, noise, readings, names, merger, dissimilarity, hosts)


def _met(seconds: Array, profile: Any, shares: Any) -> Array:
    """[] seconds that those who buy wait, on average; 0 where nobody buys."""
    sold = jnp.sum(shares)
    waited = jnp.sum(take_level(seconds, jnp.asarray(profile)) * shares)
    return waited / jnp.where(sold > 0, sold, 1.0)


def _readings(
    market: Market, rationality: Sequence[float], outside: float, profile: Array
) -> list[dict[str, Any]]:
    """`Comparison.readings`; profile [R, N], what is played under pay-per-compute."""
    betas = np.asarray(rationality, float)
    users = {
        "error": Users.create(betas, outside),
        "taste": Users.create(np.where(betas > 0, betas, 1.0), outside, "taste"),
    }
    found = jax.tree.map(np.asarray, _both_readings(market, users, profile))
    rows = []
    for i, beta in enumerate(betas):
        for name in READ_RULES:
            row: dict[str, Any] = {"rationality": float(beta), "rule": name}
            for noise in users:
                bounded = beta > 0 or (noise == "error" and name != "personal_auction")
                for metric in ("user_value", "welfare"):
                    value = getattr(found[name, noise], metric)[i]
                    row[f"{metric}_{noise}"] = float(value) if bounded else None
            rows.append(row)
    return rows


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def _both_readings(
    market: Market, users: dict[str, Users], profile: Array
) -> dict[tuple[str, str], Outcome]:
    """Outcomes [R] by rule and noise: posted prices at a profile [R, N], auctions at truth."""
    truth = market.at(market.best_surplus_profile(), "cost")
    plays = {
        "pay_per_compute": (PayPerCompute(), market.at(profile, "price")),
        "second_price_auction": (SecondPriceAuction(), truth),
        "personal_auction": (PersonalAuction(), truth),
    }
    return {
        (name, noise): rule(offers, one)
        for name, (rule, offers) in plays.items()
        for noise, one in users.items()
    }


def mechanism_table(
    named: NamedMarket,
    rationality: Sequence[float] | None = None,
    *,
    seed: int = 0,
    noise: str = "error",
) -> list[dict[str, Any]]:
    """What each rule gives on one market: the table that the study is about.

    A row for each rationality and play: `pay_per_compute` (at the equilibrium that better response
    reaches), `pay_per_compute_optimum`, `second_price` (truthful) and `first_price`. The latter has
    no dominant strategy: all bid their cost and the same `markup` on it, the one of 0, 1 % … 100 %
    with the smallest `regret` (USD, the most that one provider gains by another markup of these;
    one above 100 % may gain more). NAME_change is relative to the equilibrium of pay-per-compute,
    None where that is not positive. Noise as in `compare`; `personal_auction` (truthful) is a play
    more where users have tastes.
    """
    named = named.net_of_waiting()
    market = named.market
    betas = named.constants.rationality if rationality is None else rationality
    users = _users(named, betas, noise)
    _, equilibrium, optimum, _ = _pay_per_compute(market, users, jax.random.key(seed))
    rule, common = PayPerCompute(), symmetric_markup(market, users, FirstPriceAuction())
    plays = {
        "pay_per_compute": equilibrium,
        "pay_per_compute_optimum": rule(rule.offers(market, optimum.profile), users),
        "second_price": _auction(market, users),
        "first_price": FirstPriceAuction()(common.offers, users),
    }
    if noise == "taste":
        personal = PersonalAuction()
        truth = market.at(market.best_surplus_profile(), "cost")
        plays["personal_auction"] = jax.vmap(personal, (None, 0))(truth, users)
    means = {
        play: {name: _whole(jax.tree.map(np.asarray, outcome), name) for name in METRICS}
        for play, outcome in plays.items()
    }
    rows = []
    for i, beta in enumerate(np.asarray(users.rationality)):
        today = {name: float(values[i]) for name, values in means["pay_per_compute"].items()}
        for play, columns in means.items():
            row: dict[str, Any] = {
                "benchmark": named.benchmark,
                "method": named.method,
                "rationality": float(beta),
                "play": play,
            }
            row |= {name: float(values[i]) for name, values in columns.items()}
            for name, before in today.items():
                row[f"{name}_change"] = row[name] / before - 1 if before > 0 else None
            bids = play == "first_price"
            row["markup"] = float(common.markup[i]) if bids else None
            row["regret"] = float(common.regret[i]) if bids else None
            rows.append(row)
    return rows


def _add_intervals(
    named: NamedMarket, users: Users, rows: list[dict[str, Any]], confidence: float, seed: int
) -> None:
    """Give each row `intervals`: {name: [low, high]}.

    Percentiles over the replicates for pay-per-compute; the auction's are `auction_intervals`.
    """
    if named.replicates is None:
        raise InputError(
            f"uncertainty: the curves of {named.benchmark}, {named.method} have no replicates, "
            "without which there is no interval of a market; give the Parquet that mechlab curves "
            "--out writes"
        )
    if not 0 < confidence < 1:
        raise InputError(f"uncertainty = {confidence}; give a confidence between 0 and 1")
    tail = 100 * (1 - confidence) / 2
    batch = jax.tree.map(lambda x: x[:, None], named.replicates)
    found = _pay_per_compute(batch, users, jax.random.key(seed))
    _, outcome, optimum, _ = jax.tree.map(np.asarray, found)
    anarchy = _prices_of_anarchy(named.replicates, users, optimum.welfare)
    lost = jax.tree.map(np.asarray, efficiency(optimum.welfare, outcome.welfare))
    drawn = {name: _whole(outcome, name) for name in METRICS} | {
        "optimal_welfare": optimum.welfare,
        "price_of_anarchy": anarchy,
        "inefficiency": np.where(lost.valid, lost.inefficiency, np.nan),
    }
    for i, row in enumerate(rows[:-1]):
        row["intervals"] = {
            name: np.percentile(x[:, i], [tail, 100 - tail]).tolist()
            if np.isfinite(x[:, i]).all()
            else None
            for name, x in drawn.items()
        }
    rows[-1]["intervals"] = auction_intervals(
        named.market, named.replicates, named.constants.outside_value, confidence, users.noise
    )


def _whole(outcome: Outcome, name: str) -> np.ndarray:
    """A metric of the whole market; the providers' utilities are summed."""
    values = getattr(outcome, name)
    return values.sum(axis=-1) if name == "provider_utility" else values


def _prices_of_anarchy(replicates: Market, users: Users, optimal: np.ndarray) -> np.ndarray:
    """[B, R] optimal welfare over that of the worst pure equilibrium; NaN where it means nothing.

    Equilibria are enumerated only where they are not certified to be unique.
    """
    batch = jax.tree.map(lambda x: x[:, None], replicates)
    ends = extremal_equilibria(batch, users)
    worst = np.array(PayPerCompute()(batch.at(ends.smallest, "price"), users).welfare)
    for b, i in np.argwhere(~np.asarray(ends.unique)):
        market = jax.tree.map(lambda x, b=b: x[b], replicates)
        equilibria = pure_equilibria(market, jax.tree.map(lambda x, i=i: x[i], users))
        listed = len(equilibria.welfare) and equilibria.status != Status.CAPPED
        worst[b, i] = equilibria.welfare[-1] if listed else np.nan
    return np.where(worst > 0, optimal / np.where(worst > 0, worst, 1.0), np.nan)


def _auction_row(named: NamedMarket, noise: str) -> dict[str, Any]:
    # no rationality enters
    users = Users.create(1.0, named.constants.outside_value, noise)
    outcome = jax.tree.map(np.asarray, _auction(named.market, users))
    names = {**dict(enumerate(named.names)), -1: None}
    winner = int(outcome.winner)
    row: dict[str, Any] = {
        "winner": names[winner],
        "runner_up": names[int(outcome.runner_up)],
        "compute": float(outcome.compute[winner]) if winner >= 0 else None,
    }
    for name in (*METRICS, "net_welfare"):
        row[name] = float(np.sum(getattr(outcome, name)))
    return row


def sweep(
    named: NamedMarket,
    rationality: Sequence[float] = RATIONALITIES,
    *,
    seed: int = 0,
    noise: str = "error",
) -> Sweep:
    """Inefficiency of the pay-per-compute equilibrium against the optimum at each rationality.

    inefficiency is None where the welfare reached is not positive.
    """
    users = _users(named, rationality, noise)
    found = _pay_per_compute(named.net_of_waiting().market, users, jax.random.key(seed))
    reached, outcome, optimum, _ = jax.tree.map(np.asarray, found)
    lost = jax.tree.map(np.asarray, efficiency(optimum.welfare, outcome.welfare))
    return Sweep(
        named,
        [
            {
                "rationality": float(beta),
                "inefficiency": float(lost.inefficiency[i]) if lost.valid[i] else None,
                "welfare": float(outcome.welfare[i]),
                "optimal_welfare": float(optimum.welfare[i]),
                "user_cost": float(outcome.user_cost[i]),
                "converged": bool(reached.converged[i]),
            }
            for i, beta in enumerate(np.asarray(users.rationality))
        ],
        noise,
    )
