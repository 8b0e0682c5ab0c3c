"""Checks of all planned runs before the first one starts: a bad value in the last is not found after hours."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.ablation.grid import PlannedRun
from tinyzero_trl.commands.console import one_line
from tinyzero_trl.runs.records import is_finished
from tinyzero_trl.training.recipe.shipped import read_launch_file


def faults_of(runs: Sequence[PlannedRun]) -> list[str]:
    """What our training program would refuse in runs that are not finished: one line for each run, after its label.

    The seeds of a run differ in nothing that is checked, so that one of them is. What a run continues from, and what
    the devices of its machine can do, is seen when it starts. Loads TRL.
    """
    first: dict[str, PlannedRun] = {}
    for run in runs:
        if _is_ours(run.launch) and not is_finished(run.folder):
            first.setdefault(run.name, run)
    if not first:
        return []
    load, faults = _loader(), []
    for run in first.values():
        try:
            _check(run, load)
        except (ValueError, OSError, ImportError) as error:
            faults.append(f"{run.label}: {one_line(error)}")
    return faults


def _check(run: PlannedRun, load: Callable[[Any], Any]) -> None:
    from tinyzero_trl.training.recipe.other_machines import recipe_for
    from tinyzero_trl.training.recipe.parser import check_fields
    from tinyzero_trl.training.run import check_beforehand

    processes, device = _machines_of(run.launch)
    if processes is None:  # batches depend on it
        check_fields(run.arguments[1], run.arguments[2:])
        return
    with recipe_for(run.arguments, processes=processes, device=device) as (task, training, model):
        check_beforehand(task, training, model, load)


def _loader() -> Callable[[Any], Any]:
    """`load_problems` for many runs, most of which have the same problems."""
    from tinyzero_trl.training.run import load_problems

    loaded: dict[str, Any] = {}

    def load(task: Any) -> Any:
        problems = repr(replace(task, recipe=None))
        if problems not in loaded:
            loaded[problems] = load_problems(task)
        return loaded[problems]

    return load


def _is_ours(launch: Sequence[str]) -> bool:
    """Whether a launch command starts our training program, under one of its three names."""
    program = Path(launch[-1]).name
    is_subcommand = program == "train" and Path(launch[-2:][0]).name == "tinyzero-trl"
    return is_subcommand or program in ("tinyzero_trl.commands.train", "countdown_adaptive.py")


def _machines_of(launch: Sequence[str]) -> tuple[int | None, str]:
    """Processes of a launch command (None where it does not say), and the type of their devices.

    A launch file without `use_cpu` asks for GPUs. Without a launcher the device is not known, and GPUs are assumed.
    """
    words = [part for word in launch for part in word.split("=", 1)]
    if not {"launch", "accelerate.commands.launch"} & set(words):
        names = [Path(word).name for word in launch[:-1]]
        is_alone = all(name.startswith(("-", "python", "tinyzero-trl")) for name in names)
        return (1 if is_alone else None), "cuda"
    options = dict(pairwise(words))
    file = read_launch_file(options.get("--config_file", ""))  # what cannot be read, accelerate will tell
    processes = str(options.get("--num_processes", file.get("num_processes")))
    on_cpu = file.get("use_cpu") is True or "--cpu" in words
    return (int(processes) if processes.isdecimal() else None), ("cpu" if on_cpu else "cuda")
