"""One training program after the other, each in a session of its own, to which signals are handed on."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from os import getpid, kill, killpg
from pathlib import Path
from types import FrameType
from typing import IO, Any

# Those that a terminal and a scheduler end programs with, and by which torchrun ends its own.
_STOP = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class StoppedBySignal(Exception):
    """A signal has stopped a grid before its end; `number` says which."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}; to go on, give the same command")
        self.number = number


class TrainingSessions:
    """Starts training programs; in its `with` block signals that stop or suspend go to the one that runs.

    A terminal sends Ctrl-C to a whole process group, a scheduler SIGTERM often to one process. In a session of its own
    a training program gets neither, so that what is handed on is all that it gets, and gets once. The launcher and what
    it starts are one process group: accelerate's launcher of one process does not pass a signal on, that of several
    does, and keeps its ranks in sessions of their own. What this program ignores (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None  # the first signal that told to stop
        self._group: int | None = None  # of the program that runs
        self._label = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "TrainingSessions":
        handlers = {**dict.fromkeys(_STOP, self._on_stop), signal.SIGTSTP: self._on_suspend}
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, label: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
        """Run a training program to its end, and return its exit status; below 0 it is a signal, as in `subprocess`.

        A launcher that a signal has ended leaves its programs behind: they are told to stop, and waited for.

        Args:
            label: how people call the run.
            command: the launch command and its arguments.
            log: the file to which all output is added.
            environment: of the program.

        Raises:
            ValueError: a program that was started before still writes to `log`.
            OSError: the command cannot be started, or `log` not be written.
        """
        with log.open("ab") as output:
            _hold(output)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._label, self._group = label, process.pid
        if self.received is not None:  # while the program was started
            self._tell(self.received)
        status = process.wait()
        if status and self.received is None:
            self._tell(signal.SIGTERM)
        if status:
            _wait_for_writers(log)
        self._group = None
        return status

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, self.received or signal.Signals(number)
        self._tell(number)
        if is_first and self._group is not None:
            with suppress(OSError, ValueError):  # Ctrl-C ends the reader of a pipe as well
                print(
                    f"{self.received.name}: waiting until {self._label} has stopped with a checkpoint; again stops it "
                    "at once",
                    file=sys.stderr,
                    flush=True,
                )

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z suspends the training too, and what resumes this program resumes both."""
        self._tell(signal.SIGSTOP)
        kill(getpid(), signal.SIGSTOP)
        self._tell(signal.SIGCONT)

    def _tell(self, number: int) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left, or only zombies (macOS)
                killpg(self._group, number)


def _hold(output: IO[bytes]) -> None:
    """Lock a log for all programs that will have it as their output: the lock ends with the last of them.

    So their end is known wherever they run: in another session, or as orphans of a launcher that was killed.
    """
    try:
        flock(output, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{output.name}: a training program that an earlier ablate has started still writes there; wait until it "
            "ends, or stop it"
        ) from None
    except OSError:
        return  # a file system without locks


def _wait_for_writers(log: Path) -> None:
    with log.open("ab") as output, suppress(OSError):  # a file system without locks
        flock(output, LOCK_EX)
