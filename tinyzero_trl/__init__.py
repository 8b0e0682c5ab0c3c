"""GRPO on verifiable arithmetic, with a rollout window that adapts while the model trains.

The names below load PyTorch and TRL on first use only, so that `tinyzero_trl.tasks`, `.windows`, `.metrics`,
`.records`, `.ablation` and `.report` stay importable on a machine that has neither.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "AdaptiveGRPOConfig": "tinyzero_trl.training.config",
    "AdaptiveGRPOTrainer": "tinyzero_trl.training.trainer",
    "AdaptiveWindowCallback": "tinyzero_trl.training.callbacks.events",
    "Engine": "tinyzero_trl.generation.engine",
    "register_engine": "tinyzero_trl.generation.engine",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
