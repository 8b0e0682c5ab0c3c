"""GSM8K: grade-school word problems (Cobbe et al., arXiv 2110.14168), in its own columns."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from tinyzero_trl.tasks.matching import FORMS, MATH, check_math_verify, match
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import Example, Score, Task

_FINAL = re.compile(r"####\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?)\s*$")
_LEADING = "<<"  # begins an annotation of a calculation in the solutions


@register_task("gsm8k")
class Gsm8k(Task):
    """Solve a word problem; the number after #### in the solution is the right answer."""

    columns: ClassVar[Mapping[str, type]] = {"question": str, "answer": str}

    def question(self, example: Example) -> str:
        """The problem, and the form of an answer."""
        return f"{example['question'].strip()}\n\n{FORMS[MATH]}"

    def score(self, completion: str, example: Example) -> Score:
        r"""By math-verify, as TRL's `accuracy_reward`: the number in \boxed{} is the right one."""
        return match(completion, _final(example["answer"]), MATH)

    def difficulty(self, example: Example) -> str:
        """How many calculations the solution has, by its annotations; empty where it has none."""
        steps = example["answer"].count(_LEADING)
        return f"{steps} steps" if steps > 1 else "1 step" if steps else ""

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of GSM8K.

        Raises:
            ValueError: as `Task.read`, an empty question, or a solution that does not end in `#### NUMBER`.
        """
        example = super().read(row)
        _final(example["answer"])
        if not example["question"].strip():
            raise ValueError(f"question: {example['question']!r} is empty; write one, or remove the row")
        return example

    def check_options(self, options: Mapping[str, Any]) -> Any:
        """None are known; math-verify must be there.

        Raises:
            ValueError: as `Task.check_options`, or math-verify is not installed.
        """
        check_math_verify("task: 'gsm8k'")
        return super().check_options(options)


def _final(solution: str) -> str:
    found = _FINAL.search(solution)
    if found is None:
        raise ValueError(f"answer: {solution[-40:]!r} does not end in #### and a number; give GSM8K's own solutions")
    return found[1].replace(",", "")
