"""What a user should know of the first rollouts: nothing fits into the window, or no reward counts as a success."""

import logging
from statistics import mode

from tinyzero_trl.windows import RolloutObservation, WindowConfig
from tinyzero_trl.windows.outcomes import is_success
from tinyzero_trl.windows.schedules import PhasedConfig

logger = logging.getLogger(__name__)

MOSTLY_TRUNCATED_FRAC = 0.9
ROLLOUTS_WITHOUT_SUCCESS = 10


class RolloutHints:
    """Warns of both, once each.

    Args:
        config: of the window policy.
        prefix: before the names of its fields, where the user sets them elsewhere than in a `WindowConfig`.
        full_length: `max_completion_length` of the training, if the largest window may be below it.
    """

    def __init__(self, config: WindowConfig, prefix: str = "", full_length: int | None = None) -> None:
        self._config, self._prefix = config, prefix
        self._full_length = full_length or config.largest
        self._warned_of_truncation = False
        self._rollouts_without_success: int | None = 0  # None once there was a success, or it has been said
        self._largest_reward: float | None = None

    def look_at(self, seen: RolloutObservation) -> None:
        """Look at the next rollout."""
        self._look_at_truncation(seen)
        self._look_at_rewards(seen)

    def _look_at_truncation(self, seen: RolloutObservation) -> None:
        unrewarded = bool(seen.scores) and max(seen.scores) <= 0.0
        failed = seen.truncated_frac > MOSTLY_TRUNCATED_FRAC and unrewarded
        if self._warned_of_truncation or not failed:
            return
        cut_at = mode(length for length, cut in zip(seen.lengths, seen.truncated, strict=True) if cut)
        if cut_at < seen.window and getattr(self._config, "group_rule", None) == "value":
            return  # it lets groups stop once it knows of successes
        self._warned_of_truncation = True
        logger.warning(
            f"step {seen.step + 1}: {seen.truncated_frac:.0%} of the completions were cut, mostly at {cut_at} tokens, "
            f"and none earned a reward. Raise {self._limit_of(cut_at)}, or check that the prompts have the form that "
            "the model answers to."
        )

    def _limit_of(self, length: int) -> str:
        """The field, or fields, that cut at this length."""
        if length >= self._config.largest:
            return "max_completion_length" if length >= self._full_length else f"{self._prefix}max"
        if isinstance(self._config, PhasedConfig):  # its windows are written down
            return f"{self._prefix}phases"
        return f"{self._prefix}initial or {self._prefix}min"

    def _look_at_rewards(self, seen: RolloutObservation) -> None:
        """Perhaps the threshold is on another scale, or the first reward function judges nothing."""
        if self._rollouts_without_success is None:
            return
        known = [] if self._largest_reward is None else [self._largest_reward]
        self._largest_reward = max([*known, *seen.scores], default=None)
        self._rollouts_without_success += 1
        if is_success(self._largest_reward, self._config.success_threshold):
            self._rollouts_without_success = None
        elif self._rollouts_without_success == ROLLOUTS_WITHOUT_SUCCESS:
            self._rollouts_without_success = None
            said = f"step {seen.step + 1}: none of the last {ROLLOUTS_WITHOUT_SUCCESS} rollouts had a success. "
            if self._largest_reward is None:
                logger.warning(
                    f"{said}The first reward function judged no completion: it gave no rewards. The window needs its "
                    "rewards; put a function that gives rewards first."
                )
            else:
                logger.warning(
                    f"{said}The largest reward of the first reward function was {self._largest_reward:g}, and a "
                    f"success is {self._config.success_threshold:g} or more. If its rewards are on another scale, set "
                    f"{self._prefix}success_threshold."
                )
