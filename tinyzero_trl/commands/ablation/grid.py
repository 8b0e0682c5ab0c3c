"""A grid of recipes x overrides x seeds becomes training runs, one run directory each. Loads no PyTorch.

    output: runs/windows                      # folder of the run directories, output/NAME/seed_SEED
    seeds: [0, 1, 2]
    launch: [accelerate, launch, --config_file, cpu, -m, tinyzero_trl.commands.train]
    common: {max_steps: 300}                  # overrides of every run; a run's own win
    runs:
      full: {recipe: countdown_full}          # a file, or the name of a recipe that comes with the package
      bold: {recipe: countdown_adaptive, overrides: {window_slack: 0.1}, seeds: [0, 1]}

A run's own `seeds` stand in for the grid's. `launch` may be left out; the one above is the default, and `cpu` names a
launch file that comes with the package. A run is
`LAUNCH --config RECIPE --field value ...`, always a list of arguments and never a shell line; what a run would refuse
is found before the first one starts. The name of a run becomes its `recipe` field, by which reports call it.
Paths are relative to the current directory. Seeds advance across all runs first, so that a grid that is stopped
early can be compared. A run with a summary is finished and is not run again; one without continues as its
recipe's `resume` field says.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs.files import file_on_path
from tinyzero_trl.runs.records import ARGUMENTS
from tinyzero_trl.runs.redaction import SECRET_FIELDS
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.training.recipe.shipped import RECIPES, advice_for_recipe, find_launch_file, find_recipe, path_of

DEFAULT_LAUNCH = ("accelerate", "launch", "--config_file", "cpu", "-m", "tinyzero_trl.commands.train")

_FIELDS = {"output", "seeds", "launch", "common", "runs"}
_NUL = "\0"
_SET_BY_GRID = {"seed", "output_dir", "config"}


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid: `arguments` are those of the training program, after the launch command."""

    name: str
    seed: int
    folder: Path
    launch: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and seed, for people."""
        return f"{self.name}, seed {self.seed}"


def read_grid(path: str | os.PathLike[str]) -> list[PlannedRun]:
    """Read a grid's YAML file into its runs, in the order in which they run.

    Raises:
        ValueError: an unknown or missing field, a wrong type, an unfit name, a missing recipe.
        OSError: the file cannot be read.
    """
    path = find_recipe(str(path))
    grid = read_mapping(path)
    if unknown := set(grid) - _FIELDS:
        known = ", ".join(sorted(_FIELDS))
        raise ValueError(f"{path}: unknown field {min(unknown, key=str)!r}; the fields are {known}")
    if missing := {"output", "seeds", "runs"} - set(grid):
        raise ValueError(f"{path}: field {min(missing)!r} is missing; a grid needs output, seeds and runs")
    _check_mapping(grid["runs"], "runs")
    launch = _launch(grid.get("launch", list(DEFAULT_LAUNCH)))
    common, output = grid.get("common") or {}, _output(grid["output"])
    common_seeds = _seeds(grid["seeds"], "seeds")
    runs = [
        run
        for name, entry in grid["runs"].items()
        for run in _planned(name, entry, common_seeds, common, output, launch)
    ]
    _check_folders(runs)
    seeds = list(dict.fromkeys([*common_seeds, *(run.seed for run in runs)]))
    return sorted(runs, key=lambda run: seeds.index(run.seed))  # runs of one seed stay in the grid's order


def shard_of(runs: Sequence[PlannedRun], shard: str) -> list[PlannedRun]:
    """The share of one machine, `shard` being such as "1/2": whole seeds, dealt out in turn.

    A seed stays on one machine with all its runs, so that runs compared pairwise had the same hardware.

    Raises:
        ValueError: if `shard` is not i/n with 1 <= i <= n, or there are fewer seeds than shards.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    position, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= position <= count:
        raise ValueError(f"shard = {shard!r}: write i/n with i from 1 to n, such as 1/2")
    seeds = list(dict.fromkeys(run.seed for run in runs))
    if count > len(seeds):
        raise ValueError(f"shard = {shard!r}: the grid has {len(seeds)} seeds; use at most that many shards")
    return [run for run in runs if run.seed in seeds[position - 1 :: count]]


def _planned(
    name: str, run: Any, seeds: list[int], common: Mapping[str, Any], output: Path, launch: tuple[str, ...]
) -> list[PlannedRun]:
    """One entry of `runs`, once for each of its seeds; `seeds` are the grid's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)):
        raise ValueError(
            f"runs: {shortened(name)} is no name for a folder; use up to 100 letters, digits, '.', '_' and '-'"
        )
    field = f"runs.{name}"
    _check_mapping(run, field)
    if unknown := set(run) - {"recipe", "overrides", "seeds"}:
        raise ValueError(f"{field}: unknown field {min(unknown, key=str)!r}; the fields are recipe, overrides, seeds")
    recipe = str(run.get("recipe"))
    if not Path(find_recipe(recipe)).is_file():
        raise ValueError(f"{field}.recipe = {recipe!r}: no such file or recipe; {advice_for_recipe(recipe)}")
    overrides = {"recipe": str(name)}
    for given, where in ((common, "common"), (run.get("overrides") or {}, f"{field}.overrides")):
        _check_mapping(given, where)
        overrides |= given
    if taken := _SET_BY_GRID & set(overrides):
        raise ValueError(f"{field}: {min(taken)!r} is set by the grid; remove it")
    runs = []
    for seed in _seeds(run.get("seeds", seeds), f"{field}.seeds"):
        folder = output / str(name) / f"seed_{seed}"
        settings = {**overrides, "seed": seed, "output_dir": str(folder)}
        options = [argument for key, value in settings.items() for argument in _option(key, value)]
        runs.append(PlannedRun(str(name), seed, folder, launch, ("--config", str(run["recipe"]), *options)))
    return runs


def _check_folders(runs: Sequence[PlannedRun]) -> None:
    """Refuse two runs in one folder, as of the names 1 and "1", or A and a where letter case tells no files apart."""
    taken: dict[str, str] = {}
    for run in runs:
        folder = str(run.folder).lower()
        if folder in taken:
            names = f"{taken[folder]!r} and {run.name!r}"
            raise ValueError(f"runs: {names} would share the folder {run.folder.parent}; rename one of them")
        taken[folder] = run.name


def _option(key: Any, value: Any) -> list[str]:
    """One override as command line arguments; a list of plain values becomes several, a nested one JSON."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(key)):
        raise ValueError(f"override {key!r} is no field name; write it as in a recipe, such as learning_rate")
    if str(key) in SECRET_FIELDS:
        raise ValueError(f"override {key!r} would be written to {ARGUMENTS}; set HF_TOKEN in the environment instead")
    if value is None:
        raise ValueError(f"override {key!r} has no value; a command line cannot unset a field, change the recipe")
    values = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or any(isinstance(entry, list | dict) for entry in values):
        values = [json.dumps(value, default=str)]
    texts = [str(entry).lower() if isinstance(entry, bool) else str(entry) for entry in values]
    if any(_NUL in text for text in texts):
        raise ValueError(f"override {key!r} = {shortened(value)} holds a NUL character; remove it")
    if len(texts) == 1 and texts[0].startswith("-"):  # which would be taken for an option
        return [f"--{key}={texts[0]}"]
    return [f"--{key}", *texts]


def _seeds(seeds: Any, field: str) -> list[int]:
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{field} = {seeds!r}: give a list of different whole numbers of 0 or more, such as [0, 1, 2]")
    return seeds


def _output(output: Any) -> Path:
    if not isinstance(output, str) or not output:
        raise ValueError(f"output = {output!r} is no folder; name one, such as runs/windows")
    if (file := file_on_path(Path(output))) is not None:
        raise ValueError(f"output = {output!r}: {str(file)!r} is a file; name a folder")
    return Path(output)


def _launch(launch: Any) -> tuple[str, ...]:
    fit = isinstance(launch, list) and all(isinstance(part, str) and _NUL not in part for part in launch)
    if not fit or not launch:
        raise ValueError(f"launch = {launch!r}: give a list of arguments, such as {list(DEFAULT_LAUNCH)}")
    before = ["", *launch[:-1]]
    return tuple(_with_launch_file(option, part) for option, part in zip(before, launch, strict=True))


def _with_launch_file(before: str, part: str) -> str:
    """A part of the launch command; where it names a launch file, also one that comes with the package, its path."""
    if before == "--config_file":
        return find_launch_file(part)
    option, equals, name = part.partition("=")
    return f"{option}={find_launch_file(name)}" if equals and option == "--config_file" else part


def _check_mapping(value: Any, field: str) -> None:
    if not isinstance(value, dict) or (field == "runs" and not value):
        example = path_of(RECIPES / "ablation_tiny.yaml")
        raise ValueError(f"{field} = {value!r}: expected a mapping of names to values; see {example}")
