"""Counting on: generator, prompts and verdict."""

from collections import Counter

import pytest

from tinyzero_trl.tasks import Problem, counting


def test_problems_keep_to_the_request() -> None:
    problems = counting.generate(101, seed=5, steps=[4, 30], largest_start=20, largest_step=3)
    assert Counter(map(counting.difficulty, problems)) == {4: 51, 30: 50}
    assert len({problem.key for problem in problems}) == 101
    for problem in problems:
        start, step, steps = problem.numbers
        assert problem.target == start + steps * step and 1 <= start <= 20 and 1 <= step <= 3
    assert problems == counting.generate(101, seed=5, steps=[4, 30], largest_start=20, largest_step=3)
    assert problems != counting.generate(101, seed=6, steps=[4, 30], largest_start=20, largest_step=3)


def test_the_whole_space_is_reached_and_not_exceeded() -> None:
    everything = {Problem((start, step, 1), start + step).key for start in range(1, 7) for step in range(1, 4)}
    count = len(everything)
    problems = counting.generate(count, seed=0, steps=[1], largest_start=6, largest_step=3)
    assert {problem.key for problem in problems} == everything
    with pytest.raises(ValueError, match=f"{count + 1} problems of 1 steps, but only {count} exist"):
        counting.generate(count + 1, seed=0, steps=[1], largest_start=6, largest_step=3)
    excluded = set(list(everything)[:4])
    others = counting.generate(count - 4, seed=0, steps=[1], largest_start=6, largest_step=3, exclude=excluded)
    assert {problem.key for problem in others} == everything - excluded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": []}, r"^steps: \[\] must be one or more different numbers from 1 to 1000"),
        ({"steps": [3, 3]}, r"^steps: \[3, 3\]"),
        ({"steps": [0]}, r"^steps: \[0\]"),
        ({"largest_start": 0}, "^largest_start: 0 must be from 1 to 10000"),
        ({"largest_step": 10_001}, "^largest_step: 10001 must be from 1"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counting.generate(1, seed=0, **options)


@pytest.mark.parametrize(
    ("numbers", "target", "message"),
    [
        ([1, 2], 3, "must hold start, step and number of steps"),
        ([1, 2, 3, 4], 10, "must hold start, step and number of steps"),
        ([5, 3, 4], 18, "target: 18 must be 17"),
    ],
)
def test_rows_that_are_no_problem_are_refused(numbers: list[int], target: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counting.to_problem(numbers, target)


def test_the_prompt_names_start_step_and_number_of_steps() -> None:
    problem = counting.to_problem([5, 3, 4], 17)
    assert "Start at 5 and count on in steps of 3. What number do you reach after 4 steps?" in str(
        counting.render_prompt(problem, "base")
    )
    assert counting.score("<answer>17</answer>", problem.numbers, problem.target).reward == 1.0
    assert counting.score("<answer>18</answer>", problem.numbers, problem.target).reward == 0.0
