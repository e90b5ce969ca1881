"""Inverse problems: the parameters at which the equilibrium is what was observed.

Least squares by Levenberg's and Marquardt's method from three starts, a market by itself and many
at once. The equilibrium in continuous compute moves smoothly with the parameters, and its
derivatives cost what a sweep costs: a column of the Jacobian is one forward derivative.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market
from mechlab.core.pytree import pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import Tolerance
from mechlab.core.users import Users
from mechlab.core.validation import checked
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.continuous import ContinuousEquilibrium, continuous_equilibrium

FREE = ("rationality", "value", "cost", "margin")
OBSERVED = ("compute", "shares", "payment")
# of the logarithms of all parameters, beside the start itself: least squares may end in a hollow
_STARTS = (-1.0, 1.0)
_ROUNDING = Tolerance(1e-7, 1e-4)  # of the slopes of what is observed in a parameter
_UNSEEN = Tolerance(1e-6, 1e-4)  # of a parameter's square, that no observation moves with


@pytree
class Fit(Solution):
    """Parameters that explain what was observed.

    Attributes:
        parameters: {name: [...] or [..., N]} as in `fit`.
        standard_errors: the same shapes, by the Hessian of the sum of squares at the solution (in
            Gauss's approximation); infinite where what was observed does not say, NaN where there
            are no more observations than parameters and no noise was given.
        market, users: with these parameters.
        residual: [...] root mean square of the residuals, in units of the noise.
        status: [...] int, a `Status`: CONVERGED where no step improves and the equilibrium is one.
    """

    _units = {"residual": "of the noise"}  # noqa: RUF012

    parameters: dict[str, Array]
    standard_errors: dict[str, Array]
    market: Market
    users: Users
    residual: Array


@front_door()
def fit(
    market: Market,
    users: Users,
    rule: Mechanism = DEFAULT_RULE,
    *,
    observed: Mapping[str, Any],
    free: Sequence[str] = ("rationality",),
    axis: str = "compute",
    noise: Mapping[str, float] | None = None,
    steps: int = 60,
) -> Fit:
    """Fit parameters of each market to what its providers and users do in equilibrium.

    Args:
        market, users: [..., N, K] and [...]: what is known, and where the search starts.
        observed: what of {"compute": [..., N], "shares": [..., N], "payment": [..., N]} was seen:
            the compute spent, the share of queries, and what users pay each provider for a query.
        free: what to fit: "rationality" β [...]; "value", a factor on quality [...]; "cost", a
            factor on the costs of a provider [..., N]; "margin" [..., N], in price = cost·(1 +
            margin). "cost" holds prices; "margin" holds costs.
        rule: posted prices; pay-per-compute where not given.
        axis: as in `continuous_equilibrium`.
        noise: standard deviations of what was observed: of log compute, of shares, of log payment;
            where not given all are alike, and estimated from the residuals.
        steps: at most so many.

    Raises:
        InputError: for names that are not known, shapes that do not fit, and impossible numbers.
    """
    checked_whole("steps", steps, 1, 10**4)
    for what, given, known in (("free", free, FREE), ("observed", observed, OBSERVED)):
        if isinstance(given, str) or not given or any(name not in known for name in given):
            raise InputError(f"{what} = {given!r}; give some of {', '.join(known)}")
    if {"cost", "margin"} <= set(free):
        raise InputError("free: cost and margin both move profits; give one of them")
    shape = (*jnp.broadcast_shapes(market.batch_shape, users.rationality.shape), market.providers)
    try:
        seen = {n: jnp.broadcast_to(jnp.asarray(x), shape) for n, x in observed.items()}
    except ValueError:
        raise InputError(f"observed: give arrays of shape {shape}, a number a provider") from None
    for name, values in seen.items():
        # shares that were observed with noise may be below 0
        checked(f"observed: {name}", values, above=None if name == "shares" else 0.0)
    for name, deviation in (noise or {}).items():
        if name not in seen or not deviation > 0:
            raise InputError(f"noise: {name} = {deviation}; give what was observed a number > 0")
    weights = {name: 1.0 / (noise or {}).get(name, 1.0) for name in seen}
    names = dict(free=tuple(free), axis=axis)
    first = _start(market, names["free"], shape[:-1])
    runs = functools.partial(_descended, market, users, rule, seen, weights)
    best = runs(first, **names, steps=steps)
    for away in _STARTS:
        best = _better(runs(first + away, **names, steps=steps), best)
    unit = max(weights.values())
    return _told(market, users, rule, best, unit, **names, known=noise is not None)


class _Setting:
    """What the parameters θ [..., P], logarithms all, mean."""

    def __init__(
        self, market: Market, users: Users, free: tuple[str, ...], rule: Mechanism, axis: str
    ) -> None:
        self.market, self.users, self.free, self.rule, self.axis = market, users, free, rule, axis
        self.sizes = [_size(name, market) for name in free]

    def named(self, x: Array) -> dict[str, Array]:
        """Of [..., P], a number or [N] for each name."""
        found, at = {}, 0
        for name, size in zip(self.free, self.sizes, strict=True):
            part = x[..., at : at + size]
            found[name] = part if name in ("cost", "margin") else part[..., 0]
            at += size
        return found

    def at(self, theta: Array) -> tuple[Market, Users]:
        market, users = self.market, self.users
        for name, log in self.named(theta).items():
            if name == "rationality":
                users = users.replace(rationality=users.rationality * jnp.exp(log))
            elif name == "value":
                scale = jnp.exp(log)[..., None, None]
                market = market.replace(quality=market.quality * scale)
            elif name == "cost":
                market = market.replace(cost=market.cost * jnp.exp(log)[..., None])
            else:
                market = market.replace(price=market.cost * (1 + jnp.exp(log)[..., None]))
        return market, users

    def reached(self, theta: Array) -> ContinuousEquilibrium:
        return continuous_equilibrium(*self.at(theta), self.rule, axis=self.axis)

    def parameters(self, factors: Array) -> dict[str, Array]:
        """By name, of factors [..., P]; rationality in 1/USD."""
        named = self.named(factors)
        if "rationality" in named:
            named["rationality"] = named["rationality"] * self.users.rationality
        return named


def _size(name: str, market: Market) -> int:
    """How many numbers of that name there are in θ."""
    return market.providers if name in ("cost", "margin") else 1


@functools.partial(jax.jit, static_argnums=(1, 2))
def _start(market: Market, free: tuple[str, ...], batch: tuple[int, ...]) -> Array:
    """[*batch, P] θ that says what the market does."""
    parts = []
    for name in free:
        first = jnp.zeros((*batch, _size(name, market)), market.quality.dtype)
        if name == "margin":
            there = market.available & (market.cost > 0)
            ratio = jnp.where(there, market.price / jnp.where(there, market.cost, 1.0) - 1, 0.0)
            mean = jnp.sum(ratio, -1) / jnp.maximum(jnp.sum(there, -1), 1)
            first = first + jnp.log(jnp.maximum(mean, 1e-3))
        parts.append(first)
    return jnp.concatenate(parts, axis=-1)


@functools.partial(jax.jit, static_argnames=("free", "axis", "steps"))
def _descended(
    market: Market,
    users: Users,
    rule: Mechanism,
    seen: dict[str, Array],
    weights: dict[str, float],
    theta: Array,
    *,
    free: tuple[str, ...],
    axis: str,
    steps: int,
) -> tuple[Array, Array, Array, Array]:
    """From θ down to a least sum of squares: θ, slopes [..., R, P], the sum, and whether it is."""
    setting = _Setting(market, users, free, rule, axis)
    batch = next(iter(seen.values())).shape[:-1]

    def residuals(theta: Array) -> Array:
        """[..., R] in units of the noise."""
        found = setting.reached(theta)
        parts = []
        for name, value in seen.items():
            if name == "compute":
                gap = jnp.log(found.compute) - jnp.log(jnp.maximum(value, 1e-30))
            elif name == "shares":
                gap = found.shares - value
            else:
                gap = jnp.log(jnp.maximum(found.outcome.payment, 1e-30))
                gap = gap - jnp.log(jnp.maximum(value, 1e-30))
            parts.append(weights[name] * gap)
        return jnp.concatenate(parts, axis=-1)

    def slopes(theta: Array) -> Array:
        """[..., R, P] a forward derivative a parameter, of all markets at once."""
        ways = jnp.eye(theta.shape[-1], dtype=theta.dtype)
        ways = jnp.broadcast_to(
            ways.reshape(-1, *[1] * len(batch), theta.shape[-1]), (len(ways), *theta.shape)
        )
        columns = jax.lax.map(lambda way: jax.jvp(residuals, (theta,), (way,))[1], ways)
        return jnp.moveaxis(columns, 0, -1)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        theta, damping, squares, _, count = state
        gap, slope = residuals(theta), slopes(theta)
        normal = jnp.einsum("...rp,...rq->...pq", slope, slope, precision="highest")
        downhill = jnp.einsum("...rp,...r->...p", slope, gap, precision="highest")
        size = jnp.diagonal(normal, axis1=-2, axis2=-1)
        floor = 1e-12 * jnp.max(size, axis=-1, keepdims=True) + 1e-30
        ridge = damping[..., None] * jnp.maximum(size, floor)
        eye = jnp.eye(theta.shape[-1], dtype=theta.dtype)
        move = jnp.linalg.solve(normal + ridge[..., None] * eye, downhill[..., None])[..., 0]
        move = jnp.clip(move, -1.0, 1.0)  # at most a factor e at once
        after = theta - move
        found = jnp.sum(residuals(after) ** 2, axis=-1)
        better = found < squares
        small = jnp.max(jnp.abs(move), axis=-1) <= 1e-9
        return (
            jnp.where(better[..., None], after, theta),
            jnp.clip(jnp.where(better, damping * 0.2, damping * 8.0), 1e-12, 1e12),
            jnp.where(better, found, squares),
            small | (damping >= 1e8),
            count + 1,
        )

    squares = jnp.sum(residuals(theta) ** 2, axis=-1)
    damping = jnp.full(batch, 1e-3, theta.dtype)
    state = (theta, damping, squares, jnp.zeros(batch, bool), 0)
    theta, _, squares, ended, _ = jax.lax.while_loop(
        lambda s: ~jnp.all(s[3]) & (s[4] < steps), step, state
    )
    return theta, slopes(theta), squares, ended & setting.reached(theta).converged


@functools.partial(jax.jit, static_argnames=("free", "axis", "known"))
def _told(
    market: Market,
    users: Users,
    rule: Mechanism,
    best: tuple[Any, ...],
    unit: float,
    *,
    free: tuple[str, ...],
    axis: str,
    known: bool,
) -> Fit:
    """What the best run says; `known`, that squares are in units of known noise."""
    setting = _Setting(market, users, free, rule, axis)
    theta, slope, squares, ended = best
    rows, columns = slope.shape[-2:]
    variance = squares / (rows - columns) if rows > columns else jnp.full_like(squares, jnp.nan)
    variance = jnp.ones_like(squares) if known else variance
    spread = _spread(slope, unit)
    errors = jnp.sqrt(variance[..., None] * jnp.where(jnp.isfinite(spread), spread, 0.0))
    errors = jnp.where(jnp.isfinite(spread), errors, jnp.inf)
    market, users = setting.at(theta)
    return Fit(
        parameters=setting.parameters(jnp.exp(theta)),
        standard_errors=setting.parameters(jnp.exp(theta) * errors),
        market=market,
        users=users,
        residual=jnp.sqrt(squares / rows),
        status=jnp.where(ended, Status.CONVERGED, Status.ITERATION_LIMIT).astype(jnp.int32),
    )


@jax.jit
def _better(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of two runs, in each market the one that fits better."""
    less = a[2] < b[2]
    return jax.tree.map(
        lambda x, y: jnp.where(less.reshape(*less.shape, *[1] * (x.ndim - less.ndim)), x, y), a, b
    )


def _spread(slope: Array, unit: float) -> Array:
    """[..., P] the diagonal of (JᵀJ)⁻¹; infinite where the observations do not say.

    Slopes are of logarithms and shares over logarithms: the smallest are rounding.
    """
    _, values, rows = jnp.linalg.svd(slope, full_matrices=False)
    strong = values > _ROUNDING.of(slope) * jnp.maximum(values[..., :1], unit)
    inverse = jnp.where(strong, 1.0 / jnp.where(strong, values, 1.0) ** 2, 0.0)
    spread = jnp.einsum("...k,...kp->...p", inverse, rows**2, precision="highest")
    seen = jnp.einsum("...k,...kp->...p", strong.astype(rows.dtype), rows**2, precision="highest")
    return jnp.where(seen < 1 - _UNSEEN.of(slope), jnp.inf, spread)
