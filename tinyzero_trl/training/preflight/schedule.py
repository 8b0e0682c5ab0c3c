"""Steps that must fit together: of rollouts, evaluations, checkpoints and lines of the log."""

import math
from typing import Any


def check_schedule(config: Any) -> None:
    """What must fit together once TRL has filled in what was left open.

    Raises:
        ValueError: names field, value and remedy.
    """
    assert config.steps_per_generation is not None, "TRL sets it"
    if config.steps_per_generation % config.gradient_accumulation_steps:
        raise ValueError(
            f"steps_per_generation: {config.steps_per_generation} is not a multiple of gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps}, so that one optimizer step would mix two windows; give a multiple"
        )
    for what, switch in (("eval", "eval_strategy"), ("save", "save_strategy"), ("logging", "logging_strategy")):
        steps = getattr(config, f"{what}_steps")
        if getattr(config, switch) == "steps" and not 0 < steps < math.inf:
            raise ValueError(f"{what}_steps: {steps!r} is not above 0; change it, or set {switch} to 'no'")
    mode = (config.lr_scheduler_kwargs or {}).get("mode", "min")
    if config.lr_scheduler_type == "reduce_lr_on_plateau" and config.greater_is_better and mode == "min":
        raise ValueError(
            "lr_scheduler_kwargs: reduce_lr_on_plateau lowers the learning rate when "
            f"{config.metric_for_best_model} rises, as if it were a loss; give {{'mode': 'max'}}"
        )
    check_best_is_saved(config, config.max_steps)


def check_best_is_saved(config: Any, max_steps: int) -> None:
    """Where the best model is kept, each evaluation must come where a checkpoint is written.

    Args:
        config: an `AdaptiveGRPOConfig`.
        max_steps: of the run; 0 or less where they follow from the data. Then `eval_steps` below 1, which is a share of
            them, is judged once training begins.

    Raises:
        ValueError: an evaluation would come between two optimizer steps on one rollout, or without a checkpoint.
    """
    wants_best = config.load_best_model_at_end or config.save_strategy == "best"
    if not wants_best or config.eval_strategy != "steps":
        return
    if config.save_strategy == "steps" and config.save_steps != config.eval_steps:
        raise ValueError(
            f"save_steps: {config.save_steps!r} is not eval_steps {config.eval_steps!r}, so that the best model may "
            "not be saved, and load_best_model_at_end would keep the last one; make them the same, or set "
            "save_strategy to best"
        )
    given, per_rollout = config.eval_steps, config.optimizer_steps_per_rollout
    steps = math.ceil(max(0, max_steps) * given) if given < 1 else given
    if steps % per_rollout:
        share = f" of {max_steps} steps is {steps}, which" if given < 1 else ""
        raise ValueError(
            f"eval_steps: {given!r}{share} is not a multiple of the {per_rollout} optimizer steps per rollout, "
            "between which nothing is saved, the best model neither; give a multiple"
        )
