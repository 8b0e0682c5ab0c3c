"""What a decoding step costs: a + b x rows seconds, fitted by least squares to timings."""

from collections.abc import Iterable, Sequence
from typing import Any

_DECAY = 0.9  # of older rollouts
_MOST_UNLIKE = 4.0


class StepCost:
    """Fits seconds = a x steps + b x row-steps, over stages, with newer rollouts counting more.

    A rollout that takes less than a quarter or more than four times the seconds that the fit expects was on another
    machine, or by another engine, on which the run goes on: what is older is forgotten.
    """

    def __init__(self) -> None:
        # steps^2, steps x rows, rows^2, steps x seconds, rows x seconds, steps, rows
        self._sums = [0.0] * 7

    def add(self, timings: Iterable[tuple[int, int, float]]) -> None:
        """Learn from the stages of one rollout: (steps, sum of the rows over these steps, seconds)."""
        timings = list(timings)
        if not timings:
            return
        decay = 0.0 if self._is_of_another_machine(timings) else _DECAY
        sums = [decay * value for value in self._sums]
        for steps, rows, seconds in timings:
            for place, product in enumerate(
                (steps * steps, steps * rows, rows * rows, steps * seconds, rows * seconds, steps, rows)
            ):
                sums[place] += product
        self._sums = sums

    def _is_of_another_machine(self, timings: Iterable[tuple[int, int, float]]) -> bool:
        if self._fit is None:
            return False
        a, b = self._fit
        expected = sum(a * steps + b * rows for steps, rows, _ in timings)
        seconds = sum(seconds for *_, seconds in timings)
        return not expected / _MOST_UNLIKE <= seconds <= expected * _MOST_UNLIKE

    @property
    def _fit(self) -> tuple[float, float] | None:
        """Seconds of a step and of a row, a and b; None where they are not known."""
        ss, sr, rr, st, rt, *_ = self._sums
        determinant = ss * rr - sr * sr
        if determinant <= 1e-9 * ss * rr:
            return None
        return (rr * st - sr * rt) / determinant, (ss * rt - sr * st) / determinant

    @property
    def rows_per_step(self) -> float:
        """How many rows cost as much as the step itself. 0 where that is not known."""
        if self._fit is None:
            return 0.0
        a, b = self._fit
        if b <= 0:  # the rows cost nothing that could be measured
            return 1e6 if a > 0 else 0.0
        return max(0.0, a / b)

    @property
    def share_of_rows(self) -> float:
        """The part of a rollout's time that its rows take; the steps take the rest. 1 where no time is known."""
        *_, steps, rows = self._sums
        return rows / (rows + self.rows_per_step * steps) if rows else 1.0

    def state(self) -> list[float]:
        """As JSON."""
        return list(self._sums)

    def restore(self, state: Sequence[Any]) -> None:
        """Undo `state`; sums of another kind, from an earlier version, are dropped: a rollout brings new ones."""
        if len(state) == len(self._sums):
            self._sums = list(state)
