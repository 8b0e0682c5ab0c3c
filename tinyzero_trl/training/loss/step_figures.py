"""What the micro-batches of one optimizer step tell: how far the model has moved, and what they were spent on."""

from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tinyzero_trl.metrics import ratio_metrics
from tinyzero_trl.training.loss.micro_batches import ComputeCounts


class StepFigures:
    """Collects this rank's log-ratios and counts, and turns them into the figures of all ranks."""

    def __init__(self) -> None:
        self._counts = ComputeCounts()
        self._log_ratios: list[Tensor] = []
        self._step = -1

    def start(self, step: int) -> None:
        """Forget the log-ratios of another optimizer step, should nobody have asked for them."""
        if self._step != step:
            self._log_ratios, self._step = [], step

    def add_counts(self, counts: ComputeCounts) -> None:
        """Count the micro-batches of one batch."""
        self._counts += counts

    def add_log_ratios(self, log_ratios: Tensor) -> None:
        """New minus old log-probabilities of trained tokens, flat."""
        self._log_ratios.append(log_ratios)

    def pop_counts(self) -> ComputeCounts:
        """What this rank's micro-batches were spent on since the last call."""
        counts, self._counts = self._counts, ComputeCounts()
        return counts

    def pop_log_ratios(self, device: Any) -> Tensor:
        """New minus old log-probability of this rank's trained tokens in the latest optimizer step, flat.

        They are measured by the optimizer's own forward passes, so without the rows left out.
        """
        log_ratios, self._log_ratios = self._log_ratios, []
        return torch.cat(log_ratios) if log_ratios else torch.empty(0, device=device)

    def pop(self, accelerator: Accelerator, clip_range: tuple[float, float] | None) -> dict[str, float]:
        """`actor/` and `compute/` figures of the latest optimizer step over all ranks; every rank must call it.

        Args:
            accelerator: the trainer's own.
            clip_range: as in `LossTraits`.
        """
        padded = accelerator.pad_across_processes(self.pop_log_ratios(accelerator.device), pad_index=torch.nan)
        log_ratios = accelerator.gather(padded).float().cpu().numpy()
        counts = self.pop_counts()
        rows, skipped, tokens, positions = accelerator.reduce(
            torch.tensor(astuple(counts), dtype=torch.float64, device=accelerator.device)
        ).tolist()
        figures = ratio_metrics(log_ratios[~np.isnan(log_ratios)], clip_range=clip_range)
        if rows:
            figures["compute/rows_skipped_frac"] = skipped / rows
        if positions:
            figures["compute/padding_frac"] = 1 - tokens / positions
        return figures
