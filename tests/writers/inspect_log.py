"""Writes tests/data/writers/inspect_*.eval with Inspect AI and its mock model (`make writers`).

Three questions, two epochs, two scorers (a format check first), reasoning tokens, an agent's two
generations, a sample with an error and one that ran into a limit. Run in an environment of its own,
which needs the package `inspect-ai`.
"""

import pathlib
import sys
import tempfile
import zipfile

import zipfile_zstd  # noqa: F401 — teaches zipfile method 93
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, match, scorer
from inspect_ai.solver import generate, solver

TOKENS = {"6 + 3": (11, 4), "9 * 2": (13, 5), "2 ** 5": (17, 6), "stop": (7, 2), "fail": (3, 1)}
TEXTS = {"6 + 3": "ANSWER: 9", "9 * 2": "ANSWER: 18", "2 ** 5": "ANSWER: 33", "stop": "ANSWER: 1"}


@scorer(metrics=[accuracy()])
def format_ok():
    async def score(state, target):
        right = "ANSWER:" in state.output.completion
        return Score(value=CORRECT if right else INCORRECT, answer=state.output.completion)

    return score


@solver
def twice():
    """Generates again, as an agent does after its tool."""

    async def solve(state, generate):
        if state.input_text == "fail":
            raise RuntimeError("the tool is broken")
        return await generate(await generate(state))

    return solve


def answered(messages, tools, tool_choice, config):
    asked = messages[0].text
    output, thought = TOKENS[asked]
    made = ModelOutput.from_content("mockllm/model", TEXTS[asked])
    made.usage = ModelUsage(
        input_tokens=20, output_tokens=output, total_tokens=20 + output, reasoning_tokens=thought
    )
    return made


def main(out: pathlib.Path) -> None:
    questions = [("6 + 3", "9"), ("9 * 2", "18"), ("2 ** 5", "32"), ("fail", "0")]
    agent = Task(
        name="agent",
        dataset=[Sample(input=q, target=t, id=q) for q, t in questions],
        solver=twice(),
        scorer=[format_ok(), match()],
        epochs=2,
        fail_on_error=False,
    )
    limited = Task(
        name="limited",
        dataset=[Sample(input="stop", target="1", id="stop")],
        solver=generate(),
        scorer=match(),
        token_limit=5,
    )
    for task in (agent, limited):
        with tempfile.TemporaryDirectory() as folder:
            model = get_model("mockllm/model", custom_outputs=answered)
            eval(task, model=model, log_dir=folder, display="none", log_format="eval")
            (log,) = pathlib.Path(folder).glob("*.eval")
            without_paths(log, out / f"inspect_{task.name}.eval", folder)


def without_paths(log: pathlib.Path, out: pathlib.Path, folder: str) -> None:
    """The archive as it was written, but for this machine's folders in it."""
    here = str(pathlib.Path(__file__).parent)
    with zipfile.ZipFile(log) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            text = old.read(entry).decode()
            for path in (folder, here, sys.prefix, sys.base_prefix, str(pathlib.Path.home())):
                text = text.replace(path, "…")
            new.writestr(entry.filename, text, entry.compress_type)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
