"""Multiplication: the exact product of two numbers with equally many digits."""

import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import isqrt, prod

from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.arithmetic import problem as arithmetic
from tinyzero_trl.tasks.arithmetic.base import ArithmeticTask, check_parts, equal_shares
from tinyzero_trl.tasks.arithmetic.problem import Problem, ProblemKey
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import CORRECT, Score, check_count_and_seed, extract_answer, wrong

QUESTION = (
    "What is the product of the numbers ",
    "? Write your thoughts between <think> and </think>, and the product as a plain integer between <answer> "
    "and </answer>, for example <answer> 56088 </answer>.",
)

MAX_DIGITS = 9
"""Most digits of a factor: the product stays within `problem.MAX_INTEGER`."""

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
_MAX_ANSWER_CHARACTERS = 4096


def render_prompt(problem: Problem, template: str) -> str | list[prompts.Message]:
    """The problem as a prompt: text for `base` and `qwen-instruct`, chat messages for `chat`."""
    return prompts.render(template, QUESTION, (prompts.format_numbers(problem.numbers),))


def to_problem(numbers: object, target: object) -> Problem:
    """Untrusted values as a problem: `problem.to_problem`, and the target must be the product.

    Raises:
        ValueError: as `problem.to_problem`, or if the target is another number.
    """
    problem = arithmetic.to_problem(numbers, target)
    if prod(problem.numbers) != problem.target:
        raise ValueError(f"target: {problem.target} must be the product of {list(problem.numbers)}")
    return problem


def difficulty(problem: Problem) -> int:
    """The digits of the longest factor."""
    return max(len(str(number)) for number in problem.numbers)


def score(completion: str, numbers: Sequence[int], target: int) -> Score:
    """Score a completion: reward 1.0 if its answer is the target as a plain integer, else 0.0.

    One sign is allowed; leading zeros, separators and digits outside ASCII are not. Never raises, whatever
    the text, and takes time linear in its length. `numbers` is there because every arithmetic task's score has it.
    """
    answer = extract_answer(completion)
    if answer is None:
        return wrong("no-answer-tag")
    if not answer:
        return wrong("empty")
    if len(answer) > _MAX_ANSWER_CHARACTERS:
        return wrong("too-long")
    if not _INTEGER.fullmatch(answer):
        return wrong("leading-zero" if _LEADING_ZERO.fullmatch(answer) else "not-an-integer")
    return CORRECT if answer.removeprefix("+") == str(target) else wrong("wrong-value")


def generate(
    count: int,
    *,
    seed: int,
    digits: Sequence[int] = (3,),
    exclude: Collection[ProblemKey] = (),
    progress: Callable[[int], object] | None = None,
) -> list[Problem]:
    """Different problems, the same for the same arguments.

    Every digit count gets the same share (the first ones the remainder), in random order; within a digit
    count every unordered pair of positive factors is equally likely.

    Args:
        count: problems wanted, at least 0.
        seed: of this call's own generator, at least 0.
        digits: digit counts of both factors, each from 1 to `MAX_DIGITS`.
        exclude: keys (`Problem.key`) of problems that must not occur.
        progress: called with the number of problems found since the last call.

    Raises:
        ValueError: if an argument is out of bounds, or fewer problems exist than are wanted.
    """
    check_count_and_seed(count, seed)
    check_parts("digits", digits, 1, MAX_DIGITS)
    rng = random.Random(seed)
    excluded = frozenset(exclude)
    problems: list[Problem] = []
    for digit_count, share in equal_shares(count, digits):
        problems += _sample(share, digit_count, excluded, rng)
        if progress:
            progress(share)
    rng.shuffle(problems)
    return problems


@dataclass
class MultiplicationOptions:
    """Which problems `generate` draws."""

    digits: list[int] = field(
        default_factory=lambda: [3],
        metadata={"help": "multiplication: digits of a factor; each count gets the same share"},
    )


@register_task("multiplication")
class Multiplication(ArithmeticTask):
    """The product of two numbers."""

    options = MultiplicationOptions
    to_problem = staticmethod(to_problem)
    render_prompt = staticmethod(render_prompt)
    difficulty_of = staticmethod(difficulty)
    generate_problems = staticmethod(generate)
    score_answer = staticmethod(score)


def _sample(count: int, digits: int, excluded: frozenset[ProblemKey], rng: random.Random) -> list[Problem]:
    """Different pairs, by their rank among all unordered pairs of factors."""
    smallest = 10 ** (digits - 1)
    factors = 9 * smallest
    pairs = factors * (factors + 1) // 2
    problems: list[Problem] = []
    for rank in rng.sample(range(pairs), min(pairs, count + len(excluded))):
        larger = (isqrt(8 * rank + 1) - 1) // 2
        factor_pair = [smallest + larger, smallest + rank - larger * (larger + 1) // 2]
        rng.shuffle(factor_pair)
        problem = Problem(tuple(factor_pair), prod(factor_pair))
        if problem.key not in excluded:
            problems.append(problem)
    if len(problems) < count:
        raise ValueError(
            f"count: {count} products of {digits}-digit numbers are wanted, but only {len(problems)} exist; "
            "ask for fewer or allow more digits"
        )
    return problems[:count]
