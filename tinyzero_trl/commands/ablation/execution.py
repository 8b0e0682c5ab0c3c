"""The runs of a grid, trained one after the other, each by a launch of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.ablation.grid import ARGUMENTS, PlannedRun
from tinyzero_trl.runs.lock import locked
from tinyzero_trl.runs.records import CONFIG, is_finished, write_atomically

LOG = "train.log"
LOCK = "_ablate_lock"  # the training program takes its own only after its imports


def check_fields(runs: Sequence[PlannedRun]) -> None:
    """Refuse fields that our training program does not know, and values of a wrong type; loads TRL for that.

    Raises:
        ValueError: names the run, the field and the value.
    """
    from tinyzero_trl.training import recipe

    for run in runs:
        if _is_ours(run.launch):  # another program has fields of its own
            try:
                recipe.check_fields(run.arguments[1], run.arguments[2:])
            except ValueError as error:
                raise ValueError(f"{run.label}: {error}") from error


def _is_ours(launch: Sequence[str]) -> bool:
    """Whether a launch command starts our training program, under one of its three names."""
    program = Path(launch[-1]).name
    is_subcommand = program == "train" and Path(launch[-2:][0]).name == "tinyzero-trl"
    return is_subcommand or program in ("tinyzero_trl.commands.train", "countdown_adaptive.py")


def run_grid(runs: Sequence[PlannedRun], say: Callable[[str], None]) -> list[PlannedRun]:
    """Train what is not finished yet, one run after the other, and return the runs that failed.

    Every run's output goes to `train.log` in its folder. `say` is told what starts, and how it ended.

    Raises:
        ValueError: before anything runs, if a folder holds a run of other settings; or another grid trains a run.
    """
    for run in runs:
        _check_same_settings(run)
    failed = []
    for number, run in enumerate(runs, start=1):
        place = f"[{number}/{len(runs)}] {run.label}"
        if is_finished(run.folder):
            say(f"{place}: finished before")
            continue
        with locked(run.folder, "output", name=LOCK):
            say(f"{place}: training, see {run.folder / LOG}")
            started = time.monotonic()
            status = _train(run)
        done = status == 0 and is_finished(run.folder)
        if not done:
            failed.append(run)
        ending = "finished" if done else f"failed with exit status {status}" if status else "failed: left no summary"
        say(f"{place}: {ending} after {time.monotonic() - started:.0f} s")
        if not done and (reason := _last_error(run.folder / LOG)):
            say(f"{place}: {reason}")
    return failed


def _train(run: PlannedRun) -> int:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.folder / ARGUMENTS, json.dumps(run.arguments, indent=1) + "\n")
    # programs installed beside this interpreter come first, whether or not its environment is activated
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with (run.folder / LOG).open("ab") as log:
        try:
            return subprocess.run(
                [*run.launch, *run.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            ).returncode
        except OSError as error:
            log.write(f"{error}\n".encode())
            return 127


def _last_error(log: Path) -> str | None:
    """The last line in which the training program says what is wrong."""
    lines = log.read_bytes().decode("utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith(("error: ", "tinyzero-trl train: "))), None)


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
    if _arguments(file) != list(run.arguments):
        raise ValueError(f"{run.folder} holds a run of other settings ({file}): name another output, or remove it")


def _arguments(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None  # a damaged file vouches for no settings
