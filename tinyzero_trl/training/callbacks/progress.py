"""What a person sees while training runs: a bar with reward, window (or stops) and truncation, or a few plain lines."""

import logging
import os
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import datasets
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from tinyzero_trl.training.callbacks.events import Evaluation, Rollout, RolloutCallback, pop_default_callback

LINES_WITHOUT_TERMINAL = 20
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"  # with its figures in 80 columns


def quiet_without_terminal() -> None:
    """Turn off the bars that the libraries draw while they load and save, where nobody sees them move."""
    if not _has_terminal():
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()


def log_to_stderr() -> None:
    """Show what this package logs: everything from the first process, warnings from the others."""
    is_first = os.environ.get("RANK", "0") == "0"
    log = logging.getLogger("tinyzero_trl")
    log.setLevel(logging.INFO if is_first else logging.WARNING)
    if not log.handlers:
        log.addHandler(_StderrHandler())


class _StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class RolloutProgressCallback(RolloutCallback, ProgressCallback):
    """Transformers' progress bars with the figures of the newest rollout. A line has at most 80 columns.

    What it changes of `ProgressCallback`: a continued run starts its bar where it goes on; log lines are not printed
    (records have them); without a terminal, twenty to forty plain lines take the place of the bars.
    """

    def __init__(self) -> None:
        super().__init__()
        self._figures = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        if not _draws_bars(args):
            return
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.n = self.training_bar.initial = self.current_step = state.global_step
            self.training_bar.bar_format = _BAR

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """Remember what the newest rollout earned, and its window, or the share of groups that stopped."""
        observation = rollout.observation
        reward = f"{fmean(observation.scores):.3f}" if observation.scores else "not judged"
        stopped = len(observation.group_stops) / max(1, len(set(observation.groups)))
        end = f"stopped {stopped:.0%}" if stopped else f"window {observation.window}"
        self._figures = f"reward {reward}  {end}  truncated {observation.truncated_frac:.0%}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, or print a line now and then."""
        if self.training_bar is not None:
            self.training_bar.set_postfix_str(self._figures, refresh=False)
            super().on_step_end(args, state, control, **kwargs)
        elif state.is_world_process_zero and state.global_step % max(1, state.max_steps // LINES_WITHOUT_TERMINAL) == 0:
            self._print(f"step {state.global_step}/{state.max_steps}  {self._figures}")

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move the bar of an evaluation, where bars are drawn."""
        if _draws_bars(args):
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_evaluation_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, evaluation: Evaluation
    ) -> None:
        """Say what the evaluation found."""
        if not state.is_world_process_zero:
            return
        figures, accuracy = evaluation.figures, "not judged"
        if "eval/acc" in figures:
            low, high = figures["eval/acc_low"], figures["eval/acc_high"]
            accuracy = f"{figures['eval/acc']:.1%} [{low:.1%}, {high:.1%}]"
        length = f"  mean length {figures['eval/mean_length']:.0f}" if "eval/mean_length" in figures else ""
        self._print(f"step {state.global_step}/{state.max_steps}  held-out accuracy {accuracy}{length}")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Print nothing: the records have it."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def _print(self, line: str) -> None:
        if self.training_bar is not None:
            self.training_bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def show_rollouts(trainer: Trainer, given: Sequence[Any] = ()) -> None:
    """Put the bars with a rollout's figures in place of the trainer's own; those that the user has given stay."""
    for kind in (ProgressCallback, PrinterCallback):
        pop_default_callback(trainer, kind, given)
    trainer.add_callback(RolloutProgressCallback())


def _draws_bars(args: TrainingArguments) -> bool:
    return not args.disable_tqdm and _has_terminal()


def _has_terminal() -> bool:
    """Whether somebody sees the error stream; a process without a console has none."""
    return sys.stderr is not None and sys.stderr.isatty()
