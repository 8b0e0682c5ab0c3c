"""Whether an answer is the expected one: as text, as a number, or as a mathematical expression."""

import re
from fractions import Fraction
from importlib.util import find_spec

from tinyzero_trl.tasks.task import CORRECT, Score, extract_answer, wrong

EXACT, NUMERIC, MATH = "exact", "numeric", "math_verify"
MATCHES = (EXACT, NUMERIC, MATH)

FORMS = {
    EXACT: "Write your thoughts between <think> and </think>, and nothing but the final answer between <answer> and "
    "</answer>.",
    NUMERIC: "Write your thoughts between <think> and </think>, and the final answer as a number between <answer> and "
    "</answer>.",
    MATH: r"Reason step by step, and write the final answer as \boxed{ANSWER}.",
}
"""What a prompt says of the form of an answer."""

TOLERANCE = Fraction(1, 10**6)
"""Two numbers are the same if they differ by no more than this share of the expected one."""

_NUMBER = re.compile(
    r"([+-]?)(?:\$ ?)?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,200})(?:\.[0-9]{0,200})?|\.[0-9]{1,200})"
    r"(?:[eE]([+-]?[0-9]{1,3}))? ?%?\.?"
)
_FRACTION = re.compile(r"([+-]?[0-9]{1,200}) ?/ ?([0-9]{1,200})")


def check_math_verify(asked_by: str) -> None:
    """Raise ValueError if math-verify is not installed; `asked_by` is a field and its value."""
    if find_spec("math_verify") is None:
        raise ValueError(
            f"{asked_by} is scored by a package that is not installed; pip install 'tinyzero-trl[math-verify]'"
        )


def match(completion: str, expected: str, how: str) -> Score:
    """Score a completion by its answer: between answer tags, or boxed for math-verify.

    Args:
        completion: untrusted text.
        expected: the right answer.
        how: one of `MATCHES`.
    """
    if how == MATH:
        return _math(completion, expected)
    answer = extract_answer(completion)
    if answer is None:
        return wrong("no-answer-tag")
    if how == EXACT:
        return CORRECT if answer.split() == expected.split() else wrong("wrong-answer")
    found, wanted = to_number(answer), to_number(expected)
    if found is None:
        return wrong("not-a-number")
    assert wanted is not None, "the row was checked"
    return CORRECT if abs(found - wanted) <= TOLERANCE * abs(wanted) else wrong("wrong-answer")


def to_number(text: str) -> Fraction | None:
    """The exact value of `-1,234.50`, `$3`, `25 %` (25), `1.5e-3` or `3/4`; None for any other text."""
    text = text.strip()
    if number := _NUMBER.fullmatch(text):
        sign, digits, exponent = number.groups()
        value = Fraction(digits.replace(",", "").rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)
        return -value if sign == "-" else value
    if (fraction := _FRACTION.fullmatch(text)) and int(fraction[2]):
        return Fraction(int(fraction[1]), int(fraction[2]))
    return None


def check_expected(expected: str, how: str) -> None:
    """Raise ValueError if no answer could ever match."""
    if not expected.strip():
        raise ValueError(f"answer: {expected!r} is empty; give the right answer, or remove the row")
    if how == NUMERIC and to_number(expected) is None:
        raise ValueError(
            f"answer: {expected[:40]!r} is no number; correct it, or set answer_match to exact or math_verify"
        )
    if how == MATH and not _is_mathematics(expected):
        raise ValueError(
            f"answer: {expected[:40]!r} is nothing that math-verify reads; correct it, or set another answer_match"
        )


def _as_latex(expected: str) -> str:
    """The right answer where math-verify looks for LaTeX; plain text would be parsed as Python."""
    return expected if "$" in expected or "\\boxed" in expected else f"\\boxed{{{expected}}}"


def _is_mathematics(expected: str) -> bool:
    import math_verify

    return bool(math_verify.parse(_as_latex(expected), [math_verify.LatexExtractionConfig()]))


def _math(completion: str, expected: str) -> Score:
    """As TRL's `accuracy_reward`: the last boxed expression, or another one in LaTeX, equals the expected one."""
    from trl.rewards import accuracy_reward

    [reward] = accuracy_reward([[{"role": "assistant", "content": completion}]], [_as_latex(expected)])
    return CORRECT if reward else wrong("wrong-answer")
