"""Whether evaluations have the figure by which the best model is chosen (`metric_for_best_model`)."""

import logging
from collections.abc import Mapping

from tinyzero_trl.metrics import METRICS, describe

logger = logging.getLogger(__name__)

_OF_TRL = ("loss", "reward", "reward_std", "frac_reward_zero_std")
_NO_CHOICE = ("_runtime", "_per_second", "epoch")  # ends of names that say nothing about a model


def check_best_figure(best: str | None, *, is_recipe: bool = False) -> None:
    """Refuse a name of which it is known beforehand that no evaluation has it.

    Args:
        best: `metric_for_best_model`.
        is_recipe: whether the reward functions are ours, which log no figures. What others will log is not known.

    Raises:
        ValueError: a misspelt figure of ours, or a figure of training; in recipes every unknown name.
    """
    if best is None or _is_evaluated(best):
        return
    if is_recipe or best.startswith("eval/") or describe(best) is not None:
        known = ", ".join(name for name in METRICS if name.startswith("eval/") and "{" not in name)
        raise ValueError(f"metric_for_best_model: {best!r} is no figure of an evaluation; choose one of {known}")


def warn_where_the_loss_chooses(best: str | None, *, wants_best: bool) -> None:
    """Say what chooses the best model where nothing was named.

    Args:
        best: `metric_for_best_model` as given, before Transformers fills it in.
        wants_best: `load_best_model_at_end`.
    """
    if wants_best and best is None:
        logger.warning(
            "metric_for_best_model: left out, so that the loss chooses the best model, which is near 0 throughout a "
            "training with GRPO; give eval/acc"
        )


def check_best_figure_is_there(best: str | None, figures: Mapping[str, float]) -> None:
    """Refuse to go on where an evaluation does not have the figure: Transformers would end with a KeyError.

    Args:
        best: `metric_for_best_model`.
        figures: of the evaluation, by their names there.

    Raises:
        ValueError: names the figures that the evaluation has.
    """
    if best is None or (best if best.startswith("eval_") else f"eval_{best}") in figures:
        return
    names = ", ".join(name for name in figures if not name.endswith(_NO_CHOICE))
    raise ValueError(
        f"metric_for_best_model: {best!r} is no figure of this evaluation; choose one of {names}, or let a reward "
        "function log it (log_metric)"
    )


def _is_evaluated(name: str) -> bool:
    """Whether it is a figure of ours, or may be one of TRL's, which depend on the reward functions."""
    if name.startswith("eval/"):
        return describe(name) is not None
    return name.startswith(("eval_", "rewards/", "completions/")) or name in _OF_TRL
