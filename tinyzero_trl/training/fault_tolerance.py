"""No optimizer step on broken numbers, and no checkpoint that is only half there."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, gather_object
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from tinyzero_trl.training.loss import collectives
from tinyzero_trl.training.loss import micro_batches as batching
from tinyzero_trl.training.loss.exact_loss import ExactLossTrainer

logger = get_logger(__name__)

FAULTY_BATCH = "faulty_batch"
_FAULTS = ("loss", "gradient norm", "reward")
# What a full disk looks like from Python, from torch's writer (a RuntimeError), and from safetensors.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


# The devices of several ranks on CPUs are named cpu:0, and Trainer asks torch to load their optimizer state there: a
# place that torch does not know by that name. 15 is a priority that torch leaves free.
torch.serialization.register_package(
    15, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


class NonFiniteError(RuntimeError):
    """Too many optimizer steps in a row had a loss, reward or gradient norm that is not finite."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, on this rank or on another."""


class GuardedTrainer(ExactLossTrainer):
    """`ExactLossTrainer` for long runs on real machines.

    What it changes of its parents, each time by wrapping a method:

    - `_get_grad_norm`: where a loss, a reward or the gradient norm of an optimizer step is not finite on any rank, the
      gradients are dropped on all ranks before the optimizer sees them: weights and moments stay, the schedule goes on.
      After more than `args.max_skipped_steps` such steps in a row the batch is saved and `NonFiniteError` raised.
    - `_calculate_rewards`, `_compute_loss`: watch for what that method needs to know. A reward that is NaN (or None) is
      no verdict to TRL, which leaves the row out; so only an infinite one is a fault, or a batch without any verdict.
    - `_init_training_state`: a run that has taken its `max_steps` takes no further one when it is started again, where
      its last epoch is not over.
    - `_save_checkpoint`, `save_model`, `_save_rng_state`: the trainer state, which makes a checkpoint whole, is written
      when every rank has written its part, and no rank waits for one that failed. A checkpoint that cannot be written
      is removed, and training goes on without it.
    """

    args: Any  # a GRPOConfig with `max_skipped_steps`, besides what the parent needs
    model: Any
    processing_class: Any
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.step_was_skipped = False
        self.checkpoint_error: str | None = None  # why the latest checkpoint is missing
        self._parts_due = 0  # while a checkpoint is written: on how many parts the ranks have yet to agree
        self._skipped_in_a_row = 0
        self._rewards_are_sound = True
        self._losses_are_sound = torch.ones((), dtype=torch.bool, device=self.accelerator.device)

    # --- numbers ----------------------------------------------------------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards_per_func: Tensor = super()._calculate_rewards(*args, **kwargs)  # (B of all ranks, reward functions)
        if self.model.training:
            self._rewards_are_sound = not (rewards_per_func.isinf().any() or rewards_per_func.isnan().all())
        return rewards_per_func

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        if model.training:
            self._losses_are_sound &= loss.detach().isfinite()
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm, of gradients that are gone if the step is to be skipped."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm_is_sound = grad_norm is None or math.isfinite(float(grad_norm))  # None: DeepSpeed has yet to measure it
        sound = (bool(self._losses_are_sound), norm_is_sound, self._rewards_are_sound)
        self._losses_are_sound.fill_(True)
        [broken] = collectives.summed_over_ranks(self.accelerator, [tuple(float(not each) for each in sound)])
        faults = [name for name, ranks in zip(_FAULTS, broken, strict=True) if ranks]
        self.step_was_skipped = bool(faults)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if faults else 0
        if faults:
            self._skip_step(model, faults)
        return grad_norm

    def _skip_step(self, model: nn.Module, faults: list[str]) -> None:
        step, what = self.state.global_step + 1, " and ".join(faults)
        cannot_skip = self.accelerator.distributed_type == DistributedType.DEEPSPEED  # it has taken the step already
        if cannot_skip or self._skipped_in_a_row > self.args.max_skipped_steps:
            folder = self._save_faulty_batch(faults)
            raise NonFiniteError(
                f"step {step}: {what} not finite, {self._skipped_in_a_row} optimizer steps in a row (max_skipped_steps "
                f"{self.args.max_skipped_steps}); the batch is in {folder}. Lower learning_rate, or look at that batch"
            )
        logger.warning(f"step {step} is skipped: {what} not finite")
        # A gradient scaler (fp16) skips such a step by itself, and wants to see the gradients for it.
        if self.accelerator.scaler is None:
            model.zero_grad(set_to_none=True)

    def _save_faulty_batch(self, faults: list[str]) -> Path:
        """The rank's rows of the generation batch: tensors as safetensors, what can be read as JSON."""
        folder = Path(str(self.args.output_dir)) / FAULTY_BATCH
        folder.mkdir(parents=True, exist_ok=True)
        batch = batching.concatenate(self._buffered_inputs)
        tensors = {name: value.contiguous().cpu() for name, value in batch.items() if isinstance(value, Tensor)}
        name = folder / f"rank_{self.accelerator.process_index}"
        save_file(tensors, name.with_suffix(".safetensors"))
        decode = self.processing_class.batch_decode
        rows = {
            "step": self.state.global_step + 1,
            "not_finite": faults,
            "prompts": decode(batch["prompt_ids"], skip_special_tokens=True),
            "completions": decode(batch["completion_ids"], skip_special_tokens=True),
            # JSON has no word for what is not finite
            "advantages": [str(advantage) for advantage in batch["advantages"].tolist()],
        }
        name.with_suffix(".json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
        return folder

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, *checkpoint: Any
    ) -> tuple[int, int]:
        """Epochs trained, and batches of the epoch under way: for a run at its end, all and none."""
        trained = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *checkpoint)
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else trained

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._parts_due = 1 if self.args.save_only_model else 2
        error = _error_of(super()._save_checkpoint, model, trial)
        if self._parts_due:  # this rank failed on the way to that part, where the others wait
            self._parts_due = 0
            self._agree(error)
        self.checkpoint_error = self._agree(error)
        if self.checkpoint_error is not None and self.is_world_process_zero():
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning(
                f"{folder.name} could not be written ({self.checkpoint_error}) and was removed. The last whole "
                "checkpoint stays, and training goes on until the next is due; free some space"
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """In a checkpoint, on all ranks or on none: Trainer may let them wait for each other next."""
        if not self._parts_due:
            return super().save_model(output_dir, _internal_call)
        self._agree_on_part(_error_of(super().save_model, output_dir, _internal_call))

    def _save_rng_state(self, output_dir: str) -> None:
        self._agree_on_part(_error_of(super()._save_rng_state, output_dir))

    def _agree_on_part(self, error: Exception | None) -> None:
        """Raises on every rank what failed on any; nothing more of this checkpoint is due then."""
        self._parts_due -= 1
        if (reason := self._agree(error)) is not None:
            self._parts_due = 0
            raise CheckpointError(reason)

    def _agree(self, error: Exception | None) -> str | None:
        """The first rank's error, on every rank."""
        reasons: list[str | None] = gather_object([" ".join(str(error).split()) if error else None])
        return next((reason for reason in reasons if reason is not None), None)


def _error_of(write: Callable[..., None], *arguments: Any) -> Exception | None:
    try:
        write(*arguments)
    except _WRITE_ERRORS as error:
        return error
    return None
