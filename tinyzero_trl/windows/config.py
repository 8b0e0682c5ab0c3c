"""The configuration of every window policy, and the one place where its values are judged.

Fields keep the names of the TinyZero fork's adaptive window where it has them. Users meet them with the
prefix `window_` (flat training configurations), so every message names them that way.
"""

import math
import re
from dataclasses import Field, dataclass, field, fields
from itertools import pairwise
from typing import Any

STRATEGIES = ("fixed", "phased", "cosine", "success", "signal")
MODES = ("basic", "ema", "rolling")


def _number(
    default: Any, help: str, low: float | None = None, high: float | None = None, below: float | None = None
) -> Any:
    """A numeric field in [low, high], or in [low, below); its type is that of `default`."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "below": below})


@dataclass(frozen=True)
class WindowConfig:
    """What a window policy may do; lengths and windows in tokens, steps and frequencies in rollouts.

    `max` is the largest window and has no default here: a training configuration sets it from
    `max_completion_length`. Fields that the chosen strategy does not read are checked for range alone.

    Raises:
        ValueError: a value out of range, or two that contradict each other; names field, value and remedy.
    """

    strategy: str = field(default="signal", metadata={"help": f"one of {', '.join(STRATEGIES)}"})
    initial: int = _number(1024, "first window; `fixed` ignores it", low=1)
    min: int = _number(20, "smallest window", low=1)
    max: int | None = field(default=None, metadata={"help": "largest window, also what evaluation uses"})
    success_threshold: float = _number(1.0, "a completion is a success from this reward on")
    seed: int = _number(0, "seed of the policy's own random numbers", low=0)
    # phased, cosine
    phases: tuple[tuple[int, int], ...] = field(
        default=(), metadata={"help": "phased: pairs [step, window], the last one holds"}
    )
    total_steps: int | None = field(default=None, metadata={"help": "cosine: steps from `initial` to `max`"})
    # success and signal
    min_samples: int = _number(10, "samples below which a length statistic is not trusted", low=1)
    growth_delta: int = _number(64, "largest growth in one update", low=1)
    shrink_delta: int = _number(64, "largest shrinking in one update", low=1)
    # success
    warmup_steps: int = _number(0, "success: rollouts at `initial`, after which the mean success length sets in", low=0)
    std_multiplier: float = _number(2.0, "success: demand = mean + this x std; 0 as in the fork", low=0)
    update_frequency: int = _number(5, "success: rollouts between two updates", low=1)
    min_change: int = _number(64, "success: smaller changes are dropped, unless they reach a bound", low=0)
    target_success_rate: float = _number(0.7, "success: smoothed success rate to aim at", low=0, high=1)
    success_rate_margin: float = _number(0.05, "success: half-width of the dead band around it", low=0, high=1)
    success_rate_ema_beta: float = _number(0.9, "success: weight of the past in that rate", low=0, below=1)
    length_tolerance: int = _number(32, "success: |window - demand| that counts as equal", low=0)
    hold_steps_before_growth: int = _number(20, "success: rollouts without a change before curriculum growth", low=1)
    growth_needs_pressure: bool = field(
        default=True,
        metadata={"help": "success: grow only while successes press against the window; false as in the fork"},
    )
    saturation_frac: float = _number(
        0.5,
        "success: truncated fraction above which a batch saturates; 1 (never) as in the fork",
        low=0,
        high=1,
    )
    mode: str = field(default="basic", metadata={"help": f"success: one of {', '.join(MODES)}"})
    rolling_window: int = _number(100, "success, mode rolling: success lengths that are kept at least", low=1)
    epsilon: float = _number(0.1, "success: probability per update that the next rollout runs at `max`", low=0, high=1)
    ema_beta: float = _number(0.98, "success, mode ema: weight of the past in the length moments", low=0, below=1)
    ema_bias_correction: bool = field(
        default=True,
        metadata={"help": "success, mode ema: moments start at zero and are corrected for it"},
    )
    # signal
    slack: float = _number(
        0.02,
        "share of the successes that may be given up: of those at `max` (signal), in one shrinking (success)",
        low=0,
        below=1,
    )
    headroom: float = _number(1.25, "signal: the window is this many times the measured optimum", low=1)
    memory_rollouts: int = _number(24, "signal: rollouts remembered", low=1)
    probe_every: int = _number(16, "signal: one rollout in this many runs at `max`, more at first", low=1)

    def __post_init__(self) -> None:
        """Normalise `phases` to tuples and check every field."""
        object.__setattr__(self, "phases", _as_pairs(self.phases))
        for declared in fields(self):
            _check_range(declared, getattr(self, declared.name))
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("mode", self.mode, MODES)
        for name in ("ema_bias_correction", "growth_needs_pressure"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"window_{name}: {getattr(self, name)!r} is neither true nor false")
        _check_optional_count("max", self.max)
        _check_optional_count("total_steps", self.total_steps)
        if self.max is not None:
            self._check_bounds(self.max)
        if check := getattr(self, f"_check_{self.strategy}", None):
            check()

    @property
    def largest(self) -> int:
        """`max`, which must have been set by now."""
        if self.max is None:
            raise ValueError("window_max: not set; give the largest window in tokens (max_completion_length)")
        return self.max

    def _check_bounds(self, largest: int) -> None:
        if self.min > largest:
            raise ValueError(
                f"window_min: {self.min} exceeds window_max {largest}; lower window_min or raise window_max"
            )
        starts_with_a_phase = self.strategy == "phased" and self.phases and self.phases[0][0] == 0
        if self.strategy != "fixed" and not starts_with_a_phase and not self.min <= self.initial <= largest:
            raise ValueError(
                f"window_initial: {self.initial} is outside [window_min {self.min}, window_max {largest}]; "
                "choose a first window between them"
            )
        for step, window in self.phases if self.strategy == "phased" else ():
            if not self.min <= window <= largest:
                raise ValueError(
                    f"window_phases: window {window} at step {step} is outside [window_min {self.min}, "
                    f"window_max {largest}]; change the pair or the bounds"
                )

    def _check_phased(self) -> None:
        if not self.phases:
            raise ValueError("window_phases: empty; strategy phased needs pairs such as [[0, 512], [100, 1024]]")
        steps = [step for step, _ in self.phases]
        if steps[0] < 0 or any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(
                f"window_phases: steps {steps} do not strictly increase from 0 or later; reorder the pairs"
            )

    def _check_cosine(self) -> None:
        if self.total_steps is None:
            raise ValueError("window_total_steps: not set; strategy cosine needs the number of steps it spans")

    def _check_success(self) -> None:
        for sign, bound in ((1, 1.0), (-1, 0.0)):
            edge = self.target_success_rate + sign * self.success_rate_margin
            if sign * edge > sign * bound + 1e-12:
                raise ValueError(
                    f"window_success_rate_margin: {self.success_rate_margin} puts target "
                    f"{'+' if sign > 0 else '-'} margin at {edge:g}, which no success rate reaches; lower "
                    "it, or move window_target_success_rate"
                )
        for name in ("growth_delta", "shrink_delta"):
            if (delta := getattr(self, name)) < self.min_change:
                raise ValueError(
                    f"window_{name}: {delta} is below window_min_change {self.min_change}, so that every "
                    "such change would be dropped; raise it or lower window_min_change"
                )
        if self.mode == "rolling" and self.rolling_window < self.min_samples:
            raise ValueError(
                f"window_rolling_window: {self.rolling_window} is below window_min_samples "
                f"{self.min_samples}, so that the policy might never act; raise it or lower "
                "window_min_samples"
            )

    def _check_signal(self) -> None:
        if self.probe_every > self.memory_rollouts:
            raise ValueError(
                f"window_probe_every: {self.probe_every} exceeds window_memory_rollouts "
                f"{self.memory_rollouts}, so that the memory might hold no full-length rollout; "
                "lower it or raise window_memory_rollouts"
            )


def unread_fields(strategy: str) -> frozenset[str]:
    """Names of the fields that belong to another strategy: with this one they change nothing. None if it is unknown.

    The help of a field that one strategy alone reads begins with its name.
    """
    if strategy not in STRATEGIES:
        return frozenset()
    readers = {each.name: re.split("[:,]", each.metadata["help"])[0] for each in fields(WindowConfig)}
    return frozenset(name for name, reader in readers.items() if reader in STRATEGIES and reader != strategy)


def _check_range(declared: Field, value: Any) -> None:
    """Type and range of a field made by `_number`; other fields pass."""
    if "low" not in declared.metadata:
        return
    name, whole = declared.name, isinstance(declared.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"window_{name}: {value!r} is not {'a whole number' if whole else 'a number'}")
    low, high, below = (declared.metadata[key] for key in ("low", "high", "below"))
    if not math.isfinite(value):
        raise ValueError(f"window_{name}: {value!r} is not finite; give a finite number")
    if low is not None and value < low:
        raise ValueError(f"window_{name}: {value!r} is below {low}; set it to {low} or more")
    if high is not None and value > high:
        raise ValueError(f"window_{name}: {value!r} is above {high}; set it to {high} or less")
    if below is not None and value >= below:
        raise ValueError(f"window_{name}: {value!r} is not below {below}; set it below {below}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"window_{name}: {value!r} is unknown; choose one of {', '.join(choices)}")


def _check_optional_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"window_{name}: {value!r} is not a positive whole number; give 1 or more")


def _as_pairs(phases: Any) -> tuple[tuple[int, int], ...]:
    """Lists from YAML or JSON become tuples, so that the configuration stays immutable."""
    try:
        pairs = tuple(tuple(pair) for pair in phases or ())
    except TypeError:
        pairs = ((),)
    if not all(len(pair) == 2 and all(type(number) is int for number in pair) for pair in pairs):
        raise ValueError(f"window_phases: {phases!r} is not a list of [step, window] pairs of whole numbers")
    return pairs
