"""Our figures in the trackers that `report_to` names, under exactly the names of `metrics.jsonl`.

Transformers prefixes every logged name with `train/`, so its own reporting cannot keep our names; TRL's figures keep
going that way. Ours go beside them, into the same W&B or trackio run and the same TensorBoard folder. Other trackers,
such as MLflow, get them by their own callback of Transformers, and so with the prefix where it sets one.

What the records of a run forget, trackers forget. A run that is killed and continued trains some steps again:

- TensorBoard: the events of these steps are marked as replaced (`purge_step`), and readers drop them.
- trackio: each start of a training is a run of its own, also under the same name.
- W&B: the same, unless WANDB_RUN_ID asks for one run; steps that are trained twice then stand in it twice.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tinyzero_trl.replacing import replaced
from tinyzero_trl.training.callbacks.events import pop_default_callback

logger = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"
_KNOWN = ("wandb", "trackio", "tensorboard")
_COUNTS_LOGS = "dvclive"  # it takes each log for a step of its own
_STEP = "train/global_step"
_TOKENS = "tokens/response_cumulative"
# W&B's table of runs has their mean too. A definition takes the place of the one for "*", so it names the step again.
_COSTS_OF_A_STEP = ("tokens/response_total", "adaptive_window/current_window")


class Trackers:
    """The trackers of one trainer; one that Transformers has not started is left alone.

    Args:
        report_to: as in `TrainingArguments`.
    """

    def __init__(self, report_to: str | Sequence[str] | None) -> None:
        self._names = [report_to] if isinstance(report_to, str) else list(report_to or [])
        self._tensorboard: _TensorBoardOfRun | None = None
        self._others: list[TrainerCallback] = []
        self._charted: set[tuple[str, str]] = set()  # W&B's id of a run, and a figure whose chart the run knows

    def take_over(self, trainer: Trainer, given: Sequence[Any]) -> None:
        """Put callbacks that forget in place of those that Trainer has made; those that the user has given stay.

        A tracker that would take our figures for further steps does not get them, and a warning says so.
        """
        if _COUNTS_LOGS in self._names:
            logger.warning(
                "report_to: %s gets no figures of windows and tokens; they are in metrics.jsonl, and in %s if you name "
                "one of them",
                _COUNTS_LOGS,
                ", ".join(_KNOWN),
            )
        others = [INTEGRATION_TO_CALLBACK.get(name) for name in self._names if name not in (*_KNOWN, _COUNTS_LOGS)]
        self._others = [each for each in trainer.callback_handler.callbacks if type(each) in others]
        if pop_default_callback(trainer, TensorBoardCallback, given):
            self._tensorboard = _TensorBoardOfRun()
            trainer.add_callback(self._tensorboard)
        if pop_default_callback(trainer, TrackioCallback, given):
            trainer.add_callback(_TrackioRunPerStart())

    def log(self, figures: Mapping[str, float], step: int, tokens: int) -> None:
        """Log `figures` at optimizer step `step`, after `tokens` rollout tokens of the run."""
        row = {**figures, _TOKENS: tokens, _STEP: step}
        if "wandb" in self._names:
            import wandb

            if wandb.run is not None:
                self._define_charts(wandb.run, row)
                wandb.log(row)
        if "trackio" in self._names:
            import trackio

            if trackio.context_vars.current_run.get() is not None:
                trackio.log(row)
        if self._tensorboard is not None:
            self._tensorboard.write(figures, step)

    def log_to_others(
        self, figures: Mapping[str, float], args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> None:
        """Log the figures of a step to the other trackers. Those of evaluations they get from Trainer."""
        for callback in self._others:
            callback.on_log(args, state, control, logs=dict(figures))

    def _define_charts(self, run: Any, names: Iterable[str]) -> None:
        """Tell a W&B run what to draw figures over, where it is not the step that Transformers sets for all of them."""
        for name in names:
            if (run.id, name) not in self._charted:
                self._charted.add((run.id, name))
                if chart := wandb_chart(name):
                    run.define_metric(name, **chart)


def wandb_chart(name: str) -> dict[str, str]:
    """What W&B's `define_metric` is given for a figure; nothing where the defaults of Transformers fit.

    Held-out figures, those of several evaluation sets too, are drawn over the rollout tokens that they cost, so that
    runs with different windows compare; accuracy has its last and its best value in the table of runs.
    """
    if re.match(r"eval(_[^/]+)?/", name):
        return {"step_metric": _TOKENS} | ({"summary": "last,max"} if name.endswith("/acc") else {})
    return {"step_metric": _STEP, "summary": "last,mean"} if name in _COSTS_OF_A_STEP else {}


class _TensorBoardOfRun(TensorBoardCallback):
    """Writes into one folder of the run, and marks what an earlier session wrote of the steps to come as replaced."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the folder: TENSORBOARD_LOGGING_DIR, or `tensorboard/` in the run directory."""
        self.logging_dir = self.logging_dir or str(Path(str(args.output_dir)) / TENSORBOARD_FOLDER)
        if state.is_world_process_zero and self.tb_writer is None:
            from torch.utils.tensorboard import SummaryWriter

            first_step = state.global_step + 1 if state.global_step > 0 else 0  # an evaluation before training is at 0
            self.tb_writer = SummaryWriter(self.logging_dir, purge_step=first_step)
        super().on_train_begin(args, state, control, **kwargs)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Add our figures under their own names; none after the end of training, when the folder is closed."""
        if self.tb_writer is not None:
            for name, value in figures.items():
                self.tb_writer.add_scalar(name, value, step)


class _TrackioRunPerStart(TrackioCallback):
    """Begins a run at each start, where Transformers would add to the run of the same name."""

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        """Set up as Transformers does, but without its `resume="allow"`."""
        with replaced(self, "_trackio", _NeverResuming(self._trackio)):
            super().setup(args, state, model, **kwargs)


class _NeverResuming:
    """The module trackio, whose `init` always begins a run."""

    def __init__(self, trackio: Any) -> None:
        self._module = trackio

    def init(self, **options: Any) -> Any:
        return self._module.init(**{**options, "resume": "never"})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
