"""What the arithmetic tasks share: given integers, and an integer that is asked for."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from tinyzero_trl.tasks.task import Example

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

    @property
    def example(self) -> dict[str, object]:
        """The problem as an example of its task."""
        return {"numbers": list(self.numbers), "target": self.target}

    @classmethod
    def of(cls, example: Example) -> "Problem":
        """The problem that an example of an arithmetic task holds."""
        return cls(tuple(example["numbers"]), example["target"])


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
