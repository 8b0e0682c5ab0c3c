"""How numbers are written on the page."""

from typing import NamedTuple

from tinyzero_trl.metrics import Interval

NOTHING = "–"  # noqa: RUF001 the dash of an empty cell


class Cell(NamedTuple):
    """A cell of a table: its text, and what stands below it in small print."""

    text: str
    small: str = ""


def interval_cell(interval: Interval | None, form: str, missing: str = "") -> Cell:
    """The mean and, in small print, the bounds, each by the format `form`; `missing` is said where there is none."""
    if interval is None:
        return Cell(NOTHING, missing)
    small = "" if interval.low is None else f"{form.format(interval.low)} to {form.format(interval.high)}"
    return Cell(form.format(interval.mean), small)


def points(difference: Interval | None) -> Interval | None:
    """A difference of accuracies in percentage points."""
    if difference is None:
        return None
    low, high = (None if bound is None else 100 * bound for bound in (difference.low, difference.high))
    return Interval(100 * difference.mean, low, high)


def saved(ratio: Interval | None) -> Interval | None:
    """1 - ratio; what bounded the ratio from above bounds the saving from below."""
    if ratio is None:
        return None
    low, high = (None if bound is None else 1 - bound for bound in (ratio.high, ratio.low))
    return Interval(1 - ratio.mean, low, high)


def change(ratio: float) -> tuple[str, str]:
    """A ratio as how much fewer or more it is, such as ("30%", "fewer")."""
    return f"{abs(1 - ratio):.0%}", "fewer" if ratio <= 1 else "more"


def count(number: float) -> str:
    """A number of tokens, to three digits."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:  # what three digits would make a thousand is one of the next unit
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time in the unit that fits."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"
