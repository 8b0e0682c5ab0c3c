"""Rollout events, and the callback that asks the window policy before each rollout and shows it what came of it.

`AdaptiveGRPOTrainer` fires three events besides those of Transformers, on every rank, at callbacks that derive from
`RolloutCallback`: after a rollout, after an optimizer step, after an evaluation. The figures they carry are global
(gathered over all ranks), so that every rank's policy takes the same decision.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy


@dataclass(frozen=True)
class Rollout:
    """One generation batch over all ranks, B completions, as the trainer hands it to callbacks.

    `samples` holds a few completions as records know them (`prompt`, `completion`, `reward`, ...).
    """

    observation: RolloutObservation
    prompt_lengths: Sequence[int]
    difficulties: Sequence[int] | None
    duration_s: float
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Evaluation:
    """The `eval/` figures of one evaluation at full length, how long it took, and a few completions."""

    figures: Mapping[str, float]
    duration_s: float
    samples: Sequence[Mapping[str, Any]] = ()


class RolloutCallback(TrainerCallback):
    """A callback that also hears of rollouts, policy updates and evaluations. Override what you need."""

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """A generation batch has been sampled and scored, in training."""

    def on_policy_update(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        figures: Mapping[str, float],
    ) -> None:
        """The gradient of one optimizer step is complete; `figures` are those of its forward passes."""

    def on_evaluation_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, evaluation: Evaluation
    ) -> None:
        """The held-out problems have been answered at the full length."""


class SavedInCheckpoints(RolloutCallback, ExportableState):
    """State that travels in a checkpoint's `trainer_state.json`, and comes back when training starts from it.

    The trainer state is the last file of a checkpoint that is written, so a checkpoint never holds one without the
    other. Transformers' own restoring (`restore_callback_states_from_checkpoint`) would build the callbacks anew and
    without their configuration: it is not needed, and `AdaptiveGRPOConfig` refuses it.
    """

    def state_dict(self) -> dict[str, Any]:
        """Everything to save, as JSON knows it."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What Transformers writes under this class's name."""
        return {"args": {}, "attributes": {"saved": self.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pick up the state of the checkpoint that training starts from, if it starts from one."""
        stored: Any = state.stateful_callbacks
        saved = stored.get(type(self).__name__)
        if state.global_step > 0 and isinstance(saved, dict) and "saved" in saved.get("attributes", {}):
            self.load_state_dict(saved["attributes"]["saved"])


class AdaptiveWindowCallback(SavedInCheckpoints):
    """Holds the window policy of `AdaptiveGRPOTrainer`, which makes one, and lets the policy observe each rollout.

    Another trainer fires no rollout events, so the window would have no effect there: `WindowController` brings a
    window to it.
    """

    ILL_TRUNCATED_FRAC = 0.9

    def __init__(self, config: WindowConfig) -> None:
        self.policy: WindowPolicy = make_policy(config)
        self._warned = False
        self._observes = False

    @property
    def window(self) -> int:
        """Completion tokens that the next rollout may use."""
        return self.policy.window

    def metrics(self) -> dict[str, float]:
        """The policy's own figures, of whichever policy is in use."""
        return self.policy.metrics()

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """Let the policy observe the rollout."""
        observation = rollout.observation
        self.policy.observe(observation)
        self._observes = True
        if (
            not self._warned
            and observation.truncated_frac > self.ILL_TRUNCATED_FRAC
            and max(observation.rewards, default=0.0) <= 0.0
        ):
            self._warned = True
            warnings.warn(
                f"step {observation.step}: {observation.truncated_frac:.0%} of the completions were cut at "
                f"{observation.window} tokens and none earned a reward. Raise window_initial or window_min (or "
                "max_completion_length), or check that the prompt template is one the model answers to.",
                stacklevel=2,
            )

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

    def state_dict(self) -> dict[str, Any]:
        """The policy's state."""
        return self.policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the policy's state."""
        self.policy.load_state_dict(state)
