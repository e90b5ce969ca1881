"""Posted prices, and users who choose by multinomial logit.

The game among providers is aggregative: a provider's utility depends on its rivals only through
A = e^{βv0} + Σ_{j≠i} e^{βV_j}. Everything is in logarithms relative to the best offer, so that no
rationality underflows.
"""

import abc
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from mechlab.core.market import Array, Market, Offers, keep
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.tolerance import STEP, Tolerance
from mechlab.core.users import UserMixture, Users
from mechlab.mechanisms.base import Mechanism, take_profile
from mechlab.mechanisms.capabilities import Accounts, Facing, Levels, PostedPrices, never
from mechlab.mechanisms.outcome import values_of_tastes
from mechlab.mechanisms.parameters import provider_last


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


def mean_best(values: Array, users: Users) -> Array:
    """[...] E max of v0 and values [..., N], each with its taste: (1/β)·log(e^{βv0} + Σe^{βV}).

    Source: McFadden 1974; Small & Rosen 1981. The tastes have mean 0.
    """
    beta, outside = users.rationality, users.outside_value
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(values, axis=-1), outside))
    total = jnp.sum(jnp.exp(beta[..., None] * (values - top[..., None])), axis=-1)
    return top + jnp.log(total + jnp.exp(beta * (outside - top))) / beta


def taste_value(log_share: Array, users: Users) -> Array:
    """[...] H(σ)/β of log shares [..., N]: E max of values and Gumbel tastes, less Σσ·value."""
    shares = jnp.exp(log_share)
    unsold = jnp.maximum(1.0 - jnp.sum(shares, axis=-1), 0.0)
    sold = jnp.sum(jnp.where(shares > 0, -shares * log_share, 0.0), axis=-1)
    return (sold + jax.scipy.special.entr(unsold)) / users.rationality


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
    steps = (tier - tier_now).astype(key.dtype)  # profits may be narrower than shares
    return jnp.where(tier == tier_now, key - key_now, steps * never(key))


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


@pytree
class LogitRivals(Pytree):
    """What a provider faces: A_{−i} = e^{βv0} + Σ_{j≠i} e^{βV_j}, in logarithms.

    Attributes:
        rationality: [..., N] β.
        best: [..., N] the largest of v0 and the others' values.
        log_rest: [..., N] log A_{−i} − β·best, from 0 to log N.
    """

    rationality: Array
    best: Array
    log_rest: Array


def logit_rivals(values: Array, users: Users) -> LogitRivals:
    """What each provider faces where values [..., N] are on offer to users [...]."""
    n = values.shape[-1]
    others = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, values[..., None, :])
    outside = jnp.broadcast_to(users.outside_value[..., None], values.shape)
    best = jax.lax.stop_gradient(jnp.maximum(jnp.max(others, axis=-1), outside))
    beta = jnp.broadcast_to(users.rationality[..., None], values.shape)
    gap = jnp.where(others > -jnp.inf, others - best[..., None], 0.0)
    among = jnp.where(others > -jnp.inf, jnp.exp(beta[..., None] * gap), 0.0)
    rest = jnp.sum(among, axis=-1) + jnp.exp(beta * (outside - best))
    return LogitRivals(rationality=beta, best=best, log_rest=jnp.log(rest))


class LogitChoice(Mechanism, abc.ABC):
    """Posted prices: shares are logit in reported quality − price; what is billed is paid.

    A rule says in `ask` what is posted. An honest bill is the price posted.
    """

    # of log utility: the step of the published rule
    tolerance: ClassVar[Tolerance] = STEP

    @abc.abstractmethod
    def ask(self, price: Array, tokens: Array) -> Array:
        """What is posted by providers that would ask `price` for a query of `tokens`; any shape."""

    @final
    def allocate(self, offers: Offers, users: Users) -> tuple[Array, Array]:
        shares = jnp.exp(log_shares(self.offered_value(offers), users))
        return shares, jnp.broadcast_to(self.billed(offers), shares.shape)

    @final
    def offered_value(self, offers: Offers) -> Array:
        """[..., N] what users get by the reports: reported quality − what is posted."""
        return offers.reported_quality - self.ask(offers.price, offers.posted_tokens)

    @final
    def billed(self, offers: Offers) -> Array:
        """[..., N] what is paid: what would be posted for the tokens on the bill."""
        price, tokens = offers.price, offers.posted_tokens
        if offers.bill is not None:
            price, tokens = price * offers.bill, tokens * offers.bill
        return self.ask(price, tokens)

    @property
    def accounts(self) -> "LogitAccounts":
        return LogitAccounts(self)

    @property
    def facing(self) -> "LogitFacing":
        return LogitFacing(self)

    @property
    def levels(self) -> "LogitLevels":
        return LogitLevels(self)

    @property
    def posted(self) -> "LogitPrices":
        return LogitPrices(self)


class LogitPrices(PostedPrices):
    """Prices as the rule has providers ask."""

    def market(self, market: Market, axis: int = -2) -> Market:
        price = provider_last(self.rule, axis, self.rule.ask, market.price, market.tokens)
        return market.replace(price=price)


class LogitAccounts(Accounts):
    """Accounts of users who choose by logit."""

    knows_overcharge: ClassVar[bool] = True

    def ranking(self, offers: Offers) -> Array:
        return self.rule.offered_value(offers)

    def overcharge(self, offers: Offers) -> Array:
        if offers.billed_as_generated:
            return jnp.zeros_like(offers.price)
        return self.rule.billed(offers) - self.rule.billed(offers.honestly_billed())

    def bought(self, offers: Offers, users: Users, shares: Array) -> Array:
        """Exact where all shares underflow: a softmax over the providers alone."""
        values = self.rule.offered_value(offers)
        return jax.nn.softmax(users.rationality[..., None] * values, axis=-1)

    def consumer_surplus(
        self, offers: Offers, users: Users, shares: Array, user_value: Array
    ) -> Array:
        """[...] (1/β)·log mean e^{βx}, x = (v0, V_1 … V_N): the log-sum, normalised to a mean.

        Comparable only between situations with the same N and β.
        """
        values = jnp.broadcast_to(self.rule.offered_value(offers), shares.shape)
        outside = jnp.broadcast_to(users.outside_value[..., None], (*shares.shape[:-1], 1))
        options = jnp.concatenate([outside, values], axis=-1)
        return log_mean_exp(options, jnp.broadcast_to(users.rationality, shares.shape[:-1]))

    def taste_value(self, offers: Offers, users: Users, shares: Array) -> Array:
        return taste_value(log_shares(self.rule.offered_value(offers), users), users)


class LogitFacing(Facing):
    """One provider against A_{−i}."""

    def rivals(self, offers: Offers, users: Users) -> LogitRivals:
        return logit_rivals(self.rule.offered_value(offers), users)

    def utility_against(self, rivals: Any, own: Offers) -> Array:
        return jnp.exp(self._log_share(rivals, own)) * (self.rule.billed(own) - own.cost)

    def steering(self, rivals: Any, own: Offers, temperature: Array) -> Array:
        """Log utility, which no rationality underflows; of a loss, minus the log of its size.

        Near a profit of 0 the logarithm goes straight on.
        """
        billed = self.rule.billed(own)
        profit, sliver = billed - own.cost, 1e-3 * (jnp.abs(billed) + own.cost)
        sliver = jax.lax.stop_gradient(jnp.where(sliver > 0, sliver, 1.0))
        size = jnp.where(profit < 0, -profit, profit)
        log_size = jnp.log(jnp.maximum(size, sliver)) + jnp.minimum(size / sliver - 1.0, 0.0)
        log_utility = log_size + self._log_share(rivals, own)
        return jnp.where(profit < 0, -log_utility, log_utility)

    def leads(self, rivals: Any, own: Offers) -> Array:
        """No jump, but at a high rationality nearly one: where the share is 95 % of all."""
        beta = jnp.where(rivals.rationality > 0, rivals.rationality, 1.0)
        lead = self.rule.offered_value(own) - rivals.best
        return (lead - (rivals.log_rest + 3.0) / beta)[None]

    def _log_share(self, rivals: LogitRivals, own: Offers) -> Array:
        lead = rivals.rationality * (self.rule.offered_value(own) - rivals.best)
        return -jax.nn.softplus(rivals.log_rest - lead)


class LogitLevels(Levels):
    """Levels compared in log utility, the published comparison, which no β underflows."""

    def utilities(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        posted = self.rule.posted.market(market)
        log_sigma = self._log_shares(posted, users, profile, provider)
        return jnp.exp(log_sigma) * posted.unit_profit[provider]

    def gains(
        self, market: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] log U(level) − log U(now)."""
        posted = self.rule.posted.market(market)
        log_sigma = self._log_shares(posted, users, profile, provider)
        profit, now = posted.unit_profit[provider], profile[provider]
        gain = log_gain(profit, log_sigma, profit[now], log_sigma[now])
        return jnp.where(market.available[provider], gain, -never(gain))

    def _log_shares(
        self, posted: Market, users: Users | UserMixture, profile: Array, provider: Array
    ) -> Array:
        """[K] log σ of a provider at each of its levels, the others fixed.

        With several types of users, the log of their weighted mean share.
        """
        if isinstance(users, UserMixture):

            def of_type(scale: Array, rationality: Array, outside_value: Array) -> Array:
                market = posted.replace(quality=posted.quality * scale)
                one = Users(rationality=rationality, outside_value=outside_value)
                return self._log_shares(market, one, profile, provider)

            log_sigma = jax.vmap(of_type)(users.value_scale, users.rationality, users.outside_value)
            return jax.nn.logsumexp(log_sigma, axis=0, b=users.weight[:, None])
        values, _ = take_profile(posted, profile)
        top = jax.lax.stop_gradient(jnp.maximum(values.max(), users.outside_value))
        rivals = log_rivals(values, users, top)[provider]
        own = users.rationality * (posted.offered_value[provider] - top)
        return -jax.nn.softplus(rivals - own)

    def metrics(self, market: Market, users: Any, profile: Array) -> dict[str, Array]:
        """Each level is read once, and no offer is built."""
        if isinstance(users, UserMixture):
            return super().metrics(market, users, profile)
        return _column_metrics(self.rule, market, users, profile)


def _column_metrics(
    rule: LogitChoice, market: Market, users: Users, profile: Array
) -> dict[str, Array]:
    """`Levels.metrics` of posted prices."""
    at = {
        name: jnp.take_along_axis(getattr(market, name), profile[:, None], axis=1)[:, 0]
        for name in ("quality", "price", "cost", "accuracy", "tokens")
    }
    price = provider_last(rule, -2, rule.ask, at["price"], at["tokens"])
    beta, outside = users.rationality, users.outside_value
    values = keep(at["quality"] - price)
    best = jax.lax.stop_gradient(jnp.max(values, axis=0))  # a shift
    among = jnp.exp(beta * (values - best))  # among providers alone: exact where nobody buys
    bought = keep(among / jnp.sum(among, axis=0))
    top = jax.lax.stop_gradient(jnp.maximum(best, outside))
    weight = jnp.exp(beta * (values - top))
    shares = keep(weight / (jnp.sum(weight, axis=0) + jnp.exp(beta * (outside - top))))

    def total(x: Array) -> Array:
        return jnp.sum(shares * x, axis=0)

    earned = total(price - at["cost"])
    if users.taste is None:
        worth = dict(
            welfare=total(at["quality"] - at["cost"]),
            net_welfare=total(at["quality"] - at["cost"] - outside),
            user_value=total(values),
            net_user_value=total(values - outside),
        )
    else:
        everything = jnp.sum(weight, axis=0) + jnp.exp(beta * (outside - top))
        worth = values_of_tastes(top + jnp.log(everything) / beta, earned, outside)
    return dict(
        **worth,
        user_cost=total(price),
        quality=total(at["quality"]),
        provider_utility=earned,
        accuracy=jnp.sum(bought * at["accuracy"], axis=0),
        tokens=jnp.sum(bought * at["tokens"], axis=0),
    )
