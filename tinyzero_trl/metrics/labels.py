"""Difficulty as a label: what figures are broken down by, and how it stands in their names."""

from collections.abc import Sequence
from hashlib import sha256
from math import isfinite
from typing import Any

Label = int | str
"""A difficulty: a positive whole number or a text; 0, true, false and the empty text say that there is none."""

MOST_LABELS = 32
"""With more labels in a batch nothing is broken down: they tell examples apart, not difficulties."""

_LONGEST = 40  # characters of a label; of a longer text the first, and a mark by which it is told from others


def as_label(value: Any) -> Label:
    """The label that a value of any kind stands for, in one line that a terminal shows as it is; 0 where it is none.

    Of a text with more than 40 characters it has the first 34 and a digest of all, so that two texts are two labels.
    """
    if isinstance(value, float) and value.is_integer():  # as pandas makes of whole numbers beside missing ones
        value = int(value)
    if type(value) is int:
        return max(value, 0)
    if isinstance(value, float):
        return f"{value:g}" if isfinite(value) and value > 0 else 0
    if not isinstance(value, str):
        return 0
    text = "".join(filter(str.isprintable, " ".join(value.split())))
    if len(text) <= _LONGEST:
        return text
    mark = f"~{sha256(text.encode(errors='replace')).hexdigest()[:5]}"
    return text[: _LONGEST - len(mark)] + mark


def labels_of(difficulties: Sequence[Label]) -> list[Label]:
    """The different labels, numbers first, each kind in ascending order; none where there are too many."""
    different = {label for label in difficulties if label}
    if len(different) > MOST_LABELS:
        return []
    return sorted(different, key=lambda label: (isinstance(label, str), label))
