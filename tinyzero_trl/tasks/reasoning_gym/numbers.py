"""Answers that are numbers, compared by ourselves where the library's scorer gives wrong ones the full score."""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction

from tinyzero_trl.tasks.matching import to_number

_PROBABILITY = Fraction(1, 10**4)  # the library's own tolerance


def _is_same_probability(answer: str, expected: str) -> bool:
    """The library's scorer pays the full score for a first part of the right answer, such as 0."""
    return _is_within(_PROBABILITY, answer, expected)


def _are_same_numbers(answer: str, expected: str) -> bool:
    """Numbers of two JSON lists differ by half of the last digit that is printed of the expected one, or less.

    The library's scorer takes those for the same that differ by 1, and nan for any.
    """
    found, wanted = (list(map(str, json.loads(text.replace("'", '"')))) for text in (answer, expected))
    return len(found) == len(wanted) and all(map(_is_printed_as, found, wanted))


def _is_printed_as(answer: str, expected: str) -> bool:
    places = Decimal(expected).as_tuple().exponent
    return isinstance(places, int) and _is_within(Fraction(10) ** min(0, places) / 2, answer, expected)


def _is_same_number(answer: str, expected: str) -> bool:
    """A number differs by half of the last digit that is printed of the expected one, or less.

    The library's scorer takes another candidate for the right one, where the two are close.
    """
    return _is_printed_as(answer, expected.replace(",", ""))


def _is_within(tolerance: Fraction, answer: str, expected: str) -> bool:
    found, wanted = to_number(answer), to_number(expected)
    return found is not None and wanted is not None and abs(found - wanted) <= tolerance


IS_RIGHT: Mapping[str, Callable[[str, str], bool]] = {
    "coin_flip": _is_same_probability,
    "number_format": _is_same_number,
    "number_sorting": _are_same_numbers,
}
"""By data set, whether an answer to which the library gives the full score is the expected one. The answer is untrusted
text, and may make a function raise an Exception."""
