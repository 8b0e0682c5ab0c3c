"""Whether the window limits what a trainer samples: where something else decides, only the full length is a window."""

from typing import Any

from tinyzero_trl.windows import WindowPolicy


def check_full_length(trainer: Any, policy: WindowPolicy) -> None:
    """Refuse a window that would have no effect, or another one than records and policy are told.

    Args:
        trainer: a `trl.GRPOTrainer`.
        policy: of its window.

    Raises:
        ValueError: names what decides in place of the window.
    """
    full_length, config = trainer.max_completion_length, policy.config
    if policy.window == full_length and (config.strategy == "fixed" or config.min == full_length):
        return
    tools = "environment_factory" if trainer.environment_factories else "tools"
    reasons = {
        "rollout_func": (trainer.rollout_func, "it decides by itself how long completions are"),
        tools: (trainer.tools, "a completion has several parts, and the window limits each alone"),
    }
    for name, (given, reason) in reasons.items():
        if given:
            raise ValueError(
                f"{name}: {reason}, so that window_strategy {config.strategy!r} does not hold; leave it out, or set "
                "window_strategy to fixed without window_max"
            )
