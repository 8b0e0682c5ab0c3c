"""The configuration of a window policy: the fields that all policies share, and the way to those of each.

A policy declares its own fields in a subclass next to it, with the helpers of `fields`.
"""

import difflib
from dataclasses import dataclass, fields
from typing import Any, Self, cast

from tinyzero_trl.windows.fields import check_field, count, number, shown, text
from tinyzero_trl.windows.registry import declarations, find_policy, strategy_of

DEFAULT_STRATEGY = "signal"
DEFAULT_INITIAL, DEFAULT_MIN = 1024, 20


@dataclass(frozen=True, kw_only=True, init=False)
class WindowConfig:
    """What a window policy may do. Lengths and windows are in tokens, steps and frequencies in rollouts.

    `WindowConfig(strategy="success", std_multiplier=2.0)` gives the configuration class of that strategy, as
    `pathlib.Path` gives the path of a platform. It accepts the fields of that class and no others.

    `max` is the largest window. It has no default here: a training configuration sets it from
    `max_completion_length`. `initial` and `min` that are left out never contradict it. They are None until it is set.

    Raises:
        ValueError: a field of another policy, a value out of range, or two values that contradict each other. It
            names field, value and remedy.
    """

    strategy: str = text(None, "which policy: a registered name, or package.module:Class")
    initial: int = number(None, "first window in tokens; by default 1024, or the nearest value in [min, max]", low=1)
    min: int = number(None, "smallest window in tokens; by default 20, or `initial` or `max` if smaller", low=1)
    max: int | None = count("largest window in tokens; by default max_completion_length, which evaluation always uses")
    success_threshold: float = number(1.0, "a completion with this reward or more is a success")
    seed: int = number(0, "seed of the policy's own random numbers", low=0)

    def __new__(cls, *, strategy: str | None = None, **values: Any) -> Self:
        """Choose the class of the strategy, and refuse fields that it does not have."""
        kind = _class_for(strategy or DEFAULT_STRATEGY) if cls is WindowConfig else cls
        own = [each.name for each in fields(kind)]
        for name, value in values.items():
            if name not in own:
                raise ValueError(_foreign(name, value, strategy or strategy_of(kind), own))
        return cast(Self, object.__new__(kind))

    def __post_init__(self) -> None:
        """Check every field; fill in what depends on other fields. A subclass that adds checks calls this first."""
        if self.strategy is None:
            self._set("strategy", strategy_of(type(self)))
        if (kind := _class_for(self.strategy)) is not type(self):
            raise ValueError(
                f"{shown('strategy')}: {self.strategy!r} takes a {kind.__name__}, not a {type(self).__name__}; "
                "leave strategy out, or build WindowConfig(strategy=...)"
            )
        for declared in fields(self):
            check_field(declared, getattr(self, declared.name))
        if self.max is None:
            return
        if self.min is None:
            self._set("min", max(1, min([DEFAULT_MIN, *self._named_windows()])))
        if self.min > self.max:
            raise ValueError(
                f"{shown('min')}: {self.min} exceeds {shown('max')} {self.max}; lower {shown('min')} or raise "
                f"{shown('max')}"
            )
        if self.initial is None:
            self._set("initial", max(self.min, min(DEFAULT_INITIAL, self.max)))
        self._check_windows(self.max)

    @property
    def largest(self) -> int:
        """`max`, which must have been set by now."""
        if self.max is None:
            raise ValueError(f"{shown('max')}: not set; give the largest window in tokens (max_completion_length)")
        return self.max

    def _named_windows(self) -> list[int]:
        """The windows that the user asks for: a smallest window that is left out exceeds none of them."""
        return [window for window in (self.initial, self.max) if window is not None]

    def _check_windows(self, largest: int) -> None:
        """Refuse windows outside the bounds; `largest` is `max`, which is set."""
        if not self.min <= self.initial <= largest:
            raise ValueError(
                f"{shown('initial')}: {self.initial} is outside [{shown('min')} {self.min}, {shown('max')} {largest}]; "
                "choose a first window between them"
            )

    def _set(self, name: str, value: Any) -> None:
        """Set a field of this frozen dataclass while it is being made."""
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig(WindowConfig):
    """What the policies share that learn from completions."""

    min_samples: int = number(10, "with fewer samples a statistic of lengths is not used", low=1)
    growth_delta: int = number(64, "largest growth of the window in one update, in tokens", low=1)
    shrink_delta: int = number(64, "largest shrinking of the window in one update, in tokens", low=1)
    slack: float = number(
        0.02,
        "largest share of the successes that may be lost: of those at `max` (signal), in one shrinking (success)",
        low=0,
        below=1,
    )


def label_column_of(config: WindowConfig) -> str:
    """The column by which a policy tells prompts apart; empty where it does not, as one of your own may not."""
    return str(getattr(config, "label_column", ""))


def _class_for(strategy: str) -> type[WindowConfig]:
    return find_policy(strategy, field=shown("strategy")).config_class


def _foreign(name: str, value: Any, strategy: str, own: list[str]) -> str:
    """Why a field is refused that the strategy does not have."""
    if others := list(declarations(name)):
        listed = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
        who = f"{listed} {'read it' if len(others) > 1 else 'does'}"
        return (
            f"{shown(name)}: {value!r} has no effect on strategy {strategy}, which does not read it ({who}); "
            f"remove it, or change {shown('strategy')}"
        )
    close = difflib.get_close_matches(name.removeprefix("window_"), own, n=1)
    remedy = f"did you mean {shown(close[0])}?" if close else "remove it"
    return f"{shown(name)}: {value!r} is not a field of strategy {strategy}; {remedy}"
