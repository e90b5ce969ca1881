"""One front door: what every public function of markets does with its arguments, in one place.

A solver behind it gets arguments that are complete: a rule, a PRNG key, a profile that exists, and
a market whose quality is net of waiting. It is plain mathematics, and has nothing to remember.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from mechlab.core.devices import on_all_devices
from mechlab.core.errors import InputError
from mechlab.core.market import Market, Offers
from mechlab.core.solution import Solution, thrown
from mechlab.core.users import UserMixture
from mechlab.core.waiting import net_of_waiting, offers_before_waiting, offers_net_of_waiting
from mechlab.mechanisms.base import check_arguments
from mechlab.mechanisms.parameters import over_batch, own_axes, parameter_batch, types_axes
from mechlab.mechanisms.pay_per_compute import PayPerCompute

DEFAULT_RULE = PayPerCompute()
"""The rule of every function that is not told one."""

P = ParamSpec("P")
R = TypeVar("R")


def front_door(
    *, one_type: bool = False, frozen: bool = False, batched: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Prepare the arguments of a function f(market, users, rule, …) before its body runs.

    By the names of its parameters:
        market, users, rule: have to be of their types; the rule is pay-per-compute where it is
            None. Waiting is taken off the market's quality and that of `offers`, and is added to
            the quality of `offers` in what is returned: those are as the rule is called with.
        profile, start: have to be levels that are available.
        key: that of seed 0 where it is None.
        throw: NotSolved, outside jit, where a `Solution` that is returned is none.

    Args:
        one_type: the function is for users of one type; InputError for several.
        frozen: what it returns is constant to derivatives.
        batched: it takes rules whose parameters have batch axes, a market at a time.
    """

    def decorate(solve: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(solve)

        @functools.wraps(solve)
        def prepared(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            users = given.arguments["users"]
            _prepare(solve.__name__, given.arguments, one_type, frozen)
            found: Any = _solved(solve, given, batched)
            if isinstance(found, Solution):
                thrown(found, given.arguments.get("throw", False))
            if isinstance(getattr(found, "offers", None), Offers):
                found = found.replace(offers=offers_before_waiting(found.offers, users))
            return found

        return prepared

    return decorate


_SHARED = ("market", "users", "rule", "offers", "profile", "start")

# how many of the last axes of an argument are a market's own
_OWN = {"profile": 1, "start": 1, "offers": 1, "precision": 0}


def _solved(solve: Callable[..., Any], given: inspect.BoundArguments, batched: bool) -> Any:
    """solve(…); a market at a time where the parameters of the rule have batch axes."""
    arguments = given.arguments
    rule = arguments.get("rule")
    if rule is None or not parameter_batch(rule):
        return solve(*given.args, **given.kwargs)
    if not batched:
        raise InputError(
            f"{solve.__name__}: parameters of {type(rule).__name__} have batch axes "
            f"{parameter_batch(rule)}; give one number for each parameter, or one for each "
            "provider (mechlab.per_provider)"
        )
    names = [name for name in _OWN if arguments.get(name) is not None]

    def one(rule: Any, market: Market, users: Any, *arrays: Any) -> Any:
        own = dict(rule=rule, market=market, users=users)
        own |= zip(names, arrays, strict=True)
        here = inspect.BoundArguments(given.signature, {**arguments, **own})
        return solve(*here.args, **here.kwargs)

    return over_batch(
        one,
        (rule, own_axes(rule)),
        (arguments["market"], 2),
        (arguments["users"], types_axes(arguments["users"])),
        *((arguments[name], _OWN[name]) for name in names),
    )


def _prepare(name: str, given: dict[str, Any], one_type: bool, frozen: bool) -> None:
    if "rule" in given and given["rule"] is None:
        given["rule"] = DEFAULT_RULE
    if "rules" not in given:  # `evaluate` spreads markets over devices itself
        arrays = {name: x for name, x in given.items() if name in _SHARED and x is not None}
        given.update(on_all_devices(arrays))
    market, users = given["market"], given["users"]
    check_arguments(market, users, given.get("rule"))
    if one_type and isinstance(users, UserMixture):
        raise InputError(f"{name}: several types of users; give one type of users")
    if given.get("offers") is not None:
        if (given["offers"].latency is None) != (market.latency is None):
            raise InputError(
                "offers: either market or offers have a latency; give both, or neither, as "
                "rule.offers(market, profile) does"
            )
        given["offers"], _ = offers_net_of_waiting(given["offers"], users)
    given["market"], given["users"] = net_of_waiting(market.with_mask(), users)
    for levels in ("profile", "start"):
        if given.get(levels) is not None:
            given[levels] = given["market"].checked_profile(given[levels])
    if "key" in given and given["key"] is None:
        given["key"] = jax.random.key(0)
    if frozen:
        for what in {"market", "users", "rule", "profile", "start"} & given.keys():
            given[what] = jax.lax.stop_gradient(given[what])
