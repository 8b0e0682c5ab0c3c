"""What a few positive integers can make with + - * /, each used once."""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache


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
    """Every way to split the first `count` positions in two, each once: by a bit mask that holds position 0."""
    return [
        ([i for i in range(count) if left >> i & 1], [i for i in range(count) if not left >> i & 1])
        for left in range(1, (1 << count) - 1, 2)
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
