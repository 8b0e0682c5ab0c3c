"""How long a rollout may be, and which of its groups go on: policies that decide from what was seen.

NumPy and the standard library alone. docs/windows.md has the rules, a comparison, and how to write a policy of your
own.
"""

# Messages list the policies in the order of their imports: the simplest first.
from tinyzero_trl.windows.schedules import CosineConfig, FixedConfig, PhasedConfig

# isort: split
from tinyzero_trl.windows.config import AdaptiveConfig, WindowConfig
from tinyzero_trl.windows.fields import choice, count, flag, number, of_trainer, text
from tinyzero_trl.windows.group import GroupConfig
from tinyzero_trl.windows.lengths import MODES
from tinyzero_trl.windows.policy import GroupState, RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import (
    declarations,
    fields_read,
    find_policy,
    make_policy,
    register_policy,
    strategies,
    unread_fields,
)
from tinyzero_trl.windows.signal import SignalConfig
from tinyzero_trl.windows.success import SuccessConfig

__all__ = [
    "MODES",
    "AdaptiveConfig",
    "CosineConfig",
    "FixedConfig",
    "GroupConfig",
    "GroupState",
    "PhasedConfig",
    "RolloutObservation",
    "SignalConfig",
    "SuccessConfig",
    "WindowConfig",
    "WindowPolicy",
    "choice",
    "count",
    "declarations",
    "fields_read",
    "find_policy",
    "flag",
    "make_policy",
    "number",
    "of_trainer",
    "register_policy",
    "strategies",
    "text",
    "unread_fields",
]
