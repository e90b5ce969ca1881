"""What is compiled for sampling: the prefill of prompts, and blocks of cached steps.

Shapes are those of `models/generation.py`, which says why they are as they are: S rows in Q groups
of R, prefixes of P tokens, caches of C slots.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mechlab.core.errors import InputError, checked_whole
from models.modeling import attend_blocks
from models.sampling import draw, greedy, gumbels, logprob

STEPS = 32
"""Most steps in one call; it ends sooner where rows wait for new prompts."""


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
    stop_strings: tuple[str, ...] = ()
    """Strings that end an answer; they are no part of its text."""
    thinking: Thinking | None = None

    def __post_init__(self):
        checked_whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        checked_whole("seed", self.seed, 0, 2**32 - 1)
        if self.top_k is not None:
            checked_whole("top_k", self.top_k, 1, 2**31 - 1)
        warm = 1e-3 <= self.temperature <= 1e3
        for name, good, remedy in (
            ("temperature", warm or self.temperature == 0, "0 (greedy), or in [0.001, 1000]"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1], or None"),
            ("stop_strings", all(self.stop_strings), "texts that are not empty"),
        ):
            if not good:
                raise InputError(f"{name} must be {remedy}, not {getattr(self, name)}")


_write = jax.lax.dynamic_update_slice_in_dim


# ---------------------------------------------------------------------------------------- prefill


def prefill(graph, parameters, tokens: jax.Array, prompts: jax.Array, positions: jax.Array):
    """Keys [1, K, E, T] and values [1, K, T, E], layer by layer, of prompts one after the other.

    Args:
        tokens: int32 [T].
        prompts: int32 [T], which prompt a token is of; tokens attend within their own.
        positions: int32 [T], of a token in its prompt.
    """
    network, kept = nnx.merge(graph, parameters), []
    config = network.config

    def attend(layer, q, k, v):
        kept.append((k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
        return attend_blocks(q, k, v, prompts[None], window=config.window(layer))

    attends = [functools.partial(attend, layer) for layer in range(config.layers)]
    network(tokens[None], positions[None], attends)
    return kept


def insert(prefix, new, start, group):
    """Writes a prompt's keys and values, which begin at `start`, to the place of a group."""

    def put(old, value, axis):
        # what follows the prompt is not looked at, so that it may as well be another's
        padding = [(0, old.shape[axis] if axis == place else 0) for place in range(old.ndim)]
        value = jnp.pad(value, padding)
        value = jax.lax.dynamic_slice_in_dim(value, start, old.shape[axis], axis)
        return _write(old, value, group, 0)

    return [
        (put(old[0], value[0], 3), put(old[1], value[1], 2))
        for old, value in zip(prefix, new, strict=True)
    ]


def lengthen(size: int, keys, values, write):
    """A layer's cache with `size` slots, the oldest first; the next to write is the old size."""

    def longer(array, axis):
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, size - array.shape[axis])
        return jnp.pad(jnp.roll(array, -write, axis), padding)

    return longer(keys, 3), longer(values, 2)


# ----------------------------------------------------------------------------------------- decode


def attend_cached(
    q, k, v, *, prefix, cache, prefix_lengths, lengths, slot, window=None, own_attention=None
):
    """One token a row attends to its group's prefix, to its own past and to itself.

    Shapes: q [S, 1, H, E]; k, v [S, 1, K, E]; prefix keys [Q, K, E, P] and values [Q, K, P, E];
    cache keys [S, K, E, C] and values [S, K, C, E]; prefix_lengths [Q]; lengths [S], how many of
    its own tokens a row has in the cache already; slot is a scalar. With a window a row attends to
    so many tokens, itself included. `own_attention` is `models.triton.attend_own`, or array code
    where it is None.

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
    if own_attention is None:
        own = dot("skre,skec->skrc", q, keys)
        age = (slot - jnp.arange(slots)) % slots
        seen = age <= lengths[:, None]
        seen = seen if window is None else seen & (age < window)
        own = jnp.where(seen[:, None, None], own, -jnp.inf)
        highest_own = own.max(-1, keepdims=True)
    else:
        out, highest_own, total = own_attention(q, keys, values, lengths, slot, window=window)

    # the queries of a group's rows are the rows of one matrix, and read the prefix once
    merged = q.reshape(groups, rows // groups, kv_heads, -1, size).transpose(0, 2, 1, 3, 4)
    parts = merged.shape[:-1]
    shared = dot("gkme,gkep->gkmp", merged.reshape(groups, kv_heads, -1, size), prefix[0])
    places = jnp.arange(longest)
    inside = (places < prefix_lengths[:, None])[:, None, None]
    if window is not None:
        age = prefix_lengths[:, None] + lengths.reshape(groups, -1)
        near = (age[:, :, None] - places < window)[:, None, :, None]  # [Q, 1, R, 1, P]
        near = jnp.broadcast_to(near, (*parts, longest)).reshape(shared.shape)
        inside = inside & near
    shared = jnp.where(inside, shared, -jnp.inf)

    def by_row(array):
        return array.reshape(*parts, -1).transpose(0, 2, 1, 3, 4).reshape(rows, *q.shape[1:3], -1)

    def by_group(array):
        array = array.reshape(groups, rows // groups, *q.shape[1:3], -1).transpose(0, 2, 1, 3, 4)
        return array.reshape(*shared.shape[:3], -1)

    highest = jnp.maximum(highest_own, by_row(shared.max(-1, keepdims=True)))
    shared = jnp.exp(shared - by_group(highest))
    if own_attention is None:
        own = jnp.exp(own - highest)
        total = own.sum(-1, keepdims=True)
        out = dot("skrc,skce->skre", own.astype(q.dtype), values)
    else:
        fade = jnp.exp(highest_own - highest)
        out, total = out * fade, total * fade
    total += by_row(shared.sum(-1, keepdims=True))
    out += by_row(dot("gkmp,gkpe->gkme", shared.astype(q.dtype), prefix[1]))
    return (out / total).astype(q.dtype).reshape(rows, 1, -1, size), (keys, values)


def step_logits(network, prefix, cache, prefix_lengths, rows, slot, own_attention=None):
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
                prefix_lengths=prefix_lengths,
                lengths=rows["length"],
                slot=slot,
                window=network.config.window(layer),
                own_attention=own_attention,
            )
            written.append(new)
            return out

        return attended

    before = jnp.repeat(prefix_lengths, len(rows["length"]) // len(prefix_lengths))
    hidden = network(
        rows["token"][:, None],
        (before + rows["length"])[:, None],
        [attend(layer) for layer in range(network.config.layers)],
    )
    return network.output(hidden[:, 0]), written


def idle_rows(rows: int, groups: int, thinking: bool) -> dict[str, np.ndarray]:
    """The state of rows before any work; see `decode`."""
    state = {
        "token": np.zeros(rows, np.int32),
        "length": np.zeros(rows, np.int32),
        "active": np.zeros(rows, bool),
        "sample": np.zeros(rows, np.uint32),
        "taken": np.zeros(groups, np.int32),
    }
    if thinking:
        state |= {
            "thinking": np.zeros(rows, bool),
            "thought": np.zeros(rows, np.int32),
            "cursor": np.full(rows, -1, np.int32),
        }
    return state


def begin(rows, groups):
    """Gives idle rows the next samples of their group's queue."""
    count, width = groups["queue"].shape

    def each(values):
        return jnp.repeat(values, len(rows["token"]) // count)

    idle = ~rows["active"].reshape(count, -1)
    place = rows["taken"][:, None] + jnp.cumsum(idle, 1, dtype=jnp.int32) - 1
    starts = idle & (place < groups["filled"][:, None])
    taken = rows["taken"] + starts.sum(1, dtype=jnp.int32)
    sample = jnp.take_along_axis(groups["queue"], place % width, 1).reshape(-1)
    starts = starts.reshape(-1)
    fresh = {"token": each(groups["first"]), "length": 0, "active": True, "sample": sample}
    if "thinking" in rows:
        fresh |= {"thinking": each(groups["thinking"]), "thought": 0, "cursor": -1}
    begun = {name: jnp.where(starts, value, rows[name]) for name, value in fresh.items()}
    return begun | {"taken": taken}


def waiting(rows, groups, control):
    """How many rows are idle that the host could give work."""
    idle = ~rows["active"].reshape(len(groups["filled"]), -1)
    free = idle.all(1) & control["prompts"]
    return (idle & (free | groups["more"])[:, None]).sum()


def decode(
    graph,
    options: Options,
    slots: int,
    own_attention,
    parameters,
    prefix,
    cache,
    rows,
    groups,
    control,
):
    """Up to `STEPS` steps of every row, fewer where `room` rows wait for work from the host.

    Args:
        own_attention, prefix, cache: see `attend_cached`; keys and values are a pair a layer.
        rows: the state of rows (`idle_rows`), `taken` of the groups' queues: it stays on the
            devices, as a row that ends begins the next sample by itself.
        groups: `prefix_lengths`, `first` (the token that each sample feeds first), `question` (its
            name to the random numbers), `limit` (most tokens of a sample) and, of models that
            think, `thinking` (whether the prompt ends inside a section), all [Q]; `queue` [Q, W] of
            samples, a ring of which `filled` [Q] were ever given; `more` [Q], whether the host has
            others.
        control: `ended` [S], rows that the host has ended; scalars `write` (the slot of the first
            step), `room`, `prompts` (whether the host has others), `temperature` and `seed`.

    Returns:
        The caches, the rows, what was written and the number of steps. Written [S, STEPS] are
        `token`, its `logprob` under the model at temperature 1, its `sample` (-1 where the row was
        idle), whether it `ended` that and how many tokens of it `thought`.
    """
    network = nnx.merge(graph, parameters)
    stop = jnp.asarray(options.stop, jnp.int32)
    size = len(control["ended"]) // len(groups["filled"])
    question, limit = (jnp.repeat(groups[name], size) for name in ("question", "limit"))
    rows = begin(rows | {"active": rows["active"] & ~control["ended"]}, groups)

    def going(carry):
        step, _, rows, _ = carry
        free = (step == 0) | (waiting(rows, groups, control) < control["room"])
        return (step < STEPS) & rows["active"].any() & free

    def advance(carry):
        step, cache, rows, written = carry
        slot = (control["write"] + step) % slots
        logits, cache = step_logits(
            network, prefix, cache, groups["prefix_lengths"], rows, slot, own_attention
        )
        if options.temperature == 0:
            token = greedy(logits)
        else:
            streams = jnp.stack([question, rows["sample"]], axis=1)
            token = draw(
                logits,
                gumbels(control["seed"], streams, rows["length"]),
                temperature=control["temperature"],
                top_k=options.top_k,
                top_p=options.top_p,
            )
        active = rows["active"]
        if options.thinking is not None:
            token, rows = _budget(options.thinking, stop, token, rows)
        length = rows["length"] + active
        ended = active & ((token[:, None] == stop).any(-1) | (length >= limit))
        record = {
            "token": token,
            "logprob": logprob(logits, token),
            "sample": jnp.where(active, rows["sample"].astype(jnp.int32), -1),
            "ended": ended,
        }
        if options.thinking is not None:
            record["thought"] = rows["thought"]
        written = {
            name: _write(written[name], value[:, None], step, 1) for name, value in record.items()
        }
        after = {"token": jnp.where(active, token, rows["token"]), "length": length}
        rows = begin(rows | after | {"active": active & ~ended}, groups)
        return step + 1, cache, rows, written

    kinds: dict[str, Any] = {
        "token": jnp.int32,
        "logprob": jnp.float32,
        "sample": jnp.int32,
        "ended": bool,
    }
    if options.thinking is not None:
        kinds["thought"] = jnp.int32
    written = {name: jnp.zeros((len(question), STEPS), kind) for name, kind in kinds.items()}
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

        Arguments are arrays; their shapes, dtypes and places on many devices are told apart.
        """

        def place(leaf):
            sharding = getattr(leaf, "sharding", None)
            return sharding if sharding is not None and sharding.num_devices > 1 else None

        leaves = jax.tree.leaves(arguments)
        shapes = tuple((leaf.shape, leaf.dtype, place(leaf)) for leaf in leaves)
        if (key, shapes) not in self._compiled:
            started = time.perf_counter()
            # float32 stays float32: some devices would multiply in fewer bits
            with jax.default_matmul_precision("highest"):
                lowered = jax.jit(function, **jit_options).lower(*arguments)
            self._compiled[key, shapes] = lowered.compile()
            self.seconds.append(time.perf_counter() - started)
        return self._compiled[key, shapes](*arguments)
