"""A warning that it takes long to generate the examples of a task."""

import logging
import time

_SOON_S, _LONG_S = 5.0, 120.0  # after so long, generators that need longer than the second are told of

logger = logging.getLogger(__name__)


class SlownessWarning:
    """Says once, in one line, that a generator is so slow that a person would believe that the program hangs."""

    def __init__(self, task: str, count: int) -> None:
        """Begin to measure.

        Args:
            task: name of the task.
            count: examples wanted.
        """
        self._task, self._count = task, count
        self._began_at, self._is_told = time.monotonic(), False

    def after(self, found: int) -> None:
        """Look at the clock when `found` examples are there."""
        if self._is_told or (spent_s := time.monotonic() - self._began_at) <= _SOON_S:
            return
        self._is_told = True
        remaining_s = spent_s / max(found, 1) * (self._count - found)
        if remaining_s > _LONG_S:
            logger.warning(
                "%s: %s examples take about %s minutes to generate; ask for fewer (train_size, test_size)",
                self._task,
                f"{self._count:,}",
                round(remaining_s / 60),
            )
