"""Where a run may be saved and stopped: between two rollouts.

With several optimizer steps per rollout, a checkpoint in their middle would lack the rollout, and whoever continued
from it would generate another one. So a save that falls due there waits for the last of these steps.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerControl, TrainerState, TrainingArguments

from tinyzero_trl.training.callbacks.events import Evaluation, RolloutCallback
from tinyzero_trl.training.config import optimizer_steps_per_rollout

# EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on from here.
EXIT_STOPPED_BY_SIGNAL = 75


class _BetweenRollouts(RolloutCallback):
    """Knows where rollouts begin: at the step that training starts from, and regularly from there."""

    def __init__(self) -> None:
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A run that is continued starts with a rollout, wherever the former one ended."""
        self._first_step = state.global_step

    def is_between_rollouts(self, args: Any, state: TrainerState) -> bool:
        """Whether the next optimizer step begins with a new rollout; `args` is a `GRPOConfig`."""
        return (state.global_step - self._first_step) % optimizer_steps_per_rollout(args) == 0


class SaveBetweenRollouts(_BetweenRollouts):
    """Puts a checkpoint off to the next point between two rollouts; the end of training is saved wherever it is.

    It stands behind the user's callbacks, which may ask for a checkpoint or for the end. A step that is saved is logged
    as well: figures that TRL averages since its last line must not span a checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_due = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what was due in an interrupted training."""
        super().on_train_begin(args, state, control, **kwargs)
        self._is_due = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hold back what is due in the middle of a rollout, and let it go at its end."""
        self._is_due |= control.should_save
        control.should_save = self._is_due and (self.is_between_rollouts(args, state) or control.should_training_stop)
        if control.should_save:
            self._is_due = False
            # The end of training is logged by Trainer, in a last line with all that has not been logged before.
            control.should_log |= not control.should_training_stop

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log with the save here too; an epoch ends between two rollouts."""
        control.should_log |= control.should_save and not control.should_training_stop


class StopOnSignal(_BetweenRollouts):
    """Ends a run in good order on SIGTERM and SIGINT, with a checkpoint to go on from.

    While training, a signal is acted on between two rollouts, once an evaluation under way is finished: the ranks
    agree that one of them was told to stop, save, and end (`was_stopped`). Before and after training there is nothing
    to save, and the process exits at once with `EXIT_STOPPED_BY_SIGNAL`. A second signal always has its default effect.
    """

    # Launchers pass a terminal's Ctrl-C on to processes that have had it already.
    SAME_SIGNAL_S = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.was_stopped = False  # on every rank alike
        self._is_training = False
        self._received: signal.Signals | None = None
        self._received_at_s = 0.0

    def listen(self) -> None:
        """Take over both signals; in the main thread alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on there may be something to save; what has stopped an earlier training does not stop this one."""
        super().on_train_begin(args, state, control, **kwargs)
        self.was_stopped, self._received = False, None
        self._is_training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Between two rollouts: save and stop if any rank was told to."""
        if self.is_between_rollouts(args, state) and self._agree():
            control.should_save = control.should_log = control.should_training_stop = True

    def on_evaluation_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, evaluation: Evaluation
    ) -> None:
        """The evaluation after a step comes before its checkpoint, so it is not too late to ask for one."""
        if not self._is_training or not self.is_between_rollouts(args, state) or not self._agree():
            return
        if state.global_step == self._first_step:  # the evaluation before the first step
            self._say("stopped before the first step; start the same command again")
            leave_process_group()
            sys.exit(EXIT_STOPPED_BY_SIGNAL)
        control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how to go on."""
        self._is_training = False
        if self._agree():
            self._say(
                f"stopped after step {state.global_step}; to go on, give the same command with --resume auto (from "
                "Python: resume='auto')"
            )

    def _agree(self) -> bool:
        self.was_stopped = self.was_stopped or any(gather_object([self._received is not None]))
        return self.was_stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            if time.monotonic() - self._received_at_s > self.SAME_SIGNAL_S:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._received, self._received_at_s = signal.Signals(number), time.monotonic()
        name = self._received.name
        if not self._is_training:
            self._say(f"{name}: stopped; start the same command again")
            sys.exit(EXIT_STOPPED_BY_SIGNAL)
        self._say(f"{name}: stopping with a checkpoint once this rollout has been learned from; again stops at once")

    @staticmethod
    def _say(text: str) -> None:
        # Not print: a handler may run in the middle of one.
        if os.environ.get("RANK", "0") == "0":
            try:
                os.write(sys.stderr.fileno(), f"{text}\n".encode())
            except (AttributeError, OSError, ValueError):  # a notebook's stream is no file, a service has none
                with suppress(AttributeError, OSError, ValueError):
                    sys.stderr.write(f"{text}\n")


def leave_process_group() -> None:
    """Take this rank out of the process group that Accelerate made; every rank calls it where no more is exchanged.

    A gloo thread that outlives the interpreter aborts the process, and a run that went well would end with the status
    of one that failed (https://github.com/pytorch/pytorch/issues/190489). A group of one process is left alone: it is
    vLLM's, which goes on using it.
    """
    if PartialState().use_distributed:
        PartialState().destroy_process_group()
