"""Windows that follow the step alone: the baselines that an adaptive policy has to beat."""

import math
from abc import abstractmethod

from tinyzero_trl.windows.config import WindowConfig
from tinyzero_trl.windows.policy import RolloutObservation, WindowPolicy


class _Schedule(WindowPolicy):
    """A window that is a function of the step; subclasses say which.

    The step is the trainer's, as observations carry it, so that a schedule written in training steps stays
    true when one rollout serves several of them.
    """

    _STATE = ("_next_step",)

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config)
        self._next_step = 0

    def _next_window(self) -> float:
        return self._window_at(self._next_step)

    def _learn(self, observation: RolloutObservation) -> None:
        self._next_step = observation.step + observation.optimizer_steps

    @abstractmethod
    def _window_at(self, step: int) -> float: ...


class FixedWindow(_Schedule):
    """Always `max`."""

    strategy = "fixed"

    def _window_at(self, step: int) -> float:
        return self._largest


class PhasedWindow(_Schedule):
    """The window of the last phase that has begun; `initial` before the first."""

    strategy = "phased"

    def _window_at(self, step: int) -> float:
        begun = [window for first_step, window in self.config.phases if first_step <= step]
        return begun[-1] if begun else self.config.initial


class CosineWindow(_Schedule):
    """From `initial` to `max` along half a cosine over `total_steps`, then `max`."""

    strategy = "cosine"

    def _window_at(self, step: int) -> float:
        assert self.config.total_steps is not None, "WindowConfig checks it"
        progress = min(step / self.config.total_steps, 1.0)
        risen = (1 - math.cos(math.pi * progress)) / 2
        return self.config.initial + (self._largest - self.config.initial) * risen
