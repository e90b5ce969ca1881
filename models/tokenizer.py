"""Tokenizers with their chat templates: a folder's own, or one built from a GGUF file."""

import os
from pathlib import Path
from typing import Any, cast

# transformers says on import that it found no PyTorch, which nothing here needs
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.checkpoints import GGUF, CheckpointError

# The first step of byte-pair encoding splits text into words; each family by a pattern of its own.
# Facts of the published tokenizers, under the names that llama.cpp gives them in
# `tokenizer.ggml.pre`.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _words(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


_GPT2 = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
_SPLITS: dict[str, list[Any]] = {
    "gpt-2": _GPT2,
    "default": _GPT2,
    "smollm": [pre_tokenizers.Digits(individual_digits=True), *_GPT2],
    "llama-bpe": _words(_LLAMA3),
    "llama3": _words(_LLAMA3),
    "qwen2": _words(_QWEN2),
    "deepseek-r1-qwen": _words(_QWEN2),
}
# Token types of GGUF
_CONTROL, _USER_DEFINED = 3, 4


def of_folder(folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a folder in the Hugging Face layout, None where it has none."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    return cast(
        PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    )


def of_gguf(checkpoint: GGUF) -> PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file describes, chat template included.

    Raises:
        CheckpointError: not byte-pair encoding, or words split in a way that is not known.
    """
    fields = checkpoint.fields
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(
            f"{checkpoint.source}: tokenizer {model!r} is not byte-pair encoding ('gpt2');"
            " use the model in the Hugging Face layout"
        )
    split = fields.get("tokenizer.ggml.pre", "default")
    if split not in _SPLITS:
        raise CheckpointError(
            f"{checkpoint.source}: tokenizer.ggml.pre {split!r} is not one of"
            f" {', '.join(_SPLITS)}; use the model in the Hugging Face layout"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, ignore_merges=split in ("llama-bpe", "llama3"))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split])
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, special=special, normalized=False)
                for token, its in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
                if its == kind
            ]
        )
    names = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        index = fields.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            names[name] = tokens[index]
    if fields.get("tokenizer.ggml.add_bos_token", False) and "bos_token" in names:
        bos = names["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, vocabulary[bos])],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **names,
    )
