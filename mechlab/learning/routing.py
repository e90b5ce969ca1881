"""Queries one by one: routers, cascades and auctions, on questions that they did not learn from."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Market, Offers
from mechlab.core.users import UserMixture, Users
from mechlab.core.waiting import net_of_waiting
from mechlab.evidence.curves.selection import single_sample
from mechlab.evidence.curves.voting import majority, tally
from mechlab.learning.questions import QuestionMarkets
from mechlab.mechanisms import Mechanism, PayPerCompute, SecondPriceAuction, named_play
from mechlab.mechanisms.base import compiled

METRICS = (
    "welfare",
    "user_value",
    "user_cost",
    "provider_utility",
    "accuracy",
    "tokens",
    "latency",
)
_SUMS = ("accuracy", "bought", "tokens", "payment", "cost", "seconds", "taste_value")


@dataclasses.dataclass(frozen=True)
class Served:
    """What was served of some questions [Q], each in expectation over samples.

    Attributes:
        accuracy: of the answers; a question that nobody serves has none.
        bought: share of the question that is served, 1 unless users may buy nothing.
        tokens, payment, cost: per question, USD.
        seconds: until the answer is there; zeros where nobody knows.
        taste_value: USD per question, what users who choose get by their tastes; 0 of a rule that
            chooses for them.
    """

    accuracy: np.ndarray
    bought: np.ndarray
    tokens: np.ndarray
    payment: np.ndarray
    cost: np.ndarray
    seconds: np.ndarray
    taste_value: np.ndarray | float = 0.0


class RoutingRule(abc.ABC):
    """A way to serve single questions.

    Attributes:
        predicts: whether it needs predictions, and pilots for them.
    """

    predicts: ClassVar[bool] = False

    @abc.abstractmethod
    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        """Serve the questions `apply` [Q] bool, with all that is known of those in `fit`."""


def _chosen(
    asked: QuestionMarkets, apply: np.ndarray, provider: Any, level: Any, buys: np.ndarray | bool
) -> Served:
    """One provider and level for each question that is bought."""
    market = _rows(asked.market, apply)
    rows = np.arange(market.quality.shape[0])
    at = {
        name: np.asarray(getattr(market, name), float)[rows, provider, level]
        for name in ("accuracy", "tokens", "price", "cost")
    }
    bought = np.broadcast_to(np.asarray(buys, float), len(rows))
    return Served(
        accuracy=bought * at["accuracy"],
        bought=bought,
        tokens=bought * at["tokens"],
        payment=bought * at["price"],
        cost=bought * at["cost"],
        seconds=bought * _seconds(asked)[apply][rows, provider],
    )


def _seconds(asked: QuestionMarkets) -> np.ndarray:
    """[Q, N]"""
    return np.zeros(asked.market.quality.shape[:2]) if asked.seconds is None else asked.seconds


def _best(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Provider and level of the largest value [..., N, K], the first of equals."""
    flat = value.reshape(*value.shape[:-2], -1).argmax(-1)
    return flat // value.shape[-1], flat % value.shape[-1]


def _rows(market: Market, rows: np.ndarray) -> Market:
    return jax.tree.map(lambda x: np.asarray(x)[rows], market)


@dataclasses.dataclass(frozen=True)
class SingleBest(RoutingRule):
    """All questions to the provider and level of the largest mean value at posted prices."""

    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        value = np.asarray(asked.market.offered_value, float)
        mean = value[fit].mean(0)
        provider, level = _best(mean)
        buys = mean.max() >= float(users.outside_value)
        return _chosen(asked, apply, provider, level, buys)


@dataclasses.dataclass(frozen=True)
class Router(RoutingRule):
    """Each question to the provider and level of the best predicted value at posted prices."""

    predicts: ClassVar[bool] = True

    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        value = np.asarray(_rows(asked.predicted, apply).offered_value, float)
        buys = value.max((1, 2)) >= float(users.outside_value)
        return _chosen(asked, apply, *_best(value), buys)


@dataclasses.dataclass(frozen=True)
class Cascade(RoutingRule):
    """One provider after the other, cheapest first, until most of n votes agree.

    Each draws n samples; its answer is taken where at least m > n/2 of them are equal, and the last
    provider's plurality where it comes to that. n, m and how many providers there are to ask are
    those of the largest value on the questions that it may learn from; with n = 1 nobody disagrees.
    """

    samples: tuple[int, ...] = (1, 2, 4, 8)

    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        best, found = -np.inf, None
        stake = asked.right - asked.wrong
        for n in self.samples:
            if n > min(int(one.count.min()) for one in asked.samples):
                continue
            spent = np.stack([n * one.tokens.sum(1) / one.count for one in asked.samples], axis=1)
            price = spent * asked.price_per_token + n * asked.price_per_sample
            order = np.argsort(price[fit].mean(0), kind="stable")
            last = [_plurality(asked, int(i), n) for i in order]
            for m in range(n // 2 + 1, n + 1):
                agreed = [agreement(asked, int(i), n, m) for i in order]
                for ends in range(1, len(order) + 1):
                    plan = _cascaded(asked, spent, price, order[:ends], agreed, last)
                    value = asked.wrong + stake * plan.accuracy - plan.payment
                    value -= asked.latency_value * plan.seconds
                    if value[fit].mean() > best:
                        best, found = value[fit].mean(), plan
        if found is None:
            raise InputError(
                f"Cascade: samples = {self.samples}, and a question has fewer; give less"
            )
        buys = float(best >= float(users.outside_value))
        sums = {f.name: getattr(found, f.name) for f in dataclasses.fields(Served)}
        return Served(
            **{name: buys * np.broadcast_to(x, apply.shape)[apply] for name, x in sums.items()}
        )


def agreement(asked: QuestionMarkets, provider: int, n: int, m: int) -> tuple[Any, Any]:
    """[Q] the chance that m of n samples are equal, and that they are and are right; m > n/2.

    Votes of an answer are hypergeometric, and no two answers can both have so many. One sample is
    never disagreed with.
    """
    one = asked.samples[provider]
    if n == 1:
        return np.ones(len(one.count)), single_sample(one)
    votes, share = tally(one)
    chance = scipy.stats.hypergeom.sf(m - 1, one.count[:, None], votes, n)
    return chance.sum(1), (chance * share).sum(1)


def _plurality(asked: QuestionMarkets, provider: int, n: int) -> np.ndarray:
    """[Q] the chance that what n samples say most often is right."""
    one = asked.samples[provider]
    return single_sample(one) if n == 1 else majority(one, (n,))[:, 0]


def _cascaded(
    asked: QuestionMarkets,
    spent: np.ndarray,
    price: np.ndarray,
    order: np.ndarray,
    agreed: list,
    last: list,
) -> Served:
    """Providers in an order [J], with spent [Q, N] tokens each, at a price [Q, N]."""
    goes_on = np.ones(len(spent))
    accuracy, tokens, payment, seconds = (np.zeros(len(spent)) for _ in range(4))
    waits = _seconds(asked)
    for place, i in enumerate(order):
        tokens += goes_on * spent[:, i]
        seconds += goes_on * waits[:, i]
        payment += goes_on * price[:, i]
        if place == len(order) - 1:
            accuracy += goes_on * last[place]
        else:
            accuracy += goes_on * agreed[place][1]
            goes_on = goes_on * (1.0 - agreed[place][0])
    cost = payment / (1.0 + asked.margin)
    bought = np.ones(len(spent))
    return Served(accuracy, bought, tokens, payment, cost, seconds)


@dataclasses.dataclass(frozen=True)
class ByMechanism(RoutingRule):
    """A pricing rule on predictions; what is delivered, and paid for it, is as it turns out.

    Where providers bid, each offers the level that is best by what is predicted of the question.
    Where prices are posted, levels are those of the rule's play in the market of the mean question,
    users choose by what is predicted, and pay for the tokens that are generated. Predictions are of
    qualities and of tokens: a rule that scores or caps by tokens chooses by those predicted.
    """

    predicts: ClassVar[bool] = True
    rule: Mechanism = dataclasses.field(default_factory=SecondPriceAuction)

    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        learned, predicted, actual = (
            _rows(market, rows)
            for market, rows in (
                (asked.market, fit),
                (asked.predicted, apply),
                (asked.market, apply),
            )
        )
        promised, true = _offered(self.rule, users, learned, predicted, actual)
        offers = true.replace(
            reported_quality=promised.reported_quality,
            price=promised.price,
            announced_tokens=promised.tokens,
            bill=true.tokens / promised.tokens,  # an honest one
        )
        out = self.rule(offers, users)
        paid = out.payment if self.rule.asking == "cost" else self.rule(true, users).payment
        shares = np.asarray(out.shares, float)

        def total(x: Any) -> np.ndarray:
            return np.sum(shares * np.asarray(x, float), axis=1)

        return Served(
            accuracy=total(true.accuracy),
            bought=shares.sum(1),
            tokens=total(true.tokens),
            payment=total(paid),
            cost=total(true.cost),
            seconds=total(_seconds(asked)[apply]),
            taste_value=0.0
            if users.taste is None
            else np.asarray(self.rule.accounts.taste_value(offers, users, out.shares), float),
        )


@compiled
def _offered(
    rule: Mechanism, users: Users, learned: Market, predicted: Market, actual: Market
) -> tuple[Offers, Offers]:
    """[Q, N] what a rule is offered by what is predicted, and the same as it turns out."""
    if rule.asking == "cost":
        profile = rule.truthful_profile(predicted, users)
    else:
        mean = jax.tree.map(lambda x: x[0] if x.dtype == bool else jnp.mean(x, axis=0), learned)
        profile = named_play(None, rule)(mean, users, rule).profile
        profile = jnp.broadcast_to(profile, predicted.quality.shape[:2])
    return rule.offers(predicted, profile), rule.offers(actual, profile)


@dataclasses.dataclass(frozen=True)
class Oracle(RoutingRule):
    """Out of reach: knows every sample, and buys the one worth most at its cost, or nothing.

    That is the cheapest right one of all providers; where none is right, or being right is worth
    less than it costs, the cheapest of all. A sample takes as long as its provider's mean.
    """

    def serve(
        self, asked: QuestionMarkets, users: Users, fit: np.ndarray, apply: np.ndarray
    ) -> Served:
        waits = _seconds(asked)[apply]
        picked = []
        for i, one in enumerate(asked.samples):
            tokens, right = one.tokens[apply], one.correct[apply]
            price = tokens * asked.price_per_token[i] + asked.price_per_sample[i]
            cost = price / (1.0 + asked.margin)
            value = np.where(right, asked.right, asked.wrong) - cost
            value = np.where(one.there[apply], value, -np.inf)
            at = value.argmax(1)[:, None]
            found = (np.take_along_axis(x, at, axis=1)[:, 0] for x in (value, tokens, right, cost))
            picked.append(tuple(found))
        value, tokens, right, cost = (np.stack(x, axis=1) for x in zip(*picked, strict=True))
        value = value - asked.latency_value * waits
        i, rows = value.argmax(1), np.arange(len(value))
        buys = value[rows, i] > float(users.outside_value)

        def bought(x: np.ndarray) -> np.ndarray:
            return np.where(buys, x[rows, i], 0.0)

        return Served(
            accuracy=bought(right),
            bought=buys.astype(float),
            tokens=bought(tokens),
            payment=bought(cost),
            cost=bought(cost),
            seconds=bought(waits),
        )


def default_rules() -> dict[str, RoutingRule]:
    return {
        "single_best": SingleBest(),
        "cascade": Cascade(),
        "router": Router(),
        "auction": ByMechanism(SecondPriceAuction()),
        "pay_per_compute": ByMechanism(PayPerCompute()),
        "oracle": Oracle(),
    }


def served(asked: QuestionMarkets, users: Users, rule: RoutingRule) -> dict[str, np.ndarray]:
    """{metric: [Q]} of a rule, each half of the questions served by what the other half taught.

    Pilots that a rule needs are bought at posted prices, and their tokens counted; they are waited
    for. Where users' time has a value, all is by what answers are worth less waiting. Who buys
    nothing has v0, in welfare and in what users get. Where the noise of users is their taste, what
    those who choose get by it counts too; whom a router assigns gets none, in the mean.
    """
    if isinstance(users, UserMixture) or np.ndim(users.rationality):
        raise InputError("users: give one type of users, Users.create(β)")
    waits = 0.0 if users.latency_value is None else float(users.latency_value)
    if waits and asked.seconds is None:
        raise InputError(
            "users: a latency_value where nobody knows how fast providers are; give the constants "
            "a table [tokens_per_second]"
        )
    market, plain = net_of_waiting(asked.market, users)
    asked = dataclasses.replace(
        asked,
        market=market,
        predicted=net_of_waiting(asked.predicted, users)[0],
        latency_value=waits,
    )
    found = {name: np.zeros(len(asked.ids)) for name in _SUMS}
    for half in (0, 1):
        apply = asked.fold == half
        part = rule.serve(asked, plain, ~apply, apply)
        for name in _SUMS:
            found[name][apply] = getattr(part, name)
    if rule.predicts:
        found["tokens"] += asked.pilot_tokens
        found["payment"] += asked.pilot_price
        found["cost"] += asked.pilot_cost
        if asked.pilot_seconds is not None:
            found["seconds"] += asked.pilot_seconds
    quality = found["bought"] * asked.wrong + (asked.right - asked.wrong) * found["accuracy"]
    quality = quality - waits * found["seconds"]
    kept = (1.0 - found["bought"]) * float(users.outside_value)  # of those who buy nothing
    kept = kept + found["taste_value"]
    return {
        "welfare": quality + kept - found["cost"],
        "user_value": quality + kept - found["payment"],
        "user_cost": found["payment"],
        "provider_utility": found["payment"] - found["cost"],
        "accuracy": found["accuracy"],
        "tokens": found["tokens"],
        "latency": found["seconds"],
    }


def route(
    asked: QuestionMarkets,
    users: Users,
    rules: Mapping[str, RoutingRule] | None = None,
    *,
    against: str = "router",
    draws: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row for each rule: means over questions, and how far from another rule's.

    Args:
        users: of one type; posted prices ask for their β, and waiting for their latency_value.
        rules: name → rule; `default_rules` where not given.
        against: the rule whose means are taken off; nothing is where it is not among the rules.
        draws: of the bootstrap over questions, the same for all rules: intervals of 95 %.
        seed: of the draws.

    Returns:
        Rows with rule, pilots (samples of each provider that it needed), each metric of `METRICS`
        with METRIC_low and METRIC_high, and welfare_gain and user_value_gain over `against` with
        theirs, None for that rule itself. Money in USD per question, latency in seconds (None where
        nobody knows).
    """
    checked_whole("draws", draws, 100, 10**6)
    rules = rules or default_rules()
    rng = np.random.default_rng(seed)
    q = len(asked.ids)
    weight = rng.multinomial(q, np.full(q, 1.0 / q), size=draws) / q
    found = {name: served(asked, users, rule) for name, rule in rules.items()}

    def interval(values: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(weight @ values, (0.025, 0.975))
        return float(values.mean()), float(low), float(high)

    rows = []
    for name, metrics in found.items():
        pilots = asked.pilots if rules[name].predicts else 0
        row: dict[str, Any] = {"rule": name, "pilots": pilots}
        for metric in METRICS:
            if metric == "latency" and asked.seconds is None:
                row |= dict.fromkeys(("latency", "latency_low", "latency_high"))
                continue
            row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = interval(metrics[metric])
        for metric in ("welfare", "user_value"):
            ends: tuple[Any, Any, Any] = (None, None, None)
            if against in found and name != against:
                ends = interval(metrics[metric] - found[against][metric])
            for suffix, value in zip(("", "_low", "_high"), ends, strict=True):
                row[f"{metric}_gain{suffix}"] = value
        rows.append(row)
    return rows
