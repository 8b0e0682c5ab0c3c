"""TRL's and Trainer's figures of a single optimizer step, whatever the user's logging cadence.

Trainer logs means over the steps since its last log line. Records have a line per step, so their figures are taken
before they are averaged. Where Trainer logs every step, the two are equal.
"""

from collections.abc import Mapping, Sequence
from math import isnan

import torch


class StepFigures:
    """What Trainer and TRL had accumulated after the last step: state of one training, on every rank."""

    def __init__(self) -> None:
        self._loss_sum = 0.0
        self._seen: dict[str, tuple[Sequence[float], int]] = {}  # each list of TRL's, and how long it was

    def of(
        self,
        loss_sum: float,
        metrics: Mapping[str, Sequence[float]],
        *,
        grad_norm: torch.Tensor | float | None,
        learning_rate: float,
    ) -> dict[str, float]:
        """The figures of the step that has just been taken, under the names that TRL logs.

        Args:
            loss_sum: Trainer's loss, summed over the steps since its last log line, mean over ranks.
            metrics: TRL's lists, to which every rollout and every loss appends.
            grad_norm: of this step; None where gradients are not clipped.
            learning_rate: of this step.
        """
        figures = {"loss": loss_sum - self._loss_sum}
        if grad_norm is not None:
            figures["grad_norm"] = grad_norm.item() if isinstance(grad_norm, torch.Tensor) else grad_norm
        figures["learning_rate"] = learning_rate
        for name, values in metrics.items():
            former, length = self._seen.get(name, (values, 0))
            new = values[length if former is values else 0 :]  # TRL puts some lists in place of the former ones
            if numbers := [value for value in new if not isnan(value)]:
                figures[name] = sum(numbers) / len(numbers)
        self._loss_sum = loss_sum
        self._seen = {name: (values, len(values)) for name, values in metrics.items()}
        return figures

    def start_over(self) -> None:
        """Trainer has logged: its sum of the loss and TRL's lists are empty again."""
        self._loss_sum = 0.0
        self._seen = {}
