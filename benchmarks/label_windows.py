"""A window for each label, set by hand: the rival of `window_strategy: group` that knows the lengths beforehand.

--window_strategy label_windows:LabelWindows --window_by_label '{"4": 24}' --window_label_column difficulty
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tinyzero_trl.windows import GroupState, RolloutObservation, WindowConfig, WindowPolicy, register_policy
from tinyzero_trl.windows.fields import text


@dataclass(frozen=True, kw_only=True)
class LabelWindowsConfig(WindowConfig):
    """The windows, and where the labels stand."""

    by_label: str = text("{}", "JSON: a window in tokens for every label; labels that it lacks have `max`")
    label_column: str = text("", "column of the data that labels prompts")

    def __post_init__(self) -> None:
        """Refuse what is no mapping of windows."""
        super().__post_init__()
        try:
            windows = json.loads(self.by_label)
        except ValueError:
            windows = None
        if not isinstance(windows, dict) or not all(type(window) is int and window > 0 for window in windows.values()):
            raise ValueError(f'window_by_label: {self.by_label!r} is no mapping; give JSON such as {{"short": 24}}')

    @property
    def windows(self) -> dict[str, int]:
        """Tokens by label."""
        return dict(json.loads(self.by_label))


@register_policy("label_windows", config=LabelWindowsConfig)
class LabelWindows(WindowPolicy[LabelWindowsConfig]):
    """Groups stop at the window of their label."""

    @property
    def stages(self) -> tuple[int, ...]:
        """Every window is the end of a stage."""
        ends = {window for window in self.config.windows.values() if window < self.window}
        return (*sorted(ends), self.window)

    def go_on(self, states: Sequence[GroupState]) -> list[bool]:
        """Groups whose window is longer than the stage."""
        windows = self.config.windows
        return [windows.get(state.label, self.window) > state.stage_end for state in states]

    def choose_window(self) -> float:
        """The longest one: stages end before it."""
        return self._largest

    def learn(self, observation: RolloutObservation) -> None:
        """Nothing: all windows are known beforehand."""
