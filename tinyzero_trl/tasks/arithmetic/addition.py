"""Addition as a question in a chat, for pretrained models that were taught to talk: recipes/smollm2_cpu.yaml."""

import random
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinyzero_trl.tasks.prompts import Message
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import CORRECT, Example, Score, Task, wrong

_SYSTEM = "Answer in one sentence."
_NUMBER_AT_THE_END = re.compile(
    r"(?<![^\s=:])(?<![0-9]:)"  # a word of its own, or right after = or :, but no ratio such as 3:7
    r"(?:\*\*(?=[0-9.!]{1,21}\*\*))?([0-9]{1,20})[.!]?(?:\*\*[.!]?)?\Z"  # maybe in bold
)
_GOES_ON = re.compile(  # what precedes makes the number a part of something else; ** may also end bold print
    r"(?:\d|[-+/^\N{MINUS SIGN}\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}]|[\s\d)]\*{1,2})\Z"
)
_MAX_SUMMAND = 10**9


@dataclass
class AdditionOptions:
    """Which sums `draw` makes."""

    max_summand: int = field(default=20, metadata={"help": "addition: largest number in a sum, the smallest is 1"})

    def __post_init__(self) -> None:
        if not 1 <= self.max_summand <= _MAX_SUMMAND:
            raise ValueError(f"max_summand: {self.max_summand} is out of range; use 1 to {_MAX_SUMMAND}")


@register_task("addition")
class Addition(Task):
    """The sum of two numbers, asked in a chat. A completion is right if it ends with the sum."""

    columns: ClassVar[Mapping[str, type]] = {"first": int, "second": int}
    templates = ("chat",)
    options = AdditionOptions

    def question(self, example: Example) -> str:
        """The question as a person would ask it."""
        return f"What is {example['first']} + {example['second']}?"

    def prompt(self, example: Example, template: str) -> list[Message]:
        """A short system message and the question."""
        if template not in self.templates:
            raise ValueError(f"template: {template!r} is unknown to the task addition; use chat")
        return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": self.question(example)}]

    def score(self, completion: str, example: Example) -> Score:
        """Reward 1.0 if the last thing in the completion is the sum; bold print and a full stop after it are allowed.

        So a model has to come to an end: what goes on after the sum, or is cut elsewhere, earns nothing. Nor does the
        sum as a part of something else: a negative number, a fraction, a power, the last group of `1 000 007`.
        """
        completion = completion.rstrip()
        found = _NUMBER_AT_THE_END.search(completion)
        if found is None:
            return wrong("no-number-at-the-end")
        before = completion[: found.start()].rpartition("\n")[2].rstrip()
        if _GOES_ON.search(before[-3:]):
            return wrong("no-number-at-the-end")
        return CORRECT if int(found[1]) == example["first"] + example["second"] else wrong("wrong-sum")

    def difficulty(self, example: Example) -> int:
        """The digits of the larger number."""
        return len(str(max(example[name] for name in self.columns)))

    def key(self, example: Example) -> Hashable:
        """The two numbers in any order."""
        return tuple(sorted(example[name] for name in self.columns))

    def draw(self, generator: random.Random, options: Any) -> dict[str, Any]:
        """Two numbers from 1 to `max_summand`."""
        return {name: generator.randint(1, options.max_summand) for name in self.columns}
