"""The runs of a grid, trained one after the other, each by a launch of its own."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.ablation.grid import PlannedRun
from tinyzero_trl.commands.ablation.session import StoppedBySignal, TrainingSessions
from tinyzero_trl.commands.console import one_line
from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.json_lines import digest_of
from tinyzero_trl.runs.lock import locked
from tinyzero_trl.runs.records import ARGUMENTS, CONFIG, is_finished
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.training.recipe.shipped import find_recipe

LOG = "train.log"
LOCK = "_ablate_lock"  # the training program takes its own only after its imports

_MOST_NAMED = 3  # fields in which a run differs

_KILLED = re.compile(r"died with <Signals\.(SIG\w+)|Root Cause.*Signal \d+ \((SIG\w+)\) received by PID", re.DOTALL)
"""How the launchers of accelerate and PyTorch say that a signal has ended what they launched; they exit with 1."""

_STOPPED = re.compile(r"^(SIG\w+): stopp", re.MULTILINE)
"""How a training program says that it was told to stop."""


def run_grid(runs: Sequence[PlannedRun], say: Callable[[str], None]) -> list[PlannedRun]:
    """Train what is not finished yet, one run after the other, and return the runs that failed.

    Every run's output goes to `train.log` in its folder. `say` is told what starts, and how it ended. A signal that
    tells this program to stop is handed on to the run that is trained, and its end is waited for.

    Raises:
        ValueError: before anything runs, if a folder holds a run of other settings; or another grid trains a run.
        StoppedBySignal: a signal came, and not everything is finished.
    """
    for run in runs:
        _check_same_settings(run)
    failed = []
    with TrainingSessions() as sessions:
        for number, run in enumerate(runs, start=1):
            place = f"[{number}/{len(runs)}] {run.label}"
            if is_finished(run.folder):
                say(f"{place}: finished before")
                continue
            with locked(run.folder, "output", name=LOCK):
                say(f"{place}: training, see {run.folder / LOG}")
                started = time.monotonic()
                status, words = _train(run, sessions)
            took = f"after {time.monotonic() - started:.0f} s"
            if status == 0 and is_finished(run.folder):
                say(f"{place}: finished {took}")
            elif sessions.received is not None:
                raise StoppedBySignal(sessions.received)
            else:
                failed.append(run)
                for line in _how_it_failed(status, words, took):
                    say(f"{place}: {line}")
            if sessions.received is not None and number < len(runs):
                raise StoppedBySignal(sessions.received)
    return failed


def _train(run: PlannedRun, sessions: TrainingSessions) -> tuple[int, str]:
    """Train a run; returns the exit status and what this start has added to the log."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.folder / ARGUMENTS, json.dumps(_settings(run), indent=1) + "\n")
    # programs installed beside this interpreter come first, whether or not its environment is activated
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    log = run.folder / LOG
    log.touch()
    begins_at = log.stat().st_size
    try:
        status = sessions.run(run.label, [*run.launch, *run.arguments], log, environment)
    except OSError as error:
        with log.open("ab") as output:
            output.write(f"error: {one_line(error)}\n".encode())
        status = 127
    with log.open("rb") as output:
        output.seek(begins_at)
        return status, output.read().decode(errors="replace")


def _how_it_failed(status: int, words: str, took: str) -> list[str]:
    """What people read of a run that failed: how it ended, and what to do about it.

    Args:
        status: of the launch command; below 0 a signal.
        words: what the run and its launchers have printed.
        took: how long the run took, such as "after 3 s".
    """
    told = [line for line in words.splitlines() if line.startswith(("error: ", "tinyzero-trl train: "))]
    stopped = None if told else _STOPPED.search(words)
    if by := _killed_by(status, words) or (stopped and stopped[1]):
        cause = ", as the system does when memory runs out" if by == "SIGKILL" else ""
        return [f"ended by {by} {took}{cause}; give the same command again to go on"]
    if told:
        return [f"failed with exit status {status} {took}", told[-1]]
    return [f"failed with exit status {status} {took}; see its log" if status else f"failed: left no summary {took}"]


def _killed_by(status: int, words: str) -> str | None:
    """The name of the signal that has ended a run, if one has: told by its launcher, by the status, or as shells do."""
    if found := _KILLED.search(words):
        return found[1] or found[2]
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in list(signal.Signals) else None


def _check_same_settings(run: PlannedRun) -> None:
    """A run of other settings must neither pass for this one nor be continued as this one."""
    file = run.folder / ARGUMENTS
    if not (run.folder / CONFIG).exists():
        return
    if not file.exists():
        raise ValueError(
            f"{run.folder} holds a run that no grid began, so that its settings are not known: name another output, or "
            "remove it"
        )
    known, asked = _noted(file), _settings(run)
    arguments = known.get("arguments")
    if not isinstance(arguments, list) or _by_field(arguments) != _by_field(asked["arguments"]):
        others = "; ".join([*_differences(arguments, asked["arguments"]), f"see {file}"])
        raise ValueError(f"{run.folder} holds a run of other settings ({others}): name another output, or remove it")
    if known.get("recipe", asked["recipe"]) != asked["recipe"]:
        raise ValueError(
            f"{run.folder} holds a run of {run.arguments[1]} as it was before it was edited: name another output, or "
            "remove it"
        )


def _differences(known: Any, asked: Sequence[str]) -> list[str]:
    """Fields that differ, as "learning_rate: 0.1 there, 0.3 here"; none where the old ones are not known."""
    if not isinstance(known, list):
        return []
    there, here = _by_field(known), _by_field(asked)
    differ = [name for name in here | there if there.get(name) != here.get(name)]
    told = [
        f"{name}: {there.get(name, 'left out')} there, {here.get(name, 'left out')} here"
        for name in differ[:_MOST_NAMED]
    ]
    return [*told, *([f"{len(differ) - _MOST_NAMED} more"] if len(differ) > _MOST_NAMED else [])]


def _by_field(arguments: Sequence[Any]) -> dict[str, str]:
    """Values of a command line by the name of their field; several values of one field are joined."""
    values: dict[str, list[str]] = {}
    of_field: list[str] = []
    for word in map(str, arguments):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            of_field = values.setdefault(name, [])
            of_field.extend([value] if equals else [])
        else:
            of_field.append(word)
    return {name: " ".join(words) for name, words in values.items()}


def _settings(run: PlannedRun) -> dict[str, Any]:
    """What a run is trained with: its arguments, and a digest of what its recipe says."""
    recipe = read_mapping(find_recipe(run.arguments[1]))
    return {"arguments": list(run.arguments), "recipe": digest_of(repr(recipe))}


def _noted(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}  # a damaged file vouches for no settings
    if isinstance(known, list):  # of an earlier version, which had the arguments alone
        return {"arguments": known}
    return known if isinstance(known, dict) else {}
