"""Counting on: from a start, in equal steps, a given number of times. The more steps, the longer the work."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.arithmetic import problem as arithmetic
from tinyzero_trl.tasks.arithmetic.base import ArithmeticTask, check_parts, equal_shares
from tinyzero_trl.tasks.arithmetic.multiplication import score
from tinyzero_trl.tasks.arithmetic.problem import Problem, ProblemKey
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import check_count_and_seed

QUESTION = (
    "Start at ",
    " and count on in steps of ",
    ". What number do you reach after ",
    " steps? Write your thoughts between <think> and </think>, and the number as a plain integer between <answer> "
    "and </answer>, for example <answer> 42 </answer>.",
)

MAX_STEPS = 1000
"""Most steps of a problem that is generated."""

MAX_NUMBER = 10_000
"""Largest start, and largest step, of a problem that is generated."""

_ORDERS = 6  # of three numbers: one key belongs to at most so many problems


def render_prompt(problem: Problem, template: str) -> str | list[prompts.Message]:
    """The problem as a prompt: text for `base` and `qwen-instruct`, chat messages for `chat`."""
    return prompts.render(template, QUESTION, [str(number) for number in problem.numbers])


def to_problem(numbers: object, target: object) -> Problem:
    """Untrusted values as a problem: start, step and number of steps, and the number that is reached.

    Raises:
        ValueError: as `problem.to_problem`, or if there are not three numbers, or the target is another number.
    """
    problem = arithmetic.to_problem(numbers, target)
    if len(problem.numbers) != 3:
        raise ValueError(f"nums: {list(problem.numbers)} must hold start, step and number of steps")
    if (reached := _reached(*problem.numbers)) != problem.target:
        raise ValueError(f"target: {problem.target} must be {reached}, which {list(problem.numbers)} reaches")
    return problem


def difficulty(problem: Problem) -> int:
    """The number of steps."""
    return problem.numbers[2]


def generate(
    count: int,
    *,
    seed: int,
    steps: Sequence[int] = (5,),
    largest_start: int = 100,
    largest_step: int = 2,
    exclude: Collection[ProblemKey] = (),
    progress: Callable[[int], object] | None = None,
) -> list[Problem]:
    """Different problems, the same for the same arguments.

    Every number of steps gets the same share (the first ones the remainder), in random order; with it, every start and
    every step are equally likely.

    Args:
        count: problems wanted, at least 0.
        seed: of this call's own generator, at least 0.
        steps: numbers of steps, each at least 1.
        largest_start: a start is from 1 to this.
        largest_step: a step is from 1 to this.
        exclude: keys (`Problem.key`) of problems that must not occur.
        progress: called with the number of problems found since the last call.

    Raises:
        ValueError: if an argument is out of bounds, or fewer problems exist than are wanted.
    """
    check_count_and_seed(count, seed)
    check_parts("steps", steps, 1, MAX_STEPS, noun="numbers")
    for name, largest in (("largest_start", largest_start), ("largest_step", largest_step)):
        if not 1 <= largest <= MAX_NUMBER:
            raise ValueError(f"{name}: {largest} must be from 1 to {MAX_NUMBER}")
    rng = random.Random(seed)
    taken = set(exclude)
    problems: list[Problem] = []
    for times, share in equal_shares(count, steps):
        found = _sample(share, times, largest_start, largest_step, taken, rng)
        if len(found) < share:
            raise ValueError(
                f"count: {count} asks for {share} problems of {times} steps, but only {len(found)} exist; "
                "ask for fewer, or raise largest_start or largest_step"
            )
        problems += found
        if progress:
            progress(share)
    rng.shuffle(problems)
    return problems


@dataclass
class CountingOptions:
    """Which problems `generate` draws."""

    steps: list[int] = field(
        default_factory=lambda: [5],
        metadata={"help": "counting: numbers of steps; each gets the same share of the problems"},
    )
    largest_start: int = field(default=100, metadata={"help": "counting: largest start, the smallest is 1"})
    largest_step: int = field(default=2, metadata={"help": "counting: largest step, the smallest is 1"})


@register_task("counting")
class Counting(ArithmeticTask):
    """Counting on in equal steps."""

    options = CountingOptions
    to_problem = staticmethod(to_problem)
    render_prompt = staticmethod(render_prompt)
    difficulty_of = staticmethod(difficulty)
    generate_problems = staticmethod(generate)
    score_answer = staticmethod(score)


def _reached(start: int, step: int, times: int) -> int:
    return start + step * times


def _sample(
    count: int, times: int, largest_start: int, largest_step: int, taken: set[ProblemKey], rng: random.Random
) -> list[Problem]:
    """Up to `count` different problems, by their place among all pairs of start and step; their keys become taken."""
    problems: list[Problem] = []
    pairs = largest_start * largest_step
    for place in rng.sample(range(pairs), min(pairs, _ORDERS * (count + len(taken)))):
        if len(problems) == count:
            break
        numbers = (place // largest_step + 1, place % largest_step + 1, times)
        problem = Problem(numbers, _reached(*numbers))
        if problem.key not in taken:
            taken.add(problem.key)
            problems.append(problem)
    return problems
