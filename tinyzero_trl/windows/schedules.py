"""Windows that follow the step alone: the baselines that an adaptive policy has to beat."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tinyzero_trl.windows.config import WindowConfig
from tinyzero_trl.windows.fields import count, shown
from tinyzero_trl.windows.policy import ConfigT, RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import register_policy


@dataclass(frozen=True, kw_only=True)
class FixedConfig(WindowConfig):
    """The window is always `max`, so `initial` has no effect and may exceed it."""

    def _named_windows(self) -> list[int]:
        return [] if self.max is None else [self.max]

    def _check_windows(self, largest: int) -> None:
        """`max` is the only window."""


@dataclass(frozen=True, kw_only=True)
class PhasedConfig(WindowConfig):
    """A window for each phase of training."""

    phases: tuple[tuple[int, int], ...] = field(
        default=(), metadata={"help": "pairs [step, window] in ascending order; the last window stays"}
    )

    def __post_init__(self) -> None:
        """Lists from YAML or JSON become tuples, so that the configuration stays immutable."""
        self._set("phases", _as_pairs(self.phases))
        super().__post_init__()
        if not self.phases:
            raise ValueError(f"{shown('phases')}: empty; strategy phased needs pairs such as [[0, 512], [100, 1024]]")
        steps = [step for step, _ in self.phases]
        if steps[0] < 0 or any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(
                f"{shown('phases')}: steps {steps} do not strictly increase from 0 or later; reorder the pairs"
            )

    def _named_windows(self) -> list[int]:
        return [*super()._named_windows(), *(window for _, window in self.phases)]

    def _check_windows(self, largest: int) -> None:
        if not self.phases or self.phases[0][0] != 0:  # else `initial` is never used
            super()._check_windows(largest)
        for step, window in self.phases:
            if not self.min <= window <= largest:
                raise ValueError(
                    f"{shown('phases')}: window {window} at step {step} is outside [{shown('min')} {self.min}, "
                    f"{shown('max')} {largest}]; change the pair or the bounds"
                )


@dataclass(frozen=True, kw_only=True)
class CosineConfig(WindowConfig):
    """A rise from `initial` to `max`."""

    total_steps: int | None = count("number of training steps from `initial` to `max`")

    def __post_init__(self) -> None:
        """Require the number of steps."""
        super().__post_init__()
        if self.total_steps is None:
            raise ValueError(f"{shown('total_steps')}: not set; strategy cosine needs the number of steps it spans")


class _Schedule(WindowPolicy[ConfigT]):
    """A window that is a function of `_next_step`, the step of the next rollout; subclasses say which.

    The step is the trainer's, as observations carry it. A schedule that is written in training steps therefore stays
    true when one rollout serves several of them.
    """

    STATE = ("_next_step",)

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self._next_step = 0

    def begin_at_step(self, step: int) -> None:
        """See `WindowPolicy.begin_at_step`."""
        self._next_step = step

    def observe(self, observation: RolloutObservation) -> None:
        """Take the step from any rollout, whether or not it was judged."""
        super().observe(observation)
        self._next_step = observation.next_step

    def learn(self, observation: RolloutObservation) -> None:
        """The completions do not matter."""


@register_policy("fixed", config=FixedConfig)
class FixedWindow(WindowPolicy[FixedConfig]):
    """Always `max`."""

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        return self._largest

    def learn(self, observation: RolloutObservation) -> None:
        """The completions do not matter."""


@register_policy("phased", config=PhasedConfig)
class PhasedWindow(_Schedule[PhasedConfig]):
    """The window of the last phase that has begun; `initial` before the first."""

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        begun = [window for first_step, window in self.config.phases if first_step <= self._next_step]
        return begun[-1] if begun else self.config.initial


@register_policy("cosine", config=CosineConfig)
class CosineWindow(_Schedule[CosineConfig]):
    """From `initial` to `max` along half a cosine over `total_steps`, then `max`."""

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        assert self.config.total_steps is not None, "CosineConfig checks it"
        progress = min(self._next_step / self.config.total_steps, 1.0)
        risen = (1 - math.cos(math.pi * progress)) / 2
        return self.config.initial + (self._largest - self.config.initial) * risen


def _as_pairs(phases: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple(tuple(pair) for pair in phases or ())
    except TypeError:
        pairs = ((),)
    if not all(len(pair) == 2 and all(type(number) is int for number in pair) for pair in pairs):
        raise ValueError(
            f"{shown('phases')}: {phases!r} is not a list of [step, window] pairs of whole numbers; "
            "write pairs such as [[0, 512], [100, 1024]]"
        )
    return pairs
