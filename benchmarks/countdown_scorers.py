"""Our scorer of Countdown beside reasoning-gym's, on random expressions: `python benchmarks/countdown_scorers.py`.

Each expression is written for a problem of ours: some solve it, others use wrong numbers, wrong values, or notation
that only one of the two reads. No expression holds a name, so that reasoning-gym's scorer, which runs text as Python,
may see them. Counts go to results/countdown_scorers.json: how often both agree, and the kinds of text on which they do
not, with an example of each.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from countdown_solver import find_expression

from tinyzero_trl.tasks import countdown, get_task
from tinyzero_trl.tasks.arithmetic.problem import Problem
from tinyzero_trl.tasks.reasoning_gym import library

OUT = Path(__file__).parents[1] / "results" / "countdown_scorers.json"

Rewrite = Callable[[str, Problem, random.Random], str]

KINDS: Mapping[str, Rewrite] = {
    "a solution": lambda text, problem, draw: text,
    "a solution in brackets": lambda text, problem, draw: f"(({text}))",
    "a solution without spaces": lambda text, problem, draw: text.replace(" ", ""),
    "a solution over two lines": lambda text, problem, draw: text.replace(" ", "\n", 1),
    "a solution = the target": lambda text, problem, draw: f"{text} = {problem.target}",
    "a solution with a decimal point": lambda text, problem, draw: text.replace(
        str(problem.numbers[0]), f"{problem.numbers[0]}.0", 1
    ),
    "a solution with a leading zero": lambda text, problem, draw: text.replace(
        str(problem.numbers[0]), f"0{problem.numbers[0]}", 1
    ),
    "a solution times 10**0": lambda text, problem, draw: f"({text}) * 10**0",
    "a solution with a factorial": lambda text, problem, draw: f"({text})!",
    "a solution, less a sign twice": lambda text, problem, draw: f"-(-({text}))",
    "a solution with x for *": lambda text, problem, draw: text.replace("*", "\u00d7"),
    "floor division": lambda text, problem, draw: text.replace("/", "//"),
    "a power": lambda text, problem, draw: "**".join(map(str, sorted(problem.numbers)[:2])),
    "the numbers, other operators": lambda text, problem, draw: _joined(problem.numbers, draw),
    "a number left out": lambda text, problem, draw: _joined(problem.numbers[1:], draw),
    "another number": lambda text, problem, draw: _joined([*problem.numbers[1:], draw.randint(1, 20)], draw),
    "a number twice": lambda text, problem, draw: f"{text} + {problem.numbers[0]} - {problem.numbers[0]}",
    "the target alone": lambda text, problem, draw: str(problem.target),
    "the numbers in a list": lambda text, problem, draw: f"({text}, {problem.target})",
    "an open bracket": lambda text, problem, draw: f"({text}",
    "nothing": lambda text, problem, draw: " ",
    "a value within a millionth": lambda text, problem, draw: f"{problem.target} + 1 / 1000000",
}


def _joined(numbers: Any, draw: random.Random) -> str:
    text = str(numbers[0])
    for number in numbers[1:]:
        text += f" {draw.choice('+-*/')} {number}"
    return text


def compare(count: int, seed: int) -> dict[str, Any]:
    """Score `count` expressions with both.

    Returns:
        Counts, and for each kind of text on which they differ how often and one example.
    """
    draw, theirs = random.Random(seed), library.scorer("countdown", "{}")
    problems = countdown.generate(min(count, 400), seed=seed, operands=(3, 4), max_number=20)
    solutions = [find_expression(problem.numbers, problem.target) for problem in problems]
    agree: Counter[str] = Counter()
    differ: dict[str, Any] = {}
    for index in range(count):
        problem, solution = problems[index % len(problems)], solutions[index % len(problems)]
        kind = draw.choice(list(KINDS))
        if kind == "a value within a millionth":
            problem = Problem((problem.target, 1, 1_000_000), problem.target)
        text = KINDS[kind](str(solution), problem, draw)
        ours = get_task("countdown").score(f"<answer>{text}</answer>", problem.example)
        paid = theirs.score_answer(text, {"metadata": {"numbers": list(problem.numbers), "target": problem.target}})
        if (ours.reward == 1) == (paid == 1):
            agree["both right" if paid == 1 else "both wrong"] += 1
            continue
        found = differ.setdefault(kind, {"times": 0})
        found |= {"times": found["times"] + 1, "numbers": list(problem.numbers), "target": problem.target}
        found |= {"text": text, "ours": [*ours], "reasoning_gym": paid}
    return {"expressions": count, "seed": seed, "agree": dict(agree), "differ": dict(sorted(differ.items()))}


def main() -> None:
    """Compare and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = compare(args.count, args.seed)
    args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
