"""From samples to curves: exact estimators against random permutations in NumPy, and import speed.

    python -m benchmarks.curves > benchmarks/results/VERSION/curves_2_cores.json

Synthetic samples in the shape of the published GSM8K runs. The permutations are what one would
write first, vectorised within a question: 50 of its samples' orders, of which the first n vote.
"""

import json
import pathlib
import resource
import tempfile
import time
import tracemalloc

import numpy as np
import pyarrow as pa

from mechlab.core.devices import cores
from mechlab.evidence import importers, samples
from mechlab.evidence.curves import Questions, best_of, estimate, majority, questions

MODELS, QUESTIONS, SAMPLES, PERMUTATIONS = 12, 1319, 128, 50
POWERS, EVERY = tuple(2**k for k in range(7)), tuple(range(1, 65))


def drawn(model: int, rng: np.random.Generator) -> pa.RecordBatch:
    """One model's samples: hard and easy questions, a long tail of wrong answers, rewards."""
    shape = QUESTIONS, SAMPLES
    ease = rng.beta(1.0 + 0.15 * model, 1.2, QUESTIONS)[:, None]
    right = rng.random(shape) < ease
    answer = np.where(right, 0, rng.zipf(1.5, shape).clip(1, 60))
    known = rng.random(shape) > 0.05
    right &= known
    thinking = rng.lognormal(5.5, 0.6, shape).astype(int)
    texts = np.array([str(x) for x in range(61)], object)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([f"model-{model}"] * right.size).dictionary_encode(),
            pa.array(["GSM8K"] * right.size).dictionary_encode(),
            pa.array(np.repeat(np.arange(QUESTIONS).astype(str), SAMPLES)),
            pa.array(np.tile(np.arange(SAMPLES, dtype=np.int32), QUESTIONS)),
            pa.array(texts[answer.ravel()], mask=~known.ravel()),
            pa.array(right.ravel()),
            pa.array((0.1 * right + rng.normal(0, 0.1, shape)).ravel()),
            pa.array((thinking + 150).ravel(), pa.int32()),
            pa.array(thinking.ravel(), pa.int32()),
            pa.array(["stop"] * right.size),
        ],
        schema=samples.SCHEMA,
    )


def permuted(table: Questions, sizes: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """[len(sizes)] accuracy by voting and by reward, over random orders of each question."""
    rng = np.random.default_rng(seed)
    at = np.array(sizes) - 1
    vote, best = np.zeros(len(sizes)), np.zeros(len(sizes))
    for q in range(len(table.count)):
        n = table.count[q]
        order = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
        label, inverse = np.unique(table.answer[q, :n], return_inverse=True)
        correct, reward = table.correct[q, :n], table.reward[q, :n]
        mine = inverse[order][..., None] == np.arange(len(label))
        counts = np.cumsum(mine, axis=1)[:, at]
        counts = np.where(label < 0, 0, counts)
        winners = (counts == counts.max(axis=2, keepdims=True)) & (counts > 0)
        right = np.array([correct[inverse == k].any() for k in range(len(label))])
        share = (winners * right).sum(axis=2) / np.maximum(winners.sum(axis=2), 1)
        vote += share.mean(axis=0)
        ranked = reward[order]
        top = np.maximum.accumulate(ranked, axis=1)
        place = np.maximum.accumulate(np.where(ranked == top, np.arange(n), 0), axis=1)
        best += np.take_along_axis(correct[order], place, 1)[:, at].mean(axis=0)
    return {"majority": vote / len(table.count), "best_of": best / len(table.count)}


def against_permutations(table: Questions) -> dict:
    began = time.perf_counter()
    exact = {"majority": majority(table, POWERS), "best_of": best_of(table, POWERS)}
    ours = time.perf_counter() - began
    began = time.perf_counter()
    drawn_ = permuted(table, POWERS, 0)
    theirs = time.perf_counter() - began
    error = {name: float(np.abs(drawn_[name] - exact[name].mean(0)).max()) for name in drawn_}
    return {
        "seconds_exact": ours,
        "seconds_permutations": theirs,
        "ratio": theirs / ours,
        "largest_error_of_permutations_points": {k: 100 * v for k, v in error.items()},
    }


def written(folder: pathlib.Path, text: int, lines: int) -> pathlib.Path:
    """A file in the published layout, with answers of so many characters."""
    path = folder / f"model--temp-0.7--samples-128--max-{1024 + text}.jsonl"
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for q in range(lines):
            values = rng.integers(0, 1000, 128)
            record = dict(
                qid=f"gsm8k-{q}",
                answers=["w" * text + str(x) for x in values],
                correct=(values < 500).tolist(),
                explanations=[f"boxed='{x}'; numeric compare: {x}; truth='18'" for x in values],
                num_tokens=rng.integers(50, 500, 128).tolist(),
                rewards=rng.normal(0, 1, 128).round(6).tolist(),
            )
            file.write(json.dumps(record) + "\n")
    return path


def imported(text: int, lines: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = written(pathlib.Path(folder), text, lines)
        size = path.stat().st_size / 1e6
        began = time.perf_counter()
        rows = samples.write(pathlib.Path(folder) / "out.parquet", importers.read([path]))
        seconds = time.perf_counter() - began
        tracemalloc.start()
        for batch in importers.read([path]):
            del batch
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return {
        "characters_an_answer": text,
        "megabytes": size,
        "rows": rows,
        "megabytes_per_second": size / seconds,
        "peak_python_megabytes": peak,
    }


def main() -> None:
    rng = np.random.default_rng(0)
    table = samples.table([drawn(model, rng) for model in range(MODELS)])
    result = {"cores": cores(), "samples": table.num_rows}
    for name, sizes in (("powers_of_two", POWERS), ("every_n", EVERY)):
        began = time.perf_counter()
        found = estimate(
            table,
            ["majority_voting", "best_of_n", "weighted_majority", "pass_at_n", "reasoning_effort"],
            sizes=sizes,
        )
        result[name] = {
            "seconds_compilation_included": time.perf_counter() - began,
            "rows": len(found.table),
        }
    one = questions(table.slice(0, QUESTIONS * SAMPLES))[0]
    result["one_model"] = against_permutations(one)
    result["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result["import"] = [imported(1000, 1000), imported(1000, 4000), imported(0, 10000)]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
