"""Our figures in the trackers that `report_to` names, under exactly the names of `metrics.jsonl`.

Transformers prefixes every logged name with `train/`; TRL's own figures keep going that way. Ours are written beside
them through the same W&B or trackio run, and as TensorBoard events in the run directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments


class Trackers:
    """Opens what `args.report_to` names on first use; a tracker that Transformers has not started is left alone."""

    def __init__(self, args: TrainingArguments) -> None:
        self._names = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or [])
        self._folder = Path(str(args.output_dir)) / "tensorboard"
        self._writer: Any = None

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log `figures` at optimizer step `step`."""
        row = {**figures, "train/global_step": step}
        if "wandb" in self._names:
            import wandb

            if wandb.run is not None:
                wandb.log(row)
        if "trackio" in self._names:
            import trackio

            if trackio.context_vars.current_run.get() is not None:
                trackio.log(row)
        if "tensorboard" in self._names:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder))
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is buffered; the runs of W&B and trackio belong to Transformers."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
