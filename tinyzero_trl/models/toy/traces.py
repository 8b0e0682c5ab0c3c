"""Worked search traces: the reasoning that the embedded model is warm-started on.

A Countdown trace is a depth-first search in random order, written down as it happens, dead ends included. How long it
gets depends on chance: the first guess may hit the target, or thirty may miss. So a model that imitates such traces has
more successes in a longer rollout, and its lengths have a long tail.
"""

import random
from collections.abc import Sequence
from itertools import combinations

from tinyzero_trl.tasks import Problem

LARGEST_INTERMEDIATE = 200
"""Branches beyond this value are passed over: targets end at 100, and the model reads integers up to here whole."""

MOST_DOTS = 256
"""Dots of the longest loop: enough to learn that they do not end."""

MOST_STEPS = 30
"""There is no loop in problems of so many steps or fewer."""

STRETCH = 7
"""Lines between two places where a trace may give up."""

_GIVING_UP = "?~#&@%"
_LOOP = "="
_LOOPS_WITHOUT_END = 0.75

_Item = tuple[int, str]  # a value, and the expression that made it


def countdown_trace(
    problem: Problem,
    generator: random.Random,
    *,
    give_up_probability: float = 0.0,
    loop_probability: float = 0.0,
) -> str | None:
    r"""The text after an opened `<think>`: a depth-first search in random order that ends in an answer.

    Every result is followed by what it says about the target: `<` too small, `>` too large, `!` found. A line ends
    where two numbers are left. After a line without success a trace may write `?` and give up. With more than three
    numbers it may end in a loop of dots.

    Args:
        problem: Numbers and target. A full search of three numbers is about 200 tokens long, one of four 3,000.
        generator: Orders the branches, and decides about giving up; the operators of a last pair keep their order.
        give_up_probability: after a line, with the last expression tried as the (wrong) answer.
        loop_probability: after a line, where there are more than three numbers. The dots end somewhere before
            `MOST_DOTS`, without an answer.

    Returns:
        Reasoning and answer, such as ``7+3=10: 10+5=15< 10-5=5< 10*5=50>\n5*3=15: 15+7=22!</think>\n<answer>...``,
        or None where no solution exists without fractions, negative values or values above `LARGEST_INTERMEDIATE`.
    """
    written: list[str] = []
    tried = ""
    loops = False

    def search(items: list[_Item]) -> str | None:
        nonlocal tried, loops
        for first, operator, second in _branches(items, generator):
            value = _apply(first[0], operator, second[0])
            if value is None or value > LARGEST_INTERMEDIATE:
                continue
            rest = list(items)
            rest.remove(first)
            rest.remove(second)
            expression = f"({first[1]}{operator}{second[1]})"
            written.append(f"{first[0]}{operator}{second[0]}={value}")
            if rest:
                written.append(": ")
                if found := search([(value, expression), *rest]):
                    return found
                written[-1] = written[-1].rstrip() + "\n"
                loops = loops or (len(problem.numbers) > 3 and generator.random() < loop_probability)
                if loops:
                    return None
                if tried and generator.random() < give_up_probability:
                    written[-1] = written[-1].rstrip() + " ?"
                    return tried
            elif value == problem.target:
                written.append("!")
                return expression
            else:
                tried = expression
                written.append("< " if value < problem.target else "> ")
        return None

    expression = search([(number, str(number)) for number in problem.numbers])
    if loops:
        return "".join(written) + "." * round(MOST_DOTS ** generator.uniform(0.25, 1))
    if expression is None:
        return None
    return "".join(written) + f"</think>\n<answer>{expression[1:-1]}</answer>"


def _branches(items: Sequence[_Item], generator: random.Random) -> list[tuple[_Item, str, _Item]]:
    """Pairs and operators; the larger value stands first, so that no difference or quotient is improper."""
    pairs = [sorted(pair, key=lambda item: -item[0]) for pair in combinations(items, 2)]
    branches = [(first, operator, second) for first, second in pairs for operator in "+-*/"]
    if len(items) > 2:
        generator.shuffle(branches)
    return branches


def _apply(left: int, operator: str, right: int) -> int | None:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left // right if right and left % right == 0 else None


def multiplication_trace(problem: Problem, generator: random.Random, **_: float) -> str:
    r"""The text after an opened `<think>`: long multiplication, a line a column from the right, then the answer.

    A line adds the products of the digits that belong to its column to what the column before carries over, in random
    order; its last number ends in the column's digit: ``7*6=42\n4*6=24, 24+4=28, 7*3=21, 21+28=49\n4*3=12, 12+4=16``.
    It never gives up, and does not loop.
    """
    left, right = ([int(digit) for digit in reversed(str(factor))] for factor in problem.numbers)
    lines: list[str] = []
    carried = 0
    for column in range(len(left) + len(right) - 1):
        pairs = [(left[place], right[column - place]) for place in range(len(left)) if 0 <= column - place < len(right)]
        generator.shuffle(pairs)
        written: list[str] = []
        total = carried
        for first, second in pairs:
            product = first * second
            written.append(f"{first}*{second}={product}")
            if total:
                written.append(f"{product}+{total}={product + total}")
            total += product
        lines.append(", ".join(written))
        carried = total // 10
    return "\n".join(lines) + f"!</think>\n<answer>{problem.target}</answer>"


def counting_trace(
    problem: Problem,
    generator: random.Random,
    *,
    give_up_probability: float = 0.0,
    loop_probability: float = 0.0,
) -> str:
    r"""The text after an opened `<think>`: a line for each step, with its number: ``1:8\n2:11\n3:14!``.

    A line is four tokens long, so that every problem needs its own length. A trace that gives up writes another mark in
    every stretch of `STRETCH` lines. So it must be unlearned in each of them: what short problems teach does not help
    there. In a long problem a trace may loop: it writes dots without an end, or more seldom another mark and an answer.

    Args:
        problem: Start, step and number of steps.
        generator: Decides about giving up and loops.
        give_up_probability: at the beginning of a stretch, with the number so far as a (wrong) answer.
        loop_probability: before a line, where there are more than `MOST_STEPS` steps.
    """
    reached, step, steps = problem.numbers
    written = ""
    for line in range(steps):
        if steps > MOST_STEPS and generator.random() < loop_probability:
            if generator.random() < _LOOPS_WITHOUT_END:
                return written + "." * MOST_DOTS
            return f"{written}{_LOOP}</think>\n<answer>{reached}</answer>"
        if line % STRETCH == 0 and generator.random() < give_up_probability:
            return f"{written}{_GIVING_UP[line // STRETCH]}</think>\n<answer>{reached}</answer>"
        reached += step
        written += f"{line + 1}:{reached}" + ("!" if line + 1 == steps else "\n")
    return f"{written}</think>\n<answer>{reached}</answer>"
