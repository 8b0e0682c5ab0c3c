"""A second opinion on the verdict, built on Python's own parser and sharing no code with the package."""

import ast
import re
from fractions import Fraction

ALLOWED = set("0123456789+-*/() \t\r\n\f\v")
LAST_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
OPERATORS = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


class Refused(Exception):
    pass


def is_right(completion: str, numbers: list[int], target: int) -> bool:
    """Does the last closed answer use every number exactly once and equal the target?"""
    answers = LAST_ANSWER.findall(completion)
    if not answers:
        return False
    try:
        value, used = value_and_literals(answers[-1])
    except Refused:
        return False
    return sorted(used) == sorted(numbers) and value == target


def value_and_literals(text: str) -> tuple[Fraction, list[int]]:
    """The exact value and the integers of an expression; Refused where the grammar or arithmetic says no."""
    if not set(text.strip()) <= ALLOWED:
        raise Refused("character")
    line = re.sub(r"[ \t\r\n\f\v]+", " ", text).strip()
    try:
        tree = ast.parse(line, mode="eval")
    except SyntaxError as error:
        raise Refused("syntax") from error
    used: list[int] = []
    try:
        return _value(tree.body, line, used), used
    except ZeroDivisionError as error:
        raise Refused("division by zero") from error


def _value(node: ast.expr, line: str, used: list[int]) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, line, used), _value(node.right, line, used))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, line, used)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.Constant) and ast.get_source_segment(line, node) == str(node.value):
        used.append(node.value)
        return Fraction(node.value)
    raise Refused(type(node).__name__)


def values_by_pairs(numbers: list, *, natural: bool) -> set:
    """Everything that replacing two numbers by a result, over and over, can end in."""
    if len(numbers) == 1:
        return set(numbers)
    values = set()
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            if i == j:
                continue
            left, right = numbers[i], numbers[j]
            rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
            results = [left + right, left * right]
            if not natural or left >= right:
                results.append(left - right)
            if right != 0 and (not natural or left % right == 0):
                results.append(left // right if natural else Fraction(left) / right)
            for result in results:
                values |= values_by_pairs([*rest, result], natural=natural)
    return values
