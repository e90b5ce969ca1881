"""What is compiled for sampling: a prompt's prefill, and blocks of cached steps.

Shapes are those of `models/generation.py`, which says why they are as they are: S rows in Q groups,
prefixes of P tokens, caches of C slots.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mechlab.core.errors import InputError
from models.sampling import draw, greedy, gumbels

STEPS = 32
"""Most steps in one call; it ends sooner where rows make room."""


@dataclasses.dataclass(frozen=True)
class Thinking:
    """The thinking section of a reasoning model, and a budget for it (budget forcing).

    At `maximum` thinking tokens the model is made to write `closing`, which must end the section;
    where it ends the section or the answer itself before `minimum` tokens it is made to write
    `extension` instead ("Wait"), as in Muennighoff et al., "s1: Simple test-time scaling" (2025).
    """

    start: int
    end: int
    minimum: int = 0
    maximum: int | None = None
    closing: tuple[int, ...] = ()
    extension: tuple[int, ...] = ()

    def __post_init__(self):
        if self.maximum is not None and not 0 <= self.minimum <= self.maximum:
            raise InputError(
                f"min_thinking_tokens = {self.minimum} and max_thinking_tokens = {self.maximum};"
                " give 0 <= min <= max"
            )
        if self.maximum is not None and self.end not in self.closing:
            raise InputError("closing must hold the token that ends the thinking section")
        if self.minimum > 0 and not self.extension:
            raise InputError("min_thinking_tokens needs an extension")


@dataclasses.dataclass(frozen=True)
class Options:
    """How tokens are drawn and when a sample ends."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[int, ...] = ()
    """Tokens that end an answer."""
    thinking: Thinking | None = None

    def __post_init__(self):
        warm = 1e-3 <= self.temperature <= 1e3
        for name, good, remedy in (
            ("temperature", warm or self.temperature == 0, "0 (greedy), or in [0.001, 1000]"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or None"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1], or None"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**32, "in [0, 2**32)"),
        ):
            if not good:
                raise InputError(f"{name} must be {remedy}, not {getattr(self, name)}")


_write = jax.lax.dynamic_update_slice_in_dim


def prefill(graph, parameters, tokens: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Keys [1, K, E, P] and values [1, K, P, E] of a prompt [1, P], layer by layer."""
    network, kept = nnx.merge(graph, parameters), []

    def attend(q, k, v):
        kept.append((k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    network(tokens, jnp.arange(tokens.shape[1]), [attend] * network.config.layers)
    return kept


def attend_cached(q, k, v, *, prefix, cache, prefix_lengths, lengths, slot):
    """One token a row attends to its group's prefix, to its own past and to itself.

    Shapes: q [S, 1, H, E]; k, v [S, 1, K, E]; prefix keys [Q, K, E, P] and values [Q, K, P, E];
    cache keys [S, K, E, C] and values [S, K, C, E]; prefix_lengths [Q]; lengths [S], how many of
    its own tokens a row has in the cache already; slot is a scalar.

    Returns:
        [S, 1, H, E] and the new cache.
    """
    groups, _, _, longest = prefix[0].shape
    rows, kv_heads, size, slots = cache[0].shape
    keys = _write(cache[0], k.transpose(0, 2, 3, 1), slot, 3)
    values = _write(cache[1], v.transpose(0, 2, 1, 3), slot, 2)

    # float32 sums of products in the network's own precision
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    q = q.reshape(rows, kv_heads, -1, size) * size**-0.5
    grouped = q.reshape(groups, rows // groups, kv_heads, -1, size)
    own = dot("skre,skec->skrc", q, keys)
    shared = dot("gnkre,gkep->gnkrp", grouped, prefix[0])

    age = (slot - jnp.arange(slots)) % slots
    own = jnp.where((age <= lengths[:, None])[:, None, None], own, -jnp.inf)
    inside = jnp.arange(longest) < prefix_lengths[:, None]
    shared = jnp.where(inside[:, None, None, None], shared, -jnp.inf).reshape(
        rows, kv_heads, -1, longest
    )
    highest = jnp.maximum(own.max(-1, keepdims=True), shared.max(-1, keepdims=True))
    own, shared = jnp.exp(own - highest), jnp.exp(shared - highest)
    total = own.sum(-1, keepdims=True) + shared.sum(-1, keepdims=True)
    weights = shared.astype(q.dtype).reshape(*grouped.shape[:-1], longest)
    out = dot("skrc,skce->skre", own.astype(q.dtype), values)
    out += dot("gnkrp,gkpe->gnkre", weights, prefix[1]).reshape(out.shape)
    return (out / total).astype(q.dtype).reshape(rows, 1, -1, size), (keys, values)


def step_logits(network, prefix, cache, rows, slot):
    """Logits [S, V] after feeding each row its token, and the cache that holds it."""
    written = []

    def attend(layer):
        def attended(q, k, v):
            out, new = attend_cached(
                q,
                k,
                v,
                prefix=prefix[layer],
                cache=cache[layer],
                prefix_lengths=rows["prefix_lengths"],
                lengths=rows["length"],
                slot=slot,
            )
            written.append(new)
            return out

        return attended

    groups = rows["prefix_lengths"].shape[0]
    before = jnp.repeat(rows["prefix_lengths"], rows["length"].shape[0] // groups)
    hidden = network(
        rows["token"][:, None],
        (before + rows["length"])[:, None],
        [attend(layer) for layer in range(network.config.layers)],
    )
    return network.output(hidden[:, 0]), written


def decode(graph, options: Options, slots: int, parameters, prefix, cache, rows, control):
    """Up to `STEPS` steps of every row, fewer where `room` rows have ended.

    Args:
        prefix, cache: a pair of keys and values a layer, see `attend_cached`.
        rows: per row (per group `prefix_lengths`), see `Generation`.
        control: scalars `write` (the slot of the first step), `steps`, `room`, `temperature` and
            `seed`.

    Returns:
        The caches, the rows, the tokens [S, STEPS] and the number of steps.
    """
    network = nnx.merge(graph, parameters)
    running = rows["active"].sum()
    stop = jnp.asarray(options.stop, jnp.int32)

    def going(carry):
        step, _, rows, _ = carry
        left = rows["active"].sum()
        return (step < control["steps"]) & (left > 0) & (running - left < control["room"])

    def advance(carry):
        step, cache, rows, written = carry
        slot = (control["write"] + step) % slots
        logits, cache = step_logits(network, prefix, cache, rows, slot)
        if options.temperature == 0:
            token = greedy(logits)
        else:
            token = draw(
                logits,
                gumbels(control["seed"], rows["stream"], rows["length"]),
                temperature=control["temperature"],
                top_k=options.top_k,
                top_p=options.top_p,
            )
        if options.thinking is not None:
            token, rows = _budget(options.thinking, stop, token, rows)
        active, length = rows["active"], rows["length"] + rows["active"]
        ended = (token[:, None] == stop).any(-1) | (length >= rows["limit"])
        written = _write(written, token[:, None], step, 1)
        rows = rows | {
            "token": jnp.where(active, token, rows["token"]),
            "length": length,
            "active": active & ~ended,
        }
        return step + 1, cache, rows, written

    written = jnp.zeros((rows["token"].shape[0], STEPS), jnp.int32)
    step, cache, rows, written = jax.lax.while_loop(
        going, advance, (jnp.int32(0), cache, rows, written)
    )
    return cache, rows, written, step


def _budget(thinking: Thinking, stop: jax.Array, token: jax.Array, rows):
    """Replaces a drawn token where a thinking budget says so, and counts."""
    forced = jnp.asarray((*thinking.closing, *thinking.extension, 0), jnp.int32)
    closing, every = len(thinking.closing), len(forced) - 1
    cursor, inside, count = rows["cursor"], rows["thinking"], rows["thought"]
    free = inside & (cursor < 0)
    if thinking.maximum is not None:
        cursor = jnp.where(free & (count >= thinking.maximum), 0, cursor)
    if thinking.extension:
        ends = (token == thinking.end) | (token[:, None] == stop).any(-1)
        early = free & (cursor < 0) & ends & (count < thinking.minimum)
        cursor = jnp.where(early, closing, cursor)
    token = jnp.where(cursor >= 0, forced[cursor], token)
    following = cursor + 1
    cursor = jnp.where((cursor < 0) | (following == closing) | (following == every), -1, following)
    inside = (inside | (token == thinking.start)) & (token != thinking.end)
    # The tokens that open and close the section belong to it
    count = count + ((rows["thinking"] | inside) & rows["active"])
    return token, rows | {"cursor": cursor, "thinking": inside, "thought": count}


def insert(prefix, new, group):
    """Writes one prompt's keys and values to the place of a group, padded to its size."""

    def put(old, value):
        padding = [
            (0, wide - narrow) for wide, narrow in zip(old.shape[1:], value.shape[1:], strict=True)
        ]
        value = jnp.pad(value, [(0, 0), *padding])
        return _write(old, value, group, 0)

    return jax.tree.map(put, prefix, new)


def lengthen(size: int, arrays, write):
    """Caches of `size` slots, the oldest slot first; the next one to write is the old size."""

    def longer(array, axis):
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, size - array.shape[axis])
        return jnp.pad(jnp.roll(array, -write, axis), padding)

    return [(longer(keys, 3), longer(values, 2)) for keys, values in arrays]


class Programs:
    """Compiled programs of one network, each compiled once; how many and how long it took."""

    def __init__(self):
        self._compiled: dict[Any, Any] = {}
        self.seconds: list[float] = []

    @property
    def count(self) -> int:
        return len(self.seconds)

    def __call__(self, key, function, *arguments, **jit_options):
        """Runs `function`, compiled for such arguments; `key` says what else it depends on.

        Arguments are arrays; their shapes, dtypes and places on the devices are told apart.
        """
        shapes = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "sharding", None))
            for leaf in jax.tree.leaves(arguments)
        )
        if (key, shapes) not in self._compiled:
            started = time.perf_counter()
            lowered = jax.jit(function, **jit_options).lower(*arguments)
            self._compiled[key, shapes] = lowered.compile()
            self.seconds.append(time.perf_counter() - started)
        return self._compiled[key, shapes](*arguments)
