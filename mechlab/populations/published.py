"""Markets made of resampled providers of published curves, or of your own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mechlab import data
from mechlab.core import quality
from mechlab.core.errors import InputError
from mechlab.core.fingerprint import described
from mechlab.core.market import Array, Market
from mechlab.core.users import Users
from mechlab.populations.base import (
    MOST_PROVIDERS,
    Population,
    Range,
    Words,
    checked_range,
    checked_sigma,
)


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
        checked_range("published", "margin", self.margin, -1.0)
        checked_range("published", "rationality", self.rationality, 0.0)
        checked_range("published", "value_factor", self.value_factor, 0.0)
        for name in ("price_shock", "token_shock", "accuracy_shock"):
            checked_sigma("published", name, getattr(self, name))
        if self.providers is not None and not 1 <= self.providers <= MOST_PROVIDERS:
            raise InputError(f"published: providers = {self.providers}; give 1 to {MOST_PROVIDERS}")
        with jax.ensure_compile_time_eval():
            named = data.load(self.curves, self.market).select(self.benchmark, self.method)
        self._resample(named)

    def _resample(self, named: data.NamedMarket) -> None:
        if named.market.providers > MOST_PROVIDERS:
            raise InputError(
                f"published: {named.market.providers:,} providers of {named.benchmark}, "
                f"{named.method}; {MOST_PROVIDERS:,} at most can be resampled: name the others in "
                "leave_out of the market file"
            )
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "benchmark", named.benchmark)
        object.__setattr__(self, "method", named.method)

    @classmethod
    def around(cls, named: data.NamedMarket, **shocks: Any) -> "Published":
        """Markets made of resampled providers of a market that is in memory."""
        population = cls(**shocks)
        population._resample(named)
        # no file says what was resampled: the description of a result cannot be run again
        object.__setattr__(population, "curves", "in memory")
        return population

    def fingerprint(self) -> Any:
        named: data.NamedMarket = self._named  # type: ignore[attr-defined]
        read = {"market": named.market, "constants": named.constants}
        return {**super().fingerprint(), "data": described(read)}

    def columns(self, key: Array, index: Array) -> tuple[Market, Users]:
        named: data.NamedMarket = self._named  # type: ignore[attr-defined]
        constants, source = named.constants, named.market
        n = self.providers or source.providers
        words = Words.draw(key, index, 5 * n + 2)
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
        if named.has_token_classes:
            generated = np.asarray(source.tokens) * rate[:, None]
            if named.generated_price is not None:  # thinking is generated too, at its own price
                generated = named.generated_price
                price = resampled(generated) * (token_shock * price_shock)[:, None]
            other = np.maximum(np.asarray(source.price) - generated, 0.0)  # 0 but for rounding
            price = price + resampled(other) * price_shock[:, None]
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
        users = Users(rationality=rationality, outside_value=outside)
        if source.latency is not None and constants.latency_value:
            market = market.replace(latency=resampled(source.latency) * token_shock[:, None])
            users = users.replace(
                latency_value=jnp.full(index.shape, constants.latency_value, jnp.float32)
            )
        return market, users
