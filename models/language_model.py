"""A language model ready for use: network, numbers and tokenizer in one object."""

import dataclasses
import functools
import importlib.util
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from mechlab.core.errors import InputError, checked_whole
from models import checkpoints, params, tokenizer
from models.config_file import CheckpointError, read_json
from models.decoding import Options, Programs, Thinking
from models.generation import Generation, Sample, bucket
from models.modeling import BLOCK, Config

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text, token ids, or the messages of a chat ({"role": ..., "content": ...})."""


@dataclasses.dataclass
class LM:
    """A decoder with its parameters; made by `load`, or from any `Config` and parameters.

    Attributes:
        config: sizes and variants.
        graph, parameters: the two halves of the Flax NNX module (`nnx.merge` joins them).
        tokenizer: a Hugging Face fast tokenizer, or None: then prompts are token ids and the text
            of a sample is empty.
        stop: tokens that end an answer.
        mesh: the devices that the parameters are spread over, None for one.
        template: arguments of the chat template, such as `enable_thinking` or `date_string`.
        attention: "triton" for the kernel of `models.triton`, None for array code.
        files: that the parameters were read from.
        programs: what was compiled so far; models that `load` finds equal in all but their numbers
            share it.
    """

    config: Config
    graph: nnx.GraphDef
    parameters: nnx.State
    tokenizer: Any = None
    stop: tuple[int, ...] = ()
    mesh: Mesh | None = None
    name: str = "model"
    template: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attention: str | None = None
    files: tuple[Path, ...] = ()
    programs: Programs = dataclasses.field(default_factory=Programs, repr=False)

    @property
    def dtype(self):
        """Of what is computed, and of parameters but those held as int8."""
        leaves = dict(nnx.to_flat_state(self.parameters))
        return leaves["norm", "scale"].get_value().dtype

    # ---------------------------------------------------------------------------------- text

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a chat goes through the model's template, ready for its answer.

        Names of control tokens in a text or a message are text.

        Raises:
            InputError: no tokenizer or template for it; characters that the tokenizer has not.
        """
        if not isinstance(prompt, str) and not (len(prompt) and isinstance(prompt[0], Mapping)):
            return _whole_tokens("token ids", cast(Sequence[int], prompt))
        if self.tokenizer is None:
            raise InputError(f"{self.name} has no tokenizer: give token ids")
        if isinstance(prompt, str):
            return tokenizer.encode(self.tokenizer, prompt)
        return self.encode_chat(
            cast(Sequence[Mapping[str, Any]], prompt), add_generation_prompt=True
        )

    def encode_chat(self, chat: Sequence[Mapping[str, Any]], **how: bool) -> list[int]:
        """Token ids of a chat as the model's template writes it; see `models.tokenizer`."""
        if self.tokenizer is None or self.tokenizer.chat_template is None:
            raise InputError(f"{self.name} has no chat template: give plain text")
        return tokenizer.encode_chat(self.tokenizer, chat, self.template, **how)

    def decode(self, ids: Sequence[int]) -> str:
        if self.tokenizer is None:
            return ""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    # ------------------------------------------------------------------------------- numbers

    def logits(self, token_ids) -> jax.Array:
        """float32 [B, T, V]: after each token, the logits of the next one.

        Args:
            token_ids: integers [B, T].
        """
        if self.config.labels:
            raise InputError(f"{self.name} is a reward model: it has rewards, not logits")
        tokens = self._checked(token_ids)
        return self.programs(
            "logits", functools.partial(_logits, self.graph), self.parameters, tokens
        )

    def rewards(self, sequences: Sequence[Sequence[int]], *, tokens: int = 8192) -> np.ndarray:
        """The reward model's scalar for each sequence of token ids, float32 [len(sequences)].

        Of a process reward model (a label a token) it is the sum over tokens of the logarithm of
        the chance that the token is right, those of the question included: only sequences that
        answer the same question compare.

        Args:
            sequences: token ids, each at least one.
            tokens: read together, padding included; more take more memory.
        """
        if not self.config.labels:
            raise InputError(f"{self.name} has no classification head: it is no reward model")
        checked_whole("tokens", tokens, 1, 2**31)
        widths: dict[int, list[int]] = {}
        for index, sequence in enumerate(sequences):
            if not len(sequence):
                raise InputError(f"sequence {index} is empty")
            width = max(len(sequence), min(bucket(len(sequence)), self.config.max_positions))
            widths.setdefault(width, []).append(index)
        scores = np.zeros(len(sequences), np.float32)
        for width, members in widths.items():
            rows = min(max(1, tokens // width), 1 << (len(members) - 1).bit_length())
            for first in range(0, len(members), rows):
                few = members[first : first + rows]
                ids, last = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
                for row, index in enumerate(few):
                    whole = _whole_tokens(f"sequence {index}", sequences[index])
                    ids[row, : len(whole)] = whole
                    last[row] = len(sequences[index]) - 1
                function = functools.partial(_rewards, self.graph)
                values = self.programs(
                    "rewards", function, self.parameters, self._checked(ids), last
                )
                scores[few] = np.asarray(values)[: len(few)]
        return scores

    def _checked(self, token_ids) -> np.ndarray:
        try:
            tokens = np.asarray(token_ids)
        except ValueError:
            raise InputError("token ids must have the shape [B, T], all rows of a length") from None
        if tokens.ndim != 2 or not tokens.size:
            raise InputError(f"token ids must have the shape [B, T], not {list(tokens.shape)}")
        if tokens.dtype.kind not in "iu":
            raise InputError(f"token ids must be whole numbers, not {tokens.dtype}")
        if tokens.min() < 0 or tokens.max() >= self.config.vocabulary:
            raise InputError(f"token ids must lie in 0..{self.config.vocabulary - 1}")
        if tokens.shape[1] > self.config.max_positions:
            raise InputError(f"{tokens.shape[1]} tokens, the model has {self.config.max_positions}")
        return tokens.astype(np.int32)

    # ------------------------------------------------------------------------------- samples

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        max_tokens: int = 256,
        seed: int = 0,
        *,
        batch: int = 64,
        stop: Iterable[int] | None = None,
        stop_strings: Iterable[str] = (),
        max_thinking_tokens: int | None = None,
        min_thinking_tokens: int = 0,
    ) -> list[list[Sample]]:
        """n samples of each prompt; the same for the same seed, whatever `batch` is.

        Args:
            prompts: a list of texts, token ids or chats.
            n: samples a prompt; they share the prompt's keys and values.
            temperature: 0 is greedy.
            top_k, top_p: see `models.sampling.draw`.
            max_tokens: of one sample.
            seed: together with a prompt's place in the list and a sample's number it names the
                random numbers.
            batch: rows decoded together; more use the machine better and take more memory.
            stop: tokens that end a sample; the model's own when left out.
            stop_strings: strings that end a sample, and are no part of its text; its tokens go to
                the one that completes the string. The name of a special token is that token.
            max_thinking_tokens: the thinking section is closed when it reaches them.
            min_thinking_tokens: the section is extended ("Wait") until it has them.

        Returns:
            [len(prompts)][n] samples.

        Raises:
            InputError: an option out of range; a prompt that is empty or too long; a thinking
                budget for a model that has no thinking section.
        """
        if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], Mapping)):
            raise InputError("prompts must be a list; put a single text or chat in brackets")
        options = self.options(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            stop_strings=stop_strings,
            max_thinking_tokens=max_thinking_tokens,
            min_thinking_tokens=min_thinking_tokens,
        )
        checked_whole("n", n, 1, 2**31 - 1)
        checked_whole("batch", batch, 1, 2**20)
        results: list[list[Any]] = [[None] * n for _ in prompts]
        generation = Generation(
            self,
            [self.encode(prompt) for prompt in prompts],
            [range(n)] * len(prompts),
            range(len(prompts)),
            options,
            batch=batch,
        )
        for question, number, sample in generation:
            results[question][number] = sample
        return results

    def options(
        self,
        *,
        stop: Iterable[int] | None = None,
        stop_strings: Iterable[str] = (),
        max_thinking_tokens: int | None = None,
        min_thinking_tokens: int = 0,
        **drawing,
    ) -> Options:
        """`Options` for this model: its stop tokens and its thinking section filled in."""
        if isinstance(stop_strings, str):
            raise InputError(f"stop_strings = {stop_strings!r}; give a list of strings")
        strings = tuple(stop_strings)
        if any(not isinstance(string, str) or not string for string in strings):
            raise InputError(f"stop_strings must be texts that are not empty, not {strings!r}")
        if strings and self.tokenizer is None:
            raise InputError(f"{self.name} has no tokenizer: stop_strings need one")
        if stop is None:
            ends = self.stop
        else:
            ends = tuple(_whole_tokens("stop", stop))
            if ends and not 0 <= min(ends) <= max(ends) < self.config.vocabulary:
                raise InputError(f"stop = {ends!r}; give tokens in 0..{self.config.vocabulary - 1}")
        ends = (*ends, *(token for token in self._named(strings) if token not in ends))
        for name, value in (("max", max_thinking_tokens), ("min", min_thinking_tokens)):
            if value is not None:
                checked_whole(f"{name}_thinking_tokens", value, 0, 2**31 - 1)
        thinking = self._thinking(max_thinking_tokens, min_thinking_tokens)
        return Options(stop=ends, stop_strings=strings, thinking=thinking, **drawing)

    def _named(self, strings: Sequence[str]) -> list[int]:
        """Special tokens that stop strings name: they have no text in which to find their names."""
        vocabulary = self.tokenizer.get_vocab() if strings else {}
        ids = []
        for string in strings:
            for name, token in vocabulary.items():
                if not name or name not in string or self.decode([token]):
                    continue
                if name != string:
                    raise InputError(
                        f"stop_strings: {string!r} holds {name!r}, a special token, which has no"
                        " text; give the name alone"
                    )
                ids.append(token)
        return ids

    def _thinking(self, maximum: int | None, minimum: int) -> Thinking | None:
        vocabulary = {} if self.tokenizer is None else self.tokenizer.get_vocab()
        start, end = vocabulary.get("<think>"), vocabulary.get("</think>")
        if start is None or end is None:
            if maximum is not None or minimum:
                raise InputError(
                    f"{self.name} has no <think> and </think> tokens: leave the thinking budget out"
                )
            return None

        def ids(text):
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))

        closing = ids("\n</think>\n\n") if maximum is not None else ()
        extension = ids("\nWait") if minimum else ()
        return Thinking(start, end, minimum, maximum, closing, extension)


def _whole_tokens(name: str, tokens: Iterable[Any]) -> list[int]:
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        raise InputError(f"{name} = {tokens!r}; give token ids, which are whole numbers") from None


def _logits(graph, parameters, tokens):
    network = nnx.merge(graph, parameters)
    return network.output(network(tokens, jnp.arange(tokens.shape[1])))


def _rewards(graph, parameters, tokens, last):
    network = nnx.merge(graph, parameters)
    hidden = network(tokens, jnp.arange(tokens.shape[1]))
    if network.config.labels == 1:
        return network.output(jnp.take_along_axis(hidden, last[:, None, None], 1))[:, 0, 0]
    # block by block, for scores of all tokens are far larger than anything before them
    length = tokens.shape[1]
    size = min(BLOCK, length)
    spare = ((0, 0), (0, -length % size))
    following = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1 + spare[1][1])))
    there = jnp.pad(jnp.arange(1, length + 1) <= last[:, None], spare)
    hidden = jnp.pad(hidden, (*spare, (0, 0)))

    def block(start):
        def part(array):
            return jax.lax.dynamic_slice_in_dim(array, start, size, 1)

        chances = log_chances(network.output(part(hidden)), part(following))
        return jnp.sum(chances, axis=1, where=part(there))

    return jax.lax.map(block, size * jnp.arange(hidden.shape[1] // size)).sum(0)


def log_chances(scores: jax.Array, tokens: jax.Array) -> jax.Array:
    """[...] log of the chance that tokens [...] are right, by scores [..., V] of a process model.

    The token with the highest score is right for certain, others less by their distance to it.
    """
    chosen = jnp.take_along_axis(scores, tokens[..., None], -1)[..., 0]
    return chosen - jnp.max(scores, axis=-1)


_RESERVED = {"conversation", "messages", "tokenize", "add_generation_prompt", "chat_template"}
"""Arguments of a chat template that are not the user's."""


def load(
    spec: str | os.PathLike,
    *,
    dtype: Any = None,
    weights: str | None = None,
    mesh: Mesh | None = None,
    revision: str | None = None,
    template: Mapping[str, Any] | None = None,
    attention: str | None = None,
) -> LM:
    """A language or reward model from a checkpoint.

    Args:
        spec: `hf:ORG/NAME` (from the Hugging Face Hub, or its cache when that holds it), a folder
            in the Hub's layout, `gguf:PATH`, or `package:NAME` for the GGUF file that an installed
            Python package carries (the package itself is not imported).
        dtype: of parameters and computation: float32 on the CPU and bfloat16 elsewhere when left
            out.
        weights: "int8" holds the weights of matrices in eight bits, with a scale an output, and
            computes in `dtype`; other numbers then (`benchmarks/README.md`), in less memory.
        mesh: axes `data` and `tensor` (`jax.make_mesh((2, 2), ("data", "tensor"))`): parameters are
            spread over `tensor`, the rows of a batch over `data`.
        revision: of a model on the Hub.
        template: arguments of the chat template: `{"enable_thinking": False}` (Qwen3), or
            `{"date_string": "26 Jul 2024"}` where it would write today's date (Llama 3.2).
        attention: "triton" attends to a row's own tokens by a kernel for NVIDIA GPUs
            (`models.triton`), which has been compiled and never run on one; array code when left
            out.

    Raises:
        CheckpointError: the checkpoint is not there, is not whole, does not match its config, or is
            of an architecture that the decoder is not.
    """
    dtype = _dtype(dtype)
    if weights not in (None, "int8"):
        raise InputError(f"weights: 'int8', or left out to be as `dtype` says; not {weights!r}")
    if attention not in (None, "triton"):
        raise InputError(f"attention: 'triton', or left out; not {attention!r}")
    if attention and jax.default_backend() != "gpu":
        raise InputError(
            f"attention: 'triton' needs an NVIDIA GPU; JAX runs on {jax.default_backend()} here,"
            " where it is left out"
        )
    if mesh is not None and set(mesh.axis_names) != {"data", "tensor"}:
        raise InputError(f"the mesh needs the axes 'data' and 'tensor', not {mesh.axis_names}")
    if mesh is not None:
        # The compiler chooses how what lies between the parameters is spread
        mesh = Mesh(mesh.devices, mesh.axis_names)
    if template and _RESERVED & template.keys():
        raise InputError(f"template: {min(_RESERVED & template.keys())} is set by the model itself")
    text = os.fspath(spec)
    if text.startswith(("gguf:", "package:")):
        kind, _, rest = text.partition(":")
        path = Path(rest) if kind == "gguf" else file_of_package(rest)
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file")
        file = checkpoints.GGUF(path)
        checkpoint: checkpoints.Checkpoint = file
        words: PreTrainedTokenizerFast | None = tokenizer.of_gguf(file)
        config = file.config
        stop, files = tokenizer.ends_of_gguf(file), [path]
        name = path.stem
    else:
        folder = _from_hub(text.removeprefix("hf:"), revision) if text.startswith("hf:") else text
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is not a folder; a model on the Hub is named hf:ORG/NAME, a GGUF file"
                " gguf:PATH"
            )
        words, tensors = tokenizer.of_folder(folder), checkpoints.Safetensors(folder)
        checkpoint, config, stop = tensors, tensors.config, _stop(folder, words)
        files = checkpoints.tensor_files(folder)
        name = text.removeprefix("hf:").rstrip("/").split("/")[-1]
    graph, parameters = params.load_parameters(
        config, checkpoint, dtype=dtype, quantized=weights == "int8", mesh=mesh
    )
    return LM(
        config,
        graph,
        parameters,
        words,
        stop,
        mesh,
        name,
        template or {},
        attention,
        tuple(files),
        _programs(graph, mesh, attention),
    )


def _dtype(asked: Any) -> Any:
    backend = jax.default_backend()
    if asked is None:
        return jnp.dtype(jnp.float32 if backend == "cpu" else jnp.bfloat16)
    # XLA's products of float16 do not run on a CPU
    known = ("float32", "bfloat16", *(("float16",) if backend != "cpu" else ()))
    try:
        dtype = jnp.dtype(asked)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in known:
        name = asked if dtype is None else dtype.name
        raise InputError(f"dtype: {name!r}; use {' or '.join(known)} on {backend}")
    return dtype


@functools.lru_cache(maxsize=32)
def _programs(graph: nnx.GraphDef, mesh: Mesh | None, attention: str | None) -> Programs:
    """One cache for all models with equal networks: a checkpoint loaded again compiles nothing."""
    return Programs()


def _stop(folder: Path, words) -> tuple[int, ...]:
    tokens: set[int | None] = set()
    for file in ("generation_config.json", "config.json"):
        if (folder / file).exists():
            eos = read_json(folder / file).get("eos_token_id")
            some = eos if isinstance(eos, list) else [] if eos is None else [eos]
            if not all(isinstance(token, int) and not isinstance(token, bool) for token in some):
                raise CheckpointError(f"{folder / file}: eos_token_id is {eos!r}; it must be ids")
            tokens |= set(some)
    if words is not None:
        tokens.add(words.eos_token_id)
    return tuple(sorted(token for token in tokens if token is not None))


def file_of_package(name: str) -> Path:
    """The one GGUF file that an installed Python package carries."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    folders = found.submodule_search_locations if found is not None else None
    if not folders:
        raise CheckpointError(f"the Python package {name} is not installed")
    files = sorted(Path(folders[0]).glob("*.gguf"))
    if len(files) != 1:
        raise CheckpointError(f"the Python package {name} carries {len(files)} GGUF files, not one")
    return files[0]


def _from_hub(name: str, revision) -> str:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = {
        "revision": revision,
        "allow_patterns": ["*.json", "*.safetensors", "*.jinja", "*.model"],
    }
    try:
        cached = huggingface_hub.snapshot_download(name, local_files_only=True, **wanted)
        files = checkpoints.tensor_files(Path(cached))
        if files and all(file.exists() for file in [*files, Path(cached) / "config.json"]):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise CheckpointError(f"hf:{name} is not the name of a model: {error}") from None
    try:
        return huggingface_hub.snapshot_download(name, **wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"hf:{name} is not whole in the cache and could not be fetched: {reason}"
        ) from None
