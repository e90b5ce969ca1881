"""Reading logs of sampled answers, and grading their texts.

    python -m benchmarks.logs

Megabytes a second of each kind of log on one core (of `.eval` those of its uncompressed samples),
and the seconds that 100,000 texts of 1,000 characters take to grade.
"""

import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax

from benchmarks.headline import device_name
from mechlab.evidence.grading import named
from mechlab.evidence.importers import read

if sys.version_info >= (3, 14):
    import zipfile
else:
    from backports.zstd import zipfile

TEXT = "We compute it step by step. " * 36
ENDS = ("The answer is $18.", "\\boxed{18}", "#### 18", "so it is 18", "Answer: B", "It is (C).")
TEXTS, TRUTHS = 100_000, {"number": "18", "choice": "B"}


def sample(number: int) -> dict[str, Any]:
    """One of an Inspect log."""
    output = dict(
        choices=[dict(message=dict(content=TEXT), stop_reason="stop")],
        usage=dict(output_tokens=200),
    )
    messages = [dict(role="user", content=TEXT), dict(role="assistant", content=TEXT)]
    return dict(
        id=number,
        epoch=1,
        input=TEXT,
        target="18",
        messages=messages,
        output=output,
        scores=dict(match=dict(value="C", answer="18")),
        events=[dict(event="model", output=dict(usage=dict(output_tokens=200)))],
    )


def written(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, int]]:
    """A log of each kind, and its size in bytes."""
    harness = folder / "samples_sums_2026-01-01T00-00-00.jsonl"
    with harness.open("w") as file:
        for i in range(30_000):
            line = dict(
                doc_id=i,
                doc=dict(question=TEXT),
                target="#### 18",
                resps=[[TEXT + "#### 18"]],
                filtered_resps=["18"],
                filter="strict",
                doc_hash=f"h{i}",
                exact_match=1.0,
                num_tokens=[200],
            )
            file.write(json.dumps(line) + "\n")
    published = folder / "Model--temp-0.7--samples-64--max-512.jsonl"
    with published.open("w") as file:
        for i in range(2_000):
            line = dict(
                qid=f"gsm8k-{i}",
                correct=[True] * 64,
                num_tokens=[200] * 64,
                answers=[TEXT] * 64,
                explanations=["boxed='18'; truth='18'"] * 64,
            )
            file.write(json.dumps(line) + "\n")
    head = dict(eval=dict(task="sums", model="m"))
    samples = [sample(i) for i in range(15_000)]
    document = folder / "log.json"
    document.write_text(json.dumps(head | dict(samples=samples)))
    archive, size = folder / "log.eval", 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_ZSTANDARD) as file:
        file.writestr("header.json", json.dumps(head))
        for one in samples:
            text = json.dumps(one)
            size += len(text)
            file.writestr(f"samples/{one['id']}_epoch_1.json", text)
    plain = {"lm-eval": harness, "published": published, "inspect, JSON": document}
    sizes = {name: (path, path.stat().st_size) for name, path in plain.items()}
    return sizes | {"inspect, .eval": (archive, size)}


def main() -> None:
    found: dict[str, Any] = {"device": device_name(jax.local_devices()), "megabytes_per_second": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, size) in written(pathlib.Path(folder)).items():
            began = time.perf_counter()
            rows = sum(batch.num_rows for batch in read([path]))
            found["megabytes_per_second"][name] = size / 1e6 / (time.perf_counter() - began)
            assert rows
    texts = [TEXT + ENDS[i % len(ENDS)] for i in range(TEXTS)]
    for name, truth in TRUTHS.items():
        verifier = named(name)
        began = time.perf_counter()
        for text in texts:
            verifier(text, truth)
        found[f"{name}_seconds"] = time.perf_counter() - began
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
