"""Rollout events, the callbacks that hear of them, and state that travels in checkpoints.

`AdaptiveGRPOTrainer` fires three events besides those of Transformers, on every rank, at callbacks that derive from
`RolloutCallback`: after a rollout, after an optimizer step, after an evaluation. The figures they carry are global
(gathered over all ranks), so that every rank's window policy takes the same decision.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from tinyzero_trl.messages import shortened
from tinyzero_trl.metrics import Label
from tinyzero_trl.windows import RolloutObservation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """One generation batch over all ranks, B completions, as the trainer hands it to callbacks.

    `samples` holds a few completions as records know them (`prompt`, `completion`, `reward`, ...).
    """

    observation: RolloutObservation
    prompt_lengths: Sequence[int]
    difficulties: Sequence[Label] | None
    duration_s: float
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Evaluation:
    """The `eval/` figures of one evaluation at full length, how long it took, and a few completions."""

    figures: Mapping[str, float]
    duration_s: float
    samples: Sequence[Mapping[str, Any]] = ()


class RolloutCallback(TrainerCallback):
    """A callback that also hears of rollouts, updates of the model and evaluations. Override what you need."""

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


def fire(trainer: Trainer, event: str, **facts: Any) -> None:
    """Call the method `event` of every callback of `trainer` that has one, in their order."""
    for callback in trainer.callback_handler.callbacks:
        if hook := getattr(callback, event, None):
            hook(trainer.args, trainer.state, trainer.control, **facts)


def pop_default_callback(trainer: Trainer, kind: type[TrainerCallback], given: Sequence[Any]) -> bool:
    """Remove the callback of a kind that Trainer has made by itself, and say whether there was one.

    Args:
        trainer: any whose `__init__` has run.
        kind: the class itself; an instance of a subclass is the user's.
        given: the callbacks that the user has given, which stay.
    """
    for callback in trainer.callback_handler.callbacks:
        if type(callback) is kind and not any(callback is each for each in given):
            trainer.remove_callback(callback)
            return True
    return False


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
        """What Transformers writes under this class's name; it is also asked for it when a training begins.

        Raises:
            ValueError: a resumed run would not get it as it is, as from a policy of the user's own.
        """
        saved = self.state_dict()
        for name, value in saved.items():
            if not _is_kept_by_json(value):
                raise ValueError(
                    f"{type(self).__name__}: a checkpoint cannot keep {name} {shortened(value)} as it is; convert it "
                    "to what JSON knows in state_dict of the policy, and back in load_state_dict"
                )
        return {"args": {}, "attributes": {"saved": saved}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pick up the state of the checkpoint that training starts from, if it starts from one."""
        if state.global_step == 0:
            return
        stored: Any = state.stateful_callbacks
        saved = stored.get(type(self).__name__)
        if isinstance(saved, dict) and "saved" in saved.get("attributes", {}):
            self.load_state_dict(saved["attributes"]["saved"])
            return
        stored[type(self).__name__] = self.state()  # Trainer looks its name up there at every checkpoint
        if state.is_world_process_zero:
            logger.warning(
                f"resume: the checkpoint of step {state.global_step} holds no state of {type(self).__name__}, perhaps "
                "because another trainer wrote it; this part starts from the beginning"
            )


def _is_kept_by_json(value: Any) -> bool:
    """Whether JSON gives back what it was given; the text also tells NaN, which equals nothing, from a change."""
    try:
        kept = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return False
    return bool(kept == value) or repr(kept) == repr(value)
