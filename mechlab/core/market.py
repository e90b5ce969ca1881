"""The core types: Market → Offers → Outcome.

All money is in USD per query. Every type is a frozen pytree; ... stands for any number of batch
axes, N for providers and K for compute levels. Constructors validate outside jit and raise
`InputError`; inside jit they only compute.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.quality import Shape, linear, quality
from mechlab.core.validation import (
    check_ascending,
    checked,
    checked_mask,
    concrete,
    entry,
    levels_array,
    prefix_mask,
)

Array = jax.Array
# Where a value feeds several others, the compiler would compute it again in each: this keeps it.
keep = jax.lax.optimization_barrier


@pytree
class Offers(Pytree):
    """What every provider offers, one compute level each: announced, served and billed.

    Attributes:
        quality: [..., N] served: the value of the answer that is delivered, USD.
        reported_quality: [..., N] announced: the value that the provider says it delivers, USD.
        price: [..., N] announced: the price asked, posted, or bid in an auction, USD.
        cost: [..., N] served: what one query costs the provider, USD.
        accuracy: [..., N] served: share of correct answers, in [0, 1].
        tokens: [..., N] served: tokens generated per query.
        compute: [..., N] served: the test-time compute used (samples, or effort level).
        latency: [..., N] seconds until the answer is there; None where nobody counts them.
        announced_tokens: [..., N] announced: tokens per query; None where they are those served.
        bill: [..., N] billed: tokens on the bill over those announced, ρ; None where it is 1.
        stake: [..., N] USD, how much more a right answer is worth than a wrong one; None where no
            rule settles answer by answer.
    """

    _axes = ("provider",)
    _main = ("price", "cost")

    quality: Array
    reported_quality: Array
    price: Array
    cost: Array
    accuracy: Array
    tokens: Array
    compute: Array
    latency: Array | None = None
    announced_tokens: Array | None = None
    bill: Array | None = None
    stake: Array | None = None

    @property
    def offered_value(self) -> Array:
        """[..., N] V = reported quality − price asked, what users and auctions rank by."""
        return self.reported_quality - self.price

    @property
    def posted_tokens(self) -> Array:
        """[..., N] tokens per query that users are told."""
        return self.tokens if self.announced_tokens is None else self.announced_tokens

    @property
    def billing(self) -> Array:
        """[..., N] ρ, tokens billed over tokens announced; 1 where no bill is given."""
        return jnp.ones_like(self.price) if self.bill is None else self.bill

    @property
    def billed_as_generated(self) -> bool:
        """Whether neither a bill nor an announcement is given, so that the bill is honest."""
        return self.bill is None and self.announced_tokens is None

    @property
    def lie(self) -> Array:
        """[..., N] tokens billed over tokens generated; 1 of an honest bill."""
        if self.billed_as_generated:
            return jnp.ones_like(self.price)
        there = (self.tokens > 0) & (self.posted_tokens > 0)
        announced = jnp.where(there, self.posted_tokens, 1.0)
        return self.billing * announced / jnp.where(there, self.tokens, 1.0)

    def worth(self, scale: Array) -> "Offers":
        """The same to users for whom an answer is worth `scale` [..., N] times as much."""
        return self.replace(
            quality=self.quality * scale,
            reported_quality=self.reported_quality * scale,
            stake=None if self.stake is None else self.stake * scale,
        )

    def honestly_billed(self) -> "Offers":
        """The same with the tokens that were generated on the bill."""
        return self if self.billed_as_generated else self.replace(bill=self.billing / self.lie)


@pytree
class Outcome(Pytree):
    """What a mechanism makes of offers. Money in USD per query of the whole market.

    With σ the shares and x_i what a query served by i pays it: welfare = Σσ(q − c),
    user_cost = Σσx, user_value = Σσ(q − x), so welfare = user_value + Σ provider_utility.

    Attributes:
        shares: [..., N] σ, the share of queries that each provider serves; they sum to ≤ 1.
        payment: [..., N] paid to a provider per query that it serves.
        provider_utility: [..., N] σ(payment − cost), less what risk costs a provider averse to it
            (`Mechanism.risk_premium`), which counts as a cost in welfare too.
        welfare: [...] Σσ(q − c).
        net_welfare: [...] Σσ(q − c − v0): compares mechanisms where v0 ≠ 0.
        user_value: [...] Σσ(q − payment).
        net_user_value: [...] Σσ(q − payment − v0): what users gain by buying at all.
        user_cost: [...] Σσ·payment.
        quality: [...] Σσq = user_value + user_cost.
        consumer_surplus: [...] under logit choice the log-sum normalised to a mean (comparable
            only between situations with the same N and β); elsewhere the value that users hold,
            user_value + (1 − Σσ)·v0.
        accuracy: [...] of what is bought: Σσa/Σσ; 0 where there is no trade.
        tokens: [...] of what is bought: Σσt/Σσ; 0 where there is no trade.
        winner: [...] index of the provider with the largest share (int); −1: no trade.
        runner_up: [...] the other provider with the highest offered value if that is at least v0
            (int); −1: none.
        compute: [..., N] each provider's compute, as offered.
        income_deviation: [..., N] USD, standard deviation of what one query brings a provider, and
        provider_pays: [..., N] share of the answers for which it pays; None of rules that do not
            settle answer by answer.

    Where the noise of users is taste, user_value holds what they get by it and what those who buy
    nothing have: Σσ(q − x) + (1 − Σσ)v0 + H(σ)/β where they choose by logit, with the entropy H of
    all shares, which is E max (Small & Rosen 1981). The other values follow: welfare = user_value +
    Σ provider_utility, net_welfare and net_user_value are less v0, consumer_surplus is user_value.
    """

    _axes = ("provider",)
    _main = ("shares", "welfare", "user_value", "user_cost", "provider_utility")

    shares: Array
    payment: Array
    provider_utility: Array
    welfare: Array
    net_welfare: Array
    user_value: Array
    net_user_value: Array
    user_cost: Array
    quality: Array
    consumer_surplus: Array
    accuracy: Array
    tokens: Array
    winner: Array
    runner_up: Array
    compute: Array
    income_deviation: Array | None = None
    provider_pays: Array | None = None


@pytree
class Market(Pytree):
    """N providers with K compute levels each, in ascending compute.

    Attributes:
        quality: [..., N, K] value of an answer, USD.
        price: [..., N, K] price per query, USD.
        cost: [..., N, K] cost per query, USD.
        accuracy: [..., N, K] in [0, 1].
        tokens: [..., N, K] tokens per query.
        compute: [..., N, K] test-time compute (number of samples, or effort level).
        available: [..., N, K] bool: a provider with fewer than K levels has a prefix of them.
            The other fields are finite (and without meaning) where it is False.
        latency: [..., N, K] seconds until the answer is there; None where nobody counts them.
    """

    _axes = ("provider", "level")

    quality: Array
    price: Array
    cost: Array
    accuracy: Array
    tokens: Array
    compute: Array
    available: Array
    latency: Array | None = None

    @classmethod
    def from_arrays(
        cls,
        quality: Any,
        price: Any,
        cost: Any,
        *,
        accuracy: Any = None,
        tokens: Any = None,
        compute: Any = None,
        available: Any = None,
        latency: Any = None,
    ) -> "Market":
        """A market from values, prices and costs given directly, in USD per query.

        Args:
            quality, price, cost: [..., N, K], or N rows of different lengths (ragged levels).
                price ≥ 0 and cost ≥ 0.
            accuracy, tokens: the same shape; zeros where not given, and then the accuracy and
                tokens of an outcome mean nothing.
            compute: the same shape or [K]; 1 … K where not given.
            available: bool, the same shape, a prefix of at least one level per provider; from the
                rows' lengths where not given.
            latency: the same shape, seconds ≥ 0.

        Raises:
            InputError: names the argument and the entry at fault.
        """
        quality, lengths = levels_array("quality", quality)
        shape = quality.shape
        if available is None:
            available = prefix_mask(shape, lengths)
        available = checked_mask(available, shape)

        def field(name: str, values: Any, default: Any, **bounds: Any) -> Any:
            if values is None and default is None:
                raise InputError(f"{name}: not given; every level needs one, in USD")
            if values is None:
                return np.broadcast_to(default, shape)
            values, own = levels_array(name, values)
            if own is not None and lengths is not None and list(own) != list(lengths):
                raise InputError(
                    f"{name}: rows have {list(own)} levels but quality has {list(lengths)}; "
                    "give every provider the same levels in each"
                )
            try:
                values = np.broadcast_to(values, shape) if concrete(values) else values
            except ValueError:
                raise InputError(
                    f"{name}: shape {values.shape} does not fit quality's {shape}"
                ) from None
            return checked(name, values, where=available, **bounds)

        steps = np.arange(1, shape[-1] + 1)
        fields = dict(
            quality=checked("quality", quality, where=available),
            price=field("price", price, None, minimum=0.0, why="a price is paid, not received"),
            cost=field("cost", cost, None, minimum=0.0, why="serving a query cannot earn money"),
            accuracy=field(
                "accuracy",
                accuracy,
                0.0,
                minimum=0.0,
                maximum=1.0,
                why="accuracy is a fraction; divide percents by 100",
            ),
            tokens=field("tokens", tokens, 0.0, minimum=0.0, why="tokens are counted"),
            compute=field("compute", compute, steps),
        )
        if latency is not None:
            fields["latency"] = field(
                "latency", latency, None, minimum=0.0, why="seconds until the answer is there"
            )
        if compute is not None and concrete(fields["compute"], available):
            check_ascending(np.asarray(fields["compute"]), np.asarray(available))
        xp = np if concrete(*fields.values(), available) else jnp
        dtype = jnp.result_type(float)

        def filled(x: Any) -> Array:
            """Finite numbers where no level is available: those of the provider's lowest level."""
            x = xp.asarray(x, dtype)
            return jnp.asarray(xp.where(available, x, x[..., :1]), dtype)

        arrays = {name: filled(x) for name, x in fields.items()}
        return cls(**arrays, available=jnp.asarray(available, bool))

    @classmethod
    def from_curves(
        cls,
        accuracy: Any,
        tokens: Any,
        price_per_token: Any,
        *,
        value_per_answer: Any,
        baseline: Any = 0.0,
        margin: Any = 0.0,
        shape: Shape = linear,
        compute: Any = None,
        available: Any = None,
        input_tokens: Any = None,
        cached_input_tokens: Any = None,
        thinking_tokens: Any = None,
        price_per_input_token: Any = None,
        price_per_cached_input_token: Any = None,
        price_per_thinking_token: Any = None,
        judged_tokens: Any = None,
        price_per_judged_token: Any = None,
        requests: Any = None,
        price_per_request: Any = None,
        latency: Any = None,
    ) -> "Market":
        """A market from quality-versus-compute curves.

        price = tokens·price_per_token, cost = price/(1 + margin), and quality as in
        `mechlab.quality`. Where token classes are given, each is paid at its own price: thinking
        tokens are part of `tokens`, cached ones of the input's, and judged ones what a reward model
        reads to choose among samples.

        Args:
            accuracy, tokens: [..., N, K], or N rows of different lengths.
            price_per_token: [..., N] or one number, > 0, USD per token (not per million).
            value_per_answer: number or [...], USD.
            baseline: number or [...], the worth of a wrong answer relative to a right one.
            margin: number or [..., N], > −1.
            shape: how value grows with accuracy.
            compute, available: as in `from_arrays`.
            input_tokens, cached_input_tokens, thinking_tokens: number, [K] or [..., N, K]; none
                where not given.
            price_per_input_token, price_per_cached_input_token, price_per_thinking_token: [..., N]
                or one number, ≥ 0, USD per token: 0 for input where not given, the price of input
                for what is cached, `price_per_token` for thinking.
            judged_tokens: as `input_tokens`.
            price_per_judged_token: as `price_per_input_token`, 0 where not given.
            requests: as `input_tokens`; requests that a query makes.
            price_per_request: [..., N] or one number, ≥ 0, USD; 0 where not given.
            latency: [..., N, K] seconds until the answer is there.

        Raises:
            InputError: names the argument and the entry at fault.
        """
        accuracy, lengths = levels_array("accuracy", accuracy)
        if available is None:
            available = prefix_mask(accuracy.shape, lengths)
        available = checked_mask(available, accuracy.shape)
        tokens, own = levels_array("tokens", tokens)
        if own != lengths or tokens.shape[-1:] not in ((), (1,), accuracy.shape[-1:]):
            raise InputError("tokens: give as many levels for each provider as accuracy has")
        accuracy = checked(
            "accuracy",
            accuracy,
            minimum=0.0,
            maximum=1.0,
            where=available,
            why="accuracy is a fraction; divide percents by 100",
        )
        tokens = checked("tokens", tokens, above=0.0, where=available, why="answers have tokens")
        rate = checked("price_per_token", price_per_token, above=0.0, why="give USD per token")
        margin = checked("margin", margin, above=-1.0, why="cost = price/(1 + margin)")
        value = checked("value_per_answer", value_per_answer)
        base = checked("baseline", baseline)
        for name, values in (("price_per_token", rate), ("margin", margin)):
            if np.ndim(values) and np.shape(values)[-1] not in (1, accuracy.shape[-2]):
                raise InputError(
                    f"{name}: {np.shape(values)[-1]} numbers for {accuracy.shape[-2]} providers"
                )
        tokens, over = _operands(tokens, rate)
        price = tokens * over
        classes = (thinking_tokens, input_tokens, cached_input_tokens, judged_tokens, requests)
        if any(counted is not None for counted in classes):
            price = price + _other_classes(
                tokens,
                available,
                rate,
                thinking=(thinking_tokens, price_per_thinking_token),
                into=(input_tokens, price_per_input_token),
                cached=(cached_input_tokens, price_per_cached_input_token),
                judged=(judged_tokens, price_per_judged_token),
                asked=(requests, price_per_request),
            )
        reached = shape(jnp.asarray(accuracy, jnp.result_type(accuracy)))
        xp = np if concrete(reached, value, base) else jnp
        dtype = jnp.result_type(float)
        reached, value, base = (xp.asarray(x, dtype) for x in (reached, value, base))
        earned, over = _operands(price, margin)
        return cls.from_arrays(
            quality(reached, value[..., None, None], base[..., None, None]),
            price,
            earned / (1.0 + over),
            accuracy=accuracy,
            tokens=tokens,
            compute=compute,
            available=available,
            latency=latency,
        )

    def with_mask(self) -> "Market":
        """The same market, with `available` spelt out where None stands for every level."""
        if self.available is not None:
            return self
        return self.replace(available=jnp.ones(self.quality.shape, bool))

    @property
    def providers(self) -> int:
        """N, how many there are."""
        return self.quality.shape[-2]

    @property
    def levels(self) -> int:
        """K, how many each may have."""
        return self.quality.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.quality.shape[:-2]

    @property
    def offered_value(self) -> Array:
        """[..., N, K] V = quality − price, what the user gets."""
        return self.quality - self.price

    @property
    def surplus(self) -> Array:
        """[..., N, K] s = quality − cost, what society gets."""
        return self.quality - self.cost

    @property
    def unit_profit(self) -> Array:
        """[..., N, K] m = price − cost."""
        return self.price - self.cost

    def at(self, profile: Any, asking: str | None = None) -> Offers:
        """Offers at a profile of grid levels; `rule.offers` asks what is honest under a rule.

        Args:
            profile: [..., N] int, one level per provider.
            asking: "price" asks the posted price, "cost" bids the cost, as truthful providers do
                in an auction.

        Raises:
            InputError: where nothing is said of what is asked, or a level is not available.
        """
        if asking not in ("price", "cost"):
            raise InputError(
                f"asking: {asking!r}, where 'price' or 'cost' belongs; rule.offers(market, profile)"
                " asks what the rule has honest providers ask"
            )
        return _at(self, self.checked_profile(profile), asking)

    def checked_profile(self, profile: Any) -> Array:
        """A profile [..., N] as an array; raises InputError where a level is not available."""
        if not concrete(profile, self.available):
            return jnp.asarray(profile)
        with jax.ensure_compile_time_eval():  # constants are checked while others are traced
            return self._checked_profile(profile)

    def _checked_profile(self, profile: Any) -> Array:
        try:
            levels = profile if isinstance(profile, jax.Array) else np.asarray(profile)
        except (TypeError, ValueError):
            levels = np.zeros(0)
        whole = jnp.issubdtype(levels.dtype, jnp.integer)
        if not whole or levels.ndim < 1 or levels.shape[-1] != self.providers:
            raise InputError(
                f"profile: give whole numbers, one level for each of {self.providers} providers"
            )
        try:
            bad = _unavailable(levels, self.available)
        except (TypeError, ValueError):
            raise InputError(
                f"profile: shape {levels.shape} does not fit markets of {self.available.shape[:-1]}"
            ) from None
        if bool(bad[1]):  # on the device, and one answer to the host
            index = np.argwhere(np.asarray(bad[0]))[0]
            level = np.broadcast_to(np.asarray(levels), bad[0].shape)[tuple(index)]
            raise InputError(f"{entry('profile', index)} = {level}: no such level is available")
        return jnp.asarray(levels, jnp.result_type(levels))

    def best_surplus_profile(self, axis: int = -1) -> Array:
        """[..., N] the level at which each provider's surplus is largest (lowest on a tie).

        Levels are on the last axis, or on another, counted from the end.
        """
        return _best_level(self.available, self.quality, self.cost, axis)


@functools.partial(jax.jit, static_argnames="asking", inline=True)
def _at(market: Market, profile: Array, asking: str) -> Offers:
    chosen = {
        name: take_level(getattr(market, name), profile)
        for name in ("quality", "price", "cost", "accuracy", "tokens", "compute")
    }
    if asking == "cost":
        chosen["price"] = chosen["cost"]
    if market.latency is not None:
        chosen["latency"] = take_level(market.latency, profile)
    return Offers(reported_quality=chosen["quality"], **chosen)


@jax.jit
def _unavailable(profile: Array, available: Array) -> tuple[Array, Array]:
    """Which levels are none of the market's, and whether any is."""
    bad = (profile < 0) | (profile >= jnp.sum(available, axis=-1))
    return bad, jnp.any(bad)


@functools.partial(jax.jit, static_argnames="axis", inline=True)
def _best_level(available: Array, quality: Array, cost: Array, axis: int) -> Array:
    return jnp.argmax(jnp.where(available, quality - cost, -jnp.inf), axis=axis)


def take_level(values: Array, profile: Array) -> Array:
    """[..., N] the entries of [..., N, K] values at a profile [..., N]; batch axes broadcast.

    A masked sum and no gather: it vectorises along markets, and is exact.
    """
    here = jnp.arange(values.shape[-1]) == profile[..., None]
    return jnp.sum(jnp.where(here, values, jnp.zeros((), values.dtype)), axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def largest(values: Array, axis: int = -1, keepdims: bool = False) -> Array:
    """`jnp.max` with the derivative of the first that attains it, in compiled programs too.

    The derivative of `jnp.max` asks which entries equal the maximum: a compiler that computes
    them once for each question may round them differently and find none, and 0/0.
    """
    return jnp.max(values, axis=axis, keepdims=keepdims)


@largest.defjvp
def _largest_jvp(axis: int, keepdims: bool, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (values,), (tangent,) = primals, tangents
    first = jnp.argmax(values, axis=axis, keepdims=True)
    here = jax.lax.broadcasted_iota(first.dtype, values.shape, axis % values.ndim) == first
    slope = jnp.sum(jnp.where(here, tangent, 0.0), axis=axis, keepdims=keepdims)
    return largest(values, axis, keepdims), slope


def _other_classes(
    tokens: Any,
    available: Any,
    rate: Any,
    *,
    thinking: Any,
    into: Any,
    cached: Any,
    judged: Any,
    asked: Any,
) -> Any:
    """What a query costs beside tokens·rate, USD [..., N, K]; each class is a count and a price."""

    def count(name: str, values: Any, of: Any, whole: str) -> Any:
        values = checked(name, values, minimum=0.0, why=f"{name.split('_')[-1]} are counted")
        values = np.asarray(values, float) if concrete(values) else values
        if concrete(values, of) and np.any((values > np.asarray(of)) & np.asarray(available)):
            raise InputError(f"{name}: more than {whole}, which they are part of")
        return values

    def price(name: str, value: Any, default: Any) -> Any:
        if value is None:
            return default
        per = name.rsplit("_", 1)[-1]
        return _provider_axis(checked(name, value, minimum=0.0, why=f"give USD per {per}"))

    more: Any = 0.0
    rate = _provider_axis(rate)
    if thinking[0] is not None:
        extra = price("price_per_thinking_token", thinking[1], rate) - rate
        more = more + count("thinking_tokens", thinking[0], tokens, "tokens") * extra
    if judged[0] is not None:
        of_judge = price("price_per_judged_token", judged[1], jnp.zeros(()))
        more = more + count("judged_tokens", judged[0], np.inf, "") * of_judge
    if asked[0] is not None:
        each = price("price_per_request", asked[1], jnp.zeros(()))
        more = more + count("requests", asked[0], np.inf, "") * each
    if into[0] is None:
        if cached[0] is not None:
            raise InputError("cached_input_tokens: part of input_tokens, which are not given")
        return more
    prompt = count("input_tokens", into[0], np.inf, "")
    of_input = price("price_per_input_token", into[1], jnp.zeros(()))
    more = more + prompt * of_input
    if cached[0] is not None:
        extra = price("price_per_cached_input_token", cached[1], of_input) - of_input
        more = more + count("cached_input_tokens", cached[0], prompt, "input_tokens") * extra
    return more


def _operands(values: Any, other: Any) -> tuple[Any, Any]:
    """Values [..., N, K] and a number or [..., N] as [..., N, 1], on the host where they are
    numbers: in JAX's precision, unless both are arrays of NumPy."""
    if concrete(values, other):
        if not (isinstance(values, np.ndarray) and isinstance(other, np.ndarray)):
            dtype = jnp.result_type(float)
            values, other = np.asarray(values, dtype), np.asarray(other, dtype)
    return values, _provider_axis(other)


def _provider_axis(x: Any) -> Any:
    """[..., N] → [..., N, 1], so that it spreads over levels; a number stays one."""
    x = jnp.asarray(x) if not isinstance(x, np.ndarray) else x
    return x[..., None] if x.ndim else x
