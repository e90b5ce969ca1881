"""Mechanism design by gradient: the best rule of a family, subject to little regret.

Learning over sampled markets in the manner of Dütting et al. 2019 ("Optimal Auctions through Deep
Learning"): the objective at truthful play is maximised subject to mean regret ≤ ε by an augmented
Lagrangian, with regret from an inner search for misreports. Winners are smoothed while learning;
posted prices are learned at the providers' equilibrium in continuous compute, which has derivatives
of its own. What is reported at the end was computed by the exact rule on markets that were not
learned from.
"""

import dataclasses
import functools
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Hashable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from mechlab.core.devices import AXIS, free_devices, markets_mesh, over_devices
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.fingerprint import checksum, code, described
from mechlab.core.market import Array, Market, Outcome, largest
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.results import Result
from mechlab.core.users import Users
from mechlab.core.waiting import column_net_of_waiting
from mechlab.incentives.deviations import best_deviations, checked_effort
from mechlab.incentives.strategies import PriceBid, QualityReport, Space, coordinates
from mechlab.mechanisms import Mechanism, ScoringAuction
from mechlab.mechanisms.alone import Alone
from mechlab.populations import Population
from mechlab.solvers.continuous import ContinuousEquilibrium, continuous_equilibrium

if TYPE_CHECKING:
    import pandas as pd

Objective = Callable[[Outcome], Array]
"""objective(outcome) → [...] USD, the same for every family: of an `Outcome`."""
_UNSOLVED = 1e-3  # share of markets without an equilibrium, above which nothing is learned
_HELD_OUT = 2**31  # index of the first market that is kept for the final evaluation


def welfare_less_cost(gamma: float) -> Objective:
    """welfare − γ·user_cost; learning is compiled once for all γ."""
    return Partial(_welfare_less_cost, gamma)


def _welfare_less_cost(gamma: float, outcome: Outcome) -> Array:
    return outcome.welfare - gamma * outcome.user_cost


@dataclasses.dataclass(frozen=True)
class Family:
    """Rules of one kind that differ in a few numbers.

    Auctions (any rule in which providers bid) are judged at truthful play, and their regret is
    over `space`. Posted prices are judged at the providers' equilibrium in continuous compute;
    there is nothing to misreport, and regret is 0.

    Attributes:
        rule: the class of the rules, such as `ScoringAuction` or `Tariff`.
        free: {parameter: (low, high)}.
        fixed: {parameter: value} of the others that are not to be at their defaults.
        space: the misreports that are searched for; with none, (), bids are taken to be truthful,
            and a step costs a fortieth.
        axis: of continuous compute under posted prices, "compute" or "tokens".
        expense: expense(rule) → USD per query that running the rule costs, such as checking
            `answers`; it is taken off the objective. Nothing where None. A
            `jax.tree_util.Partial` is compiled once for all numbers that it binds.
    """

    rule: type[Mechanism] = ScoringAuction
    free: Mapping[str, tuple[float, float]] = dataclasses.field(
        default_factory=lambda: {"mix": (0.0, 1.0)}
    )
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: Space = (PriceBid(), QualityReport())
    axis: str = "compute"
    expense: Callable[[Any], Array] | None = None

    def __post_init__(self) -> None:
        known = [field.name for field in dataclasses.fields(self.rule)]  # type: ignore[arg-type]
        for name in (*self.free, *self.fixed):
            if name not in known:
                raise InputError(f"{name}: {self.rule.__name__} has {', '.join(known)}")
        if not self.free:
            raise InputError("free: name at least one parameter to optimise, with its bounds")
        for name, bounds in self.free.items():
            if np.shape(bounds) != (2,):
                raise InputError(f"{name}: {bounds}; give its bounds, (low, high)")
            low, high = bounds
            numeric = all(isinstance(x, Real) and np.isfinite(x) for x in (low, high))
            if not (numeric and low < high):
                raise InputError(f"{name}: bounds ({low}, {high}) are empty or not finite")
        for end in (0, 1):  # a rule refuses what is out of its range
            self.with_free({name: ends[end] for name, ends in self.free.items()})

    @property
    def posted(self) -> bool:
        return (
            self.with_free({name: ends[0] for name, ends in self.free.items()}).posted is not None
        )

    def with_free(self, free: Mapping[str, Any]) -> Any:
        """The rule of these values of the free parameters."""
        return self.rule(**{**self.fixed, **free})

    @property
    def misreports(self) -> tuple:
        """The coordinates of the space; none under posted prices."""
        return () if self.posted or self.space == () else coordinates(self.space)

    def describe(self) -> dict[str, Any]:
        return {
            "rule": self.rule.__name__,
            "free": {name: list(bounds) for name, bounds in self.free.items()},
            "fixed": described(self.fixed),
            "space": [repr(c) for c in self.misreports],
            "axis": self.axis,
        }


@dataclasses.dataclass(repr=False)
class Design(Result):
    """The rule that was learned, and what it does on markets that were not learned from.

    Attributes:
        rule: with its parameters as numbers.
        parameters: {name: value}.
        objective: mean over held-out markets, USD, by the exact rule.
        objective_error: its standard error.
        regret: mean over held-out markets of the largest gain that a misreport search found,
            relative to the mean best surplus.
        regret_error: its standard error.
        feasible: regret ≤ ε.
        markets: held-out markets behind both.
        history: a row per reported step: step, objective, regret, multiplier, the share of the
            markets that had no equilibrium (`unsolved`) and the parameters.
    """

    rule: Mechanism
    parameters: dict[str, float]
    objective: float
    objective_error: float
    regret: float
    regret_error: float
    feasible: bool
    markets: int
    history: list[dict[str, float]]

    _units = {"regret": "of the best surplus", "regret_error": "of the best surplus"}  # noqa: RUF012

    def _headline(self) -> list[str]:
        return [f"{type(self.rule).__name__} judged on {self.markets:,} held-out markets"]

    def _shown(self) -> dict[str, Any]:
        shown = super()._shown()
        return {"parameters": shown.pop("parameters"), **shown}

    def to_frame(self) -> "pd.DataFrame":
        """The history: a row per reported step, which is the index; money in USD per query."""
        import pandas as pd

        return pd.DataFrame(self.history).set_index("step")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How `optimize` learns; see there."""

    epsilon: float = 1e-3
    steps: int = 400
    batch: int = 1024
    seed: int = 0
    restarts: int = 4
    search_steps: int = 20
    temperature: tuple[float, float] = (0.1, 0.01)
    multiplier_every: int = 20
    penalty: float = 10.0
    held_out: int = 16384
    every: int = 10

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "restarts",
            "search_steps",
            "multiplier_every",
            "held_out",
            "every",
        ):
            checked_whole(name, getattr(self, name), 1, 2**24)
        if np.shape(self.temperature) != (2,):
            raise InputError(f"temperature = {self.temperature}; give two, the first and the last")
        for name in ("epsilon", "penalty", "temperature"):
            values = np.atleast_1d(getattr(self, name))
            if not np.all(np.isfinite(values) & (values > 0)):
                raise InputError(f"{name} = {getattr(self, name)}; give numbers above 0")


def optimize(
    population: Population,
    family: Family,
    objective: Objective | None = None,
    *,
    settings: Settings | None = None,
    start: Mapping[str, float] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    checkpoint: str | None = None,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> Design:
    """Learn the rule of a family that maximises the mean objective subject to mean regret ≤ ε.

    Every step draws a fresh batch of markets, on all local devices where they divide it; several
    hosts do not share one call. The
    multiplier of the regret constraint rises every `multiplier_every` steps. The parameters
    returned are means over the last quarter of the steps.

    Args:
        objective: welfare where not given; see `welfare_less_cost`. One of your own is compiled
            once for all numbers that it binds where it is a `jax.tree_util.Partial`.
        settings: epsilon (of mean regret, relative to the mean best surplus of a market), steps,
            batch, seed, restarts and search_steps of the misreport search, temperature (first and
            last, of the smoothed winner, relative to the mean best surplus), multiplier_every,
            penalty, held_out markets of the final evaluation, and every how many steps progress
            is reported and the checkpoint written.
        start: {parameter: value}; random where not given.
        optimizer: of optax; Adam with a cosine schedule where not given.
        checkpoint: a file that a killed run is continued from by the same call.
        progress: called with a row of the history.

    Raises:
        InputError: for bad arguments, a checkpoint of another run, a run that diverges (it keeps
            the last good checkpoint), and where more than 0.1 % of the markets have no equilibrium.
    """
    for what, value, kind in (("population", population, Population), ("family", family, Family)):
        if not isinstance(value, kind):
            raise InputError(
                f"{what}: a {type(value).__name__}, where a {kind.__name__} belongs; "
                "the order is population, family, objective"
            )
    if objective is not None and not callable(objective):
        raise InputError(
            f"objective = {objective!r}; give a function of an Outcome, such as "
            "welfare_less_cost(0.5)"
        )
    settings = settings or Settings()
    objective = objective or welfare_less_cost(0.0)
    if optimizer is None:
        optimizer = _default_optimizer(settings.steps)
    checked_effort(settings.restarts, settings.search_steps, optimizer)
    learner = _Learner(family, population, objective, settings, optimizer)
    state = learner.first(_start(family, start, settings.seed))
    history: list[dict[str, float]] = []
    if checkpoint is not None:
        point = state["point"]
        run = {
            "family": family.describe(),
            "code": code(family.rule),
            "population": population.fingerprint(),
            "objective": learner.fingerprint(),
            "optimizer": _fingerprint(optimizer.update, point, state["optimizer"], point),
            "settings": dataclasses.asdict(settings),
            "start": dict(start or {}),
        }
        manifest = json.dumps(run, sort_keys=True, default=list)
        if pathlib.Path(checkpoint).exists():
            state, history = _load(checkpoint, manifest, state)
    while (now := int(state["step"])) < settings.steps:
        count = min(settings.every - now % settings.every, settings.steps - now)
        state, reported = learner.steps(state, count)
        rows = {name: np.asarray(values, float) for name, values in reported.items()}
        for name, values in rows.items():
            if not np.all(np.isfinite(values)):
                kept = f"; {checkpoint} has the last good step" if checkpoint else ""
                raise InputError(
                    f"optimize: {name} is not finite at step "
                    f"{now + 1 + int(np.argmin(np.isfinite(values)))}: use a smaller learning "
                    f"rate, a larger temperature or narrower bounds{kept}"
                )
        learner.raise_on_unsolved(float(rows["unsolved"].mean()))
        row = {"step": now + count, **{name: float(x[-1]) for name, x in rows.items()}}
        history.append(row)
        if checkpoint is not None:
            _save(checkpoint, manifest, state, history)
        if progress:
            progress(row)
    return learner.judge(state, history)


def _fingerprint(function: Callable, *arguments: Any) -> str:
    """What a function computes, its constants included, in a few characters."""
    return checksum(jax.jit(function).lower(*arguments).as_text().encode())


def _start(family: Family, start: Mapping[str, float] | None, seed: int) -> np.ndarray:
    """[P] in the unit box."""
    point = np.random.default_rng(seed).uniform(0.05, 0.95, len(family.free))
    for name, value in (start or {}).items():
        if name not in family.free:
            raise InputError(
                f"start: {name} is not free; the family frees {', '.join(family.free)}"
            )
        low, high = family.free[name]
        if not low <= value <= high:
            raise InputError(f"start: {name} = {value} is outside its bounds ({low}, {high})")
        point[list(family.free).index(name)] = (value - low) / (high - low)
    return point


@functools.lru_cache
def _default_optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(0.05, steps, alpha=0.02))


def _as_leaves(function: Callable | None) -> Callable | None:
    """A function as programs take it: the numbers that a `Partial` binds are arguments of theirs,
    and any other function is part of them."""
    if function is None or isinstance(function, Partial):
        return function
    if isinstance(function, Hashable):
        return Partial(function)
    return Partial(lambda *arguments: function(*arguments))


@pytree
class _Numbers(Pytree):
    """What programs of one kind may differ in.

    Attributes:
        rule: one of the family; its free parameters are replaced.
        objective, expense: functions, as `_as_leaves` has them.
        key: of the markets and of the search.
        unit: USD, the mean best surplus of a market.
    """

    rule: Mechanism
    objective: Any
    expense: Any
    key: Array
    unit: Array

    def worth(self, rule: Mechanism, outcome: Outcome) -> Array:
        """[...] USD, the objective less what the rule costs."""
        reached = self.objective(outcome)
        return reached if self.expense is None else reached - self.expense(rule)


class _Kind:
    """What is compiled: equal where the programs are the same."""

    def __init__(
        self,
        family: Family,
        population: Population,
        settings: Settings,
        optimizer: optax.GradientTransformation,
    ) -> None:
        self.free, self.axis = dict(family.free), family.axis
        self.posted, self.misreports = family.posted, family.misreports
        self.population, self.optimizer = population, optimizer
        self.settings = dataclasses.replace(settings, seed=0)
        self.devices = tuple(free_devices())
        self.piece = min(settings.held_out, 1024)
        self._key = (
            tuple(self.free.items()),
            self.axis,
            self.posted,
            self.misreports,
            population.content(),
            optimizer,
            self.settings,
            self.devices,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def at(self, numbers: _Numbers, point: Array) -> Any:
        """The rule at a point [P] of the unit box, from low to high bounds."""
        free = {
            name: low + (high - low) * point[i]
            for i, (name, (low, high)) in enumerate(self.free.items())
        }
        return dataclasses.replace(numbers.rule, **free)  # type: ignore[type-var]

    def draw(self, key: Array, start: int | Array, count: int) -> tuple[Market, Any]:
        """Markets [count, N, K] from an index on."""
        index = jnp.asarray(start, jnp.uint32) + jnp.arange(count, dtype=jnp.uint32)
        market, users = column_net_of_waiting(*self.population.columns(key, index))
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (market.with_mask(), users))

    def unit(self, key: Array) -> tuple[Array, Any]:
        """USD, the mean best surplus of markets that are not learned from, and their users."""
        market, users = self.draw(key, _HELD_OUT, min(self.settings.held_out, 4096))
        best = jnp.max(jnp.where(market.available, market.surplus, -jnp.inf), axis=(-1, -2))
        return jnp.mean(best), users

    def posted_play(self, rule: Mechanism, market: Market, users: Users) -> ContinuousEquilibrium:
        return continuous_equilibrium(market, users, rule, axis=self.axis)

    def regret(self, *arguments: Any) -> Array:
        """The mean of `gains`."""
        return jnp.mean(self.gains(*arguments))

    def gains(
        self,
        numbers: _Numbers,
        rule: Mechanism,
        market: Market,
        users: Users,
        restarts: int,
        steps: int,
    ) -> Array:
        """[...] each market's largest gain by a misreport, relative to the unit; differentiable in
        the rule at the misreports found."""
        truth = rule.truthful(market, users)
        last = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), (market, users, truth))
        markets, crowds, played = jax.lax.stop_gradient(last)
        found, _ = best_deviations(
            jax.lax.stop_gradient(rule),
            markets,
            crowds,
            played,
            numbers.key,
            space=self.misreports,
            restarts=restarts,
            steps=steps,
            optimizer=checked_effort(restarts, steps, None),
        )
        lie = jax.lax.stop_gradient(jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), found.offers))
        alone = Alone(rule)
        rivals = alone.rivals(truth, users)
        earned = [alone.utility_against(rivals, own) for own in (lie, truth)]
        gain = earned[0] - earned[1]
        return jnp.maximum(largest(gain), 0.0) / numbers.unit

    def goals(
        self, numbers: _Numbers, point: Array, market: Market, users: Users, heat: Array
    ) -> tuple[Array, Array, Array]:
        """Mean objective and mean regret, relative to the unit; the share that was not solved."""
        rule, none = self.at(numbers, point), jnp.zeros(())
        if self.posted:
            found = self.posted_play(rule, market, users)
            solved = found.converged
            worth = jnp.where(solved, numbers.worth(rule, found.outcome), 0.0)
            mean = jnp.sum(worth) / jnp.maximum(jnp.sum(solved), 1)
            return mean / numbers.unit, none, jnp.mean(~solved)
        soft = rule.smoothed(heat * numbers.unit)
        reached = (
            jnp.mean(numbers.worth(rule, soft(rule.truthful(market, users), users))) / numbers.unit
        )
        if not self.misreports:
            return reached, none, none
        effort = self.settings.restarts, self.settings.search_steps
        return reached, self.regret(numbers, rule, market, users, *effort), none

    def slopes(self, numbers: _Numbers, point: Array, now: Array, heat: Array) -> tuple[Any, Any]:
        """Objective, regret and the share not solved, and the slopes of the first two: means over
        the step's markets, which the devices share."""
        parts = len(self.devices) if self.settings.batch % len(self.devices) == 0 else 1
        size = self.settings.batch // parts

        def part(given: tuple[_Numbers, Array, Array, Array]) -> tuple[Any, Any]:
            numbers, point, now, heat = given
            here = jax.lax.axis_index(AXIS).astype(jnp.uint32)
            first = now.astype(jnp.uint32) * self.settings.batch + here * size
            market, users = self.draw(numbers.key, first, size)
            goals, back = jax.vjp(lambda x: self.goals(numbers, x, market, users, heat), point)
            each = [jnp.zeros_like(x) for x in goals]
            (rise,) = back((each[0] + 1, *each[1:]))
            by_regret = 0.0 * rise
            if self.misreports:
                (by_regret,) = back((each[0], each[1] + 1, each[2]))
            return jax.lax.pmean((goals, (rise, by_regret)), AXIS)

        mesh = markets_mesh(self.devices[:parts])
        return over_devices(part, mesh, (numbers, point, now, heat), whole=True)

    def step(
        self, numbers: _Numbers, state: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        settings, now = self.settings, state["step"]
        first, last = settings.temperature
        heat = first * (last / first) ** (now / max(settings.steps - 1, 1))
        multiplier, penalty = state["multiplier"], settings.penalty
        (reached, regret, unsolved), (rise, by_regret) = self.slopes(
            numbers, state["point"], now, heat
        )
        # of −objective + max(multiplier + penalty·(regret − ε), 0)²/(2·penalty)
        excess = jnp.maximum(multiplier + penalty * (regret - settings.epsilon), 0.0)
        slope = excess * by_regret - rise
        moves, memory = self.optimizer.update(slope, state["optimizer"], state["point"])
        point = jnp.clip(state["point"] + moves, 0.0, 1.0)
        every, quarter = settings.multiplier_every, max(settings.steps // 4, 1)
        mean_regret = state["mean_regret"] + regret / every
        due = (now + 1) % every == 0
        raised = jnp.maximum(multiplier + penalty * (mean_regret - settings.epsilon), 0.0)
        late = now >= settings.steps - quarter
        after = {
            "step": now + 1,
            "point": point,
            "optimizer": memory,
            "multiplier": jnp.where(due, raised, multiplier),
            "mean_regret": jnp.where(due, 0.0, mean_regret),
            "mean_point": state["mean_point"] + jnp.where(late, point / quarter, 0.0),
        }
        after = jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), state, after)
        rule = self.at(numbers, point)
        row = {name: getattr(rule, name) for name in self.free}
        row |= dict(
            objective=reached * numbers.unit,
            regret=regret,
            multiplier=after["multiplier"],
            unsolved=unsolved,
        )
        return after, row

    def steps(
        self, numbers: _Numbers, state: dict[str, Any], count: int
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """`count` steps, and their rows [count]."""
        return jax.lax.scan(lambda state, _: self.step(numbers, state), state, length=count)

    def exact(self, numbers: _Numbers, rule: Mechanism, start: Array) -> tuple[Array, Array, Array]:
        """[piece] objective, regret and whether not solved, by the exact rule."""
        market, users = self.draw(numbers.key, start, self.piece)
        none = jnp.zeros(self.piece)
        if self.posted:
            found = self.posted_play(rule, market, users)
            worth = jnp.where(found.converged, numbers.worth(rule, found.outcome), jnp.nan)
            return worth, none, ~found.converged
        worth = numbers.worth(rule, rule(rule.truthful(market, users), users))
        if not self.misreports:
            return worth, none, none > 0
        return worth, self.gains(numbers, rule, market, users, 8, 50), none > 0


class _Programs:
    """Compiled, as they are used."""

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.unit, self.exact = jax.jit(kind.unit), jax.jit(kind.exact)
        self.steps = jax.jit(kind.steps, static_argnums=2, donate_argnums=1)


_programs = functools.lru_cache(maxsize=64)(_Programs)


class _Learner:
    """Learning in a population, and the final judgement."""

    def __init__(
        self,
        family: Family,
        population: Population,
        objective: Objective,
        settings: Settings,
        optimizer: optax.GradientTransformation,
    ) -> None:
        self.family, self.settings, self.optimizer = family, settings, optimizer
        self.programs = _programs(_Kind(family, population, settings, optimizer))
        key = jax.random.key(settings.seed)
        unit, users = self.programs.unit(key)
        if not isinstance(users, Users):
            raise InputError("optimize: markets with several types of users cannot be learned from")
        self.unit = float(unit)
        if not self.unit > 0:
            raise InputError("optimize: the mean best surplus of the population is not above 0")
        self.numbers = _Numbers(
            rule=family.with_free({name: low for name, (low, _) in family.free.items()}),
            objective=_as_leaves(objective),
            expense=_as_leaves(family.expense),
            key=key,
            unit=jnp.float32(self.unit),
        )

    def first(self, start: np.ndarray) -> dict[str, Any]:
        point = jnp.asarray(start, jnp.float32)
        return {
            "step": jnp.zeros((), jnp.int32),
            "point": point,
            "optimizer": self.optimizer.init(point),
            "multiplier": jnp.zeros((), jnp.float32),
            "mean_regret": jnp.zeros((), jnp.float32),  # since the multiplier last moved
            "mean_point": jnp.zeros_like(point),  # over the last quarter
        }

    def steps(self, state: dict[str, Any], count: int) -> tuple[dict[str, Any], dict[str, Array]]:
        """`count` steps, and their rows [count]."""
        return self.programs.steps(self.numbers, state, count)

    def fingerprint(self) -> str:
        """Of the objective, by what it computes from a rule and an outcome."""
        kind = self.programs.kind
        rule = kind.at(self.numbers, jnp.full(len(self.family.free), 0.5, jnp.float32))
        market, users = kind.draw(self.numbers.key, 0, 2)
        shapes = jax.eval_shape(lambda m, u: rule(rule.truthful(m, u), u), market, users)
        return _fingerprint(self.numbers.worth, rule, shapes)

    def raise_on_unsolved(self, share: float) -> None:
        """InputError where too many markets had no equilibrium."""
        if share > _UNSOLVED:
            raise InputError(
                f"optimize: {share:.2%} of the markets have no equilibrium that was found, and "
                "what is learned from them means nothing; narrow the bounds of "
                f"{', '.join(self.family.free)} so that every provider can earn, or see "
                "continuous_equilibrium(…).message for why"
            )

    def judge(self, state: dict[str, Any], history: list[dict[str, float]]) -> Design:
        """By the exact rule, on markets that were not learned from."""
        learned = self.programs.kind.at(self.numbers, jnp.clip(state["mean_point"], 0.0, 1.0))
        parameters = {name: float(getattr(learned, name)) for name in self.family.free}
        rule = self.family.with_free(parameters)
        pieces = -(-self.settings.held_out // self.programs.kind.piece)
        starts = [_HELD_OUT + i * self.programs.kind.piece for i in range(pieces)]
        found = [
            self.programs.exact(self.numbers, rule, jnp.asarray(x, jnp.uint32)) for x in starts
        ]
        worth, gains, unsolved = (
            np.concatenate([np.asarray(x[i], float) for x in found]) for i in range(3)
        )
        self.raise_on_unsolved(unsolved.mean())
        objective, regret = (_mean_and_error(x[unsolved == 0]) for x in (worth, gains))
        return Design(
            rule=rule,
            parameters=parameters,
            objective=objective[0],
            objective_error=objective[1],
            regret=regret[0],
            regret_error=regret[1],
            feasible=regret[0] <= self.settings.epsilon,
            markets=len(worth),
            history=history,
        )


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(spread / np.sqrt(len(values)))


def _save(path: str, manifest: str, state: dict[str, Any], history: list[dict[str, float]]) -> None:
    """Whole or not at all: the file before is replaced when the new one is on disk."""
    target = pathlib.Path(path)
    leaves: dict[str, Any] = {
        f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))
    }
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, manifest=manifest, history=json.dumps(history), **leaves)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file that can be written") from None


def _load(
    path: str, manifest: str, like: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            same = str(file["manifest"]) == manifest
            history = json.loads(str(file["history"]))
            leaves = [file[f"leaf{i}"] for i in range(len(jax.tree.leaves(like)))] if same else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint ({error}); name another file") from None
    if not same:
        raise InputError(
            f"{path}: belongs to another family, population or setting; remove it or name another"
        )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [jnp.asarray(x) for x in leaves]), history
