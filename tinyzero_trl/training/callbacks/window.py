"""The callback that holds the window policy: asked before each rollout, and shown what came of it."""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from tinyzero_trl.training.callbacks.events import Rollout, SavedInCheckpoints
from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy
from tinyzero_trl.windows.config import label_column_of
from tinyzero_trl.windows.outcomes import is_success

logger = logging.getLogger(__name__)


class AdaptiveWindowCallback(SavedInCheckpoints):
    """Holds the window policy of `AdaptiveGRPOTrainer`, which makes one, and lets the policy observe each rollout.

    `policy` may be assigned, also while training runs: the next rollout, the records and the checkpoints go by it.

    Another trainer fires no rollout events, so the window would have no effect there: `WindowController` brings a
    window to it.
    """

    MOSTLY_TRUNCATED_FRAC = 0.9
    ROLLOUTS_WITHOUT_SUCCESS = 10

    def __init__(self, config: WindowConfig) -> None:
        self._config = config
        self._policy = make_policy(config)
        self._next_step = 0  # training step of the next rollout
        self._observes = False
        self._warned_of_truncation = False
        self._rollouts_without_success: int | None = 0  # None once there was a success, or it has been said
        self._largest_reward = float("-inf")

    @property
    def policy(self) -> WindowPolicy:
        """The policy in use."""
        return self._policy

    @policy.setter
    def policy(self, policy: WindowPolicy) -> None:
        if not isinstance(policy, WindowPolicy):
            raise ValueError(
                f"policy: a {type(policy).__name__} is no WindowPolicy; derive its class from WindowPolicy"
            )
        ours, theirs = self._config.success_threshold, policy.config.success_threshold
        if ours != theirs:
            raise ValueError(
                f"policy: its success_threshold {theirs} is not the {ours} by which records and evaluation count; set "
                f"window_success_threshold to {theirs}, or give the policy {ours}"
            )
        policy.begin_at_step(self._next_step)
        self._check(policy.window)
        self._policy = policy

    @property
    def window(self) -> int:
        """Completion tokens that the next rollout may use."""
        return self._check(self.policy.window)

    @property
    def label_column(self) -> str:
        """The column by which the policy in use tells prompts apart; empty where it does not."""
        return label_column_of(self.policy.config)

    def metrics(self) -> dict[str, float]:
        """The figures of the policy in use."""
        return self.policy.metrics()

    def group_metrics(self) -> dict[str, float]:
        """The figures of groups of the policy in use; none where it does not decide per group."""
        return self.policy.group_metrics()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the policy where training begins, once it has the state of the checkpoint."""
        super().on_train_begin(args, state, control, **kwargs)
        self._next_step = state.global_step
        self.policy.begin_at_step(self._next_step)

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """Let the policy observe the rollout."""
        self._observes = True
        self._next_step = rollout.observation.next_step
        self.policy.observe(rollout.observation)
        self._warn_of_truncation(rollout.observation)
        self._warn_of_rewards(rollout.observation)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a trainer that fires no rollout events, before it has changed a weight.

        Raises:
            ValueError: no rollout has been observed.
        """
        if not self._observes:
            raise ValueError(
                "callbacks: AdaptiveWindowCallback has no effect on this trainer; remove it and call "
                "WindowController(config).attach(trainer), or train with AdaptiveGRPOTrainer"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse to call a training finished that took no step.

        Raises:
            ValueError: the stream of examples ended before the first rollout.
        """
        if state.global_step == 0 and not self._observes:
            raise ValueError(
                "train_dataset: it has fewer examples than the first rollout takes, so that no step was taken; give "
                "more, or lower per_device_train_batch_size or steps_per_generation"
            )

    def state_dict(self) -> dict[str, Any]:
        """The policy's state."""
        return self.policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the policy's state."""
        self.policy.load_state_dict(state)

    def _check(self, window: int) -> int:
        if not 1 <= window <= self._config.largest:
            raise ValueError(
                f"policy: its window {window} is outside 1 to {self._config.largest}, the longest that the trainer "
                "allows; lower it, or raise max_completion_length"
            )
        return window

    def _warn_of_truncation(self, seen: RolloutObservation) -> None:
        unrewarded = bool(seen.scores) and max(seen.scores) <= 0.0
        failed = seen.truncated_frac > self.MOSTLY_TRUNCATED_FRAC and unrewarded
        if self._warned_of_truncation or not failed:
            return
        self._warned_of_truncation = True
        logger.warning(
            f"step {seen.step + 1}: {seen.truncated_frac:.0%} of the completions were cut at {seen.window} tokens and "
            "none earned a reward. Raise window_initial or window_min (or max_completion_length), or check that the "
            "prompt template is one the model answers to."
        )

    def _warn_of_rewards(self, seen: RolloutObservation) -> None:
        """Say once that no reward has ever counted as a success: perhaps the threshold is on another scale."""
        if self._rollouts_without_success is None or not seen.scores:
            return
        self._largest_reward = max([self._largest_reward, *seen.scores])
        self._rollouts_without_success += 1
        if is_success(self._largest_reward, self._config.success_threshold):
            self._rollouts_without_success = None
        elif self._rollouts_without_success == self.ROLLOUTS_WITHOUT_SUCCESS:
            self._rollouts_without_success = None
            logger.warning(
                f"step {seen.step + 1}: none of the first {self.ROLLOUTS_WITHOUT_SUCCESS} rollouts had a success. The "
                f"largest reward of the first reward function was {self._largest_reward:g}, and a success is "
                f"{self._config.success_threshold:g} or more. If its rewards are on another scale, set "
                "window_success_threshold."
            )
