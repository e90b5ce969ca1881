"""Rewards for finished samples, by any reward model that the decoder is.

    python -m models.score RUN… --model SPEC

RUN is a folder that `models.sample` filled; its `samples.parquet` receives the column `reward`,
which best-of-n and weighted voting need, and `judged_tokens`, what the judge read for it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from rich.console import Console

from mechlab.cli.app import run
from mechlab.core.errors import InputError
from mechlab.evidence import samples as sample_table
from models.language_model import LM, load


def score(lm: LM, folder: Path, *, tokens: int = 8192) -> int:
    """Writes a reward for each sample of a finished run; returns how many.

    Raises:
        InputError: the run is not finished, or `lm` is no reward model.
    """
    table = folder / "samples.parquet"
    if not table.exists():
        raise InputError(f"{folder} holds no samples.parquet; finish the run first (models.sample)")
    samples = sample_table.read(table)
    prompts = {line["id"]: line["prompt"] for line in _lines(folder / "questions.jsonl")}
    answers = {
        (line["question_id"], line["sample"]): line for line in _lines(folder / "samples.jsonl")
    }
    if any("judged_tokens" in answer for answer in answers.values()):
        raise InputError(
            f"{folder}: its samples were found by a search, and have the rewards and the tokens of"
            " its judge; score a run without [search]"
        )
    keys = zip(samples["question_id"].to_pylist(), samples["sample"].to_pylist(), strict=True)
    try:
        sequences = [tuple(_read(lm, prompts[key[0]], answers[key])) for key in keys]
    except KeyError as error:
        raise InputError(f"{folder}: samples.jsonl lacks {error}; sample anew") from None
    # many samples of a question say the same: each text is scored once
    place = {sequence: row for row, sequence in enumerate(dict.fromkeys(sequences))}
    rewards = lm.rewards(list(place), tokens=tokens)[[place[sequence] for sequence in sequences]]
    said = {
        "reward": pa.array(rewards.tolist(), pa.float64()),
        "judged_tokens": pa.array(list(map(len, sequences)), pa.int32()),
    }
    for name, values in said.items():
        samples = samples.set_column(samples.schema.get_field_index(name), name, values)
    sample_table.write(table, samples.to_batches())
    return len(sequences)


def _lines(path: Path):
    if not path.exists():
        raise InputError(f"{path} is not there; sample anew")
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            return [json.loads(line) for line in file if line.endswith("\n")]
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); run models.sample again") from None


def _read(lm: LM, prompt, answer) -> list[int]:
    return sequence(lm, prompt, answer["text"], ended=answer["finish_reason"] == "stop")


def sequence(lm: LM, prompt, text: str, *, ended: bool) -> list[int]:
    """Question and answer as the model has seen such: with its end where the answer ended."""
    if not isinstance(prompt, str):
        chat = [*prompt, {"role": "assistant", "content": text}]
        return lm.encode_chat(chat, unfinished=not ended)
    return [*lm.encode(prompt + text), *(lm.stop[:1] if ended else ())]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", show_default=False)],
    model: Annotated[str, typer.Option(help="Reward model: hf:ORG/NAME, or a folder.")],
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens scored together; more take more memory.")
    ] = 8192,
) -> None:
    """Score the samples of finished runs."""
    lm = load(model)
    console = Console(stderr=True)
    for folder in runs:
        with console.status(f"scoring {folder}"):
            count = score(lm, folder, tokens=tokens)
        print(f"{folder / 'samples.parquet'}: {count} rewards")


if __name__ == "__main__":
    sys.exit(run(app, "models.score"))
