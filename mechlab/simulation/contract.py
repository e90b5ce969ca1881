"""What a pricing rule promises, checked: for rules of your own, and for those of the catalogue."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.market import Array, Market, Offers, take_level
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism, NestedLogit, PayPerCompute
from mechlab.mechanisms.base import check_arguments
from mechlab.populations import Parametric, Population, Published

Case = tuple[Market, Any, Offers, Array]  # one market, its users, offers at a profile [N]
_OUTSIDE = (0.004, -0.003, 0.0)
# compiled once for each number of providers: rules of others may be slow to trace
_call = jax.jit(lambda rule, offers, users: rule(offers, users))
_many = jax.jit(jax.vmap(lambda rule, offers, users: rule(offers, users), in_axes=(None, 0, 0)))
_moved = jax.jit(lambda rule, market, users, profile: rule(rule.offers(market, profile), users))
_by_twin = jax.jit(lambda rule, *column: rule.levels.metrics(*column))
_by_outcome = jax.jit(lambda rule, *column: rule.levels.metrics_of(*column))


def _total(data: Any, weight: Array) -> Array:
    rule, offers, users = data
    out = rule(offers, users)
    return jnp.sum(weight * out.provider_utility) + out.user_value + 0.5 * out.user_cost


_value, _reverse = jax.jit(_total), jax.jit(jax.grad(_total))
_forward = jax.jit(
    lambda data, way, weight: jax.jvp(lambda data: _total(data, weight), (data,), (way,))[1]
)


def check_rule(
    rule: Mechanism, market: Market | None = None, users: Users | None = None, *, seed: int = 0
) -> tuple[str, ...]:
    """What is wrong with a rule, one line each; nothing where it keeps what the interface promises.

    Drawn markets (or the one given) are played at random profiles, in float64, and looked at for:
    shares in [0, 1] that sum to at most 1 and finite payments; the accounting identities of
    `Outcome`; the same numbers under jit and in a batch as for one market; derivatives that are
    those of finite differences; `rivals` with `utility_against`, `level_gains`, `posted_game` or
    `nested_game`, and `fast_metrics` that agree with the whole outcome; a pytree that comes back
    as it was; float32 near float64.

    Args:
        rule: to be checked; an instance.
        market, users: one market [N, K] of your own, for rules that need a special one.
        seed: of the markets, profiles and directions.
    """
    faults: list[str] = []
    name = type(rule).__name__
    with jax.enable_x64(True):
        check_arguments(market or _drawn(Parametric(), seed)[0], users or Users.create(1.0), rule)
        again = jax.tree.unflatten(*reversed(jax.tree.flatten(rule)))
        if type(again) is not type(rule) or vars(again) != vars(rule):
            faults.append(f"{name}: as a pytree: what is no annotated field does not come back")
        rule = jax.tree.map(_wide, rule)
        rng = np.random.default_rng(seed)
        cases = [_case(rule, *case, rng) for case in _markets(market, users, seed)]
        for title, check in _CHECKS.items():
            try:
                found = next((said for case in cases for said in check(rule, case, rng)), None)
            except Exception as error:  # whatever a rule of somebody else raises is its fault
                found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if found is not None:
                faults.append(f"{name}: {title}: {found}")
    return tuple(faults)


def _wide(x: Any) -> Any:
    whole = isinstance(x, int) and not isinstance(x, bool)  # a number that was written without .0
    x = jnp.asarray(float(x) if whole else x)
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _drawn(population: Population, seed: int) -> tuple[Market, Any]:
    return jax.tree.map(lambda x: _wide(x[0]), population.markets(1, seed=seed))


def _markets(market: Market | None, users: Users | None, seed: int) -> Iterator[tuple[Market, Any]]:
    if market is not None:
        crowd = users or Users.create(1000.0)
        yield jax.tree.map(_wide, (market, crowd))
        return
    four = Published(providers=4)
    populations = (four, four, Parametric(providers=1))
    for i, (population, outside) in enumerate(zip(populations, _OUTSIDE, strict=True)):
        drawn, crowd = _drawn(population, seed + i)
        # a moderate rationality: beyond it shares are 0 or 1, and differences say nothing
        beta = jnp.clip(crowd.rationality, 50.0, 3000.0)
        crowd = crowd.replace(rationality=beta, outside_value=jnp.asarray(outside))
        yield drawn, users or crowd


def _case(rule: Mechanism, market: Market, users: Any, rng: np.random.Generator) -> Case:
    count = np.asarray(market.available).sum(-1)
    profile = jnp.asarray(rng.integers(0, count))
    return market, users, rule.offers(market, profile), profile


def _apart(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-13) -> str | None:
    """The first leaf of two alike trees that differs, or None."""
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if not np.allclose(x, y, rtol=rtol, atol=atol):
            return f"{jax.tree_util.keystr(path)} is {np.asarray(x)} and {np.asarray(y)}"
    return None


def _shares(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case
    outcome = rule(offers, users)  # an InputError says what is wrong
    if outcome.shares.shape[-1] != offers.quality.shape[-1]:
        yield f"shares have shape {outcome.shares.shape}"


def _identities(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case
    out = _call(rule, offers, users)
    earned = out.shares * (out.payment - offers.cost - rule.accounts.risk_premium(offers, users))
    sold = jnp.sum(out.shares, axis=-1)
    outside = users.outside_value
    wanted = {
        "provider_utility": (out.provider_utility, earned),
        "welfare = user_value + provider_utility": (
            out.welfare,
            out.user_value + jnp.sum(earned, axis=-1),
        ),
        "quality = user_value + user_cost": (out.quality, out.user_value + out.user_cost),
        "user_cost": (out.user_cost, jnp.sum(out.shares * out.payment, axis=-1)),
        "net_welfare": (out.net_welfare, out.welfare - sold * outside),
        "net_user_value": (out.net_user_value, out.user_value - sold * outside),
    }
    for name, (found, expected) in wanted.items():
        if not np.allclose(found, expected, rtol=1e-9, atol=1e-13):
            yield f"{name} is {np.asarray(found)}, not {np.asarray(expected)}"


def _jit(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case
    said = _apart(rule(offers, users), _call(rule, offers, users))
    if said:
        yield said


def _batch(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case
    factors = jnp.asarray(rng.uniform(0.8, 1.2, 3))
    many = jax.tree.map(lambda x: x * factors.reshape(-1, *[1] * x.ndim), offers)
    crowd = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), users)
    ones = [_call(rule, *jax.tree.map(lambda x, i=i: x[i], (many, crowd))) for i in range(3)]
    loop = jax.tree.map(lambda *x: jnp.stack(x), *ones)
    for how, found in (("a batch", _call(rule, many, crowd)), ("vmap", _many(rule, many, crowd))):
        said = _apart(loop, found)
        if said:
            yield f"one by one and in {how}: {said}"


def _derivatives(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case
    n = offers.quality.shape[-1]
    weight = jnp.asarray(rng.uniform(0.5, 1.5, n))
    data = (rule, offers, users)
    back = _reverse(data, weight)
    for part, name in enumerate(("the rule's parameters", "offers", "users")):

        def along(x: Array, part: int = part, i: int = 0) -> Array:
            size = jnp.where(jnp.isfinite(x) & (x != 0), jnp.abs(x), 1e-3)
            return jnp.asarray(rng.uniform(-1, 1, x.shape)) * size

        way = tuple(
            jax.tree.map(along if i == part else jnp.zeros_like, tree)
            for i, tree in enumerate(data)
        )
        if not jax.tree.leaves(way[part]):
            continue
        slope = float(_forward(data, way, weight))
        products = jax.tree.map(lambda g, w: jnp.sum(g * w), back, way)
        reverse = float(sum(jax.tree.leaves(products)))
        if not (np.isfinite(slope) and np.isfinite(reverse)):
            yield f"in {name}: {slope} forward, {reverse} in reverse; give a finite number"
            continue
        # of two steps the one that is nearer: rounding troubles the small, curvature the large
        differences = []
        for step in (1e-4, 1e-6):
            ends = [
                float(_value(jax.tree.map(lambda x, w, h=h: x + h * w, data, way), weight))
                for h in (step, -step)
            ]
            differences.append((ends[0] - ends[1]) / (2 * step))
        scale = max(abs(slope), abs(float(_value(data, weight))), 1e-6)
        off = min(abs(slope - d) for d in differences)
        if off > 1e-4 * scale or abs(slope - reverse) > 1e-7 * scale:
            yield (
                f"in {name}: {slope:.6g} forward and {reverse:.6g} in reverse, where differences "
                f"give {differences[1]:.6g}"
            )


@jax.jit
def _by_shortcuts(
    rule: Mechanism, offers: Offers, own: Offers, market: Market, users: Any, profile: Array
) -> tuple[Array, Array, Array]:
    """[N] utilities of own offers, and [N, K] utilities and gains of levels, the rule's own way."""
    who = jnp.arange(offers.quality.shape[-1])
    return (
        rule.facing.utility_against(rule.facing.rivals(offers, users), own),
        jax.vmap(lambda i: rule.levels.utilities(market, users, profile, i))(who),
        jax.vmap(lambda i: rule.levels.gains(market, users, profile, i))(who),
    )


def _alone(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    market, users, offers, profile = case
    n = offers.quality.shape[-1]
    own = offers.replace(
        price=offers.price * rng.uniform(0.7, 1.4, n),
        reported_quality=offers.reported_quality * rng.uniform(0.8, 1.2, n),
    )
    found, levels, gains = _by_shortcuts(rule, offers, own, market, users, profile)
    now = _call(rule, offers, users).provider_utility
    for i in range(n):
        moved = jax.tree.map(lambda x, y, i=i: x.at[i].set(y[i]), offers, own)
        exact = _call(rule, moved, users).provider_utility[i]
        if not np.allclose(found[i], exact, rtol=1e-7, atol=1e-14):
            yield f"utility_against gives provider {i} {found[i]:.6g}, the outcome {exact:.6g}"
        for k in range(int(np.asarray(market.available)[i].sum())):
            at = _moved(rule, market, users, profile.at[i].set(k)).provider_utility[i]
            if not np.allclose(levels[i, k], at, rtol=1e-7, atol=1e-14):
                yield f"level_utilities[{k}] of provider {i} is {levels[i, k]:.6g}, not {at:.6g}"
            gain, clear = at - now[i], 1e-6 * max(abs(at), abs(now[i])) + 1e-12
            if abs(gain) > clear and bool(gains[i, k] > 0) != bool(gain > 0):
                yield f"level_gains[{k}] of provider {i} is {gains[i, k]:.6g} for {gain:.6g} USD"


def _posted(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    market, users, offers, profile = case
    posted = nested = None
    if rule.posted is not None:
        here, nests = rule.posted.market(market), rule.posted.nests
        posted, nested = (here, None) if nests is None else (None, (here, nests))
    choice: Mechanism = PayPerCompute()
    if posted is not None:
        pass
    elif nested is not None:
        posted, nests = nested
        choice = NestedLogit(nests.of, nests.dissimilarity)
    else:
        return
    price = take_level(posted.price, profile)
    shares, _ = choice.allocate(offers.replace(price=price), users)
    out = _call(rule, offers, users)
    if not (np.allclose(out.shares, shares, rtol=1e-7) and np.allclose(out.payment, price)):
        yield "posted says another market than allocate serves; return None from it"


def _fast(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    market, users, offers, profile = case
    column = jax.tree.map(lambda x: x[..., None], (market, users, profile))
    found = _by_twin(rule, *column)
    last = jax.tree.map(lambda x: x[..., None], (offers, users))
    exact = _by_outcome(rule, *last)
    said = _apart(found, exact)
    if said:
        yield f"fast_metrics and the outcome: {said}"


def _narrow(rule: Mechanism, case: Case, rng: np.random.Generator) -> Iterator[str]:
    _, users, offers, _ = case

    def narrow(x: Array) -> Array:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    exact = _call(rule, offers, users)
    found = _call(*jax.tree.map(narrow, (rule, offers, users)))
    scale = float(jnp.max(jnp.abs(offers.quality)))
    for name in ("shares", "payment", "provider_utility", "welfare", "user_value", "user_cost"):
        a, b = np.asarray(getattr(exact, name)), np.asarray(getattr(found, name))
        if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * (1.0 if name == "shares" else scale)):
            yield f"{name} is {a} in float64 and {b} in float32"


_CHECKS: dict[str, Callable[[Mechanism, Case, np.random.Generator], Iterator[str]]] = {
    "shares and payment": _shares,
    "accounting": _identities,
    "under jit": _jit,
    "in a batch": _batch,
    "derivatives": _derivatives,
    "a provider alone": _alone,
    "posted prices": _posted,
    "fast metrics": _fast,
    "in float32": _narrow,
}
