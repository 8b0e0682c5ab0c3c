"""What every task shares: a problem, a verdict, and where in a completion the answer stands."""

from dataclasses import dataclass
from typing import NamedTuple

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"


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
