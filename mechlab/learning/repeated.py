"""Rounds of queries in which a platform learns what it auctions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mechlab.core.columns import batch_shape
from mechlab.core.devices import free_devices, markets_mesh, on_no_mesh, over_devices
from mechlab.core.errors import InputError, checked_whole
from mechlab.core.market import Array, Market, Offers, take_level
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users
from mechlab.core.validation import concrete
from mechlab.learning.learners import Learner, Seen
from mechlab.mechanisms.front_door import front_door
from mechlab.mechanisms.verifier import stake_of, with_stake
from mechlab.populations.base import Words

MOST = 2**24
"""The most rounds: counts are exact in float32 up to there."""
# markets in a column: what is carried stays in a core's cache, or keeps an accelerator busy
_WIDTHS, _WIDE = {"cpu": 2**10}, 2**17


@pytree
class Repeated(Pytree):
    """What T rounds came to. Money in USD, means per query of the whole market unless said.

    Welfare and regret are at the true accuracies of who served; what is paid is as it was paid.
    Where the noise of users is their taste, welfare and user_value include v0 of those who buy
    nothing, as in `Outcome`; whom an auction assigns gets no more by tastes, in the mean.

    Attributes:
        shares: [..., N] share of the rounds that each provider served.
        provider_utility: [..., N] what each earned.
        welfare: [...] quality − cost of what was served.
        user_value: [...] quality − payment.
        user_cost: [...] payment.
        accuracy: [...] of what was served; 0 where nothing was.
        regret: [...] USD, the sum over all queries of what the best provider, or not to buy,
            would have been worth more.
        estimate: [..., N] the share of right answers in what the learner saw (1: never asked).
        checkpoints: [C] int, rounds.
        regret_at: [..., C] USD, the sum up to there.
    """

    _axes = ("provider",)
    _units = {"regret": "USD in all rounds", "regret_at": "USD"}  # noqa: RUF012

    shares: Array
    provider_utility: Array
    welfare: Array
    user_value: Array
    user_cost: Array
    accuracy: Array
    regret: Array
    estimate: Array
    checkpoints: Array = dataclasses.field(metadata={"axes": ("checkpoint",)})
    regret_at: Array = dataclasses.field(metadata={"axes": ("checkpoint",)})


@pytree
class _Field(Pytree):
    """What does not change: leaves [N, B] of providers, [B] of markets.

    A provider is worth wrong + stake·accuracy; after `turn` rounds it serves what is in `later`.
    `kept` is the part of `outside` that counts as users' value where nothing is bought.
    """

    wrong: Array
    stake: Array
    bid: Array
    accuracy: Array
    cost: Array
    later_accuracy: Array
    later_cost: Array
    outside: Array
    kept: Array
    turn: Array
    index: Array


@front_door(one_type=True)
def repeated(
    market: Market,
    users: Users | UserMixture,
    learner: Learner,
    rounds: int,
    *,
    key: Any = None,
    profile: Any = None,
    bids: Any = None,
    served: Any = None,
    later: tuple[Any, Any] | None = None,
    queries: int = 1,
    checkpoints: Sequence[int] | None = None,
    draws: Any = None,
    stake: Any = None,
) -> Repeated:
    """Hold T auctions among the same providers, whose accuracies the platform has to learn.

    Each round, a batch of queries goes to the provider with the best score: quality at the accuracy
    that the learner takes for true, less its bid; to nobody where that is below v0. It is paid that
    quality less the second score (or v0), per query: the lowest value at which it would still have
    won. Where the learner asks a provider whatever is bid, it is paid what its answers are worth,
    which no bid changes. Answers are right with the true accuracy.

    One scan over rounds along columns of markets, on all local devices outside jit; nothing is kept
    of a round, and the same market gives the same numbers in a batch of any size.

    Args:
        market, users: [..., N, K] and [...], of one type; quality linear in accuracy.
        learner: such as `UCB()`.
        rounds: T, how many.
        key: of the answers, and of learners that draw; that of seed 0 where not given.
        profile: [..., N] int, the levels announced; those of the largest surplus where not given.
        bids: [..., N] USD, held over all rounds; the cost of what is announced where not given.
        served: [..., N] int, the levels that are served; those announced where not given.
        later: ([...] int, [..., N] int), a round and the levels that are served from it on.
        queries: answers per round, all by one provider.
        checkpoints: rounds after which `regret_at` is kept; powers of two and T where not given.
        draws: [...] int ≥ 0, the number of each market's random draws: those with the same number
            meet the same luck. Their places in the batch where not given.
        stake: USD, how much more a right answer is worth than a wrong one; from the market's curves
            where not given.

    Raises:
        InputError: for numbers out of range, several types of users, qualities that are not linear
            in accuracy, a learner that returns NaN or a provider that is not there.
    """
    if not isinstance(learner, Learner):
        raise InputError(f"learner: a {type(learner).__name__}; give one such as UCB()")
    checked_whole("rounds", rounds, 1, MOST)
    checked_whole("queries", queries, 1, 4096)
    marks = _checked_marks(checkpoints, rounds)
    profile = market.best_surplus_profile() if profile is None else profile
    served = profile if served is None else market.checked_profile(served)
    turn, after = (rounds, served) if later is None else later
    turn, after = jnp.asarray(turn, jnp.int32), market.checked_profile(after)
    offers = with_stake(market, market.at(profile, asking="cost"), stake)
    bids = offers.cost if bids is None else jnp.asarray(bids, offers.cost.dtype)
    if bids.ndim < 1 or bids.shape[-1] != market.providers:
        raise InputError(f"bids: shape {bids.shape}; give one for each of {market.providers}")
    draws = None if draws is None else jnp.asarray(draws, jnp.uint32)
    numbers = jnp.broadcast_shapes(turn.shape, () if draws is None else draws.shape)
    numbered = jax.ShapeDtypeStruct((*numbers, 1), jnp.uint32)
    shape = batch_shape(market, users, profile, bids, served, after, numbered)
    field = _laid_out(market, users, offers, bids, served, after, turn, draws, shape=shape)
    ends = jnp.asarray(marks)
    options: dict[str, Any] = dict(queries=queries)
    if concrete(*jax.tree.leaves((field, learner, key))):
        parts = min(len(free_devices()), -(-field.outside.shape[0] // _width()))
        found, sound = _spread(learner, field, key, ends, parts=parts, **options)
        _raise_on_fault(learner, sound)
        found = on_no_mesh(found) if parts > 1 else found
    else:
        found, _ = _in_columns(learner, field, key, ends, **options)
    found = {name: x.reshape(*shape, *x.shape[1:]) for name, x in found.items()}
    return Repeated(**found, checkpoints=ends)


@functools.partial(jax.jit, static_argnames="shape")
def _laid_out(
    market: Market,
    users: Users,
    offers: Offers,
    bids: Array,
    served: Array,
    after: Array,
    turn: Array,
    draws: Array | None,
    *,
    shape: tuple[int, ...],
) -> "_Field":
    """What the rounds are about, of a batch of a shape with its axes in one."""
    now, then = (
        (take_level(market.accuracy, levels), take_level(market.cost, levels))
        for levels in (served, after)
    )

    def wide(x: Any) -> Array:
        """[M, N]"""
        return jnp.broadcast_to(x, (*shape, market.providers)).reshape(-1, market.providers)

    stake = stake_of(offers)

    def flat(x: Any) -> Array:
        """[M]"""
        return jnp.broadcast_to(x, shape).reshape(-1)

    outside = flat(users.outside_value)
    places = jnp.arange(outside.shape[0], dtype=jnp.uint32)
    return _Field(
        wrong=wide(offers.quality - offers.accuracy * stake),
        stake=wide(stake),
        bid=wide(bids),
        accuracy=wide(now[0]),
        cost=wide(now[1]),
        later_accuracy=wide(then[0]),
        later_cost=wide(then[1]),
        outside=outside,
        kept=jnp.zeros_like(outside) if users.taste is None else outside,
        turn=flat(turn),
        index=places if draws is None else flat(draws),
    )


def _width() -> int:
    return _WIDTHS.get(jax.default_backend(), _WIDE)


def _checked_marks(checkpoints: Sequence[int] | None, rounds: int) -> tuple[int, ...]:
    if checkpoints is None:
        powers = (2**i for i in range(rounds.bit_length()) if 2**i < rounds)
        return (*powers, rounds)
    marks = tuple(int(x) for x in checkpoints)
    if not marks or any(b <= a for a, b in zip((0, *marks), marks, strict=False)):
        raise InputError(f"checkpoints: {list(checkpoints)[:4]}…; give ascending rounds from 1 on")
    if marks[-1] > rounds:
        raise InputError(f"checkpoints: {marks[-1]} is after the last round, {rounds}")
    return marks if marks[-1] == rounds else (*marks, rounds)


def _raise_on_fault(learner: Learner, sound: Array) -> None:
    if not bool(sound):
        raise InputError(
            f"{type(learner).__name__}: an accuracy is NaN, infinite or below 0, or a provider is "
            "asked that is not there; return accuracies, and −1 or a provider's number"
        )


@pytree
class _State(Pytree):
    """Sums so far: [N, B] each. `judged`, `served` and `later` (after the turn) are in rounds;
    `missed` and `lost` are what rounding took off `right` and `income`, and are put back (Kahan
    1965): answers can be more than a float32 counts one by one."""

    judged: Array
    right: Array
    missed: Array
    served: Array
    later: Array
    income: Array
    lost: Array
    sound: Array


def _column(
    learner: Learner, field: _Field, key: Array, marks: Array, *, queries: int
) -> tuple[dict[str, Array], Array]:
    """Results [B, …] of one column, and whether the learner was sound; marks [C] end with T."""
    rounds = marks[-1]
    n, batch = field.wrong.shape
    dtype = field.wrong.dtype
    provider = jnp.arange(n)[:, None]

    def step(t: Array, state: _State) -> _State:
        here = jax.random.fold_in(key, t)
        late = t >= field.turn
        truth = jnp.where(late, field.later_accuracy, field.accuracy)
        seen = Seen(
            asked=state.judged * queries,
            right=state.right,
            round=t,
            rounds=rounds.astype(dtype),
            truth=truth,
            index=field.index,
            key=jax.random.fold_in(here, 1),
        )
        believed = learner.accuracy(seen)
        told = learner.asks(seen)
        sound = jnp.all((believed >= 0) & jnp.isfinite(believed)) & jnp.all(
            (told >= -1) & (told < n)
        )
        worth = field.wrong + field.stake * believed
        score = worth - field.bid
        best = jnp.max(score, axis=0)
        first = jnp.min(jnp.where(score == best, provider, n), axis=0)
        winner = jnp.where(told >= 0, told, jnp.where(best >= field.outside, first, n))
        wins = provider == winner
        second = jnp.max(jnp.where(wins, -jnp.inf, score), axis=0)
        draws = Words.draw(here, field.index, queries).uniform[:queries].astype(dtype)
        of_winner = jnp.sum(jnp.where(wins, truth, 0.0), axis=0)
        right = jnp.sum(draws < of_winner, axis=0).astype(dtype)
        delivered = field.wrong + field.stake * (right / queries)
        paid = jnp.where(told >= 0, delivered, worth - jnp.maximum(second, field.outside))
        judged = wins & learner.learns(seen)
        answers = jnp.where(judged, right, 0.0) - state.missed
        rightly = state.right + answers
        more = jnp.where(wins, paid, 0.0) - state.lost
        income = state.income + more
        return _State(
            judged=state.judged + judged,
            right=rightly,
            missed=(rightly - state.right) - answers,
            served=state.served + wins,
            later=state.later + (wins & late),
            income=income,
            lost=(income - state.income) - more,
            sound=state.sound & sound,
        )

    def surplus(accuracy: Array, cost: Array) -> Array:
        return field.wrong + field.stake * accuracy - cost

    before = surplus(field.accuracy, field.cost)
    after = surplus(field.later_accuracy, field.later_cost)

    def best(worth: Array) -> Array:
        """[B] above v0, what the best provider is worth in a round, or not to buy."""
        return jnp.maximum(jnp.max(worth, axis=0) - field.outside, 0.0)

    def most(rounds: Array) -> Array:
        """[B] above v0, what so many rounds could have been worth."""
        early = jnp.minimum(rounds, field.turn).astype(dtype)
        return early * best(before) + (rounds - early) * best(after)

    def gained(state: _State) -> tuple[Array, Array]:
        """[B] the sum of surpluses, and of those above v0."""
        total = jnp.sum((state.served - state.later) * before + state.later * after, axis=0)
        return total, total - jnp.sum(state.served, axis=0) * field.outside

    zero = jnp.zeros((n, batch), dtype)
    state = _State(
        judged=zero,
        right=zero,
        missed=zero,
        served=zero,
        later=zero,
        income=zero,
        lost=zero,
        sound=jnp.asarray(True),
    )

    def stretch(state: _State, ends: tuple[Array, Array]) -> tuple[_State, Array]:
        state = jax.lax.fori_loop(ends[0], ends[1], step, state)
        return state, queries * (most(ends[1]) - gained(state)[1])

    starts = jnp.concatenate([jnp.zeros_like(marks[:1]), marks[:-1]])
    state, regret = jax.lax.scan(stretch, state, (starts, marks))
    total, _ = gained(state)
    cost = (state.served - state.later) * field.cost + state.later * field.later_cost
    quality = total + jnp.sum(cost, axis=0)
    paid = jnp.sum(state.income, axis=0)
    sold, asked = jnp.sum(state.served, axis=0), state.judged * queries
    rightly = (state.served - state.later) * field.accuracy + state.later * field.later_accuracy
    kept = (rounds - sold) * field.kept
    found = dict(
        shares=(state.served / rounds).T,
        provider_utility=((state.income - cost) / rounds).T,
        welfare=(total + kept) / rounds,
        user_value=(quality - paid + kept) / rounds,
        user_cost=paid / rounds,
        accuracy=jnp.sum(rightly, axis=0) / jnp.maximum(sold, 1.0),
        regret=regret[-1],
        estimate=jnp.where(asked > 0, state.right / jnp.maximum(asked, 1.0), 1.0).T,
        regret_at=regret.T,
    )
    return found, state.sound


def _in_columns(
    learner: Learner, field: _Field, key: Array, marks: Array, *, parts: int = 1, **options: Any
) -> tuple[dict[str, Array], Array]:
    """Results [M, …] of markets [M, N], a column after the other."""
    total = field.outside.shape[0]
    width = min(_width(), -(-total // parts))
    columns = -(-total // (width * parts)) * parts
    at = jnp.minimum(jnp.arange(columns * width), total - 1).reshape(columns, width)
    data = jax.tree.map(lambda x: jnp.moveaxis(x[at], 1, -1), field)

    def some(data: _Field) -> tuple[dict[str, Array], Array]:
        return jax.lax.map(lambda one: _column(learner, one, key, marks, **options), data)

    if parts > 1:
        found, sound = over_devices(some, markets_mesh(free_devices()[:parts]), data)
    else:
        found, sound = some(data)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], found)
    return flat, jnp.all(sound)


@functools.partial(jax.jit, static_argnames=("parts", "queries"))
def _spread(*arguments: Any, **options: Any) -> tuple[dict[str, Array], Array]:
    return _in_columns(*arguments, **options)
