"""Multiplication: generator, prompts and verdict."""

from collections import Counter
from itertools import combinations_with_replacement

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyzero_trl.tasks import Problem, multiplication, prompts


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(-1, 1))
def test_the_exact_product_alone_is_right(left, right, slip):
    completion = f"so </think>\n<answer>\n{left * right + slip}\n</answer>"
    assert multiplication.score(completion, [left, right], left * right).reward == float(slip == 0)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-_,. \n\u0663\uff11e", max_size=8))
@example("12")
@example("+12")
@example("012")
@example("1_2")
@example("\uff11\uff12")
def test_only_plain_integers_count(text):
    canonical = text.strip() in ("12", "+12")
    assert multiplication.score(f"<answer>{text}</answer>", [3, 4], 12).reward == float(canonical)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("012", "leading-zero"),
        ("-00", "leading-zero"),
        ("12.0", "not-an-integer"),
        ("1_2", "not-an-integer"),
        ("1,200", "not-an-integer"),
        ("3 * 4", "not-an-integer"),
        ("+ 12", "not-an-integer"),
        ("--12", "not-an-integer"),
        ("\u0661\u0662", "not-an-integer"),
        ("-12", "wrong-value"),
        ("0", "wrong-value"),
        ("9" * 4096, "wrong-value"),
        ("9" * 1_000_000, "too-long"),
        ("12", "correct"),
        ("+12", "correct"),
    ],
)
def test_verdicts_name_their_reason(answer, reason):
    assert multiplication.score(f"<answer>{answer}</answer>", [3, 4], 12).reason == reason


def test_without_a_closed_tag_there_is_no_answer():
    assert multiplication.score("12</answer>", [3, 4], 12).reason == "no-answer-tag"


def test_problems_keep_to_the_request():
    problems = multiplication.generate(301, seed=5, digits=[2, 4])
    assert Counter(map(multiplication.difficulty, problems)) == {2: 151, 4: 150}
    assert len({problem.key for problem in problems}) == 301
    assert all(problem.target == problem.numbers[0] * problem.numbers[1] for problem in problems)
    assert problems == multiplication.generate(301, seed=5, digits=[2, 4])
    assert problems != multiplication.generate(301, seed=6, digits=[2, 4])


def test_the_whole_space_of_one_digit_products_is_reached_and_not_exceeded():
    problems = multiplication.generate(45, seed=0, digits=[1])
    assert {problem.key[0] for problem in problems} == set(combinations_with_replacement(range(1, 10), 2))
    with pytest.raises(ValueError, match="46 products of 1-digit numbers are wanted, but only 45 exist"):
        multiplication.generate(46, seed=0, digits=[1])


def test_every_pair_is_equally_likely():
    counts = Counter(
        problem.key for seed in range(900) for problem in multiplication.generate(5, seed=seed, digits=[1])
    )
    assert len(counts) == 45
    chi_square = sum((observed - 100) ** 2 / 100 for observed in counts.values())
    assert chi_square < 90, "44 degrees of freedom: beyond 90 lies a chance of 0.00005"


def test_exclusion_leaves_the_rest():
    first = multiplication.generate(20, seed=0, digits=[1])
    rest = multiplication.generate(25, seed=1, digits=[1], exclude={problem.key for problem in first})
    assert not {problem.key for problem in first} & {problem.key for problem in rest}


def test_the_largest_products_fit_their_column():
    assert all(problem.target < 2**63 for problem in multiplication.generate(50, seed=0, digits=[9]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "count: -1 is negative"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"digits": []}, r"digits: \[\] must be"),
        ({"digits": [0]}, r"digits: \[0\] must be"),
        ({"digits": [10]}, r"digits: \[10\] must be"),
        ({"digits": [2, 2]}, r"digits: \[2, 2\] must be"),
    ],
)
def test_bad_requests_name_field_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        multiplication.generate(**{"count": 1, "seed": 0, **options})


def test_prompts_are_fixed_segments_around_the_numbers():
    problem = Problem((12, 34), 408)
    first, second = prompts.segments("base", multiplication.QUESTION)
    assert multiplication.render_prompt(problem, "base") == f"{first}[12, 34]{second}"
    assert second.endswith("<think>")
    assert "408" not in multiplication.render_prompt(problem, "base")


def test_rows_hold_the_product():
    assert multiplication.to_problem([12, 34], 408) == Problem((12, 34), 408)
    with pytest.raises(ValueError, match=r"target: 409 must be the product of \[12, 34\]"):
        multiplication.to_problem([12, 34], 409)
