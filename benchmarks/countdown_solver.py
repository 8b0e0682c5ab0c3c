"""An exact solver of Countdown, complete over the rationals."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

Rational = int | Fraction
Term = tuple[str, int]
"""An expression and the precedence of its outermost operator."""

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3


def find_expression(numbers: Sequence[int], target: int) -> str | None:
    """An expression that uses every number exactly once and equals the target, or None if there is none.

    For every subset of the numbers, all values it can make are tabulated, so the cost grows steeply with
    their count. Negative intermediate values are left out: by induction, what can be made with them can be
    made without, up to the sign of the result, which a leading minus provides.
    """
    if not numbers:
        return None
    everything = (1 << len(numbers)) - 1
    tables: list[dict[Rational, Term]] = [{} for _ in range(everything + 1)]
    for index, number in enumerate(numbers):
        tables[1 << index][number] = (str(number), _ATOM)
    for subset in range(1, everything):
        for left in _left_halves(subset):
            _tabulate(tables[left], tables[subset ^ left], tables[subset])
    for left in _left_halves(everything):
        _tabulate(tables[left], tables[everything ^ left], tables[everything])
        if abs(target) in tables[everything]:
            break
    found = tables[everything].get(abs(target))
    if found is None:
        return None
    return found[0] if target >= 0 else f"-{_bracket(found, _PRECEDENCE['*'])}"


def _left_halves(subset: int) -> Iterator[int]:
    """Every way to split a subset (a bit mask) in two, each once: the half that holds its lowest number."""
    lowest = subset & -subset
    others = rest = subset ^ lowest
    while rest:
        rest = (rest - 1) & others
        yield lowest | rest


def _tabulate(lefts: dict[Rational, Term], rights: dict[Rational, Term], table: dict[Rational, Term]) -> None:
    """Add every value that one operation makes of a left and a right value, with its expression."""
    for left, left_term in lefts.items():
        for right, right_term in rights.items():
            for operator, first, second, value in _operations(left, left_term, right, right_term):
                if value not in table:
                    table[value] = _join(operator, first, second)


def _operations(
    left: Rational, left_term: Term, right: Rational, right_term: Term
) -> Iterator[tuple[str, Term, Term, Rational]]:
    yield "+", left_term, right_term, left + right
    yield "*", left_term, right_term, left * right
    if left >= right:
        yield "-", left_term, right_term, left - right
    else:
        yield "-", right_term, left_term, right - left
    if right:
        yield "/", left_term, right_term, Fraction(left, right)
    if left:
        yield "/", right_term, left_term, Fraction(right, left)


def _join(operator: str, left: Term, right: Term) -> Term:
    """An expression with only the parentheses it needs."""
    precedence = _PRECEDENCE[operator]
    right_precedence = precedence + 1 if operator in "-/" else precedence
    return f"{_bracket(left, precedence)} {operator} {_bracket(right, right_precedence)}", precedence


def _bracket(term: Term, least_precedence: int) -> str:
    text, precedence = term
    return text if precedence >= least_precedence else f"({text})"
