"""Exact arithmetic on untrusted text: + - * / over integers, parentheses and signs; never eval.

Parsing and evaluation are loops over an explicit stack, so nesting cannot exhaust the interpreter's; the
length is bounded, so the work is too. A caller that judges hostile text checks `literals` against the numbers
it allows before it calls `evaluate`: then no integer larger than its own numbers is ever converted or
multiplied.
"""

import re
from fractions import Fraction

MAX_CHARACTERS = 4096
"""Longest expression that is judged: a real answer has some tens of characters."""

NEGATE = "neg"
"""The postfix token of the unary minus. A unary plus changes nothing and leaves no token."""

_FORBIDDEN = re.compile(r"\*\*|//|[^0-9+\-*/() \t\r\n\f\v]")
_FORBIDDEN_REASONS = {
    "**": "power-operator",
    "//": "floor-division",
    ".": "decimal-number",
    "=": "equals-sign",
    "_": "underscore",
}
_LEADING_ZERO = re.compile(r"(?<![0-9])0[0-9]")
_TOKEN = re.compile(r"[0-9]+|[+\-*/()]")
_PRECEDENCE = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, NEGATE: 3}


class ExpressionError(ValueError):
    """Text that is no expression, or has no value; `reason` is a short code such as "leading-zero"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse(text: str) -> list[str]:
    """Text to postfix tokens: literals as they stand, operators after their operands.

    The grammar is Python's for `+ - * /`, signs, parentheses and decimal integers without leading zeros or
    underscores, over ASCII alone, with spaces and line breaks anywhere between tokens.

    Raises:
        ExpressionError: if the text is longer than `MAX_CHARACTERS`, empty, or outside the grammar.
    """
    _check_characters(text)
    postfix: list[str] = []
    pending: list[str] = []  # operators and open parentheses that still wait for their right operand
    expects_operand = True
    for token in _TOKEN.findall(text):
        if expects_operand:
            if token == "-":
                pending.append(NEGATE)
            elif token == "(":
                pending.append(token)
            elif token not in "+*/)":
                postfix.append(token)
                expects_operand = False
            elif token != "+":
                raise ExpressionError("missing-operand")
        elif token == ")":
            _close_parenthesis(pending, postfix)
        elif token in "+-*/":
            precedence = _PRECEDENCE[token]
            while pending and _PRECEDENCE[pending[-1]] >= precedence:
                postfix.append(pending.pop())
            pending.append(token)
            expects_operand = True
        else:
            raise ExpressionError("missing-operator")
    if expects_operand:
        raise ExpressionError("missing-operand")
    if "(" in pending:
        raise ExpressionError("unbalanced-parenthesis")
    postfix.extend(reversed(pending))
    return postfix


def literals(postfix: list[str]) -> list[str]:
    """The integer literals in order, as text: without leading zeros, equal values are equal text."""
    return [token for token in postfix if token not in _PRECEDENCE]


def evaluate(postfix: list[str]) -> int | Fraction:
    """The exact value of what `parse` returned.

    Raises:
        ExpressionError: reason "division-by-zero".
    """
    stack: list[int | Fraction] = []
    for token in postfix:
        if token not in _PRECEDENCE:
            stack.append(int(token))
        elif token == NEGATE:
            stack.append(-stack.pop())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_apply(token, left, right))
    (value,) = stack
    return value


def _apply(operator: str, left: int | Fraction, right: int | Fraction) -> int | Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        raise ExpressionError("division-by-zero")
    return Fraction(left, right)


def _check_characters(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError("too-long")
    if not text or text.isspace():
        raise ExpressionError("empty")
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        raise ExpressionError(_FORBIDDEN_REASONS.get(forbidden.group(), "unknown-character"))
    if _LEADING_ZERO.search(text):
        raise ExpressionError("leading-zero")


def _close_parenthesis(pending: list[str], postfix: list[str]) -> None:
    while pending and pending[-1] != "(":
        postfix.append(pending.pop())
    if not pending:
        raise ExpressionError("unbalanced-parenthesis")
    pending.pop()
