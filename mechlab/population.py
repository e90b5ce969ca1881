"""Distributions over markets, as pure functions of a key and an index.

Market j of seed s is the same whatever the chunk size, the number of devices or the host: its
random words are the Threefry hash of (seed; j, word), and nothing else enters. Arrays have the
market axis last, as `mechlab.kernel` wants them, and are float32.

A population of your own subclasses `Population` and implements `sample(key)` for one market.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from mechlab import data, quality
from mechlab.errors import InputError, checked_whole
from mechlab.market import Array, Market, UserMixture, Users
from mechlab.pytree import Pytree, pytree

Range = tuple[float, float]
MOST = 2**32 - 1  # of markets, and of seeds
_SMALLEST, _LARGEST = 1e-9, 1e9  # of bounds, so that their products stay within float32


class Population:
    """A distribution over markets with the same numbers of providers and levels."""

    @property
    def profitable(self) -> bool:
        """Whether every level of every market is sure to be priced above its cost."""
        return False

    def sample(self, key: Array) -> tuple[Market, Users | UserMixture]:
        """One market [N, K] and its users, from a PRNG key."""
        raise NotImplementedError(f"{type(self).__name__} has neither sample nor columns")

    def columns(self, key: Array, index: Array) -> tuple[Market, Users | UserMixture]:
        """Markets [N, K, B] and users [B] (types [T, B]) of the indices [B] (uint32)."""
        keys = jax.vmap(lambda j: jax.random.fold_in(key, j))(index)
        return jax.vmap(self.sample, out_axes=-1)(keys)

    def markets(
        self, count: int, *, seed: int = 0, first: int | Array = 0
    ) -> tuple[Market, Users | UserMixture]:
        """Markets [count, N, K] and their users [count], as every solver takes them.

        They are markets first … first + count − 1 of the seed, the same that `simulate` solves;
        under jit `first` may be traced.

        Raises:
            InputError: for a count below 1, and for a seed or an index outside 0 … 2^32 − 1.
        """
        checked_whole("count", count, 1, MOST)
        checked_whole("seed", seed, 0, MOST)
        if not isinstance(first, jax.core.Tracer):
            checked_whole("first", first, 0, MOST - count + 1)
        index = jnp.asarray(first, jnp.uint32) + jnp.arange(count, dtype=jnp.uint32)
        market, users = self.columns(jax.random.key(seed), index)
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (market.with_mask(), users))

    def describe(self) -> dict[str, Any]:
        """What makes this population what it is, as JSON: a run is resumed only for the same."""
        fields = dataclasses.asdict(self) if dataclasses.is_dataclass(self) else vars(self)
        return {"kind": type(self).__name__.lower(), **fields}


@pytree
class _Words(Pytree):
    """[W, B] random words of B markets, taken in order."""

    uniform: Array

    @classmethod
    def draw(cls, key: Array, index: Array, words: int) -> "_Words":
        """W uniforms in (0, 1) for each index: Threefry of (index, word number), two a block."""
        blocks = (words + 1) // 2
        counter = jnp.stack(
            [
                jnp.broadcast_to(index.astype(jnp.uint32), (blocks, index.shape[0])),
                jnp.broadcast_to(
                    jnp.arange(blocks, dtype=jnp.uint32)[:, None], (blocks, index.shape[0])
                ),
            ]
        )
        bits = threefry_2x32(jax.random.key_data(key).astype(jnp.uint32), counter)
        bits = bits.reshape(2 * blocks, -1)
        # 23 bits and a half: never 0, never 1
        unit = ((bits >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)
        return cls(uniform=unit)

    def between(self, start: int, count: int, low_high: Range) -> Array:
        low, high = low_high
        return low + (high - low) * self.uniform[start : start + count]

    def log_between(self, start: int, count: int, low_high: Range) -> Array:
        low, high = low_high
        return jnp.exp(self.between(start, count, (math.log(low), math.log(high))))

    def lognormal(self, start: int, count: int, sigma: float) -> Array:
        """e^{σz}, z standard normal."""
        return jnp.exp(sigma * jax.scipy.special.ndtri(self.uniform[start : start + count]))


def _checked_range(owner: str, name: str, low_high: Range, minimum: float) -> None:
    low, high = low_high
    least = max(minimum, _SMALLEST) if minimum == 0 else minimum
    if not (minimum < low <= high <= _LARGEST and low >= least):
        raise InputError(
            f"{owner}: {name} = {low_high}; give a low and a high bound above {least:g} "
            f"and at most {_LARGEST:g}"
        )


def _checked_sigma(owner: str, name: str, sigma: float) -> None:
    if not 0 <= sigma < 10:
        raise InputError(f"{owner}: {name} = {sigma}; give a standard deviation from 0 to 10")


@dataclasses.dataclass(frozen=True, eq=False)
class Published(Population):
    """Markets made of resampled providers of published (or your own) curves.

    Each of the N providers is drawn with replacement from those of the market, and gets one
    lognormal shock on its price per token, one on its tokens, and one on its accuracy curve: its
    odds a/(1 − a) are multiplied by a lognormal number at every level, which is a logit-normal
    shock. Margins are uniform; rationality and value per answer log-uniform.

    Attributes:
        benchmark, method, curves, market: as in `mechlab.data.load` and `select`; the curves'
            first benchmark and method where not given.
        providers: N; as many as the market has where not given.
        price_shock, token_shock, accuracy_shock: standard deviations of the logarithms.
        margin: bounds of price/cost − 1.
        rationality: bounds of β, 1/USD.
        value_factor: bounds of value per answer, relative to the benchmark's.
    """

    benchmark: str | None = None
    method: str | None = None
    curves: str = "published"
    market: str | None = None
    providers: int | None = None
    price_shock: float = 0.2
    token_shock: float = 0.2
    accuracy_shock: float = 0.2
    margin: Range = (0.1, 0.4)
    rationality: Range = (10.0, 1e5)
    value_factor: Range = (0.5, 2.0)

    def __post_init__(self) -> None:
        _checked_range("published", "margin", self.margin, -1.0)
        _checked_range("published", "rationality", self.rationality, 0.0)
        _checked_range("published", "value_factor", self.value_factor, 0.0)
        for name in ("price_shock", "token_shock", "accuracy_shock"):
            _checked_sigma("published", name, getattr(self, name))
        if self.providers is not None and not 1 <= self.providers <= 1000:
            raise InputError(f"published: providers = {self.providers}; give 1 to 1000")
        with jax.ensure_compile_time_eval():
            named = data.load(self.curves, self.market).select(self.benchmark, self.method)
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "benchmark", named.benchmark)
        object.__setattr__(self, "method", named.method)

    @property
    def profitable(self) -> bool:
        return self.margin[0] > 1e-6  # less is lost in float32

    def columns(self, key: Array, index: Array) -> tuple[Market, Users]:
        named: data.NamedMarket = self._named  # type: ignore[attr-defined]
        constants, source = named.constants, named.market
        n = self.providers or source.providers
        words = _Words.draw(key, index, 5 * n + 2)
        which = jnp.floor(words.uniform[:n] * source.providers)
        token_shock = words.lognormal(n, n, self.token_shock)
        odds_shock = words.lognormal(2 * n, n, self.accuracy_shock)
        price_shock = words.lognormal(3 * n, n, self.price_shock)
        margin = words.between(4 * n, n, self.margin)
        rationality = words.log_between(5 * n, 1, self.rationality)[0]
        value = words.log_between(5 * n + 1, 1, self.value_factor)[0]
        value = value * constants.value_per_answer[named.benchmark]

        def resampled(table: Any) -> Array:
            """Rows of a table [providers] or [providers, K], drawn for every provider."""
            table = np.asarray(table, np.float32)
            drawn = jnp.zeros((), jnp.float32)
            for row, entry in enumerate(table):
                hit = which == row if table.ndim == 1 else (which == row)[:, None]
                drawn = jnp.where(hit, entry if table.ndim == 1 else entry[:, None], drawn)
            return jnp.broadcast_to(drawn, (n, *table.shape[1:], index.shape[0]))

        rate = np.array([constants.price_per_million_tokens[x] / 1e6 for x in named.names])
        accuracy = resampled(source.accuracy)
        odds = accuracy * odds_shock[:, None]
        accuracy = odds / (1.0 - accuracy + odds)
        tokens = resampled(source.tokens) * token_shock[:, None]
        price = tokens * (resampled(rate) * price_shock)[:, None]
        shape = quality.named(constants.quality_shape, constants.quality_parameter)
        masked = not bool(np.all(np.asarray(source.available)))
        market = Market(
            quality=quality.quality(accuracy, value, constants.baseline, shape),
            price=price,
            cost=price / (1.0 + margin[:, None]),
            accuracy=accuracy,
            tokens=tokens,
            compute=resampled(source.compute),
            available=resampled(source.available) > 0 if masked else None,  # type: ignore[arg-type]
        )
        outside = jnp.full(index.shape, constants.outside_value, jnp.float32)
        return market, Users(rationality=rationality, outside_value=outside)


@dataclasses.dataclass(frozen=True, eq=False)
class Parametric(Population):
    """Markets of saturating curves: a(n) = base + (ceiling − base)(1 − n^−rate) for n samples.

    Attributes:
        providers: N.
        compute: the K numbers of samples.
        base: bounds of the single-sample accuracy; ceiling: of the limit's share of what is left.
        rate: bounds of the exponent; tokens, price: of one sample's tokens and of USD per million
            (log-uniform); margin, rationality, value_per_answer: as in `Published`.
    """

    providers: int = 9
    compute: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    base: Range = (0.2, 0.8)
    ceiling: Range = (0.1, 0.8)
    rate: Range = (0.2, 1.5)
    tokens: Range = (100.0, 500.0)
    price: Range = (0.05, 0.3)
    margin: Range = (0.1, 0.4)
    rationality: Range = (10.0, 1e5)
    value_per_answer: Range = (0.004, 0.016)
    baseline: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.providers <= 1000:
            raise InputError(f"parametric: providers = {self.providers}; give 1 to 1000")
        steps = np.asarray(self.compute, float)
        good = steps.ndim == 1 and len(steps) and np.all((steps > 0) & (steps <= _LARGEST))
        if not good or np.any(np.diff(steps.astype(np.float32)) <= 0):
            raise InputError(f"parametric: compute = {self.compute}; give ascending numbers > 0")
        if not 0 <= self.baseline <= 1:
            raise InputError(f"parametric: baseline = {self.baseline}; give a number from 0 to 1")
        _checked_range("parametric", "margin", self.margin, -1.0)
        for name in ("rate", "tokens", "price", "rationality", "value_per_answer"):
            _checked_range("parametric", name, getattr(self, name), 0.0)
        for name in ("base", "ceiling"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise InputError(f"parametric: {name} = {low, high}; give bounds within [0, 1]")

    @property
    def profitable(self) -> bool:
        return self.margin[0] > 1e-6  # less is lost in float32

    def columns(self, key: Array, index: Array) -> tuple[Market, Users]:
        n, k, b = self.providers, len(self.compute), index.shape[0]
        words = _Words.draw(key, index, 6 * n + 2)
        base = words.between(0, n, self.base)
        gain = words.between(n, n, self.ceiling) * (1.0 - base)
        rate = words.between(2 * n, n, self.rate)
        tokens = words.log_between(3 * n, n, self.tokens)
        price = words.log_between(4 * n, n, self.price) / 1e6
        margin = words.between(5 * n, n, self.margin)
        rationality = words.log_between(6 * n, 1, self.rationality)[0]
        value = words.log_between(6 * n + 1, 1, self.value_per_answer)[0]
        samples = jnp.asarray(self.compute, jnp.float32)[:, None]
        accuracy = base[:, None] + gain[:, None] * (
            1.0 - jnp.exp(-rate[:, None] * jnp.log(samples))
        )
        tokens = tokens[:, None] * samples
        paid = tokens * price[:, None]
        market = Market(
            quality=quality.quality(accuracy, value, self.baseline),
            price=paid,
            cost=paid / (1.0 + margin[:, None]),
            accuracy=accuracy,
            tokens=tokens,
            compute=jnp.broadcast_to(samples, (n, k, b)),
            available=None,  # type: ignore[arg-type]
        )
        return market, Users(rationality=rationality, outside_value=jnp.zeros(b, jnp.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture(Population):
    """Each market comes from one of several populations of the same N and K.

    Attributes:
        parts: the populations.
        weights: how often each is drawn; they need not sum to 1.
    """

    parts: tuple[Population, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        good = len(self.parts) == len(self.weights) > 0 and all(
            _is_number(w) and w >= 0 for w in self.weights
        )
        if not good or not 0 < sum(self.weights) < math.inf:
            raise InputError("mixture: give each population one weight ≥ 0, not all of them 0")

    @property
    def profitable(self) -> bool:
        return all(part.profitable for part in self.parts)

    def columns(self, key: Array, index: Array) -> tuple[Market, Users | UserMixture]:
        share = np.cumsum(self.weights) / np.sum(self.weights)
        draw = _Words.draw(jax.random.fold_in(key, len(self.parts)), index, 1).uniform[0]
        chosen: Any = None
        for i, part in enumerate(self.parts):
            market, users = part.columns(jax.random.fold_in(key, i), index)
            drawn = (market.with_mask(), users)
            if chosen is None:
                chosen = drawn
                continue
            later = draw >= share[i - 1]
            try:
                chosen = jax.tree.map(
                    lambda a, b, later=later: jnp.where(later, b, a), chosen, drawn
                )
            except (TypeError, ValueError):
                raise InputError(
                    "mixture: the populations differ in providers, levels or user types"
                ) from None
        return chosen

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "mixture",
            "weights": list(self.weights),
            "parts": [part.describe() for part in self.parts],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class WithUserTypes(Population):
    """A population whose markets each serve several types of users.

    Attributes:
        part: draws the markets, and the rationality and outside value that the factors multiply.
        weights: share of each type; they need not sum to 1.
        rationality_factor: of each type, on β.
        value_factor: of each type, on what an answer is worth.
    """

    part: Population
    weights: tuple[float, ...] = (0.5, 0.5)
    rationality_factor: tuple[float, ...] = (0.2, 1.0)
    value_factor: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.part, WithUserTypes):
            raise InputError("user types: the part has user types already; give them once")
        sizes = {len(self.weights), len(self.rationality_factor), len(self.value_factor)}
        if len(sizes) > 1 or not self.weights:
            raise InputError("user types: give each one weight, rationality and value factor")
        positive = (*self.weights, *self.rationality_factor, *self.value_factor)
        if not all(0 < x < math.inf for x in positive):
            raise InputError("user types: weights and factors must be finite and above 0")

    def columns(self, key: Array, index: Array) -> tuple[Market, UserMixture]:
        market, users = self.part.columns(key, index)
        weights = np.asarray(self.weights) / np.sum(self.weights)

        def types(values: Any) -> Array:
            column = jnp.asarray(values, jnp.float32)[:, None]
            return jnp.broadcast_to(column, (len(self.weights), index.shape[0]))

        return market, UserMixture(
            weight=types(weights),
            rationality=users.rationality * types(self.rationality_factor),
            outside_value=users.outside_value * types(np.ones(len(weights))),
            value_scale=types(self.value_factor),
        )

    def describe(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": "user_types", **fields, "part": self.part.describe()}


KINDS = {"published": Published, "parametric": Parametric}


def named(kind: str, **parameters: Any) -> Population:
    """The population called `kind`, published or parametric; InputError names what is known."""
    if kind not in KINDS:
        raise InputError(f"population: unknown kind {kind!r}; use {', '.join(KINDS)}")
    known = [field.name for field in dataclasses.fields(KINDS[kind])]
    for name, value in parameters.items():
        if name not in known:
            raise InputError(f"{kind}: unknown parameter {name!r}; it has {', '.join(known)}")
        default = getattr(KINDS[kind], name)
        if isinstance(default, tuple):
            good = isinstance(value, list | tuple) and all(_is_number(x) for x in value)
            good &= good and (name == "compute" or len(value) == 2)
            if not good:
                raise InputError(f"{kind}: {name} = {value!r}; give a list like {list(default)}")
            parameters[name] = tuple(float(x) for x in value)
        elif isinstance(default, float) and not _is_number(value):
            raise InputError(f"{kind}: {name} = {value!r}; give a number")
        elif name == "providers" and not (isinstance(value, int) and _is_number(value)):
            raise InputError(f"{kind}: {name} = {value!r}; give a whole number")
        elif name in ("benchmark", "method", "curves", "market") and not isinstance(value, str):
            raise InputError(f"{kind}: {name} = {value!r}; give a name")
    return KINDS[kind](**parameters)


def from_dict(spec: dict[str, Any]) -> Population:
    """The inverse of `Population.describe`, as a TOML file has it.

    {kind: published or parametric, PARAMETER: …}, {kind: mixture, weights, parts: [spec, …]} or
    {kind: user_types, part: spec, weights, rationality_factor, value_factor}.
    """
    spec = dict(spec)
    kind = spec.pop("kind", None)
    try:
        if kind == "mixture":
            parts = tuple(from_dict(part) for part in spec.pop("parts"))
            return Mixture(parts, tuple(spec.pop("weights")), **spec)
        if kind == "user_types":
            part = from_dict(spec.pop("part"))
            return WithUserTypes(part, **{name: tuple(x) for name, x in spec.items()})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"population: {kind}: {error}; see mechlab.population") from None
    if not isinstance(kind, str):
        raise InputError("population: no kind; use published, parametric, mixture or user_types")
    return named(kind, **spec)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
