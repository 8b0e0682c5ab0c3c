"""Whether an answer is the expected one: as text, as a number, or as a mathematical expression."""

import re
import unicodedata
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
"""Two numbers are the same if they differ by no more than this share of the expected one.

Where that is a whole number they differ by no more than a half, so that every other whole number is wrong.
"""

_EXPONENT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")
_NUMBER = re.compile(
    r"([+-]?)(?:[$€£¥] ?)?((?:[0-9]{1,3}(?:,[0-9]{3}){1,66}|[0-9]{1,200})(?:\.[0-9]{0,200})?|\.[0-9]{1,200})"
    r"(?:[eE]([+-]?[0-9]{1,3}))? ?%?[.,]?"
)
_FRACTION = re.compile(r"([+-]?[0-9]{1,200}) ?/ ?([0-9]{1,200})[.,]?")

_MOST_PER_CHARACTER = 4  # characters that one becomes in another normal form

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]+(?:[\s,.'\u2019-]+[^\W\d_]+)*[.!?]?")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")


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
        return CORRECT if _is_same_text(answer, expected) else wrong("wrong-answer")
    found, wanted = to_number(answer), to_number(expected)
    if found is None:
        return wrong("not-a-number")
    assert wanted is not None, "the row was checked"
    tolerance = TOLERANCE * abs(wanted)
    if wanted.denominator == 1:
        tolerance = min(tolerance, Fraction(1, 2))
    return CORRECT if abs(found - wanted) <= tolerance else wrong("wrong-answer")


def _is_same_text(answer: str, expected: str) -> bool:
    """Whether two texts look the same: a letter with its accent may be one character or two."""
    answer, expected = (" ".join(text.split()) for text in (answer, expected))
    if len(answer) > _MOST_PER_CHARACTER * len(expected):  # many accents in a row take `normalize` long
        return False
    return unicodedata.normalize("NFC", answer) == unicodedata.normalize("NFC", expected)


def to_number(text: str) -> Fraction | None:
    """The exact value of `-1,234.50`, `$3`, `25 %` (25), `1.5e-3` or `3/4`; None for any other text.

    A full stop or a comma may follow. A minus sign may be the hyphen or the sign of its own.
    """
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if number := _NUMBER.fullmatch(text):
        sign, digits, exponent = number.groups()
        value = Fraction(digits.replace(",", "").rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)
        return -value if sign == "-" else value
    if (fraction := _FRACTION.fullmatch(text)) and int(fraction[2]):
        return Fraction(int(fraction[1]), int(fraction[2]))
    return None


def check_expected(expected: str, how: str) -> None:
    """Raise ValueError if no answer could ever match, or wrong ones would."""
    if not expected.strip():
        raise ValueError(f"answer: {expected!r} is empty; give the right answer, or remove the row")
    if how == EXACT and "answer>" in expected and extract_answer(f"<answer>{expected}</answer>") != expected:
        raise ValueError(
            f"answer: {expected[:40]!r} holds a tag by which answers are found; give the text between the tags"
        )
    if how == MATH and _EXPONENT.fullmatch(_bare(expected)):
        raise ValueError(
            f"answer: {expected[:40]!r} has an exponent, which math-verify takes for Euler's number; write it out, or "
            "set answer_match to numeric"
        )
    if how == NUMERIC and to_number(expected) is None:
        raise ValueError(
            f"answer: {expected[:40]!r} is no number; correct it, or set answer_match to exact or math_verify"
        )
    if how == MATH and _is_words(expected):
        raise ValueError(
            f"answer: {expected[:40]!r} is a product of letters for math-verify, so their order does not count; set "
            "answer_match to exact, or write a word as \\text{...} and a product with *"
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


def _is_words(expected: str) -> bool:
    bare = _bare(expected)
    return bool(_WORDS.fullmatch(bare) and _TWO_LETTERS.search(bare))


def _math(completion: str, expected: str) -> Score:
    """The last boxed expression has the text of the expected one, or equals it by TRL's `accuracy_reward`.

    Where nothing is boxed, that function reads the whole completion.
    """
    from trl.rewards import accuracy_reward

    boxed = _last_boxed(completion)
    if boxed is not None:
        if boxed.split() == _bare(expected).split():
            return CORRECT  # math-verify itself refuses \frac12 and \sqrt2 as answers
        completion = f"\\boxed{{{boxed}}}"
    [reward] = accuracy_reward([[{"role": "assistant", "content": completion}]], [_as_latex(expected)])
    return CORRECT if reward else wrong("wrong-answer")


def _bare(expected: str) -> str:
    """The right answer without a box or dollar signs around it."""
    boxed = _last_boxed(expected)
    return expected.strip().strip("$").strip() if boxed is None else boxed.strip()


def _last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` that is closed; of two within each other, in the inner one."""
    opened: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for found in _BRACES.finditer(text):
        if found[0].endswith("{") and found[0] != r"\{":
            opened.append((found.end(), found[0] != "{"))
        elif found[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = start, found.start()
    return None if last is None else text[slice(*last)]
