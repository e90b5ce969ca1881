"""Markets of saturating curves with random parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mechlab.core import quality
from mechlab.core.errors import InputError
from mechlab.core.market import Array, Market
from mechlab.core.users import Users
from mechlab.populations.base import (
    LARGEST,
    MOST_PROVIDERS,
    Population,
    Range,
    Words,
    checked_range,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Parametric(Population):
    """Markets of saturating curves: a(n) = base + (ceiling − base)(1 − n^−rate) for n samples.

    Attributes:
        providers: N, how many.
        compute: the K numbers of samples.
        base: bounds of the single-sample accuracy; ceiling: of the limit's share of what is left.
        rate: bounds of the exponent; tokens, price: of one sample's tokens and of USD per million
            (log-uniform); margin, rationality, value_per_answer: as in `Published`.
        input_tokens: bounds of a prompt's tokens (log-uniform, one number a market), which is sent
            once for every sample; prompts cost nothing where not given.
        input_price: of the price of an input token, relative to that of a generated one.
        tokens_per_second: of a provider's speed (log-uniform); samples are drawn at once, so that a
            level takes as long as one sample. Nobody waits where not given.
        latency_value: of what waiting costs users, USD per second (log-uniform).
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
    input_tokens: Range | None = None
    input_price: Range = (0.1, 0.5)
    tokens_per_second: Range | None = None
    latency_value: Range | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.providers <= MOST_PROVIDERS:
            raise InputError(
                f"parametric: providers = {self.providers}; give 1 to {MOST_PROVIDERS}"
            )
        steps = np.asarray(self.compute, float)
        good = steps.ndim == 1 and len(steps) and np.all((steps > 0) & (steps <= LARGEST))
        if not good or np.any(np.diff(steps.astype(np.float32)) <= 0):
            raise InputError(f"parametric: compute = {self.compute}; give ascending numbers > 0")
        if not 0 <= self.baseline <= 1:
            raise InputError(f"parametric: baseline = {self.baseline}; give a number from 0 to 1")
        checked_range("parametric", "margin", self.margin, -1.0)
        positive = ("rate", "tokens", "price", "rationality", "value_per_answer", "input_price")
        optional = ("input_tokens", "tokens_per_second", "latency_value")
        for name in (*positive, *(x for x in optional if getattr(self, x) is not None)):
            checked_range("parametric", name, getattr(self, name), 0.0)
        if (self.tokens_per_second is None) != (self.latency_value is None):
            raise InputError(
                "parametric: latency_value and tokens_per_second belong together; give both or none"
            )
        for name in ("base", "ceiling"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise InputError(f"parametric: {name} = {low, high}; give bounds within [0, 1]")

    def columns(self, key: Array, index: Array) -> tuple[Market, Users]:
        n, k, b = self.providers, len(self.compute), index.shape[0]
        words = Words.draw(key, index, 6 * n + 2)
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
        of_one = tokens
        tokens = of_one[:, None] * samples
        paid = tokens * price[:, None]
        # further words, so that those above are the same without
        more = Words.draw(jax.random.fold_in(key, 1), index, 2 * n + 2)
        if self.input_tokens is not None:
            asked = more.log_between(2 * n, 1, self.input_tokens) * samples
            paid = paid + asked * (price * more.between(0, n, self.input_price))[:, None]
        market = Market(
            quality=quality.quality(accuracy, value, self.baseline),
            price=paid,
            cost=paid / (1.0 + margin[:, None]),
            accuracy=accuracy,
            tokens=tokens,
            compute=jnp.broadcast_to(samples, (n, k, b)),
            available=None,  # type: ignore[arg-type]
        )
        users = Users(rationality=rationality, outside_value=jnp.zeros(b, jnp.float32))
        if self.tokens_per_second is not None and self.latency_value is not None:
            seconds = of_one / more.log_between(n, n, self.tokens_per_second)
            market = market.replace(latency=jnp.broadcast_to(seconds[:, None], (n, k, b)))
            waits = more.log_between(2 * n + 1, 1, self.latency_value)[0]
            users = users.replace(latency_value=waits)
        return market, users
