"""What a decoding step costs: a + b x rows seconds, fitted by least squares to timings."""

from collections.abc import Iterable, Sequence
from typing import Any

_DECAY = 0.9  # of older rollouts


class StepCost:
    """Fits seconds = a x steps + b x row-steps, over stages, with newer rollouts counting more."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5  # steps^2, steps x rows, rows^2, steps x seconds, rows x seconds

    def add(self, timings: Iterable[tuple[int, int, float]]) -> None:
        """Learn from the stages of one rollout: (steps, sum of the rows over these steps, seconds)."""
        timings = list(timings)
        if not timings:
            return
        sums = [_DECAY * value for value in self._sums]
        for steps, rows, seconds in timings:
            for place, product in enumerate(
                (steps * steps, steps * rows, rows * rows, steps * seconds, rows * seconds)
            ):
                sums[place] += product
        self._sums = sums

    @property
    def rows_per_step(self) -> float:
        """How many rows cost as much as the step itself. 0 where that is not known."""
        ss, sr, rr, st, rt = self._sums
        determinant = ss * rr - sr * sr
        if determinant <= 1e-9 * ss * rr:
            return 0.0
        a, b = (rr * st - sr * rt) / determinant, (ss * rt - sr * st) / determinant
        if b <= 0:  # the rows cost nothing that could be measured
            return 1e6 if a > 0 else 0.0
        return max(0.0, a / b)

    def state(self) -> list[float]:
        """As JSON."""
        return list(self._sums)

    def restore(self, state: Sequence[Any]) -> None:
        """Undo `state`."""
        self._sums = list(state)
