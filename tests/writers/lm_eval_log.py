"""Writes tests/data/writers/stand-in/samples_sums_….jsonl with the LM Evaluation Harness.

A stand-in model answers two sums three times each (`repeats`), read by two filters: the first
answer, and the majority of three. Run in an environment of its own, which needs `lm-eval`.
"""

import json
import pathlib
import sys

import lm_eval
from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

SAID = {
    "6 + 3": ["The answer is 9.", "The answer is 8.", "The answer is 9."],
    "9 * 2": ["The answer is 17.", "The answer is 18.", "The answer is 18."],
}


class StandIn(LM):
    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, int] = {}

    def generate_until(self, requests, disable_tqdm=False):
        said = []
        for request in requests:
            question = request.args[0]
            number = self.asked.get(question, 0)
            self.asked[question] = number + 1
            said.append(SAID[question][number % 3])
        return said

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


def main(out: pathlib.Path) -> None:
    for old in (out / "stand-in").glob("*.jsonl"):  # the harness appends
        old.unlink()
    data = out / "sums.json"
    rows = [{"question": "6 + 3", "answer": "9"}, {"question": "9 * 2", "answer": "18"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    number = {"function": "regex", "regex_pattern": r"(-?\d+)", "group_select": -1}
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": True},
        "repeats": 3,
        "metric_list": [{"metric": "exact_match"}],
        "filter_list": [
            {"name": "score-first", "filter": [number, {"function": "take_first"}]},
            {
                "name": "maj@3",
                "filter": [number, {"function": "majority_vote"}, {"function": "take_first"}],
            },
        ],
    }
    tracker = EvaluationTracker(output_path=str(out))
    found = lm_eval.simple_evaluate(
        StandIn(),
        tasks=[task],
        task_manager=TaskManager(),
        evaluation_tracker=tracker,
        log_samples=True,
        bootstrap_iters=0,
    )
    tracker.general_config_tracker.model_name_sanitized = "stand-in"
    tracker.date_id = "2026-01-01T00-00-00.000000"
    tracker.save_results_samples(task_name="sums", samples=found["samples"]["sums"])
    data.unlink()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
