"""Which optimizer steps `metrics.jsonl` has no line of: a complete run has one for each, from the first to the last."""

from collections.abc import Iterable
from itertools import pairwise

_NAMED = 5  # most gaps that are named


def missing_steps(present: Iterable[int], last: int) -> str | None:
    """The steps from 1 to `last` that are not present, such as "steps 1 to 3 and 7"; None if there is none."""
    edges = sorted({0, last + 1, *(step for step in present if 0 < step <= last)})
    gaps = [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]
    if not gaps:
        return None
    ranges = [str(first) if first == end else f"{first} to {end}" for first, end in gaps]
    *others, final = ranges if len(ranges) <= _NAMED else [*ranges[:_NAMED], "others"]
    listed = f"{', '.join(others)} and {final}" if others else final
    return f"step {listed}" if listed.isdecimal() else f"steps {listed}"
