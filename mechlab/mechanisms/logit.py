"""Posted prices, and users who choose by multinomial logit (SPEC section 2).

The game among providers is aggregative: a provider's utility depends on its rivals only through
A = e^{βv0} + Σ_{j≠i} e^{βV_j}. Everything is in logarithms relative to the best offer, so that no
rationality underflows.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from mechlab.market import Array, Market, Offers, UserMixture, Users
from mechlab.mechanisms.base import Mechanism, never, take_profile


def log_shares(values: Array, users: Users) -> Array:
    """[..., N] log σ of offered values [..., N] against the outside option."""
    beta, outside = users.rationality[..., None], users.outside_value[..., None]
    top = jax.lax.stop_gradient(jnp.maximum(values.max(-1, keepdims=True), outside))
    z = beta * (values - top)
    total = jnp.sum(jnp.exp(z), axis=-1, keepdims=True) + jnp.exp(beta * (outside - top))
    return z - jnp.log(total)


def log_rivals(values: Array, users: Users, top: Array) -> Array:
    """[N] log(e^{βv0} + Σ_{j≠i} e^{βV_j}) − β·top for each provider i of one market."""
    n = values.shape[-1]
    z = users.rationality * (values - top)
    others = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, z[None, :])
    outside = jnp.full((n, 1), users.rationality * (users.outside_value - top))
    return jax.nn.logsumexp(jnp.concatenate([outside, others], axis=1), axis=1)


def log_gain(profit: Array, log_share: Array, profit_now: Array, log_share_now: Array) -> Array:
    """log U(new) − log U(now), exact where utilities underflow.

    Any profit beats none, and none beats a loss: such steps count as `never` (± a huge number).
    Between two losses the gain is log|U(now)| − log|U(new)|.
    """

    def rank(m: Array, log_sigma: Array) -> tuple[Array, Array]:
        size = jnp.where(m == 0, 1.0, jnp.abs(m))
        return jnp.sign(m), jnp.sign(m) * (jnp.log(size) + log_sigma)

    tier, key = rank(profit, log_share)
    tier_now, key_now = rank(profit_now, log_share_now)
    return jnp.where(tier == tier_now, key - key_now, (tier - tier_now) * never(key))


def log_mean_exp(x: Array, beta: Array) -> Array:
    """[...] (1/β)·log mean e^{βx} over the last axis, the plain mean at β = 0.

    Written around the maximum with log1p and expm1, it is exact to rounding for every β > 0; where
    β·range is below √eps, the first two cumulants are (and have the right derivatives at β = 0).
    """
    top = jax.lax.stop_gradient(x.max(-1))
    spread = top - jax.lax.stop_gradient(x.min(-1))
    small = beta * spread < jnp.finfo(x.dtype).eps ** 0.5
    safe = jnp.where(small, 1.0 / jnp.where(spread > 0, spread, 1.0), beta)
    centred = x - top[..., None]
    exact = jnp.log1p(jnp.mean(jnp.expm1(safe[..., None] * centred), axis=-1)) / safe
    series = jnp.mean(centred, axis=-1) + 0.5 * beta * jnp.var(x, axis=-1)
    return top + jnp.where(small, series, exact)


class LogitChoice(Mechanism, abc.ABC):
    """Posted prices: shares are logit in reported quality − price; the price is what is paid."""

    # of log utility: the step of the published rule
    tolerance: ClassVar[dict[int, float]] = {8: 1e-8, 4: 1e-6}

    @abc.abstractmethod
    def ask(self, price: Array) -> Array:
        """What is posted by providers whose own price per query is `price`; any shape."""

    def posted(self, market: Market) -> Market:
        """The market with this rule's prices: every solver of logit games works on it."""
        return market.replace(price=self.ask(market.price))

    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        shares = jnp.exp(log_shares(self.offered_value(offers), users))
        return shares, jnp.broadcast_to(self.ask(offers.price), shares.shape)

    def offered_value(self, offers: Offers) -> Array:
        return offers.reported_quality - self.ask(offers.price)

    def bought(self, offers: Offers, users: Users, shares: Array) -> Array:
        """Exact where all shares underflow: a softmax over the providers alone."""
        values = self.offered_value(offers)
        return jax.nn.softmax(users.rationality[..., None] * values, axis=-1)

    def consumer_surplus(
        self, offers: Offers, users: Users, shares: Array, user_value: Array
    ) -> Array:
        """[...] (1/β)·log mean e^{βx}, x = (v0, V_1 … V_N): the log-sum, normalised to a mean.

        Comparable only between situations with the same N and β.
        """
        values = jnp.broadcast_to(self.offered_value(offers), shares.shape)
        outside = jnp.broadcast_to(users.outside_value[..., None], (*shares.shape[:-1], 1))
        options = jnp.concatenate([outside, values], axis=-1)
        return log_mean_exp(options, jnp.broadcast_to(users.rationality, shares.shape[:-1]))

    def level_utilities(
        self, market: Market, users: Users, profile: Array, provider: Array
    ) -> Array:
        market = self.posted(market)
        log_sigma = self._level_log_shares(market, users, profile, provider)
        return jnp.exp(log_sigma) * market.unit_profit[provider]

    def level_gains(self, market: Market, users: Users, profile: Array, provider: Array) -> Array:
        """[K] log U(level) − log U(now): the published comparison, which no β underflows."""
        market = self.posted(market)
        log_sigma = self._level_log_shares(market, users, profile, provider)
        profit, now = market.unit_profit[provider], profile[provider]
        gain = log_gain(profit, log_sigma, profit[now], log_sigma[now])
        return jnp.where(market.available[provider], gain, -never(gain))

    def _level_log_shares(
        self, posted: Market, users: Users, profile: Array, provider: Array
    ) -> Array:
        """[K] log σ of a provider at each of its levels, the others fixed.

        With several types of users, the log of their weighted mean share.
        """
        if isinstance(users, UserMixture):

            def of_type(scale: Array, rationality: Array, outside_value: Array) -> Array:
                market = posted.replace(quality=posted.quality * scale)
                one = Users(rationality=rationality, outside_value=outside_value)
                return self._level_log_shares(market, one, profile, provider)

            log_sigma = jax.vmap(of_type)(users.value_scale, users.rationality, users.outside_value)
            return jax.nn.logsumexp(log_sigma, axis=0, b=users.weight[:, None])
        values, _ = take_profile(posted, profile)
        top = jnp.maximum(values.max(), users.outside_value)
        rivals = log_rivals(values, users, top)[provider]
        own = users.rationality * (posted.offered_value[provider] - top)
        return -jax.nn.softplus(rivals - own)
