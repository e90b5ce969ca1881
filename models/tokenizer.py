"""Tokenizers with their chat templates: a folder's own, or one built from a GGUF file.

Ids are those that the folder's `tokenizer.json` gives, or that llama.cpp gives for a GGUF file: no
class of a family stands between. Control tokens mean something only where a chat template writes
them; in what a user says they are text.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

# transformers says on import that it found no PyTorch, which nothing here needs
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import jinja2
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechlab.core.errors import InputError
from models.checkpoints import GGUF, CheckpointError, read_json

# The first step of byte-pair encoding splits text into words; each family by a pattern of its own.
# Facts of the published tokenizers, under the names that llama.cpp gives them in
# `tokenizer.ggml.pre`.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)


def _words(*patterns: str) -> list[Any]:
    return [
        *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


_GPT2 = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
_SPLITS: dict[str, list[Any]] = {
    "gpt-2": _GPT2,
    "default": _words(*_DEFAULT),
    "smollm": [pre_tokenizers.Digits(individual_digits=True), *_GPT2],
    "llama-bpe": _words(_LLAMA3),
    "llama3": _words(_LLAMA3),
    "llama-v3": _words(_LLAMA3),
    "qwen2": _words(_QWEN2),
    "deepseek-r1-qwen": _words(_QWEN2),
}
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
"""Text begins with BOS unless the file says otherwise, and a whole word that is a token is one."""
_COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Text is brought to NFC first, as the published tokenizers do and llama.cpp does not."""
# Token types of GGUF
_CONTROL, _USER_DEFINED = 3, 4
ENDS = (
    *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>"),
    *("<end_of_turn>", "<turn|>", "<eos>", "</s>", "<end_of_utterance>", "<｜end▁of▁sentence｜>"),
    *("<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|tool_response>"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""Tokens that end an answer by their name alone, as llama.cpp has it."""


def of_folder(folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a folder's `tokenizer.json`, None where the folder has no tokenizer at all.

    Raises:
        CheckpointError: a tokenizer in another form, or one whose config names tokens it has not.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        for other in ("tokenizer.model", "vocab.json", "merges.txt", "tekken.json"):
            if (folder / other).exists():
                raise CheckpointError(
                    f"{folder} has {other} and no tokenizer.json; write one with"
                    " transformers (AutoTokenizer.from_pretrained(…).save_pretrained(…))"
                )
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no class of its own
        raise CheckpointError(f"{file} is not a tokenizer: {error}") from None
    settings = folder / "tokenizer_config.json"
    fields = read_json(settings) if settings.exists() else {}
    names = {}
    for name in ("bos_token", "eos_token", "pad_token"):
        token = fields.get(name)
        token = token.get("content") if isinstance(token, Mapping) else token
        if token is None:
            continue
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{settings}: {name} {token!r} is not a token of {file.name}")
        names[name] = token
    return _wrapped(tokenizer, _template(folder, fields), names)


def _template(folder: Path, fields: Mapping[str, Any]) -> Any:
    """The chat template: a file of its own comes before the config's entry."""
    alone, old = folder / "chat_template.jinja", folder / "chat_template.json"
    if alone.exists():
        return alone.read_text(encoding="utf-8")
    template = (read_json(old) if old.exists() else fields).get("chat_template")
    if isinstance(template, list):  # several with names
        return {entry["name"]: entry["template"] for entry in template}
    return template


def _wrapped(tokenizer: Tokenizer, template, names: Mapping[str, str]) -> PreTrainedTokenizerFast:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **names,
    )


def of_gguf(checkpoint: GGUF) -> PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file describes, chat template included.

    Raises:
        CheckpointError: not byte-pair encoding, or words split in a way that is not known or not
            said.
    """
    fields = checkpoint.fields
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(
            f"{checkpoint.source}: tokenizer {model!r} is not byte-pair encoding ('gpt2');"
            " use the model in the Hugging Face layout"
        )
    split = fields.get("tokenizer.ggml.pre")
    if split is None:
        raise CheckpointError(
            f"{checkpoint.source} does not say how its tokenizer splits words (no"
            " tokenizer.ggml.pre: an old converter made it); convert the model anew, or use it in"
            " the Hugging Face layout"
        )
    if split not in _SPLITS:
        raise CheckpointError(
            f"{checkpoint.source}: tokenizer.ggml.pre {split!r} is not one of"
            f" {', '.join(_SPLITS)}; use the model in the Hugging Face layout"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, ignore_merges=split in _LLAMA3_NAMES)
    )
    if split in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split])
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, special=special, normalized=False)
                for token, its in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
                if (_CONTROL if token in ENDS else its) == kind
            ]
        )
    names = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        index = fields.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            names[name] = tokens[index]
    begins = fields.get("tokenizer.ggml.add_bos_token", split in _LLAMA3_NAMES)
    if begins and "bos_token" in names:
        bos = names["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    return _wrapped(tokenizer, fields.get("tokenizer.chat_template"), names)


def ends_of_gguf(checkpoint: GGUF) -> tuple[int, ...]:
    """Tokens that end an answer: those that the file names, and those known by their own name."""
    fields = checkpoint.fields
    found = {fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    tokens = fields.get("tokenizer.ggml.tokens", ())
    found |= {index for index, token in enumerate(tokens) if token in ENDS}
    return tuple(sorted(index for index in found if index is not None))


# ------------------------------------------------------------------------------------- from text


def encode(words: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of a text, BOS before it where the tokenizer writes one.

    Raises:
        InputError: characters that the tokenizer has no token for.
    """
    tokenizer = words.backend_tokenizer
    tokenizer.encode_special_tokens = True
    found = tokenizer.encode(text)
    _check_covered(tokenizer, text, found)
    return found.ids


def _check_covered(tokenizer: Tokenizer, text: str, found: tokenizers.Encoding) -> None:
    """InputError that names what of a text became an unknown token, or no token at all."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    lost, covered = set(), bytearray(len(text))
    for token, (start, end) in zip(found.tokens, found.offsets, strict=True):
        covered[start:end] = b"\1" * (end - start)
        if token == unknown and text[start:end] != unknown:
            lost.add(text[start:end])
    # a normalizer may compose two characters of which the offsets then show one
    if tokenizer.normalizer is None and not all(covered):
        parts = zip(text, covered, strict=True)
        lost |= {letter for letter, there in parts if not there and not letter.isspace()}
    if lost:
        said = ", ".join(map(repr, sorted(lost)))
        raise InputError(f"the tokenizer has no token for {said}; write the text without")


# Hieroglyphs: printable, so that no template escapes them, and one that a chat lacks is found
_MARKS = [chr(code) for code in range(0x13000, 0x13400)]


def encode_chat(
    words: PreTrainedTokenizerFast,
    chat: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    *,
    add_generation_prompt: bool = False,
    unfinished: bool = False,
) -> list[int]:
    """Token ids of a chat as its template writes it.

    Names of control tokens inside messages are text: they are broken by a mark while the template
    is at work, and the stretches of text that hold marks are encoded anew without.

    Args:
        arguments: what else the template asks for.
        add_generation_prompt: ready for the next answer.
        unfinished: nothing after the text of the last message, which is still being written.

    Raises:
        InputError: the template refuses the chat; characters that the tokenizer has not.
    """
    written = json.dumps(chat, ensure_ascii=False)
    mark, last = [mark for mark in _MARKS if mark not in written][:2]
    special, control = _control(words)

    def broken(message: Mapping[str, Any]) -> dict[str, Any]:
        # what an assistant has said may hold its thinking section, between tokens of its own
        names = special if message.get("role") == "assistant" else control
        pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        return _each_text(
            message, lambda text: pattern.sub(lambda name: _broken(name[0], mark), text)
        )

    messages = [broken(message) for message in chat]
    if unfinished:
        messages[-1] = _ending(messages[-1], last)
    try:
        text = cast(
            str,
            words.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **arguments
            ),
        )
    except jinja2.TemplateError as error:
        raise InputError(f"the chat template refuses the chat: {error}") from None
    text = text.partition(last)[0]
    tokenizer = words.backend_tokenizer
    tokenizer.encode_special_tokens = False
    found = tokenizer.encode(text, add_special_tokens=False)
    if mark not in text:
        _check_covered(tokenizer, text, found)
        return found.ids
    added, plain = tokenizer.get_added_tokens_decoder(), _plain(words, frozenset(control))
    ids: list[int] = []
    begun = 0
    for index, (start, end) in [
        *zip(found.ids, found.offsets, strict=True),
        (None, (len(text),) * 2),
    ]:
        if index is None or index in added:
            stretch = text[begun:start].replace(mark, "")
            here = plain.encode(stretch, add_special_tokens=False)
            _check_covered(plain, stretch, here)
            ids += here.ids if index is None else [*here.ids, index]
            begun = end
    return ids


def _broken(name: str, mark: str) -> str:
    return name[0] + mark + name[1:]


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            key: part if key == "role" else _each_text(part, change) for key, part in value.items()
        }
    return [_each_text(part, change) for part in value] if isinstance(value, list) else value


def _ending(message: dict[str, Any], mark: str) -> dict[str, Any]:
    """A message with a mark where its text ends."""
    content = message["content"]
    if isinstance(content, list):
        *before, last = content
        return message | {"content": [*before, last | {"text": last["text"] + mark}]}
    return message | {"content": content + mark}


def control_in(words: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Special tokens whose names a text holds."""
    return [name for name in _control(words)[0] if name in text]


def _control(words: PreTrainedTokenizerFast) -> tuple[list[str], list[str]]:
    """Names of special tokens; and with them the others that the chat template writes."""
    template = str(words.chat_template)
    special, written = [], []
    for token in words.backend_tokenizer.get_added_tokens_decoder().values():
        if token.special:
            special.append(token.content)
        elif re.fullmatch(r"<\S+>|\[\S+\]", token.content) and token.content in template:
            written.append(token.content)
    # of two names where one begins the other, the longer
    special.sort(key=len, reverse=True)
    return special, sorted(special + written, key=len, reverse=True)


@functools.lru_cache(maxsize=8)
def _plain(words: PreTrainedTokenizerFast, names: frozenset[str]) -> Tokenizer:
    """The same tokenizer, to which the names of control tokens are text."""
    fields = json.loads(words.backend_tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["special"] |= token["content"] in names
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.encode_special_tokens = True
    return tokenizer
