"""Verifiers read what people would, evaluate nothing, and take no longer than they may."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechlab import InputError, cli
from mechlab.evidence import samples
from mechlab.evidence.grading import Choice, FinalNumber, canonical, named
from mechlab.evidence.grading.symbolic import SymbolicMath


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{18}", "18"), ("it is 1,000.0 dollars", "1000"), ("\\boxed{1{,}000}", "1000"),
        ("$\\boxed{\\frac{3}{4}}$", "3/4"), ("that makes 1 1/2 cups", "3/2"),
        ("\\boxed{2\\frac{1}{2}}", "5/2"), ("first 3, then\n#### 1,234", "1234"),
        ("costs $5.50.", "11/2"), ("50\\%", "50"), ("-3", "-3"), ("5 - 3 = 2", "2"),
        ("the range 3-5", "5"), ("3 + -4 = -1", "-1"), ("1.5e3", "1500"), ("1 000 000", "1000000"),
        ("2 \\times 10^{3}", "2000"), ("\\boxed{x = 18 \\text{ dollars}}", "18"),
        ("in 2024 there were 18", "18"), ("no idea", None), ("1/0", None), ("1, 2, 3", "3"),
        ("\\boxed{3} no, \\boxed{4}", "4"), ("", None), ("€ 7,50", "50"),
    ],
)  # fmt: skip
def test_the_final_number(text, answer):
    assert FinalNumber().find(text) == answer
    if answer is not None:
        assert FinalNumber()(text, answer).correct
        assert not FinalNumber()(text, "123457").correct


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "\\boxed{{{}}}", "${}"])
)
def test_numbers_are_read_however_they_are_written(number, form):
    assert FinalNumber().find("The answer is " + form.format(number)) == str(number)
    assert canonical(form.replace("\\boxed{{{}}}", "{}").format(number)) == str(number)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: B", "B"), ("**Answer:** (C)", "C"), ("The answer is D.", "D"),
        ("\\boxed{\\text{A}}", "A"), ("Answer: $\\boxed{E}$", "E"), ("Answer:\n\nB)", "B"),
        ("Answer: A? No. Answer: **B**", "B"), ("answer: Because", None), ("I say so", None),
    ],
)  # fmt: skip
def test_the_letter(text, answer):
    assert Choice().find(text) == answer
    assert Choice()(text, "(B)").correct == (answer == "B")


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("1,000", "1000"), ("1000.0", "1000"), ("(a)", "A"), ("18 dollars", "18"), ("0.75", "3/4"),
        ("3/4", "3/4"), ("50%", "50"), ("x + 1.", "x + 1"), ("  ", None), ("12 km/h", "12"),
        ("9" * 1000, "9" * 1000), ("1/0", "1/0"),
    ],
)  # fmt: skip
def test_equal_answers_have_one_form(written, form):
    assert canonical(written) == form


PATHOLOGICAL = [
    "9" * 10**6, "\\boxed{" * 150_000, "\\boxed{" + "{" * 10**6 + "}" * 10**6, "1," * 500_000,
    "1/" * 500_000, "-" * 10**6, "\\frac{" * 150_000, "Answer: " * 100_000, "9**9**9 " * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", PATHOLOGICAL, ids=lambda text: text[:12])
def test_pathological_texts_cost_little_and_are_wrong(text):
    began = time.monotonic()
    assert not FinalNumber()(text, "7").correct and not Choice()(text, "B").correct
    canonical(text)
    assert time.monotonic() - began < 5


@pytest.fixture(scope="module")
def math():
    verifier = SymbolicMath(time_limit=5.0)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    ("text", "truth", "correct"),
    [
        ("so $x = \\frac{1}{2}$", "0.5", True), ("\\boxed{x^2 + 2x + 1}", "(x+1)^2", True),
        ("$\\sqrt{8}$", "$2\\sqrt{2}$", True), ("the answer is 12", "12", True),
        ("the answer is 13", "12", False), ("\\boxed{(1, 2]}", "$(1, 2]$", True),
        ("nothing", "12", False),
    ],
)  # fmt: skip
def test_symbolic_answers(math, text, truth, correct):
    assert math(text, truth).correct is correct


def test_symbolic_checks_end_in_time_and_go_on_after(math, tmp_path):
    marker = tmp_path / "executed"
    quick = SymbolicMath(time_limit=1.0)
    try:
        for text in ("$9^{9^{9^{9}}}$", "\\boxed{9**9**9}", "\\boxed{" * 3000, "7" * 10**6,
                     "$__import__('os').system('touch " + str(marker) + "')$"):  # fmt: skip
            quick("1", "1")  # a process is there: starting one is not the text's time
            began = time.monotonic()
            grade = quick(text, "7")
            assert not grade.correct and time.monotonic() - began < 3
    finally:
        quick.close()
    assert math("\\boxed{3}", "3").correct and not marker.exists()


def test_unknown_verifiers_are_named():
    with pytest.raises(InputError, match="verifier 'guess' is not known; use number"):
        named("guess")
    with pytest.raises(InputError, match="time_limit = 0"):
        named("math", time_limit=0)


def test_texts_are_graded_again(tmp_path, capsys):
    path = tmp_path / "Some-Model--temp-0.7--samples-3--max-512.jsonl"
    path.write_text(
        json.dumps(
            dict(
                qid="gsm8k-1", correct=[True, False, False], num_tokens=[3, 4, 5],
                explanations=["boxed='18'; truth='18'", "no numeric content found; truth='18'",
                              "boxed='17'; truth='18'"],
                answers=["\\boxed{18}", "it is 18.0 apples", "seventeen"], ground_truths=["18"],
            )
        )
    )  # fmt: skip
    out = tmp_path / "graded.parquet"
    arguments = ["grade", str(path), "--out", str(out), "--format", "json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == dict(
        samples=3, correct_before=1, correct=2, changed=1, without_answer=1, faults=0
    )
    assert samples.read(out)["answer"].to_pylist() == ["18", "18", None]
    truths = tmp_path / "truths.csv"
    truths.write_text("question_id,answer\ngsm8k-1,19\n")
    assert cli.main([*arguments, "--truths", str(truths)]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 0
    assert cli.main(["grade", str(path), "--out", str(out), "--verifier", "guess"]) == 2
    assert "verifier 'guess'" in capsys.readouterr().err
