"""What a person sees while training runs: one bar with reward, window and truncation, or a few plain lines."""

import logging
import os
import sys
from statistics import fmean
from typing import Any

import datasets
from tqdm.auto import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from tinyzero_trl.training.callbacks.events import Evaluation, Rollout, RolloutCallback

LINES_WITHOUT_TERMINAL = 20


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


class RolloutProgressCallback(RolloutCallback):
    """Takes the place of Transformers' progress bar; without a terminal it prints about twenty lines a run."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._figures: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        if state.is_world_process_zero and not args.disable_tqdm and _has_terminal():
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
            )

    def on_rollout_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rollout: Rollout
    ) -> None:
        """Remember what the newest rollout earned."""
        observation = rollout.observation
        self._figures = {
            "reward": f"{fmean(observation.scores):.3f}" if observation.scores else "not judged",
            "window": str(observation.window),
            "truncated": f"{observation.truncated_frac:.0%}",
        }

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, or print a line now and then."""
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)
            self._bar.update(state.global_step - self._bar.n)
        elif state.is_world_process_zero and state.global_step % max(1, state.max_steps // LINES_WITHOUT_TERMINAL) == 0:
            self._print(f"step {state.global_step}/{state.max_steps}  " + _joined(self._figures))

    def on_evaluation_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, evaluation: Evaluation
    ) -> None:
        """Say what the evaluation found."""
        figures, accuracy = evaluation.figures, "not judged"
        if "eval/acc" in figures:
            low, high = figures["eval/acc_low"], figures["eval/acc_high"]
            accuracy = f"{figures['eval/acc']:.1%} [{low:.1%}, {high:.1%}]"
        if state.is_world_process_zero:
            self._print(
                f"step {state.global_step}/{state.max_steps}  evaluation: accuracy {accuracy}, "
                f"mean length {figures['eval/mean_length']:.0f} tokens"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def _has_terminal() -> bool:
    """Whether somebody sees the error stream; a process without a console has none."""
    return sys.stderr is not None and sys.stderr.isatty()


def _joined(figures: dict[str, str]) -> str:
    return "  ".join(f"{name} {value}" for name, value in figures.items())
