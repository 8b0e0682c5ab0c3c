"""GRPO on problems with a verifiable answer, with a rollout window that adapts while the model trains.

The names below are loaded on first use, so that the package and its rooms without PyTorch stay importable on a machine
that has neither PyTorch nor TRL.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers read; the table below says the same to the interpreter
    from tinyzero_trl.generation.engine import Engine
    from tinyzero_trl.generation.registry import register_engine
    from tinyzero_trl.tasks import Score, Task, register_task
    from tinyzero_trl.training.callbacks.events import Rollout, RolloutCallback
    from tinyzero_trl.training.callbacks.safe_points import StopOnSignal
    from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
    from tinyzero_trl.training.config import AdaptiveGRPOConfig
    from tinyzero_trl.training.controller import WindowController
    from tinyzero_trl.training.run import finish_run, start_run
    from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer
    from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, register_policy

__version__ = "0.1.0"

_MODULES = {
    "AdaptiveGRPOConfig": "training.config",
    "AdaptiveGRPOTrainer": "training.trainer",
    "AdaptiveWindowCallback": "training.callbacks.window",
    "Engine": "generation.engine",
    "Rollout": "training.callbacks.events",
    "RolloutCallback": "training.callbacks.events",
    "RolloutObservation": "windows",
    "Score": "tasks",
    "StopOnSignal": "training.callbacks.safe_points",
    "Task": "tasks",
    "WindowConfig": "windows",
    "WindowController": "training.controller",
    "WindowPolicy": "windows",
    "finish_run": "training.run",
    "register_engine": "generation.registry",
    "register_policy": "windows",
    "register_task": "tasks",
    "start_run": "training.run",
}
__all__ = [
    "AdaptiveGRPOConfig",
    "AdaptiveGRPOTrainer",
    "AdaptiveWindowCallback",
    "Engine",
    "Rollout",
    "RolloutCallback",
    "RolloutObservation",
    "Score",
    "StopOnSignal",
    "Task",
    "WindowConfig",
    "WindowController",
    "WindowPolicy",
    "__version__",
    "finish_run",
    "register_engine",
    "register_policy",
    "register_task",
    "start_run",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
