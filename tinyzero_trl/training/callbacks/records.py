"""From rollout events to the run directory and to whatever `report_to` names."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from trl import GRPOTrainer

from tinyzero_trl.metrics import RunningTotals, rollout_metrics
from tinyzero_trl.runs.checkpoints import drop_later_checkpoints, is_of_run
from tinyzero_trl.runs.earlier import set_aside
from tinyzero_trl.runs.records import COMPLETIONS, EXAMPLES, METRICS, RunRecords
from tinyzero_trl.training.callbacks.events import Evaluation, Rollout, SavedInCheckpoints
from tinyzero_trl.training.callbacks.trackers import Trackers
from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
from tinyzero_trl.training.logged_figures import LoggedFigures
from tinyzero_trl.training.preflight.resuming import check_continued, check_same_examples

logger = logging.getLogger(__name__)

_SAMPLES_EVERY_STEPS = 10


@dataclass
class _Clock:
    """Seconds of training so far, evaluations left out, over all sessions of a run."""

    elapsed_before_s: float = 0.0
    evaluation_s: float = 0.0
    started_at: float = field(default_factory=time.perf_counter)
    stopped_at: float | None = None  # where training has ended; then evaluations alone take time

    @property
    def wall_s(self) -> float:
        now = time.perf_counter() if self.stopped_at is None else self.stopped_at
        return self.elapsed_before_s + now - self.started_at

    @property
    def elapsed_s(self) -> float:
        return self.wall_s - self.evaluation_s

    def add_evaluation(self, duration_s: float) -> None:
        self.evaluation_s += duration_s
        if self.stopped_at is not None:
            self.stopped_at += duration_s


class RecordsCallback(SavedInCheckpoints):
    """Writes one metrics line per optimizer step, one line per evaluation, and sampled completions.

    The same figures under the same names go to the trackers of the trainer that it follows. A line is written before
    the checkpoint of its step, so that a run continued from a checkpoint neither loses nor doubles one. Records that a
    training would write over are moved aside (`set_aside`).
    """

    def __init__(self, window_callback: AdaptiveWindowCallback, *, success_threshold: float) -> None:
        self.window_callback = window_callback
        self.trackers = Trackers(None)
        self.logged_figures: LoggedFigures | None = None
        self.success_threshold = success_threshold
        self.totals = RunningTotals()
        self._skipped_steps = 0
        self._clock = _Clock()
        self._records: RunRecords | None = None  # on the main process alone, and from the start of training
        self._line: dict[str, float] = {}
        self._rollout_s = 0.0
        self._step_started_at = 0.0
        self._evaluated_step: int | None = None
        self._grad_norm: float | None = None
        self._description: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
        self._checkpoint: str | None = None

    def begin_from(self, checkpoint: str | None) -> None:
        """The checkpoint that the next training starts from; of another folder, it has none of this one's records."""
        self._checkpoint = checkpoint

    def describe(self, config: Mapping[str, Any], **environment: Any) -> None:
        """Write `config`, and `environment` besides versions, once training begins and earlier records are aside."""
        self._description = config, environment

    def follow(self, trainer: GRPOTrainer, callbacks: Sequence[Any] = ()) -> None:
        """Take TRL's own figures from `trainer`, and log to the trackers that it reports to.

        `callbacks` are those that the user has given to the trainer.
        """
        self.logged_figures, self.trackers = LoggedFigures(trainer), Trackers(trainer.args.report_to)
        self.trackers.take_over(trainer, callbacks)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run directory at the step that training starts from; what is later is moved aside.

        Raises:
            ValueError: `describe` was called with other fields or examples than those of the run that continues.
        """
        self.totals, self._skipped_steps, self._clock = RunningTotals(), 0, _Clock()
        self._evaluated_step = None
        if self.logged_figures:
            self.logged_figures.begin()
        super().on_train_begin(args, state, control, **kwargs)
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            start = -1
            if self._checkpoint is not None and is_of_run(self._checkpoint, folder):
                start = state.global_step
                self._check_same_run(self._checkpoint)
            set_aside(folder, start)
            if args.log_completions:  # type: ignore[attr-defined]
                (folder / COMPLETIONS).mkdir(parents=True, exist_ok=True)  # TRL has made it before, and writes there
            self._records = self._records_up_to(start, folder)
            drop_later_checkpoints(folder, start)
            if self._description is not None:
                config, environment = self._description
                self._records.write_config(config)
                self._records.write_environment(**environment)

    def _check_same_run(self, checkpoint: str) -> None:
        """Refuse to go on as another run, of which the records would be wrong; the weights are the checkpoint's."""
        if self._description is not None:
            config, environment = self._description
            fields = {name: value for name, value in config.items() if name != "model_name_or_path"}
            check_continued(checkpoint, fields, may_be_longer=True)
            check_same_examples(checkpoint, environment.get(EXAMPLES, {}))

    @staticmethod
    def _records_up_to(start: int, folder: Path) -> RunRecords:
        """The records of a run directory without what is later than step `start`."""
        records = RunRecords(folder)
        records.truncate_after(start)
        if missing := records.missing_steps(start):
            logger.warning(
                "resume: %s lacks %s, which no report will show; if there is a copy of the file, put it back",
                folder / METRICS,
                missing,
            )
        return records

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the step's clock."""
        self._step_started_at, self._rollout_s, self._line, self._grad_norm = time.perf_counter(), 0.0, {}, None

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """Collect the figures of the rollout; the window policy has observed it already."""
        self.totals.update(rollout.observation, success_threshold=self.success_threshold)
        self._rollout_s += rollout.duration_s
        self._line |= rollout_metrics(
            rollout.observation,
            prompt_lengths=rollout.prompt_lengths,
            difficulties=rollout.difficulties,
            success_threshold=self.success_threshold,
        )
        self._line |= self.totals.metrics()
        self._line |= self.window_callback.figures()
        if self._records and -state.global_step % _SAMPLES_EVERY_STEPS < rollout.observation.optimizer_steps:
            self._records.append_completions(state.global_step + 1, rollout.samples)

    def on_policy_update(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        figures: Mapping[str, float],
    ) -> None:
        """Collect the figures of the optimizer step's own forward passes."""
        self._skipped_steps += int(figures.get("faults/step_skipped", 0))
        self._grad_norm = figures.get("grad_norm")
        self._line |= {name: value for name, value in figures.items() if name != "grad_norm"}
        self._line["faults/skipped_steps"] = float(self._skipped_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate that this step is taken with."""
        if self.logged_figures:
            self.logged_figures.note_learning_rate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the step's line, with TRL's own figures under TRL's names. The last step is evaluated."""
        # Not left to whoever comes after training: by then trackers are closed, and trackio would begin a second run.
        # With eval_strategy epoch, Trainer evaluates at the end of the epoch that ends with this step. A signal that
        # stops the run, behind this callback, asks for no evaluation: the run goes on.
        control.should_evaluate |= control.should_training_stop and args.eval_strategy == IntervalStrategy.STEPS
        self._line["time/rollout_s"] = self._rollout_s
        self._line["time/optimize_s"] = time.perf_counter() - self._step_started_at - self._rollout_s
        self._line["time/elapsed_s"] = self._clock.elapsed_s
        figures = self.logged_figures.take(self._grad_norm) if self.logged_figures else {}
        if self._records:
            self._records.append_metrics(state.global_step, self._clock.wall_s, {**figures, **self._line})
            self.trackers.log(self._line, state.global_step, self.totals.response_tokens)
            self.trackers.log_to_others(self._line, args, state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Cut the history that Trainer keeps, where `log_history_lines` asks for it; the records hold it all."""
        if (kept := args.log_history_lines) is not None:  # type: ignore[attr-defined]
            del state.log_history[: max(0, len(state.log_history) - kept)]
        if self.logged_figures and logs and "loss" in logs:
            self.logged_figures.start_over()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate no step twice."""
        control.should_evaluate &= self._evaluated_step != state.global_step

    def on_evaluation_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, evaluation: Evaluation
    ) -> None:
        """Write the evaluation's line."""
        self._clock.add_evaluation(evaluation.duration_s)
        self._evaluated_step = state.global_step
        if self._records:
            figures = {**evaluation.figures, "time/elapsed_s": self._clock.elapsed_s}
            self._records.append_eval(state.global_step, self._clock.wall_s, self.totals.response_tokens, figures)
            self._records.append_completions(state.global_step, evaluation.samples)
            self.trackers.log(evaluation.figures, state.global_step, self.totals.response_tokens)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock: an evaluation may come much later, as in a notebook."""
        self._clock.stopped_at = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Totals and clock."""
        clock = {"elapsed_before_s": self._clock.wall_s, "evaluation_s": self._clock.evaluation_s}
        return {"totals": self.totals.state_dict(), "skipped_steps": self._skipped_steps, "clock": clock}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue totals and clock."""
        self.totals.load_state_dict(state["totals"])
        self._skipped_steps = state["skipped_steps"]
        self._clock = _Clock(**state["clock"])
