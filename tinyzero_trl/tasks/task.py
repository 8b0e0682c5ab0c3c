"""What every task shares: a problem, a verdict, and where in a completion the answer stands."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"


MAX_OPERANDS = 16
"""Most numbers of a problem that is read from a file."""

MAX_INTEGER = 10**18
"""Largest number or target: a column of 64-bit integers holds it."""

ProblemKey = tuple[tuple[int, ...], int]
"""Numbers in ascending order, and the target."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Given integers and the integer to be made from them."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> ProblemKey:
        """What makes two problems the same one: the numbers in any order, and the target."""
        return tuple(sorted(self.numbers)), self.target


class Verdict(NamedTuple):
    """The judgement of one completion: reward 1.0 or 0.0, and a short code that says why."""

    reward: float
    reason: str


CORRECT = Verdict(1.0, "correct")


def wrong(reason: str) -> Verdict:
    """A verdict without reward."""
    return Verdict(0.0, reason)


def extract_answer(completion: str) -> str | None:
    """The text inside the last closed answer tag of the completion alone, stripped of whitespace.

    Text after the tag and tags left open are ignored; a tag opened twice counts from its last opening.
    None if no tag was closed. Takes time linear in the completion.
    """
    last_close = completion.rfind(ANSWER_CLOSE)
    if last_close < 0:
        return None
    opened = completion.rfind(ANSWER_OPEN, 0, last_close)
    if opened < 0:
        return None
    start = opened + len(ANSWER_OPEN)
    return completion[start : completion.find(ANSWER_CLOSE, start)].strip()


def check_count_and_seed(count: int, seed: int) -> None:
    """Raise ValueError if either is negative: `random.Random` would take -1 for 1."""
    if count < 0:
        raise ValueError(f"count: {count} is negative; ask for 0 problems or more")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; use 0 or more")


def to_problem(numbers: object, target: object) -> Problem:
    """Untrusted values as a problem.

    Raises:
        ValueError: unless `numbers` is a list of 2 to `MAX_OPERANDS` positive integers and `target` an
            integer, all within `MAX_INTEGER`.
    """
    if not isinstance(numbers, Sequence) or isinstance(numbers, str | bytes):
        raise ValueError(f"nums: {reprlib.repr(numbers)} must be a list of integers")
    if not 2 <= len(numbers) <= MAX_OPERANDS:
        raise ValueError(f"nums: {reprlib.repr(numbers)} must hold 2 to {MAX_OPERANDS} integers")
    if not all(type(number) is int and 1 <= number <= MAX_INTEGER for number in numbers):
        raise ValueError(f"nums: {reprlib.repr(numbers)} must hold integers from 1 to {MAX_INTEGER}")
    if type(target) is not int or abs(target) > MAX_INTEGER:
        raise ValueError(f"target: {reprlib.repr(target)} must be an integer from -{MAX_INTEGER} to {MAX_INTEGER}")
    return Problem(tuple(numbers), target)
