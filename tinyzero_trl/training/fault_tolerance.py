"""No optimizer step on numbers that are not finite."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import Tensor, nn

from tinyzero_trl.training.loss.collectives import summed_over_ranks
from tinyzero_trl.training.loss.slicing import concatenate
from tinyzero_trl.training.trl_internals import Inputs

logger = get_logger(__name__)

FAULTY_BATCH = "faulty_batch"
_FAULTS = ("loss", "gradient norm", "reward")

Decode = Callable[[Tensor], list[str]]
"""(B, T) token ids -> texts without special tokens."""


class NonFiniteError(RuntimeError):
    """Too many optimizer steps in a row had a loss, reward or gradient norm that is not finite."""


class FiniteNumbersGuard:
    """Drops the gradients of an optimizer step in which a number is not finite, on any rank.

    Weights and moments stay and the schedule goes on. After more than `max_skipped_steps` such steps in a row the
    batch is saved in `folder` and `NonFiniteError` raised.

    A reward that is NaN (or None) is no score to TRL, which leaves the row out. So only an infinite reward is a fault.
    """

    def __init__(self, accelerator: Accelerator, max_skipped_steps: int, folder: str | Path) -> None:
        self._accelerator = accelerator
        self._max_skipped_steps = max_skipped_steps
        self._folder = Path(folder) / FAULTY_BATCH
        self._losses_are_finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self.start_over()

    def start_over(self) -> None:
        """Forget what was seen in an earlier training, which may have been interrupted; a training begins."""
        self._skipped_in_a_row = 0
        self._rewards_are_finite = True
        self._losses_are_finite.fill_(True)

    def watch_rewards(self, rewards_per_func: Tensor) -> None:
        """Remember whether a rollout may be trained on; (B of all ranks, reward functions)."""
        self._rewards_are_finite = not rewards_per_func.isinf().any()

    def watch_loss(self, loss: Tensor) -> None:
        """Remember whether a loss of the current optimizer step is finite; without waiting for the device."""
        self._losses_are_finite &= loss.detach().isfinite()

    def drop_broken_step(
        self, model: nn.Module, grad_norm: Any, *, step: int, rollout: Sequence[Inputs], decode: Decode
    ) -> bool:
        """Drop the gradients of an optimizer step if a number is not finite; whether they were dropped, on every rank.

        Args:
            model: the trained one, with its gradients.
            grad_norm: their norm; None where DeepSpeed has yet to measure it.
            step: the number of this optimizer step, from 1.
            rollout: this rank's micro-batches, saved if training ends here.
            decode: turns token ids into texts for what is saved.

        Raises:
            NonFiniteError: too many such steps in a row, or a step that DeepSpeed has taken already.
        """
        norm_is_finite = grad_norm is None or math.isfinite(float(grad_norm))
        finite = (bool(self._losses_are_finite), norm_is_finite, self._rewards_are_finite)
        self._losses_are_finite.fill_(True)
        [broken] = summed_over_ranks(self._accelerator, [tuple(float(not each) for each in finite)])
        faults = [name for name, ranks in zip(_FAULTS, broken, strict=True) if ranks]
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if faults else 0
        if not faults:
            return False
        what = " and ".join(faults)
        cannot_skip = self._accelerator.distributed_type == DistributedType.DEEPSPEED
        if cannot_skip or self._skipped_in_a_row > self._max_skipped_steps:
            self._save_batch(concatenate(rollout), faults, step, decode)
            raise NonFiniteError(
                f"step {step}: {what} not finite, {self._skipped_in_a_row} optimizer steps in a row "
                f"(max_skipped_steps {self._max_skipped_steps}); the batch is in {self._folder}. "
                "Lower learning_rate, or look at that batch"
            )
        logger.warning(f"step {step} is skipped: {what} not finite")
        # A gradient scaler (fp16) must have looked at the gradients before they go. It does not skip the step by itself
        # where they are finite, as after a reward that has no part in them.
        with suppress(RuntimeError):  # it has looked already
            self._accelerator.unscale_gradients()
        model.zero_grad(set_to_none=True)
        return True

    def _save_batch(self, batch: Inputs, faults: list[str], step: int, decode: Decode) -> None:
        """The rank's rows of the generation batch: tensors as safetensors, what can be read as JSON."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous().cpu() for name, value in batch.items() if isinstance(value, Tensor)}
        file = self._folder / f"rank_{self._accelerator.process_index}"
        save_file(tensors, file.with_suffix(".safetensors"))
        rows = {
            "step": step,
            "not_finite": faults,
            "prompts": decode(batch["prompt_ids"]),
            "completions": decode(batch["completion_ids"]),
            # JSON has no word for what is not finite
            "advantages": [str(advantage) for advantage in batch["advantages"].tolist()],
        }
        file.with_suffix(".json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
