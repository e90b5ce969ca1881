"""The equilibrium in continuous compute: one that moves with the parameters, and its derivatives.

Every provider plays any compute between its lowest and its highest level; quality, price and cost
are monotone cubics in z = log2 compute. At rivals' A = e^{βv0} + Σ_{j≠i} e^{βV_j} a provider
maximises log m(z) − log(1 + A e^{−βV(z)}), so that where it is free to move

    F_i = m'/m + βV'·(1 − σ_i) = 0,      ∂F_i/∂z_j = v_i v_j  (j ≠ i),      v = βV'·σ:

the Jacobian is a diagonal plus rank one, and both Newton's method and the implicit function theorem
cost what a sweep costs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import each, over_columns, settled
from mechlab.core.interpolation import check_axis, fields_of, log_axis, monotone_cubic
from mechlab.core.market import Array, Market, Offers, Outcome
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.solution import Solution, Status
from mechlab.core.tolerance import Tolerance
from mechlab.core.users import Users
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.base import posted_market
from mechlab.mechanisms.front_door import DEFAULT_RULE, front_door
from mechlab.solvers.extremal import extremal_column
from mechlab.solvers.logit_game import log_rivals

_POINTS = 4  # of the grid between two levels, on which a best response is looked for
_STEPS = 40  # of Newton's method on the whole market
_MOVED = Tolerance(1e-10, 2e-5)  # of log2 compute: a provider that has not moved
_HALVINGS = {8: 42, 4: 18}


@pytree
class ContinuousEquilibrium(Solution):
    """An equilibrium in continuous compute; differentiable in market, users and rule.

    Attributes:
        compute: [..., N] what is spent, samples (or tokens, with axis="tokens"), not rounded.
        smallest, largest: [..., N] the equilibria that the lowest and the highest weights lead to.
        unique: [...] bool: they are the same.
        held: [..., N] bool: at an end of the curve, or at a kink of the rule, where a small change
            of parameters does not move the provider.
        offers: [..., N] what is offered there.
        outcome: what the rule makes of it.
        status: [...] int, a `Status`.
    """

    compute: Array
    smallest: Array
    largest: Array
    unique: Array
    held: Array
    offers: Offers
    outcome: Outcome

    @property
    def shares(self) -> Array:
        """[..., N]"""
        return self.outcome.shares

    @property
    def provider_utility(self) -> Array:
        """[..., N] USD."""
        return self.outcome.provider_utility

    @property
    def welfare(self) -> Array:
        """[...] USD."""
        return self.outcome.welfare

    @property
    def user_value(self) -> Array:
        """[...] USD."""
        return self.outcome.user_value

    @property
    def user_cost(self) -> Array:
        """[...] USD."""
        return self.outcome.user_cost


@front_door(one_type=True)
def continuous_equilibrium(
    market: Market,
    users: Users,
    rule: Mechanism = DEFAULT_RULE,
    *,
    axis: str = "compute",
    throw: bool = False,
) -> ContinuousEquilibrium:
    """The equilibrium of providers that play any compute between their levels.

    Sweeps from both ends of a grid, then Newton's method on best responses that are exact. Where
    there are several equilibria the one returned is that of the lowest weights e^{βV}.

    Derivatives in every parameter of market, users and rule are those of the implicit function
    theorem, first and second ones, forwards and backwards; a provider that is `held` stays.

    Args:
        market, users: [..., N, K] and [...].
        rule: posted prices; pay-per-compute where not given.
        axis: "compute" interpolates in log2 compute, "tokens" in log2 tokens.
        throw: raise NotSolved, outside jit, where some market has no equilibrium to show.

    Raises:
        InputError: for auctions, several types of users, or an axis that does not ascend.
    """
    check_axis(market, axis, "continuous_equilibrium")
    posted_market(market, rule)
    return _solve(market, users, rule, axis=axis)


@functools.partial(jax.jit, static_argnames="axis")
def _solve(market: Market, users: Users, rule: Mechanism, *, axis: str) -> ContinuousEquilibrium:
    solve = functools.partial(continuous_columns, rule=rule, axis=axis)
    points = _POINTS * (market.levels - 1) + 1
    return over_columns(solve, market, users, levels=points)


def continuous_columns(
    market: Market, users: Users, *, rule: Mechanism, axis: str
) -> ContinuousEquilibrium:
    """`continuous_equilibrium` of columns: market [P, N, K, B]; pure."""
    fixed = jax.lax.stop_gradient((market, users, rule))

    def first(market: Market, users: Users) -> tuple[_Found, Array, Array, Array]:
        game = _Game(market, users, fixed[2], axis)
        grid = game.on_grid()
        ends = extremal_column(grid, users)
        low = game.solved(game.point(ends.smallest), grid)
        return low, game.point(ends.largest), ends.unique, ends.status

    low, top, unique, ended = each(first, *fixed[:2])

    def other(column: tuple[Market, Users, Array], _: _Found) -> _Found:
        market, users, top = column
        game = _Game(market, users, fixed[2], axis)
        return game.solved(top, game.on_grid())

    high = settled(~unique, low, (*fixed[:2], top), other)

    def reached(
        market: Market, users: Users, low: _Found, high: _Found, ended: Array
    ) -> ContinuousEquilibrium:
        z = _moving(axis, (market, users, rule), low.z, low.held)
        offers = _Game(market, users, rule, axis).offers(z)
        outcome = jax.vmap(lambda o, u: rule(o, u), in_axes=-1, out_axes=-1)(offers, users)
        same = jnp.all(jnp.abs(low.z - high.z) <= 1e3 * _MOVED.of(low.z), axis=0)
        status = jnp.where(low.solved, Status.CONVERGED, Status.ITERATION_LIMIT)
        odd = (ended == Status.NO_POTENTIAL) | (ended == Status.INDIFFERENT)
        status = jnp.where(odd, ended, status).astype(jnp.int32)
        return ContinuousEquilibrium(
            compute=jnp.exp2(z),
            smallest=jnp.exp2(low.z),
            largest=jnp.exp2(high.z),
            unique=same & low.solved & high.solved & ~odd,
            held=low.held,
            offers=offers,
            outcome=outcome,
            status=status,
        )

    return each(reached, market, users, low, high, ended)


@pytree
class _Found(Pytree):
    """Where providers [N, B] end, who is held there, and whether nobody gains [B]."""

    z: Array
    held: Array
    solved: Array


class _Game:
    """One column [N, K, B] of markets whose providers choose z = log2 compute; z is [..., N, B]."""

    def __init__(self, market: Market, users: Users, rule: Mechanism, axis: str) -> None:
        self.market, self.users, self.rule, self.axis = market, users, rule, axis
        swapped = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), market)
        self.there = swapped.available  # [K, N, B], as are the knots
        self.knots = log_axis(swapped, axis)
        self.names = [name for name in fields_of(market) if name != axis]
        # one cubic [K, F, N, B] of all fields
        fields = jnp.stack([getattr(swapped, name) for name in self.names], axis=1)
        self.curve = monotone_cubic(self.knots[:, None], fields, self.there[:, None])
        fixed = jax.lax.stop_gradient(self.knots)
        self.first = fixed[0]
        self.last = jnp.max(jnp.where(self.there, fixed, -jnp.inf), axis=0)

    def at(self, z: Array) -> Market:
        """What is had at z, at the prices posted; the first and last cubic go on outside."""
        offered = Market(**self.fields(z), available=jnp.ones(z.shape, bool))
        assert self.rule.posted is not None  # as `continuous_equilibrium` checks
        return self.rule.posted.providers_market(offered)

    def fields(self, z: Array) -> dict[str, Array]:
        values = self.curve.extended(z[..., None, :, :])
        found = {name: values[..., i, :, :] for i, name in enumerate(self.names)}
        return found | {self.axis: jnp.exp2(z)}

    def offers(self, z: Array) -> Offers:
        """Of z [N, B]."""
        fields = self.fields(z)
        return Offers(reported_quality=fields["quality"], **fields)

    def terms(self, z: Array) -> tuple[Array, Array]:
        """β(V − v0) and m."""
        offered = self.at(z)
        value = offered.offered_value - self.users.outside_value
        return self.users.rationality * value, offered.unit_profit

    # ------------------------------------------------------------------------------ best response

    def points(self) -> tuple[Array, Array]:
        """[L, N, B] the grid in z, and which of it exists."""
        if self.knots.shape[0] == 1:
            return self.knots, self.there
        share = jnp.arange(_POINTS, dtype=self.knots.dtype).reshape(-1, 1, 1) / _POINTS
        points: list[Array] = []
        there: list[Array] = []
        for k in range(self.knots.shape[0] - 1):
            inside = self.there[k + 1]
            width = jnp.where(inside, self.knots[k + 1] - self.knots[k], 0.0)
            points.append(self.knots[k] + share * width)
            there.append(jnp.where(share > 0, inside, self.there[k]))
        points.append(self.knots[-1:])
        there.append(self.there[-1:])
        return jnp.concatenate(points), jnp.concatenate(there)

    def on_grid(self) -> Market:
        """The market [N, L, B] whose levels are the points of the grid, at the prices posted."""
        points, there = self.points()
        grid = self.at(points).replace(available=there)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), grid)

    def point(self, level: Array) -> Array:
        """[N, B] z of a profile of the grid."""
        points, _ = self.points()
        return jnp.take_along_axis(points, level[None], axis=0)[0]

    def slope(self, z: Array, log_rivals: Array) -> tuple[Array, Array]:
        """F at z where the rivals' log A, relative to v0, is held; and m."""
        ones = jnp.ones_like(z)
        (height, profit), (rise, more) = jax.jvp(self.terms, (z,), (ones,))
        safe = jnp.where(profit > 0, profit, 1.0)
        return more / safe + rise * jax.nn.sigmoid(log_rivals - height), profit

    def respond(self, log_rivals: Array, points: Array, grid: Market) -> tuple[Array, Array]:
        """The best response [N, B] to log A, and the width of a cell of the grid there."""
        height = self.users.rationality * (grid.offered_value - self.users.outside_value)
        profit = grid.unit_profit
        earns = grid.available & (profit > 0)
        lead = log_rivals[:, None] - height
        log_utility = jnp.log(jnp.where(earns, profit, 1.0)) - jax.nn.softplus(lead)
        best = jnp.argmax(jnp.where(earns, log_utility, -jnp.inf), axis=1)
        count = points.shape[0]

        def near(step: int) -> Array:
            index = jnp.clip(best + step, 0, count - 1)
            return jnp.take_along_axis(points, index[None], axis=0)[0]

        here = near(0)
        low, high = near(-1), jnp.clip(near(1), here, jnp.maximum(self.last, here))

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            slope, profit = self.slope(middle, log_rivals)
            rises = jnp.where(profit > 0, slope > 0, middle < here)
            return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

        ends = jax.lax.fori_loop(0, _HALVINGS[points.dtype.itemsize], halve, (low, high))
        z = 0.5 * (ends[0] + ends[1])
        edge = 2.0 ** -(_HALVINGS[points.dtype.itemsize] - 2) * (high - low)
        z = jnp.where(z - self.first <= edge, self.first, z)
        return jnp.where(self.last - z <= edge, self.last, z), 0.25 * (high - low)

    # -------------------------------------------------------------------------------- whole market

    def derivatives(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """[N, B] F, its own derivative, v and log A at z."""
        height, _ = self.terms(z)
        rivals = log_rivals(height, jnp.zeros_like(height[0]))
        ones = jnp.ones_like(z)
        slope, curvature = jax.jvp(lambda z: self.slope(z, rivals)[0], (z,), (ones,))
        _, (rise, _) = jax.jvp(self.terms, (z,), (ones,))
        return slope, curvature, rise * jax.nn.sigmoid(height - rivals), rivals

    def solved(self, start: Array, grid: Market) -> _Found:
        """Newton's method on what is best for each provider, from z [N, B]."""
        points, _ = self.points()
        tolerance = _MOVED.of(start)

        def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
            z, _, _, count = state
            _, _, _, rivals = self.derivatives(z)
            answer, cell = self.respond(rivals, points, grid)
            slope, curvature, v, _ = self.derivatives(answer)
            gap = answer - z
            # at a bound or a kink the slope is not 0 where no small step is better
            inside = (answer > self.first) & (answer < self.last)
            held = ~(inside & (jnp.abs(slope) <= jnp.abs(curvature) * 1e-2 * cell))
            move = jnp.where(held, gap, _inverse(curvature, v, held, curvature * gap))
            near = jnp.all(jnp.abs(gap) <= 2 * cell, axis=0) & (count < _STEPS // 2)
            after = jnp.clip(jnp.where(near, z + move, answer), self.first, self.last)
            moves = jnp.any(jnp.abs(gap) > tolerance, axis=0)
            return jnp.where(moves, after, answer), held, moves, count + 1

        batch = start.shape[-1]
        state = (start, jnp.zeros(start.shape, bool), jnp.ones(batch, bool), jnp.zeros((), int))
        z, held, moves, _ = jax.lax.while_loop(
            lambda s: jnp.any(s[2]) & (s[3] < _STEPS), step, state
        )
        return _Found(z=z, held=held, solved=~moves)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moving(axis: str, data: tuple[Market, Users, Mechanism], z: Array, held: Array) -> Array:
    """The solution z [N, B] of data = (market, users, rule), as a function of these.

    By the implicit function theorem dz = −J⁻¹ dF. The rule is written in terms of z as it moves, so
    that further derivatives follow from it.
    """
    return z


@_moving.defjvp
def _moving_jvp(
    axis: str, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    data: tuple[Market, Users, Mechanism] = primals[0]
    _, z, held = primals
    z = _moving(axis, data, z, held)

    def slope(data: tuple[Market, Users, Mechanism]) -> Array:
        game = _Game(*data, axis)
        height, _ = game.terms(z)
        return game.slope(z, log_rivals(height, jnp.zeros_like(height[0])))[0]

    _, rate = jax.jvp(slope, (data,), (tangents[0],))
    _, curvature, v, _ = _Game(*data, axis).derivatives(z)
    return z, -_inverse(curvature, v, held, rate)


def _inverse(curvature: Array, v: Array, held: Array, right: Array) -> Array:
    """J⁻¹·right for J = diag(curvature − v²) + v vᵀ among those who are not held, 0 for them."""
    diagonal = curvature - v**2
    gone = held | (diagonal == 0)
    inverse = jnp.where(gone, 0.0, 1.0 / jnp.where(gone, 1.0, diagonal))
    x, y = inverse * right, inverse * v
    return x - y * jnp.sum(v * x, axis=0) / (1.0 + jnp.sum(v * y, axis=0))
