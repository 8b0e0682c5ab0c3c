"""What a few positive integers can make with + - * /, each used once: an exact solver and a quick count.

`find_expression` is complete over the rationals. `natural_values` stays among the natural numbers (no
negative and no fractional intermediate value); the generator asks it for every set of numbers it draws.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache, lru_cache

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


def natural_values(numbers: Sequence[int]) -> Iterable[int]:
    """Everything one or more numbers can make without a negative or fractional intermediate value."""
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 2:
        return _natural_pair(*numbers)
    values: set[int] = set()
    for left, right in _splits(len(numbers)):
        lefts = natural_values([numbers[index] for index in left])
        rights = natural_values([numbers[index] for index in right])
        _add_naturals(lefts, rights, values)
    return values


@lru_cache(maxsize=1 << 14)
def _natural_pair(left: int, right: int) -> frozenset[int]:
    values: set[int] = set()
    _add_naturals((left,), (right,), values)
    return frozenset(values)


@cache
def _splits(count: int) -> list[tuple[list[int], list[int]]]:
    """`_left_halves` of the first `count` positions, as positions."""
    everything = (1 << count) - 1
    return [
        ([i for i in range(count) if left >> i & 1], [i for i in range(count) if not left >> i & 1])
        for left in _left_halves(everything)
    ]


def _add_naturals(lefts: Iterable[int], rights: Iterable[int], values: set[int]) -> None:
    add = values.add
    for left in lefts:
        for right in rights:
            add(left + right)
            add(left * right)
            if left >= right:
                add(left - right)
                if right and not left % right:
                    add(left // right)
            else:
                add(right - left)
                if left and not right % left:
                    add(right // left)
