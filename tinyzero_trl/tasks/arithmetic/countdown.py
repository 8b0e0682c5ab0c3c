"""Countdown: make the target from the given numbers with + - * /, using every number exactly once."""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import comb

from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.arithmetic.base import ArithmeticTask, check_parts, equal_shares
from tinyzero_trl.tasks.arithmetic.expression import ExpressionError, evaluate, literals, parse
from tinyzero_trl.tasks.arithmetic.problem import MAX_INTEGER, Problem, ProblemKey, to_problem
from tinyzero_trl.tasks.arithmetic.solver import natural_values
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import CORRECT, Score, check_count_and_seed, extract_answer, wrong

QUESTION = (
    "Use the numbers ",
    " to build an expression whose value is ",
    ". You may use the operations +, -, *, / and parentheses, and you must use every number exactly once. "
    "Write your thoughts between <think> and </think>, and the finished expression between <answer> and "
    "</answer>, for example <answer> (1 + 2) / 3 </answer>.",
)

_TARGETS_PER_DRAW = 8
_LISTED_AT_LEAST = 1000
_PATIENCE_DRAWS = 5000


def render_prompt(problem: Problem, template: str) -> str | list[prompts.Message]:
    """The problem as a prompt: text for `base` and `qwen-instruct`, chat messages for `chat`."""
    return prompts.render(template, QUESTION, (prompts.format_numbers(problem.numbers), str(problem.target)))


def difficulty(problem: Problem) -> int:
    """The operand count."""
    return len(problem.numbers)


def score(completion: str, numbers: Sequence[int], target: int) -> Score:
    """Score a completion: reward 1.0 if its answer makes the target of every number used once, else 0.0.

    Never raises, whatever the text, and takes time linear in its length. The numbers are compared before
    anything is computed, so arithmetic only ever meets the problem's own.
    """
    answer = extract_answer(completion)
    if answer is None:
        return wrong("no-answer-tag")
    try:
        postfix = parse(answer)
        if sorted(literals(postfix)) != sorted(map(str, numbers)):
            return wrong("wrong-numbers")
        return CORRECT if evaluate(postfix) == target else wrong("wrong-value")
    except ExpressionError as error:
        return wrong(error.reason)


def generate(
    count: int,
    *,
    seed: int,
    operands: Sequence[int] = (3, 4),
    min_number: int = 1,
    max_number: int = 99,
    min_target: int = 10,
    max_target: int = 100,
    exclude: Collection[ProblemKey] = (),
    progress: Callable[[int], object] | None = None,
) -> list[Problem]:
    """Different solvable problems, the same for the same arguments.

    Every operand count gets the same share (the first ones the remainder), in random order. Within an operand
    count every problem that exists is equally likely, where a problem is a multiset of numbers and a target
    that they make without a negative or fractional intermediate value: the law of drawing numbers and target
    uniformly and keeping what is solvable. For speed a set of numbers is tried with eight targets at once.

    Args:
        count: problems wanted, at least 0.
        seed: of this call's own generator, at least 0.
        operands: operand counts, each from 2 to 6.
        min_number: smallest number, at least 1.
        max_number: largest number.
        min_target: smallest target.
        max_target: largest target.
        exclude: keys (`Problem.key`) of problems that must not occur.
        progress: called now and then with the number of problems found since the last call.

    Raises:
        ValueError: if a range is empty or out of bounds, or fewer problems exist than are wanted.
    """
    check_count_and_seed(count, seed)
    _check_ranges(operands, min_number, max_number, min_target, max_target)
    rng = random.Random(seed)
    excluded = frozenset(exclude)
    problems: list[Problem] = []
    for operand_count, share in equal_shares(count, operands):
        space = _Space(operand_count, min_number, max_number, range(min_target, max_target + 1), excluded)
        for found, (numbers, target) in enumerate(space.sample(share, rng), start=1):
            shuffled = list(numbers)
            rng.shuffle(shuffled)
            problems.append(Problem(tuple(shuffled), target))
            if progress and (found % 512 == 0 or found == share):
                progress((found - 1) % 512 + 1)
    rng.shuffle(problems)
    return problems


@dataclass
class CountdownOptions:
    """Which problems `generate` draws."""

    operands: list[int] = field(
        default_factory=lambda: [3, 4],
        metadata={"help": "countdown: numbers in a problem; each count gets the same share"},
    )
    min_number: int = field(default=1, metadata={"help": "countdown: smallest number"})
    max_number: int = field(default=99, metadata={"help": "countdown: largest number"})
    min_target: int = field(default=10, metadata={"help": "countdown: smallest target"})
    max_target: int = field(default=100, metadata={"help": "countdown: largest target"})


@register_task("countdown")
class Countdown(ArithmeticTask):
    """Make the target from the numbers, each used exactly once."""

    options = CountdownOptions
    to_problem = staticmethod(to_problem)
    render_prompt = staticmethod(render_prompt)
    difficulty_of = staticmethod(difficulty)
    generate_problems = staticmethod(generate)
    score_answer = staticmethod(score)


def _check_ranges(operands: Sequence[int], min_number: int, max_number: int, min_target: int, max_target: int) -> None:
    check_parts("operands", operands, 2, 6)
    if not 1 <= min_number <= max_number <= MAX_INTEGER:
        raise ValueError(
            f"min_number, max_number: {min_number}, {max_number} must satisfy 1 <= min <= max <= {MAX_INTEGER}"
        )
    if not -MAX_INTEGER <= min_target <= max_target <= MAX_INTEGER:
        raise ValueError(
            f"min_target, max_target: {min_target}, {max_target} must satisfy "
            f"-{MAX_INTEGER} <= min <= max <= {MAX_INTEGER}"
        )


@dataclass(frozen=True)
class _Space:
    """All solvable problems of one operand count."""

    operands: int
    min_number: int
    max_number: int
    targets: range
    excluded: frozenset[ProblemKey]

    def sample(self, count: int, rng: random.Random) -> Iterator[ProblemKey]:
        """Different problems, each equally likely; the space is listed where that costs less than drawing."""
        breadth = self.max_number - self.min_number + 1
        multisets = comb(breadth + self.operands - 1, self.operands)
        if multisets <= max(4 * count, _LISTED_AT_LEAST):
            return self._sample_listed(count, rng)
        return self._sample_drawn(count, rng)

    def _sample_listed(self, count: int, rng: random.Random) -> Iterator[ProblemKey]:
        universe = range(self.min_number, self.max_number + 1)
        problems = [
            (numbers, target)
            for numbers in combinations_with_replacement(universe, self.operands)
            for target in sorted(value for value in natural_values(numbers) if value in self.targets)
            if (numbers, target) not in self.excluded
        ]
        if len(problems) < count:
            raise self._too_few(len(problems), count)
        yield from rng.sample(problems, count)

    def _sample_drawn(self, count: int, rng: random.Random) -> Iterator[ProblemKey]:
        found: set[ProblemKey] = set()
        idle_draws = 0
        while len(found) < count:
            numbers = self._draw_numbers(rng)
            values = natural_values(numbers)
            known = len(found)
            for target in rng.sample(self.targets, min(_TARGETS_PER_DRAW, len(self.targets))):
                problem = (numbers, target)
                if target in values and problem not in found and problem not in self.excluded:
                    found.add(problem)
                    yield problem
                    if len(found) == count:
                        return
            idle_draws = idle_draws + 1 if len(found) == known else 0
            if idle_draws == _PATIENCE_DRAWS:
                raise self._too_few(len(found), count)

    def _draw_numbers(self, rng: random.Random) -> tuple[int, ...]:
        """A multiset, all equally likely: the strictly increasing draws of a longer range, moved together."""
        widened = range(self.min_number, self.max_number + self.operands)
        return tuple(draw - index for index, draw in enumerate(sorted(rng.sample(widened, self.operands))))

    def _too_few(self, found: int, wanted: int) -> ValueError:
        return ValueError(
            f"count: {wanted} problems with {self.operands} numbers from {self.min_number} to "
            f"{self.max_number} and targets from {self.targets[0]} to {self.targets[-1]} are wanted, but "
            f"only {found} could be found; ask for fewer or widen a range"
        )
