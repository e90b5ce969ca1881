"""The network: a decoder-only transformer that is Llama 3, Qwen2, Qwen3 or SmolLM2 by its config.

All of them are pre-norm blocks of grouped-query attention with rotary positions and a SiLU-gated
MLP; they differ in biases, in normalised queries and keys, in rescaled rotary frequencies and in
whether the output matrix is the embedding. How a query meets keys is not the network's business:
each layer is handed an `attend` function, so that the full pass, the prefill and a cached step are
one network (`models/generation.py` holds the cache).

Letters in shapes: B sequences, T tokens, D hidden size, H query heads, K key-value heads,
E head size, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and variants of one decoder; `checkpoints.config_of` reads it from a folder."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    rope_factors: tuple[float, ...] | None = None
    """Divisors of the rotary frequencies, one a pair of dimensions (`llama3_factors`)."""
    norm_epsilon: float = 1e-6
    tied: bool = True
    """The output matrix is the embedding."""
    qkv_bias: bool = False
    """Qwen2: queries, keys and values have a bias."""
    qk_norm: bool = False
    """Qwen3: queries and keys are normalised, head by head."""
    labels: int = 0
    """0: a language model. 1: a reward model, one scalar at the last token of a sequence. As
    many as the vocabulary: a process reward model, at each token how right the next would be."""

    @property
    def frequencies(self) -> np.ndarray:
        """Rotary angles per position, float32 [E / 2]."""
        exponents = np.arange(0, self.head_size, 2, dtype=np.float32) / np.float32(self.head_size)
        frequencies = 1.0 / np.power(np.float32(self.rope_theta), exponents)
        if self.rope_factors is not None:
            frequencies = frequencies / np.asarray(self.rope_factors, np.float32)
        return frequencies.astype(np.float32)

    @property
    def parameters(self) -> int:
        """How many numbers the network holds."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.kv_heads)
        bias = self.head_size * (self.heads + 2 * self.kv_heads) * self.qkv_bias
        norms = 2 * self.hidden + 2 * self.head_size * self.qk_norm
        layer = attention + bias + norms + 3 * self.hidden * self.intermediate
        head = self.hidden * (self.labels or self.vocabulary * (not self.tied))
        return self.vocabulary * self.hidden + self.layers * layer + self.hidden + head


def llama3_factors(
    head_size: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> tuple[float, ...]:
    """Divisors of the rotary frequencies in Llama 3.1 and 3.2 (rope type `llama3`), [E / 2].

    Wavelengths beyond the original context / `low_freq_factor` are stretched by `factor`, those
    below context / `high_freq_factor` kept, and between them the frequency is interpolated.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_size, 2) / head_size)
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0.0, 1.0)
    return tuple((1.0 / (kept + (1.0 - kept) / factor)).tolist())


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotary positions: dimension i turns with dimension i + E / 2.

    Shapes: x [..., T, heads, E], angles [..., T, E / 2].
    """
    cosine, sine = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
    return turned.astype(x.dtype)


BLOCK = 256
"""Queries that attend together: what they need for it grows with the length, not its square."""


def attend_blocks(
    q: jax.Array, k: jax.Array, v: jax.Array, sequences: jax.Array | None = None
) -> jax.Array:
    """Each token attends to itself and those before it, of its own sequence where several lie.

    Args:
        q: [B, T, H, E]; k and v [B, T, K, E].
        sequences: integers [B, T], which sequence a token is of; one a row when left out.

    Returns:
        [B, T, H, E].
    """
    length = q.shape[1]
    size = min(BLOCK, length)
    blocks = -(-length // size)
    q = jnp.pad(q, ((0, 0), (0, blocks * size - length), (0, 0), (0, 0)))

    def block(start):
        queries = jax.lax.dynamic_slice_in_dim(q, start, size, 1)
        places = start + jnp.arange(size)
        seen = (places[:, None] >= jnp.arange(length))[None]
        if sequences is not None:
            # padded queries look at what the last token looks at, and are cut off
            own = jnp.take(sequences, jnp.minimum(places, length - 1), axis=1)
            seen = seen & (own[:, :, None] == sequences[:, None])
        return jax.nn.dot_product_attention(queries, k, v, mask=seen[:, None])

    if blocks == 1:
        return block(0)
    found = jax.lax.map(block, size * jnp.arange(blocks))
    return jnp.moveaxis(found, 0, 1).reshape(q.shape)[:, :length]


def product(x: jax.Array, kernel: jax.Array, dimensions, **options) -> jax.Array:
    """`jax.lax.dot_general` of rows [..., D] and a kernel [D, F], of one row in two halves.

    XLA's product of one row and a matrix runs on one core of a CPU, and two in a batch on two: a
    step of one sample takes an eighth less time.
    """
    size = x.shape[-1]
    if x.size != size or size % 2:
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    halves, parts = x.reshape(1, 2, -1), kernel.reshape(2, size // 2, -1)
    found = jax.lax.dot_general(halves, parts, (((2,), (1,)), ((1,), (0,))), **options)
    return found.sum(0).reshape(*x.shape[:-1], -1)


class Attention(nnx.Module):
    def __init__(self, config: Config, linear, norm, rngs: nnx.Rngs):
        self.head_size = config.head_size
        query, key = config.heads * config.head_size, config.kv_heads * config.head_size
        bias = config.qkv_bias
        self.q = linear(config.hidden, query, use_bias=bias, rngs=rngs)
        self.k = linear(config.hidden, key, use_bias=bias, rngs=rngs)
        self.v = linear(config.hidden, key, use_bias=bias, rngs=rngs)
        self.o = linear(query, config.hidden, rngs=rngs)
        self.q_norm = norm(config.head_size, rngs=rngs) if config.qk_norm else None
        self.k_norm = norm(config.head_size, rngs=rngs) if config.qk_norm else None

    def __call__(self, x: jax.Array, angles: jax.Array, attend: Attend) -> jax.Array:
        heads = (*x.shape[:-1], -1, self.head_size)
        q, k, v = (layer(x).reshape(heads) for layer in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        attended = attend(rotate(q, angles), rotate(k, angles), v)
        return self.o(attended.reshape(*x.shape[:-1], -1))


class MLP(nnx.Module):
    def __init__(self, config: Config, linear, rngs: nnx.Rngs):
        self.gate = linear(config.hidden, config.intermediate, rngs=rngs)
        self.up = linear(config.hidden, config.intermediate, rngs=rngs)
        self.down = linear(config.intermediate, config.hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    def __init__(self, config: Config, linear, norm, rngs: nnx.Rngs):
        self.attention_norm = norm(config.hidden, rngs=rngs)
        self.attention = Attention(config, linear, norm, rngs)
        self.mlp_norm = norm(config.hidden, rngs=rngs)
        self.mlp = MLP(config, linear, rngs)

    def __call__(self, x: jax.Array, angles: jax.Array, attend: Attend) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), angles, attend)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nnx.Module):
    """Token ids to hidden states, and hidden states to logits or to a reward."""

    def __init__(self, config: Config, *, dtype=jnp.float32, rngs: nnx.Rngs):
        initial = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")

        def linear(inputs, outputs, use_bias=False, *, rngs):
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=use_bias,
                dtype=dtype,
                param_dtype=dtype,
                kernel_init=initial,
                dot_general=product,
                rngs=rngs,
            )

        def norm(size, *, rngs):
            return nnx.RMSNorm(
                size, epsilon=config.norm_epsilon, dtype=dtype, param_dtype=dtype, rngs=rngs
            )

        self.config = config
        self.embed = nnx.Embed(
            config.vocabulary,
            config.hidden,
            dtype=dtype,
            param_dtype=dtype,
            embedding_init=nnx.initializers.normal(0.1),
            rngs=rngs,
        )
        self.layers = nnx.List([Block(config, linear, norm, rngs) for _ in range(config.layers)])
        self.norm = norm(config.hidden, rngs=rngs)
        head = config.labels or (None if config.tied else config.vocabulary)
        self.head = linear(config.hidden, head, rngs=rngs) if head else None

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, attends: list[Attend] | None = None
    ) -> jax.Array:
        """Hidden states after the last norm, [..., T, D].

        Args:
            tokens: ids [..., T].
            positions: of the tokens in their sequence, [..., T] or anything that broadcasts.
            attends: one function a layer from q [..., T, H, E] and k, v [..., T, K, E] to
                [..., T, H, E]; `attend_blocks` when left out.
        """
        angles = positions[..., None].astype(jnp.float32) * self.config.frequencies
        x = self.embed(tokens)
        for layer, attend in zip(
            self.layers, attends or [attend_blocks] * len(self.layers), strict=True
        ):
            x = layer(x, angles, attend)
        return self.norm(x)

    def output(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V] of the next token, or the rewards [..., labels]."""
        head = self.embed.attend(hidden) if self.head is None else self.head(hidden)
        return head.astype(jnp.float32)
