"""The callback that holds the window policy: asked before each rollout, and shown what came of it."""

from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from tinyzero_trl.training.callbacks.events import Rollout
from tinyzero_trl.training.callbacks.policy import PolicyCallback
from tinyzero_trl.training.config import WINDOW_PREFIX
from tinyzero_trl.training.rollout.hints import RolloutHints
from tinyzero_trl.windows import WindowConfig, WindowPolicy, make_policy
from tinyzero_trl.windows.config import label_column_of


class AdaptiveWindowCallback(PolicyCallback):
    """Holds the window policy of `AdaptiveGRPOTrainer`, which makes one, and lets the policy observe each rollout.

    `policy` may be assigned, also while training runs: the next rollout, the records and the checkpoints go by it.

    Another trainer fires no rollout events, so the window would have no effect there: `WindowController` brings a
    window to it.
    """

    def __init__(self, config: WindowConfig, full_length: int | None = None) -> None:
        self._config = config
        self._policy = make_policy(config)
        self._next_step = 0  # training step of the next rollout
        self._hints = RolloutHints(config, prefix=WINDOW_PREFIX, full_length=full_length)

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
        """Let the policy observe the rollout.

        Raises:
            ValueError: after the first rollout, a checkpoint could not keep what the policy holds.
        """
        self._next_step = rollout.observation.next_step
        self._show(rollout.observation, state)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a trainer that fires no rollout events, before it has changed a weight.

        Raises:
            ValueError: no rollout has been observed.
        """
        if not self.has_observed:
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
        if state.global_step == 0 and not self.has_observed:
            raise ValueError(
                "train_dataset: it has fewer examples than the first rollout takes, so that no step was taken; give "
                "more, or lower per_device_train_batch_size or steps_per_generation"
            )

    def _check(self, window: int) -> int:
        if not 1 <= window <= self._config.largest:
            raise ValueError(
                f"policy: its window {window} is outside 1 to {self._config.largest}, the longest that the trainer "
                "allows; lower it, or raise max_completion_length"
            )
        return window
