"""Verifiers read what people would, evaluate nothing, and take no longer than they may."""

import json
import pathlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechlab import InputError, cli
from mechlab.evidence import samples
from mechlab.evidence.grading import Choice, FinalNumber, canonical, named
from mechlab.evidence.grading.regrade import Changes, regrade
from mechlab.evidence.grading.symbolic import SymbolicMath
from mechlab.evidence.importers import Answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{18}", "18"),
        ("it is 1,000.0 dollars", "1000"),
        ("\\boxed{1{,}000}", "1000"),
        ("$\\boxed{\\frac{3}{4}}$", "3/4"),
        ("that makes 1 1/2 cups", "3/2"),
        ("\\boxed{2\\frac{1}{2}}", "5/2"),
        ("first 3, then\n#### 1,234", "1234"),
        ("costs $5.50.", "11/2"),
        ("50\\%", "1/2"),
        ("-3", "-3"),
        ("5 - 3 = 2", "2"),
        ("the range 3-5", "5"),
        ("3 + -4 = -1", "-1"),
        ("1.5e3", "1500"),
        ("1 000 000", "1000000"),
        ("2 \\times 10^{3}", "2000"),
        ("\\boxed{x = 18 \\text{ dollars}}", "18"),
        ("in 2024 there were 18", "18"),
        ("no idea", None),
        ("1/0", None),
        ("1, 2, 3", "3"),
        ("\\boxed{3} no, \\boxed{4}", "4"),
        ("", None),
        ("€ 7,50", "15/2"),
    ],
)
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
        ("Answer: B", "B"),
        ("**Answer:** (C)", "C"),
        ("The answer is D.", "D"),
        ("\\boxed{\\text{A}}", "A"),
        ("Answer: $\\boxed{E}$", "E"),
        ("Answer:\n\nB)", "B"),
        ("Answer: A? No. Answer: **B**", "B"),
        ("answer: Because", None),
        ("I say so", None),
    ],
)
def test_the_letter(text, answer):
    assert Choice().find(text) == answer
    assert Choice()(text, "(B)").correct == (answer == "B")


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("1,000", "1000"),
        ("1000.0", "1000"),
        ("(a)", "A"),
        ("18 dollars", "18"),
        ("0.75", "3/4"),
        ("3/4", "3/4"),
        ("50%", "1/2"),
        ("x + 1.", "x + 1"),
        ("  ", None),
        ("12 km/h", "12"),
        ("9" * 1000, "9" * 1000),
        ("1/0", "1/0"),
    ],
)
def test_equal_answers_have_one_form(written, form):
    assert canonical(written) == form


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42, which I found in 3 steps.", "42"),
        ("So the answer is 18.\n\nCheck of step 2: 16-3-4=9.", "18"),
        ("9*2=18\n#### 18\n\nQuestion: Tom has 5\nAnswer: 5-2=3\n#### 3", "18"),
        ("#### 18 dollars (not 26)", "18"),
        ("Answer: 5 km (about 3 miles)", "5"),
        ("#### Step 1: add\n5 + 3 = 8", "8"),
        ("The answer is 18.\n\n#### Step 4: check 3", "18"),
        ("Final answer\n\n42", "42"),
        ("The answer is not 26. It is 27.", "27"),
        ("The answer is $x = 5$.", "5"),
        ("the answer is 18 = 9*2", "18"),
        ("The answer is $5,400 - $2,400 = $3,000.", "3000"),
        ("**Answer:** in 3 days she earns **$54**", "54"),
        ("The answer is 3 and 5.", None),
        ("The answer is (5, 3).", None),
        ("The answer is 2^10", None),
        ("Answer: 7:30", None),
        ("The answer is 3 hours and 20 minutes.", None),
        ("The answer is unknown, 5 tries", "5"),
        ("<think>\\boxed{3}</think>So 4.", "4"),
        ("\\boxed{3} and \\boxed{", "3"),
        ("Question: how many?\nAnswer: 7", "7"),
        ("The answer is 5 million.", "5000000"),
    ],
)
def test_a_number_is_found_by_its_mark(text, answer):
    assert FinalNumber().find(text) == answer


@pytest.mark.parametrize(
    "written",
    [
        "2^{2025}",
        "\\sqrt{2}",
        "\\sqrt{144}",
        "10!",
        "3\\pi",
        "12π",
        "3i",
        "(5,3)",
        "5x+3",
        "2^{10}",
        "5 x",
        "5 squared",
        "x>5",
        "x=1, y=2",
        "9**9",
        "3:2",
        "7,50",
        "1.2.3",
        "3 and 5",
        "1/0",
    ],
)
def test_a_box_that_holds_no_number_has_none(written):
    assert FinalNumber().find(f"so 7 and \\boxed{{{written}}}") is None


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("1\\,234", "1234"),
        ("1\\;234\\;567", "1234567"),
        ("1{,}000", "1000"),
        ("12~345", "12345"),
        ("\\frac12", "1/2"),
        ("\\frac1{20}", "1/20"),
        ("\\dfrac{1}3", "1/3"),
        ("\\tfrac{-1}{2}", "-1/2"),
        ("2\\frac{1}{2}", "5/2"),
        ("2\\tfrac12", "5/2"),
        ("\\text{-}5", "-5"),
        ("−5", "-5"),
        ("negative 5", "-5"),
        ("45^\\circ", "45"),
        ("45^{\\circ}", "45"),
        ("37 °C", "37"),
        ("\\$18", "18"),
        ("€7,50", "15/2"),
        ("US$ 5", "5"),
        ("5 USD", "5"),
        ("\\text{18 dollars}", "18"),
        ("25\\text{ cm}^2", "25"),
        ("5 m", "5"),
        ("5km/h", "5"),
        ("1.5 × 10³", "1500"),
        ("2 \\cdot 10^{-3}", "1/500"),
        ("$1.2 million", "1200000"),
        ("50 percent", "1/2"),
        ("\\left(\\frac{1}{2}\\right)", "1/2"),
        ("f(2) = 7", "7"),
        ("\\textbf{42}", "42"),
        (".5", "1/2"),
    ],
)
def test_spellings_of_numbers(written, form):
    assert canonical(written) == form and FinalNumber().find(f"\\boxed{{{written}}}") == form


@pytest.mark.parametrize(
    ("text", "truth"),
    [("50%", "50"), ("50%", "0.5"), ("50", "50 %"), ("1/2", "50%"), ("0.5", "1/2")],
)
def test_a_percent_sign_may_be_left_to_the_reader(text, truth):
    assert FinalNumber()(f"\\boxed{{{text}}}", truth).correct


def test_a_fraction_is_not_a_percentage():
    assert not FinalNumber()("0.5", "50").correct and not FinalNumber()("50%", "5").correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is a bit subtle: only the third fits. \\boxed{C}", "C"),
        ("The answer is a mixture.\n\nFinal: \\boxed{D}", "D"),
        ("Answer: I think the second one.\n\\boxed{B}", "B"),
        ("Answer: A mixture of both", None),
        ("Answer: I would say none", None),
        ("The answer is A because it is", "A"),
        ("Answer: I", "I"),
        ("The correct option is (B) Paris", "B"),
        ("answer: b", "B"),
        ("The answer is \\textbf{(D)}", "D"),
        ("\\boxed{\\textbf{(C) } 5}", "C"),
        ("\\boxed{5} so the answer is (B)", "B"),
        ("The answer is A and B", None),
        ("Answer: A/B", None),
        ("The answer is Paris (C).", "C"),
        ("So the best is\n\n(C)", "C"),
        ("B) Paris", "B"),
        ("Options:\nA. x\nB. none of these", None),
        ("The answer is not A. The answer is G.", "G"),
        ("Answer: E — it", "E"),
    ],
)
def test_a_letter_stands_alone(text, answer):
    assert Choice().find(text) == answer


ANSWERS = pathlib.Path(__file__).parents[1] / "data" / "answers.jsonl"


def test_verifiers_agree_with_grades_by_hand(math):
    """200 answers in the styles of GSM8K, AIME, MMLU-Pro and MATH, written and graded by hand."""
    rows = [json.loads(line) for line in ANSWERS.read_text("utf-8").splitlines()]
    verifiers = {"number": FinalNumber(), "choice": Choice(), "math": math}
    wrong = [
        row["text"]
        for row in rows
        if verifiers[row["verifier"]](row["text"], row["truth"]).correct != row["right"]
    ]
    assert len(rows) == 200 and len(wrong) <= 2, wrong


WORDS = st.lists(
    st.sampled_from("we find that eggs are sold so it holds as before therefore".split()),
    max_size=8,
).map(" ".join)
MARKED = st.sampled_from(["\\boxed{{{}}}", "The answer is {}.", "Answer: {}", "#### {}"])


@given(WORDS, st.integers(-(10**6), 10**6), MARKED, WORDS)
def test_prose_around_a_marked_number_changes_nothing(before, number, mark, after):
    text = f"{before}\n{mark.format(number)}\n\n{after}"
    assert FinalNumber().find(text) == str(number)


@given(WORDS, st.sampled_from("ABCDEFGHIJ"), MARKED, WORDS)
def test_prose_around_a_marked_letter_changes_nothing(before, letter, mark, after):
    assert Choice().find(f"{before}\n{mark.format(letter)}\n\n{after}") == letter


SPELLINGS = (
    "{}",
    "{}.0",
    "{:,}",
    "\\frac{{{}}}{{1}}",
    "\\text{{{} dollars}}",
    "\\${}",
    "x = {}",
    "{}\\ \\text{{km}}",
)


@given(
    st.lists(
        st.tuples(st.sampled_from([1500, 1400, 70]), st.sampled_from(SPELLINGS)),
        min_size=1,
        max_size=8,
    )
)
def test_votes_do_not_change_when_answers_are_respelled(votes):
    texts = [f"so \\boxed{{{form.format(number)}}}" for number, form in votes]
    record = Answers(
        "m", "b", "q", [None] * len(votes), None, [1] * len(votes), texts=texts, truth="1500"
    )
    graded = next(regrade(iter([record]), FinalNumber, Changes()))
    assert graded.answer == [str(number) for number, _ in votes]
    assert graded.correct == [number == 1500 for number, _ in votes]


def test_symbolic_answers_that_are_the_same_are_one_vote():
    texts = [
        f"\\boxed{{{x}}}"
        for x in ("(x+1)^2", "x^2+2x+1", "2\\sqrt{2}", "\\sqrt{8}", "\\frac{1}{2}x", "x/2")
    ]
    records = [
        Answers(
            "m", "b", "q", [None] * 3, None, [1] * 3, texts=texts[i : i + 3], truth="x/2", first=i
        )
        for i in (0, 3)
    ]
    changes = Changes()
    graded = list(regrade(iter(records), SymbolicMath, changes))
    answers = [x for record in graded for x in record.answer]
    assert answers[0] == answers[1] and answers[2] == answers[3] and answers[4] == answers[5]
    assert len(set(answers)) == 3 and changes.correct == 2 and changes.samples == 6


PATHOLOGICAL = [
    "9" * 10**6,
    "\\boxed{" * 150_000,
    "\\boxed{" + "{" * 10**6 + "}" * 10**6,
    "1," * 500_000,
    "1/" * 500_000,
    "-" * 10**6,
    "\\frac{" * 150_000,
    "Answer: " * 100_000,
    "9**9**9 " * 10_000,
]


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
        ("so $x = \\frac{1}{2}$", "0.5", True),
        ("\\boxed{x^2 + 2x + 1}", "(x+1)^2", True),
        ("$\\sqrt{8}$", "$2\\sqrt{2}$", True),
        ("the answer is 12", "12", True),
        ("the answer is 13", "12", False),
        ("\\boxed{(1, 2]}", "$(1, 2]$", True),
        ("nothing", "12", False),
    ],
)
def test_symbolic_answers(math, text, truth, correct):
    assert math(text, truth).correct is correct


def test_symbolic_checks_end_in_time_and_go_on_after(math, tmp_path):
    marker = tmp_path / "executed"
    quick = SymbolicMath(time_limit=1.0)
    try:
        for text in (
            "$9^{9^{9^{9}}}$",
            "\\boxed{9**9**9}",
            "\\boxed{" * 3000,
            "7" * 10**6,
            "$__import__('os').system('touch " + str(marker) + "')$",
        ):
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
                qid="gsm8k-1",
                correct=[True, False, False],
                num_tokens=[3, 4, 5],
                explanations=[
                    "boxed='18'; truth='18'",
                    "no numeric content found; truth='18'",
                    "boxed='17'; truth='18'",
                ],
                answers=["\\boxed{18}", "it is 18.0 apples", "seventeen"],
                ground_truths=["18"],
            )
        )
    )
    out = tmp_path / "graded.parquet"
    arguments = ["grade", str(path), "--out", str(out), "--format", "json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == dict(
        samples=3,
        graded_before=3,
        correct_before=1,
        correct=2,
        changed=1,
        without_answer=1,
        faults=0,
    )
    assert samples.read(out)["answer"].to_pylist() == ["18", "18", None]
    truths = tmp_path / "truths.csv"
    truths.write_text("question_id,answer\ngsm8k-1,19\n")
    assert cli.main([*arguments, "--truths", str(truths)]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 0
    assert cli.main(["grade", str(path), "--out", str(out), "--verifier", "guess"]) == 2
    assert "verifier 'guess'" in capsys.readouterr().err
