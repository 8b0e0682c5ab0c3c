"""Mean and standard deviation of the success lengths seen so far, in three ways of forgetting.

All lengths are right-censored: only a success that fits the window is ever seen, so that the moments describe
short successes too favourably while the window is short. The policy that uses them must look elsewhere for
what is cut.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

MODES = ("basic", "ema", "rolling")

_Totals = tuple[int, ...]
"""Count, sum and sum of squares: integers, so that no order of summation rounds differently."""


class LengthMoments(ABC):
    """Running moments of censored success lengths; batches come whole, so their inner order cannot matter."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Success lengths that the moments rest on."""

    @abstractmethod
    def add(self, lengths: Sequence[int]) -> None:
        """Take in the success lengths of one batch, in tokens; an empty batch changes nothing."""

    @abstractmethod
    def _first_two(self) -> tuple[float, float]:
        """Mean of the lengths and of their squares; called with count > 0 alone."""

    @abstractmethod
    def state(self) -> list[Any]:
        """What a checkpoint must hold, as JSON."""

    @abstractmethod
    def restore(self, state: Sequence[Any]) -> None:
        """Undo `state`."""

    def mean(self) -> float:
        """Mean success length in tokens; needs count > 0."""
        return self._first_two()[0]

    def target_length(self, std_multiplier: float) -> float:
        """Mean + `std_multiplier` x (population) standard deviation, in tokens; needs count > 0."""
        mean, mean_square = self._first_two()
        return mean + std_multiplier * math.sqrt(max(mean_square - mean * mean, 0.0))


class _AllLengths(LengthMoments):
    """Every success length of the run, as exact integer sums: bounded memory, no rounding."""

    def __init__(self) -> None:
        self._sums: _Totals = (0, 0, 0)

    @property
    def count(self) -> int:
        return self._sums[0]

    def add(self, lengths: Sequence[int]) -> None:
        self._sums = _added([self._sums, _sums(lengths)])

    def _first_two(self) -> tuple[float, float]:
        return _means(self._sums)

    def state(self) -> list[Any]:
        return list(self._sums)

    def restore(self, state: Sequence[Any]) -> None:
        self._sums = tuple(state)


class _RecentLengths(LengthMoments):
    """The newest batches that together hold at least `keep` success lengths (at most `keep` batches)."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._batches: deque[_Totals] = deque()

    @property
    def count(self) -> int:
        return sum(count for count, *_ in self._batches)

    def add(self, lengths: Sequence[int]) -> None:
        if lengths:
            self._batches.append(_sums(lengths))
        while self._batches and self.count - self._batches[0][0] >= self._keep:
            self._batches.popleft()

    def _first_two(self) -> tuple[float, float]:
        return _means(_added(self._batches))

    def state(self) -> list[Any]:
        return [list(batch) for batch in self._batches]

    def restore(self, state: Sequence[Any]) -> None:
        self._batches = deque(map(tuple, state))


class _DecayingLengths(LengthMoments):
    """Exponential moving moments over batches that hold a success.

    With bias correction the moments start at zero and are divided by the weight gathered so far, 1 - beta^n
    after n batches; without it they start at the first batch. Doing both at once would count the first batch
    1 / (1 - beta) times too often.
    """

    def __init__(self, beta: float, bias_correction: bool) -> None:
        self._beta, self._bias_correction = beta, bias_correction
        self._count = 0
        self._weight = self._mean = self._mean_square = 0.0

    @property
    def count(self) -> int:
        return self._count

    def add(self, lengths: Sequence[int]) -> None:
        if not lengths:
            return
        starts_here = self._count == 0 and not self._bias_correction
        beta = 0.0 if starts_here else self._beta
        mean, mean_square = _means(_sums(lengths))
        self._weight = beta * self._weight + (1 - beta)
        self._mean = beta * self._mean + (1 - beta) * mean
        self._mean_square = beta * self._mean_square + (1 - beta) * mean_square
        self._count += len(lengths)

    def _first_two(self) -> tuple[float, float]:
        return self._mean / self._weight, self._mean_square / self._weight

    def state(self) -> list[Any]:
        return [self._count, self._weight, self._mean, self._mean_square]

    def restore(self, state: Sequence[Any]) -> None:
        self._count, self._weight, self._mean, self._mean_square = state


def length_moments(mode: str, *, keep: int, beta: float, bias_correction: bool) -> LengthMoments:
    """The moments that `mode` names; `keep` is for `rolling`, the other two are for `ema`."""
    if mode == "basic":
        return _AllLengths()
    if mode == "rolling":
        return _RecentLengths(keep)
    return _DecayingLengths(beta, bias_correction)


def _sums(lengths: Sequence[int]) -> _Totals:
    return len(lengths), sum(lengths), sum(length * length for length in lengths)


def _added(batches: Iterable[_Totals]) -> _Totals:
    return tuple(map(sum, zip(*batches, strict=True)))


def _means(sums: _Totals) -> tuple[float, float]:
    count, total, total_square = sums
    return total / count, total_square / count
