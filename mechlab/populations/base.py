"""Distributions over markets, as pure functions of a key and an index.

Market j of seed s is the same whatever the chunk size, the number of devices or the host: its
random words are the Threefry hash of (seed; j, word), and nothing else enters. Arrays have the
market axis last, as `mechlab.solvers.kernel` wants them, and are float32.

A population of your own subclasses `Population` and implements `sample(key)` for one market.
"""

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from mechlab.core.errors import InputError, checked_whole
from mechlab.core.fingerprint import code, described, identity
from mechlab.core.market import Array, Market
from mechlab.core.pytree import Pytree, pytree
from mechlab.core.users import UserMixture, Users

Range = tuple[float, float]
MOST = 2**32 - 1  # of markets, and of seeds
MOST_PROVIDERS = 1000  # of a market
SMALLEST, LARGEST = 1e-9, 1e9  # of bounds, so that their products stay within float32


class Population:
    """A distribution over markets with the same numbers of providers and levels."""

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
        start: Any = first if isinstance(first, jax.Array) else np.uint32(first)
        return _markets(_SameContent(self, self.content()), count, np.uint32(seed), start)

    def describe(self) -> dict[str, Any]:
        """What makes this population what it is, as JSON."""
        if dataclasses.is_dataclass(self):
            fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        else:
            fields = vars(self)
        return {"kind": type(self).__name__.lower(), **described(fields)}

    def fingerprint(self) -> Any:
        """Its description, with the code and the data that it draws by: a run is resumed only for
        the same. A `version` of the class, stated by you, stands in for its code."""
        return {**self.describe(), "code": code(self)}

    def content(self) -> str:
        """What it draws by, in this process: of populations of one content a compiled program
        serves all.

        Unlike the fingerprint it has every attribute, whatever the description leaves out, and
        classes and functions by what they are and not by their source.
        """
        return json.dumps(described(self, identity), sort_keys=True, default=repr)


@dataclasses.dataclass(frozen=True)
class _SameContent:
    """A population as a static argument: those of one content share a program."""

    population: Population = dataclasses.field(compare=False)
    content: str


@functools.partial(jax.jit, static_argnames=("same", "count"), inline=True)
def _markets(
    same: _SameContent, count: int, seed: Array, first: Array
) -> tuple[Market, Users | UserMixture]:
    index = first.astype(jnp.uint32) + jnp.arange(count, dtype=jnp.uint32)
    market, users = same.population.columns(jax.random.key(seed), index)
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (market.with_mask(), users))


@pytree
class Words(Pytree):
    """[W, B] random words of B markets, taken in order."""

    uniform: Array

    @classmethod
    def draw(cls, key: Array, index: Array, words: int) -> "Words":
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


def checked_range(owner: str, name: str, low_high: Range, minimum: float) -> None:
    low, high = low_high
    least = max(minimum, SMALLEST) if minimum == 0 else minimum
    if not (minimum < low <= high <= LARGEST and low >= least):
        raise InputError(
            f"{owner}: {name} = {low_high}; give a low and a high bound above {least:g} "
            f"and at most {LARGEST:g}"
        )


def checked_sigma(owner: str, name: str, sigma: float) -> None:
    if not 0 <= sigma < 10:
        raise InputError(f"{owner}: {name} = {sigma}; give a standard deviation from 0 to 10")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
