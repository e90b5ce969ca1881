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

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechlab.core.errors import InputError
from models.checkpoints import GGUF
from models.config_file import CheckpointError, read_json

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
    _add_tokens(tokenizer, settings, fields.get("added_tokens_decoder"))
    names, others = _special(folder, fields)
    for name, token in (*names.items(), *(("extra_special_tokens", token) for token in others)):
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{settings}: {name} {token!r} is not a token of {file.name}")
    added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_special_tokens([token for token in others if token not in added])
    for name in names.values():  # a token with such a name is special, whatever its entry says
        named = added.get(name, AddedToken(name, normalized=False))
        named.special = True
        tokenizer.add_tokens([named])
    return _wrapped(tokenizer, _template(folder, fields), names)


def _add_tokens(tokenizer: Tokenizer, settings: Path, entries: Any) -> None:
    """Adds the tokens that stand in `added_tokens_decoder` alone, or stand otherwise there."""
    try:
        wanted = {int(index): AddedToken(**entry) for index, entry in (entries or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise CheckpointError(
            f"{settings}: added_tokens_decoder must hold a token for each id"
        ) from None
    known = tokenizer.get_added_tokens_decoder()
    for index, token in sorted(wanted.items()):
        if index not in known or repr(known[index]) != repr(token):
            tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != index:
            raise CheckpointError(
                f"{settings}: added_tokens_decoder gives {token.content!r} the id {index}, which"
                f" tokenizer.json does not (there it is {tokenizer.token_to_id(token.content)})"
            )


_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def _special(folder: Path, fields: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Special tokens with the names that templates use, and those without names.

    As in transformers, `special_tokens_map.json` goes before `tokenizer_config.json`, and is left
    aside where the latter has `added_tokens_decoder`.
    """
    settings, older = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    sources = [(settings, fields)]
    if older.exists() and "added_tokens_decoder" not in fields:
        sources.append((older, read_json(older)))
    names: dict[str, str] = {}
    others: list[str] = []
    for file, entries in sources:
        extra: dict[str, Any] = {}
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = entries.get(name) or []
            if isinstance(listed, Mapping):
                extra |= listed
            elif isinstance(listed, list):
                others += [_content(file, name, token) for token in listed]
            else:
                raise CheckpointError(
                    f"{file}: {name} is {listed!r}; it must be a list or an object"
                )
        own = {
            name: token
            for name, token in entries.items()
            if name in _NAMED or (name.endswith("_token") and isinstance(token, str | Mapping))
        }
        for name, token in (own | extra).items():
            if token is not None:
                names[name] = _content(file, name, token)
    return names, list(dict.fromkeys(others))


def _content(file: Path, name: str, token: Any) -> str:
    content = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(content, str):
        raise CheckpointError(f"{file}: {name} is {token!r}; it must be a token's text")
    return content


def _template(folder: Path, fields: Mapping[str, Any]) -> Any:
    """The chat template: a file of its own comes before the config's entry."""
    alone, old = folder / "chat_template.jinja", folder / "chat_template.json"
    if alone.exists():
        return alone.read_text(encoding="utf-8")
    file = folder / "tokenizer_config.json"
    template = fields.get("chat_template")
    if old.exists() and (its := read_json(old).get("chat_template")) is not None:
        file, template = old, its
    if isinstance(template, list):  # several with names
        try:
            template = {entry["name"]: entry["template"] for entry in template}
        except (KeyError, TypeError):
            raise CheckpointError(f"{file}: chat_template holds no names and templates") from None
    texts = template.values() if isinstance(template, dict) else [template]
    if template is not None and not all(isinstance(text, str) for text in texts):
        raise CheckpointError(f"{file}: chat_template is {template!r}; it must be a text")
    return template


def _wrapped(tokenizer: Tokenizer, template, names: Mapping[str, str]) -> PreTrainedTokenizerFast:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in names.items() if name in _NAMED},
        extra_special_tokens={name: token for name, token in names.items() if name not in _NAMED},
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
    _check_covered(tokenizer, text)
    return tokenizer.encode(text).ids


def _check_covered(whole: Tokenizer, text: str) -> None:
    """InputError that names what of a text becomes an unknown token, or no token at all."""
    tokenizer, normalizer, unknown = _bare(whole)
    tokenizer.encode_special_tokens = whole.encode_special_tokens
    # offsets into a text that a normalizer composes or drops from would not show what is lost
    text = text if normalizer is None else normalizer.normalize_str(text)
    found = tokenizer.encode(text, add_special_tokens=False)
    lost, covered = set(), bytearray(len(text))
    for token, (start, end) in zip(found.ids, found.offsets, strict=True):
        covered[start:end] = b"\1" * (end - start)
        if unknown is not None and token == unknown[0] and text[start:end] != unknown[1]:
            lost.add(text[start:end])
    gaps = {letter for letter, there in zip(text, covered, strict=True) if not there}
    if any(not letter.isspace() for letter in gaps):
        lost |= _outside(tokenizer, text) or gaps
    if lost:
        said = ", ".join(map(repr, sorted(lost)))
        raise InputError(f"the tokenizer has no token for {said}; write the text without")


def _outside(tokenizer: Tokenizer, text: str) -> set[str]:
    """Letters of a text that are no tokens; where byte-pair encoding drops one, its offsets name
    others."""
    for token in tokenizer.get_added_tokens_decoder().values():
        text = text.replace(token.content, " ")
    split = tokenizer.pre_tokenizer
    pieces = [(text, None)] if split is None else split.pre_tokenize_str(text)
    letters = {letter for piece, _ in pieces for letter in piece if letter in text}
    return {x for x in letters if tokenizer.token_to_id(x) is None and not x.isspace()}


@functools.lru_cache(maxsize=8)
def _bare(whole: Tokenizer) -> tuple[Tokenizer, Any, tuple[int, str] | None]:
    """The tokenizer without its normalizer, the normalizer, and the unknown token's id and name."""
    fields = json.loads(whole.to_str())
    fields["normalizer"] = None
    model = fields["model"]
    unknown = model.get("unk_token")  # by its name, but of Unigram by its place
    place = whole.token_to_id(unknown) if unknown is not None else model.get("unk_id")
    if place is None:
        return Tokenizer.from_str(json.dumps(fields)), whole.normalizer, None
    name = unknown if unknown is not None else model["vocab"][place][0]
    return Tokenizer.from_str(json.dumps(fields)), whole.normalizer, (place, name)


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
    except Exception as error:  # a template is a program: it may fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the chat template refuses the chat: {reason}") from None
    text = text.partition(last)[0]
    tokenizer = words.backend_tokenizer
    tokenizer.encode_special_tokens = False
    found = tokenizer.encode(text, add_special_tokens=False)
    if mark not in text:
        _check_covered(tokenizer, text)
        return found.ids
    added = tokenizer.get_added_tokens_decoder()
    ids: list[int] = []
    begun = 0
    for index, (start, end) in [
        *zip(found.ids, found.offsets, strict=True),
        (None, (len(text),) * 2),
    ]:
        if index is None or index in added:
            stretch = text[begun:start].replace(mark, "")
            plain = _plain(words, frozenset(control), begins=begun == 0)
            _check_covered(plain, stretch)
            here = plain.encode(stretch, add_special_tokens=False)
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


@functools.lru_cache(maxsize=16)
def _plain(words: PreTrainedTokenizerFast, names: frozenset[str], *, begins: bool) -> Tokenizer:
    """The same tokenizer, to which the names of control tokens are text.

    Args:
        begins: the text begins with what it is given; where not, it puts no space before it that
            only the beginning has.
    """
    fields = json.loads(words.backend_tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["special"] |= token["content"] in names
    if not begins:
        split = fields["pre_tokenizer"] or {}
        for part in split.get("pretokenizers", [split]):
            if part.get("prepend_scheme") == "first":
                part["prepend_scheme"] = "never"
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.encode_special_tokens = True
    return tokenizer
