"""TRL's and Trainer's figures of a single optimizer step, whatever the user's logging cadence.

Trainer logs means over the steps since its last log line. Records have a line per step, so their figures are taken
before they are averaged. Where Trainer logs every step, the two are equal.
"""

from collections.abc import Sequence
from math import isnan

from trl import GRPOTrainer

from tinyzero_trl.training import trl_internals


class LoggedFigures:
    """Watches the sums and lists of a trainer, on every rank, and remembers what was in them after the last step."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self.start_over()

    def begin(self) -> None:
        """A training begins, without the figures of one that was interrupted."""
        trl_internals.forget_unlogged_figures(self._trainer)
        self.start_over()

    def start_over(self) -> None:
        """Trainer has begun to train, or has logged: its sum of the loss and TRL's lists are empty."""
        self._learning_rate: float | None = None
        self._loss_sum = 0.0
        self._seen: dict[str, tuple[Sequence[float], int]] = {}  # each list of TRL's, and how long it was

    def note_learning_rate(self) -> None:
        """Remember the rate of the step that is being taken; the schedule goes on right after it."""
        self._learning_rate = trl_internals.learning_rate(self._trainer)

    def take(self, grad_norm: float | None) -> dict[str, float]:
        """The figures of the step that has just been taken, under the names that TRL logs.

        Args:
            grad_norm: of this step; None where nobody has measured it.
        """
        loss = trl_internals.loss_since_the_last_log(self._trainer)
        loss_sum = self._trainer.accelerator.gather(loss).mean().item()
        known = {"grad_norm": grad_norm, "learning_rate": self._learning_rate, "epoch": self._trainer.state.epoch}
        figures = {"loss": loss_sum - self._loss_sum}
        figures |= {name: value for name, value in known.items() if value is not None}
        metrics = trl_internals.training_metrics(self._trainer)
        for name, values in metrics.items():
            former, length = self._seen.get(name, (values, 0))
            new = values[length if former is values else 0 :]  # TRL puts some lists in place of the former ones
            if numbers := [value for value in new if not isnan(value)]:
                figures[name] = sum(numbers) / len(numbers)
        self._loss_sum = loss_sum
        self._seen = {name: (values, len(values)) for name, values in metrics.items()}
        return figures
