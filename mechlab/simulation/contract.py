"""What a pricing rule promises, checked: for rules of your own, and for those of the catalogue."""

import dataclasses
import functools
import itertools
import pathlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab import core
from mechlab.core.market import Array, Market, Offers, Outcome, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.waiting import offers_net_of_waiting
from mechlab.mechanisms import Mechanism, NestedLogit, PayPerCompute
from mechlab.mechanisms.alone import Alone
from mechlab.mechanisms.base import check_arguments, outcome_and_allocated
from mechlab.mechanisms.capabilities import METRICS, Facing, Levels
from mechlab.mechanisms.parameters import providers_of

_STEPS = (1e-4, 1e-6)  # of finite differences: rounding troubles the small, curvature the large


@pytree
class _Case(Pytree):
    """One market and what was drawn for it.

    Attributes:
        market: [N, K]
        users: of one market.
        profile: [N] int.
        offers: [N] at the profile.
        own: [N] other offers.
        many: [3, N] offers of three markets.
        weight: [N] of utilities in a total.
        ways: [3, ...] directions of the rule, the offers and the users, one of them at a time.
    """

    market: Market
    users: Any
    profile: Any
    offers: Offers
    own: Offers
    many: Offers
    weight: Any
    ways: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Failed:
    """In place of what was to be seen: the error that a rule raised."""

    said: str = dataclasses.field(metadata={"static": True})

    @classmethod
    def by(cls, error: Exception) -> "_Failed":
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return cls(f"{said}{_line_of_the_rule(error)}")


def _line_of_the_rule(error: Exception) -> str:
    """Where in the file of the rule an error was raised; nothing for one of the library's own."""
    homes = (str(x.__file__) for x in (core, jax, np))
    libraries = tuple(str(pathlib.Path(home).parent) for home in homes)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        own = pathlib.Path(libraries[0]).parent in pathlib.Path(frame.filename).parents
        if not own and not frame.filename.startswith(libraries):
            return f" ({pathlib.Path(frame.filename).name}, line {frame.lineno})"
    return ""


def check_rule(
    rule: Mechanism, market: Market | None = None, users: Users | None = None, *, seed: int = 0
) -> tuple[str, ...]:
    """What is wrong with a rule, one line each; nothing where it keeps what the interface promises.

    Drawn markets (or the one given) are played at random profiles, in float64, and looked at for:
    shares in [0, 1] that sum to at most 1 and finite payments; the accounting identities of
    `Outcome`; the same numbers under jit and in a batch as for one market; derivatives that are
    those of finite differences; what the rule has beside `allocate` (`facing`, `levels`, `posted`)
    that agrees with whole outcomes; a pytree that comes back as it was; float32 near float64.

    Args:
        rule: to be checked; an instance.
        market, users: one market [N, K] of your own, for rules that need a special one.
        seed: of the markets, profiles and directions.
    """
    faults: dict[str, str] = {}  # by what is said, so that one cause is one line
    name = type(rule).__name__
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        markets = [(market, users or Users.create(1000.0))] if market else _drawn(rule, users, rng)
        check_arguments(markets[0][0], markets[0][1], rule)
        again = jax.tree.unflatten(*reversed(jax.tree.flatten(rule)))
        if type(again) is not type(rule) or vars(again) != vars(rule):
            said = "what is no annotated field does not come back"
            faults[said] = f"{name}: as a pytree: {said}"
        rule = jax.tree.map(_wide, rule)
        cases = [_case(rule, jax.tree.map(_wide, drawn), rng) for drawn in markets]
        seen = _all_seen(rule, cases)
        for title, (_, judge) in _CHECKS.items():
            found = next(
                (
                    said
                    for case, of_case in zip(cases, seen, strict=True)
                    for said in _judged(judge, rule, case, of_case[title])
                ),
                None,
            )
            if found is not None:
                faults.setdefault(found, f"{name}: {title}: {found}")
    return tuple(faults.values())


def _wide(x: Any) -> Any:
    array = np.asarray(x)
    whole = isinstance(x, int) and not isinstance(x, bool)  # a number that was written without .0
    if whole or np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    return jnp.asarray(array, array.dtype)


def _drawn(rule: Mechanism, users: Any, rng: np.random.Generator) -> list[tuple[Market, Any]]:
    """Two markets of four providers and one of a single one, with rising curves; all of as many as
    a rule has values for each."""
    drawn = []
    sized = providers_of(rule)
    for several, outside in ((4, 0.004), (4, -0.003), (1, 0.0)):
        providers = sized or several
        shape = (providers, 6)
        market = Market.from_curves(
            np.sort(rng.uniform(0.3, 0.95, shape)),
            np.cumsum(rng.uniform(200.0, 4000.0, shape), axis=1),
            rng.uniform(0.05, 0.3, providers) * 1e-6,
            value_per_answer=rng.uniform(0.004, 0.016),
            baseline=0.1,
            margin=rng.uniform(0.1, 0.4, providers),
            available=np.arange(6) < np.append(rng.integers(2, 7, providers - 1), 6)[:, None],
        )
        # a moderate rationality: beyond it shares are 0 or 1, and differences say nothing
        drawn.append((market, users or Users.create(np.exp(rng.uniform(4.0, 8.0)), outside)))
    return drawn


def _case(rule: Mechanism, drawn: tuple[Market, Any], rng: np.random.Generator) -> _Case:
    market, users = drawn
    profile = rng.integers(0, np.asarray(market.available).sum(-1))
    offers = rule.offers(market, jnp.asarray(profile, int))
    host = jax.tree.map(np.asarray, offers)
    n = len(profile)
    data = (rule, offers, users)

    def along(x: Any) -> np.ndarray:
        size = np.where(np.isfinite(x) & (x != 0), np.abs(x), 1e-3)
        return np.asarray(rng.uniform(-1, 1, np.shape(x)) * size)

    ways = [
        tuple(
            jax.tree.map(along if i == part else np.zeros_like, jax.tree.map(np.asarray, tree))
            for i, tree in enumerate(data)
        )
        for part in range(len(data))
    ]
    return _Case(
        market=market,
        users=users,
        profile=profile,
        offers=offers,
        own=host.replace(
            price=host.price * rng.uniform(0.7, 1.4, n),
            reported_quality=host.reported_quality * rng.uniform(0.8, 1.2, n),
        ),
        many=jax.tree.map(lambda x: np.outer(rng.uniform(0.8, 1.2, 3), x), host),
        weight=rng.uniform(0.5, 1.5, n),
        ways=jax.tree.map(lambda *x: np.stack(x), *ways),
    )


def _all_seen(rule: Mechanism, cases: list[_Case]) -> list[dict[str, Any]]:
    """What each case shows: those of one shape in one program."""

    def shapes(case: _Case) -> Any:
        return [(np.shape(x), x.dtype) for x in jax.tree.leaves(case)]

    seen: list[dict[str, Any]] = []
    for _, alike in itertools.groupby(cases, shapes):
        stacked = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *alike)
        found = jax.tree.map(np.asarray, _seen(rule, stacked))
        count = len(stacked.profile)
        seen += [jax.tree.map(lambda x, i=i: x[i], found) for i in range(count)]
    return seen


# run a few times at most: it is worth no optimisation
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _seen(rule: Mechanism, cases: _Case) -> dict[str, Any]:
    """{title of a check: what it is about}, of cases [C, ...] that are looked at one by one."""

    def one(case: _Case) -> dict[str, Any]:
        try:
            outcomes = _outcomes(rule, case)
        except Exception as error:  # whatever a rule of somebody else raises is its fault
            return dict.fromkeys(_CHECKS, _Failed.by(error))
        found: dict[str, Any] = {}
        for title, (look, _) in _CHECKS.items():
            try:
                found[title] = look(rule, case, outcomes)
            except Exception as error:
                found[title] = _Failed.by(error)
        return found

    return jax.lax.map(one, cases)


@pytree
class _Outcomes(Pytree):
    """Outcomes of a rule, market by market.

    Attributes:
        now: of the case.
        many: [3, ...] of its three markets.
        own: [N, ...] where one provider makes its own other offer.
        levels: [N·K, ...] where one provider moves to a level.
        ends: [3·steps·2, ...] a step along each of the ways, and back.
    """

    now: Outcome
    many: Outcome
    own: Outcome
    levels: Outcome
    ends: Outcome


def _outcomes(rule: Mechanism, case: _Case) -> _Outcomes:
    """All in one loop, so that the rule is compiled once for them."""
    market, data = case.market, (rule, case.offers, case.users)
    n, k = market.quality.shape
    who = jnp.arange(n)

    def moved(place: Array) -> Offers:
        return rule.offers(market, jnp.where(who == place // k, place % k, case.profile))

    def step(x: Array, ways: Array) -> Array:
        steps = jnp.asarray([h for size in _STEPS for h in (size, -size)])
        steps = steps.reshape(1, -1, *[1] * x.ndim)
        return (x + steps * ways[:, None]).reshape(-1, *x.shape)

    def crowd(offers: Any) -> Any:
        """[M, ...] offers with the rule and the users as they are."""
        count = len(jax.tree.leaves(offers)[0])
        rest = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), (rule, case.users)
        )
        return rest[0], offers, rest[1]

    own = jax.tree.map(lambda x, y: jnp.where(jnp.eye(n, dtype=bool), y, x), case.offers, case.own)
    points = dict(
        now=jax.tree.map(lambda x: x[None], data),
        many=crowd(case.many),
        own=crowd(own),
        levels=crowd(jax.vmap(moved)(jnp.arange(n * k))),
        ends=jax.tree.map(step, data, case.ways),
    )
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *points.values())
    found = jax.lax.map(lambda data: data[0](*data[1:]), joined)
    places = np.cumsum([len(jax.tree.leaves(x)[0]) for x in points.values()])[:-1]
    leaves, structure = jax.tree.flatten(found)
    split = zip(*(jnp.split(x, places) for x in leaves), strict=True)
    parts = {name: jax.tree.unflatten(structure, x) for name, x in zip(points, split, strict=True)}
    parts["now"] = jax.tree.map(lambda x: x[0], parts["now"])
    return _Outcomes(**parts)


def _judged(judge: Any, rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    if isinstance(seen, _Failed):
        yield seen.said
        return
    try:
        yield from judge(rule, case, seen)
    except Exception as error:  # such as an InputError, which says what is wrong
        yield _Failed.by(error).said


def _apart(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-13) -> str | None:
    """The first leaf of two alike trees that differs, or None."""
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if not np.allclose(x, y, rtol=rtol, atol=atol):
            return f"{jax.tree_util.keystr(path)} is {np.asarray(x)} and {np.asarray(y)}"
    return None


def _allocated(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    return outcome_and_allocated(rule, case.offers, case.users)[1], outcomes.now


def _judge_shares(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    allocated, outcome = seen
    allocated.check(type(rule).__name__)  # an InputError says what is wrong
    if outcome.shares.shape[-1] != case.offers.quality.shape[-1]:
        yield f"shares have shape {outcome.shares.shape}"


def _accounts(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    premium = rule.accounts.risk_premium(case.offers, case.users)
    return outcomes.now, jnp.broadcast_to(premium, case.offers.cost.shape)


def _judge_accounts(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    out, premium = seen
    earned = out.shares * (out.payment - np.asarray(case.offers.cost) - premium)
    sold = np.sum(out.shares, axis=-1)
    outside = np.asarray(case.users.outside_value)
    wanted = {
        "provider_utility": (out.provider_utility, earned),
        "welfare = user_value + provider_utility": (
            out.welfare,
            out.user_value + np.sum(earned, axis=-1),
        ),
        "quality = user_value + user_cost": (out.quality, out.user_value + out.user_cost),
        "user_cost": (out.user_cost, np.sum(out.shares * out.payment, axis=-1)),
        "net_welfare": (out.net_welfare, out.welfare - sold * outside),
        "net_user_value": (out.net_user_value, out.user_value - sold * outside),
    }
    for name, (found, expected) in wanted.items():
        if not np.allclose(found, expected, rtol=1e-9, atol=1e-13):
            yield f"{name} is {found}, not {expected}"


def _one_type(case: _Case) -> tuple[Offers, Users]:
    """Offers and users as `allocate` is given them, the first of several types."""
    offers, users = offers_net_of_waiting(case.offers, case.users)
    if not isinstance(users, UserMixture):
        return offers, users
    one = jax.tree.map(lambda x: x[..., 0], users.types())
    return offers.worth(users.value_scale[..., 0]), one


def _allocation(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    return rule.allocate(*_one_type(case))


def _judge_jit(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    known = jax.jit(lambda: rule.allocate(*_one_type(case)))()  # its arguments are no tracers
    for name, found, traced in zip(("shares", "payment"), known, seen, strict=True):
        if not np.allclose(found, traced, rtol=1e-9, atol=1e-13):
            yield f"allocate's {name} are {found} of numbers, and {traced} of what is traced"


def _batches(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    crowd = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *jnp.shape(x))), case.users)
    return outcomes.many, rule(case.many, crowd)


def _judge_batches(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    said = _apart(*seen)
    if said:
        yield f"one by one and in a batch: {said}"


def _derivatives(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    """A total [], and by part, the rule, the offers and the users: its slopes forward and in
    reverse [3], and what it is a step ahead and back [3, steps, 2]."""

    def of(out: Outcome) -> Array:
        earned = jnp.sum(case.weight * out.provider_utility, axis=-1)
        return earned + out.user_value + 0.5 * out.user_cost

    def total(data: Any) -> Array:
        rule, offers, users = data
        return of(rule(offers, users))

    data = (rule, case.offers, case.users)
    value, forward = jax.linearize(total, data)
    (back,) = jax.linear_transpose(forward, data)(jnp.ones_like(value))

    def along(way: Any) -> tuple[Array, Array]:
        products = jax.tree.map(lambda g, w: jnp.sum(g * w), back, way)
        return forward(way), sum(jax.tree.leaves(products), jnp.zeros(()))

    ends = of(outcomes.ends).reshape(3, len(_STEPS), 2)
    return value, *jax.lax.map(along, case.ways), ends


def _judge_derivatives(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    value, slopes, reverses, ends = seen
    data = {"the rule's parameters": rule, "offers": case.offers, "users": case.users}
    for (name, part), slope, reverse, end in zip(data.items(), slopes, reverses, ends, strict=True):
        if not jax.tree.leaves(part):
            continue
        if not (np.isfinite(slope) and np.isfinite(reverse)):
            yield f"in {name}: {slope} forward, {reverse} in reverse; give a finite number"
            continue
        # of two steps the one that is nearer
        differences = (end[:, 0] - end[:, 1]) / (2 * np.asarray(_STEPS))
        scale = max(abs(slope), abs(value), 1e-6)
        off = np.min(np.abs(slope - differences))
        if off > 1e-4 * scale or abs(slope - reverse) > 1e-7 * scale:
            yield (
                f"in {name}: {slope:.6g} forward and {reverse:.6g} in reverse, where differences "
                f"give {differences[1]:.6g}"
            )


def _alone(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> dict[str, Array]:
    """What each provider earns now [N], by its own other offer [N] and by each level [N, K], with
    gains [N, K]: the rule's own way, and by outcomes."""
    market, users, profile = case.market, case.users, case.profile
    n, k = market.quality.shape

    def shortcuts(i: Array) -> tuple[Array, Array]:
        return (
            rule.levels.utilities(market, users, profile, i),
            rule.levels.gains(market, users, profile, i),
        )

    by_level = outcomes.levels.provider_utility.reshape(n, k, n)
    found = dict(
        now=outcomes.now.provider_utility,
        exact_own=jnp.diagonal(outcomes.own.provider_utility),
        exact_levels=jnp.diagonal(by_level, axis1=0, axis2=2).T,
    )
    # what a rule leaves as it is calls the rule itself
    if type(rule.facing) is not Facing:
        alone = Alone(rule)
        found["own"] = alone.utility_against(alone.rivals(case.offers, users), case.own)
    if type(rule.levels) is not Levels:
        found["levels"], found["gains"] = jax.lax.map(shortcuts, jnp.arange(n))
    return found


def _judge_alone(rule: Mechanism, case: _Case, seen: dict[str, Any]) -> Iterator[str]:
    exact_own = seen["exact_own"]
    for i, (found, exact) in enumerate(zip(seen.get("own", exact_own), exact_own, strict=True)):
        if not np.allclose(found, exact, rtol=1e-7, atol=1e-14):
            yield f"facing.utility_against gives provider {i} {found:.6g}, the outcome {exact:.6g}"
    for i, k in np.argwhere(np.asarray(case.market.available)) if "levels" in seen else ():
        level, at, now = seen["levels"][i, k], seen["exact_levels"][i, k], seen["now"][i]
        if not np.allclose(level, at, rtol=1e-7, atol=1e-14):
            yield f"levels.utilities[{k}] of provider {i} is {level:.6g}, not {at:.6g}"
        gain, clear = at - now, 1e-6 * max(abs(at), abs(now)) + 1e-12
        told = seen["gains"][i, k]
        if abs(gain) > clear and bool(told > 0) != bool(gain > 0):
            yield f"levels.gains[{k}] of provider {i} is {told:.6g} for {gain:.6g} USD"


def _posted(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    """Shares and unit profits, as the rule has them and as the game says; nothing without one."""
    if rule.posted is None:
        return ()
    nests = rule.posted.nests
    choice = PayPerCompute() if nests is None else NestedLogit(nests.of, nests.dissimilarity)
    price = take_level(rule.posted.market(case.market).price, case.profile)
    profit = take_level(rule.posted.providers_market(case.market).unit_profit, case.profile)
    shares = choice(case.offers.replace(price=price), case.users).shares
    out = outcomes.now
    return out.shares, shares, out.payment - case.offers.cost, profit


def _judge_posted(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    if not seen:
        return
    shares, told, profit, earned = seen
    if not (np.allclose(shares, told, rtol=1e-7) and np.allclose(profit, earned, rtol=1e-7)):
        yield "posted says another market than allocate serves; return None from it"


def _fast(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    if type(rule.levels).metrics is Levels.metrics:
        return {}, {}  # it is the outcome in a batch
    column = jax.tree.map(lambda x: x[..., None], (case.market, case.users, case.profile))
    found = jax.tree.map(lambda x: x[..., 0], rule.levels.metrics(*column))
    exact = {name: getattr(outcomes.now, name) for name in METRICS}
    return found, exact | {"provider_utility": jnp.sum(outcomes.now.provider_utility)}


def _judge_fast(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    said = _apart(*seen)
    if said:
        yield f"levels.metrics and the outcome: {said}"


def _narrow(rule: Mechanism, case: _Case, outcomes: _Outcomes) -> Any:
    def narrow(x: Array) -> Array:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    few, offers, users = jax.tree.map(narrow, (rule, case.offers, case.users))
    return outcomes.now, few(offers, users)


def _judge_narrow(rule: Mechanism, case: _Case, seen: Any) -> Iterator[str]:
    scale = float(np.max(np.abs(case.offers.quality)))
    for name in ("shares", "payment", "provider_utility", "welfare", "user_value", "user_cost"):
        a, b = (getattr(outcome, name) for outcome in seen)
        if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * (1.0 if name == "shares" else scale)):
            yield f"{name} is {a} in float64 and {b} in float32"


# what is to be seen of a case, all of it in one program, and what is wrong with it
_CHECKS: dict[
    str,
    tuple[
        Callable[[Mechanism, _Case, _Outcomes], Any],
        Callable[[Mechanism, _Case, Any], Iterator[str]],
    ],
] = {
    "shares and payment": (_allocated, _judge_shares),
    "accounting": (_accounts, _judge_accounts),
    "under jit": (_allocation, _judge_jit),
    "in a batch": (_batches, _judge_batches),
    "derivatives": (_derivatives, _judge_derivatives),
    "a provider alone": (_alone, _judge_alone),
    "posted prices": (_posted, _judge_posted),
    "fast metrics": (_fast, _judge_fast),
    "in float32": (_narrow, _judge_narrow),
}
