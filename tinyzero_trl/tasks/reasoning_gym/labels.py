"""Difficulty by the metadata of reasoning-gym: a label of few different values."""

import math
from collections.abc import Mapping
from typing import Any

_MOST_VALUES = 10  # of a whole number, each a label of its own; with more there are ranges
_RANGES = 5


def difficulty_label(metadata: Mapping[str, Any], chosen: str) -> str:
    """The label of an example.

    `metadata["difficulty"]` says what the configuration varies, most often as (low, high), and `metadata` holds what
    this example has of it. The first that has a single value here becomes the label, such as `num_terms 4`; a number
    with many values becomes a fifth of its range, such as `n 1 to 2000`.

    Args:
        metadata: of an entry.
        chosen: name of an entry of the metadata to take instead; empty for the first usable one.

    Returns:
        The label; empty where the metadata has none.

    Raises:
        ValueError: there is no entry of the chosen name.
    """
    varied = metadata.get("difficulty")
    if chosen:
        if chosen not in metadata:
            known = ", ".join(sorted(name for name in metadata if name != "difficulty"))
            raise ValueError(f"difficulty_label: {chosen!r} is no entry of the metadata; choose one of {known}")
        value = metadata[chosen]
        limits = varied.get(chosen) if isinstance(varied, Mapping) else None
        return _label(chosen, value, limits) or ("" if value is None else f"{chosen} {value}")
    if isinstance(varied, Mapping):
        return next(filter(None, (_label(name, metadata.get(name), limits) for name, limits in varied.items())), "")
    return f"difficulty {varied}" if isinstance(varied, int | float | str) else ""


def _label(name: str, value: Any, limits: Any) -> str:
    """Empty where the value is no number, or its limits are not known."""
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(map(_is_number, (*limits, value))):
        return ""
    low, high = limits
    if isinstance(value, int) and high - low < _MOST_VALUES:
        return f"{name} {value}"
    if not low <= value <= high or low == high:
        return ""
    place = min(_RANGES - 1, math.floor(_RANGES * (value - low) / (high - low)))
    first, last = (low + (high - low) * each / _RANGES for each in (place, place + 1))
    if isinstance(value, int):  # the whole numbers that fall into the range
        first, last = math.ceil(first), high if place == _RANGES - 1 else math.ceil(last) - 1
    return f"{name} {first:.12g} to {last:.12g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
