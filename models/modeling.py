"""The network: a decoder-only transformer that is Llama 3, Mistral, Qwen2, Qwen3 (a mixture of
experts too), Gemma 3 or SmolLM2 by its config.

All of them are blocks of grouped-query attention with rotary positions and a gated MLP, normalised
before each; they differ in biases, in normalised queries and keys, in rescaled rotary frequencies,
in windows of attention, in experts and in whether the output matrix is the embedding. How a query
meets keys is not the network's business: each layer is handed an `attend` function, so that the
full pass, the prefill and a cached step are one network (`models/generation.py` holds the cache).

Letters in shapes: B sequences, T tokens, D hidden size, H query heads, K key-value heads,
E head size, V vocabulary.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and variants of one decoder; `config_file.config_of` reads it from a folder."""

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
    rope_scale: float = 1.0
    """Of rotated queries and keys (`yarn_factors`)."""
    windows: tuple[int | None, ...] | None = None
    """How many tokens a layer attends to, itself included; None: all. One a layer, or all None."""
    local_rope_theta: float | None = None
    """Gemma 3: the rotary base of layers that have a window."""
    local_rope_factors: tuple[float, ...] | None = None
    """Gemma 3: divisors of the rotary frequencies of those layers."""
    gelu: bool = False
    """Gemma 3: the gate is GELU (by tanh), not SiLU."""
    post_norms: bool = False
    """Gemma 3: attention and MLP are normalised after as well."""
    norms_less_one: bool = False
    """Gemma 3: a checkpoint holds the weights of norms less 1."""
    embedding_scale: float = 1.0
    """Gemma 3: of embedded tokens, not of the output matrix."""
    query_scale: float | None = None
    """Of queries; E^-0.5 when left out."""
    experts: int = 0
    """Mixture of experts: how many MLPs a layer has; 0: one that all tokens pass."""
    experts_per_token: int = 0
    normalize_experts: bool = True
    """The weights of a token's experts sum to 1."""
    labels: int = 0
    """0: a language model. 1: a reward model, one scalar at the last token of a sequence. As
    many as the vocabulary: a process reward model, at each token how right the next would be."""

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows is not None else None

    @property
    def frequencies(self) -> np.ndarray:
        """Rotary angles per position, float32 [E / 2]."""
        return self._frequencies(self.rope_theta, self.rope_factors)

    @property
    def local_frequencies(self) -> np.ndarray:
        """Those of layers that have a window."""
        if self.local_rope_theta is None:
            return self.frequencies
        return self._frequencies(self.local_rope_theta, self.local_rope_factors)

    def _frequencies(self, theta: float, factors: tuple[float, ...] | None) -> np.ndarray:
        exponents = np.arange(0, self.head_size, 2, dtype=np.float32) / np.float32(self.head_size)
        frequencies = 1.0 / np.power(np.float32(theta), exponents)
        if factors is not None:
            frequencies = frequencies / np.asarray(factors, np.float32)
        return frequencies.astype(np.float32)

    @property
    def parameters(self) -> int:
        """How many numbers the network holds."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.kv_heads)
        bias = self.head_size * (self.heads + 2 * self.kv_heads) * self.qkv_bias
        norms = (2 + 2 * self.post_norms) * self.hidden + 2 * self.head_size * self.qk_norm
        mlp = 3 * self.hidden * self.intermediate * (self.experts or 1)
        layer = attention + bias + norms + mlp + self.hidden * self.experts
        head = self.hidden * (self.labels or self.vocabulary * (not self.tied))
        return self.vocabulary * self.hidden + self.layers * layer + self.hidden + head


def llama3_factors(
    head_size: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: float,
) -> tuple[float, ...]:
    """Divisors of the rotary frequencies in Llama 3.1 and 3.2 (rope type `llama3`), [E / 2].

    Wavelengths beyond the original context / `low_freq_factor` are stretched by `factor`, those
    below context / `high_freq_factor` kept, and between them the frequency is interpolated.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_size, 2) / head_size)
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0.0, 1.0)
    return tuple((1.0 / (kept + (1.0 - kept) / factor)).tolist())


def yarn_factors(
    head_size: int,
    theta: float,
    factor: float,
    original_max_position_embeddings: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, ...]:
    """Divisors of the rotary frequencies of YaRN (Peng et al., 2023), [E / 2].

    Dimensions that turn more than `beta_fast` times within the original context are kept, those
    that turn less than `beta_slow` times are stretched by `factor`, and between them the frequency
    is interpolated along the dimensions.
    """

    def dimension(turns: float) -> float:
        length = original_max_position_embeddings / (turns * 2 * math.pi)
        return head_size * math.log(length) / (2 * math.log(theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    ramp = (np.arange(head_size // 2) - low) / (high - low or 1e-3)
    kept = 1.0 - np.clip(ramp, 0.0, 1.0)
    return tuple((1.0 / (kept + (1.0 - kept) / factor)).tolist())


def rotate(x: jax.Array, angles: jax.Array, scale: float = 1.0) -> jax.Array:
    """Rotary positions: dimension i turns with dimension i + E / 2.

    Shapes: x [..., T, heads, E], angles [..., T, E / 2].
    """
    cosine, sine = scale * jnp.cos(angles)[..., None, :], scale * jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
    return turned.astype(x.dtype)


BLOCK = 256
"""Queries that attend together: what they need for it grows with the length, not its square."""


def attend_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sequences: jax.Array | None = None,
    *,
    window: int | None = None,
) -> jax.Array:
    """Each token attends to itself and those before it, of its own sequence where several lie.

    Args:
        q: [B, T, H, E]; k and v [B, T, K, E].
        sequences: integers [B, T], which sequence a token is of; one a row when left out.
        window: how many tokens each attends to, itself included; all when left out.

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
        age = places[:, None] - jnp.arange(length)
        seen = ((age >= 0) if window is None else (age >= 0) & (age < window))[None]
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
    step of one sample takes a twelfth less time.
    """
    size = x.shape[-1]
    if x.size != size or size % 2:
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    halves, parts = x.reshape(1, 2, -1), kernel.reshape(2, size // 2, -1)
    found = jax.lax.dot_general(halves, parts, (((2,), (1,)), ((1,), (0,))), **options)
    return found.sum(0).reshape(*x.shape[:-1], -1)


class Int8Linear(nnx.Module):
    """A linear layer of int8 weights, with a scale an output (`params.int8` makes them)."""

    def __init__(self, inputs: int, outputs: int, use_bias: bool, dtype):
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), jnp.int8))
        self.scale = nnx.Param(jnp.ones(outputs, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        contract = (((x.ndim - 1,), (0,)), ((), ()))
        found = product(x, self.kernel.get_value().astype(x.dtype), contract)
        found = (found * self.scale.get_value()).astype(x.dtype)
        return found if self.bias is None else found + self.bias.get_value()


class Int8Embed(nnx.Module):
    """An embedding of int8 weights, with a scale a token."""

    def __init__(self, tokens: int, hidden: int, dtype):
        self.dtype = dtype
        self.embedding = nnx.Param(jnp.zeros((tokens, hidden), jnp.int8))
        self.scale = nnx.Param(jnp.ones(tokens, jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        rows = self.embedding.get_value()[tokens] * self.scale.get_value()[tokens][..., None]
        return rows.astype(self.dtype)

    def attend(self, hidden: jax.Array) -> jax.Array:
        found = jnp.dot(hidden, self.embedding.get_value().astype(hidden.dtype).T)
        return found * self.scale.get_value()


class Attention(nnx.Module):
    def __init__(self, config: Config, linear, norm, rngs: nnx.Rngs):
        self.head_size, self.rope_scale = config.head_size, config.rope_scale
        # the functions that attend scale by the head size
        self.scale = (config.query_scale or config.head_size**-0.5) * config.head_size**0.5
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
        q, k = (rotate(x, angles, self.rope_scale) for x in (q, k))
        attended = attend(q if self.scale == 1.0 else q * self.scale, k, v)
        return self.o(attended.reshape(*x.shape[:-1], -1))


class MLP(nnx.Module):
    def __init__(self, config: Config, linear, rngs: nnx.Rngs):
        self.activation = _activation(config)
        self.gate = linear(config.hidden, config.intermediate, rngs=rngs)
        self.up = linear(config.hidden, config.intermediate, rngs=rngs)
        self.down = linear(config.intermediate, config.hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def _activation(config: Config) -> Callable[[jax.Array], jax.Array]:
    return functools.partial(nnx.gelu, approximate=True) if config.gelu else nnx.silu


class Experts(nnx.Module):
    """Many MLPs, of which each token passes the few that a router likes best for it.

    Tokens are sorted by their experts, and each expert multiplies its own.
    """

    def __init__(self, config: Config, linear, dtype, int8: bool, rngs: nnx.Rngs):
        self.activation, self.chosen = _activation(config), config.experts_per_token
        self.normalize = config.normalize_experts
        self.router = linear(config.hidden, config.experts, exact=True, rngs=rngs)
        inner = (config.experts, config.hidden, config.intermediate)
        outer = (config.experts, config.intermediate, config.hidden)
        initial = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        self.gate, self.up, self.down = (
            nnx.Param(jnp.zeros(shape, jnp.int8) if int8 else initial(rngs.params(), shape, dtype))
            for shape in (inner, inner, outer)
        )
        self.gate_scale, self.up_scale, self.down_scale = (
            nnx.Param(jnp.ones((config.experts, shape[2]), jnp.float32)) if int8 else None
            for shape in (inner, inner, outer)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        chances = jax.nn.softmax(self.router(rows).astype(jnp.float32))
        weights, experts = jax.lax.top_k(chances, self.chosen)  # [N, chosen]
        if self.normalize:
            weights = weights / weights.sum(-1, keepdims=True)
        order = jnp.argsort(experts.reshape(-1), stable=True)
        sizes = jnp.bincount(experts.reshape(-1), length=self.gate.shape[0])
        token = order // self.chosen
        sorted_rows = rows[token]

        expert = experts.reshape(-1)[order]

        def product(rows, kernel, scale):
            weights = kernel.get_value().astype(rows.dtype)
            found = jax.lax.ragged_dot(rows, weights, sizes.astype(jnp.int32))
            return found if scale is None else (found * scale.get_value()[expert]).astype(x.dtype)

        inner = self.activation(product(sorted_rows, self.gate, self.gate_scale))
        inner = inner * product(sorted_rows, self.up, self.up_scale)
        found = product(inner, self.down, self.down_scale) * weights.reshape(-1)[
            order, None
        ].astype(x.dtype)
        return jnp.zeros_like(rows).at[token].add(found).reshape(x.shape)


class Block(nnx.Module):
    def __init__(self, config: Config, linear, norm, dtype, int8: bool, rngs: nnx.Rngs):
        self.attention_norm = norm(config.hidden, rngs=rngs)
        self.attention = Attention(config, linear, norm, rngs)
        self.mlp_norm = norm(config.hidden, rngs=rngs)
        self.mlp = (
            Experts(config, linear, dtype, int8, rngs)
            if config.experts
            else MLP(config, linear, rngs)
        )
        after = config.post_norms
        self.after_attention = norm(config.hidden, rngs=rngs) if after else None
        self.after_mlp = norm(config.hidden, rngs=rngs) if after else None

    def __call__(self, x: jax.Array, angles: jax.Array, attend: Attend) -> jax.Array:
        attended = self.attention(self.attention_norm(x), angles, attend)
        x = x + (attended if self.after_attention is None else self.after_attention(attended))
        passed = self.mlp(self.mlp_norm(x))
        return x + (passed if self.after_mlp is None else self.after_mlp(passed))


class Decoder(nnx.Module):
    """Token ids to hidden states, and hidden states to logits or to a reward."""

    def __init__(self, config: Config, *, dtype=jnp.float32, int8: bool = False, rngs: nnx.Rngs):
        """`int8` makes room for weights of eight bits; norms, biases, routers and heads of labels
        stay in `dtype`, and so do all products."""
        initial = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")

        def linear(inputs, outputs, use_bias=False, *, exact=False, rngs):
            if int8 and not exact:
                return Int8Linear(inputs, outputs, use_bias, dtype)
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
        if int8:
            self.embed: nnx.Embed | Int8Embed = Int8Embed(config.vocabulary, config.hidden, dtype)
        else:
            self.embed = nnx.Embed(
                config.vocabulary,
                config.hidden,
                dtype=dtype,
                param_dtype=dtype,
                embedding_init=nnx.initializers.normal(0.1),
                rngs=rngs,
            )
        self.layers = nnx.List(
            [Block(config, linear, norm, dtype, int8, rngs) for _ in range(config.layers)]
        )
        self.norm = norm(config.hidden, rngs=rngs)
        head = config.labels or (None if config.tied else config.vocabulary)
        exact = bool(config.labels)
        self.head = linear(config.hidden, head, exact=exact, rngs=rngs) if head else None

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
        config, places = self.config, positions[..., None].astype(jnp.float32)
        angles = {True: places * config.local_frequencies, False: places * config.frequencies}
        x = self.embed(tokens)
        if config.embedding_scale != 1.0:
            x = x * jnp.asarray(config.embedding_scale, x.dtype)
        for number, layer in enumerate(self.layers):
            window = config.window(number)
            attend = attends[number] if attends else functools.partial(attend_blocks, window=window)
            x = layer(x, angles[window is not None], attend)
        return self.norm(x)

    def output(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V] of the next token, or the rewards [..., labels]."""
        head = self.embed.attend(hidden) if self.head is None else self.head(hidden)
        return head.astype(jnp.float32)
