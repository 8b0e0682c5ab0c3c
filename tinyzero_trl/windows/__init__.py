"""How long a rollout may be: policies that choose the next window from what the last rollouts showed.

Standard library alone. See docs/windows.md for the rules and a comparison.
"""

from tinyzero_trl.windows.config import MODES, STRATEGIES, WindowConfig, unread_fields
from tinyzero_trl.windows.policy import RolloutObservation, WindowPolicy
from tinyzero_trl.windows.schedules import CosineWindow, FixedWindow, PhasedWindow
from tinyzero_trl.windows.signal import SignalWindow
from tinyzero_trl.windows.success import SuccessWindow

__all__ = ["MODES", "STRATEGIES", "RolloutObservation", "WindowConfig", "WindowPolicy", "make_policy", "unread_fields"]

_POLICIES: tuple[type[WindowPolicy], ...] = (
    FixedWindow,
    PhasedWindow,
    CosineWindow,
    SuccessWindow,
    SignalWindow,
)


def make_policy(config: WindowConfig) -> WindowPolicy:
    """The policy that `config.strategy` names.

    Raises:
        ValueError: `config.max` is not set.
    """
    return {policy.strategy: policy for policy in _POLICIES}[config.strategy](config)
