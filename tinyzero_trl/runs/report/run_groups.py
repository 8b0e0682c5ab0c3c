"""Run directories -> run groups: finished runs that differ in nothing but their seed, by their configuration alone."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs.json_lines import is_finite_number
from tinyzero_trl.runs.records import CONFIG, EVAL, SUMMARY, Run, has_not_begun, read_run
from tinyzero_trl.runs.report.names import group_names, short_labels
from tinyzero_trl.runs.report.style import can_be_drawn
from tinyzero_trl.windows import unread_fields


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration, by seed; `label` is the short name that pictures use."""

    name: str
    runs: dict[int, Run]
    label: str

    @property
    def first(self) -> Run:
        """The run with the smallest seed."""
        return next(iter(self.runs.values()))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first run; the others differ from it in bookkeeping alone."""
        return self.first.config


@dataclass(frozen=True)
class LoadedRuns:
    """The groups of a report, and the runs that are no part of its results because they are not finished.

    Where no run is finished, or unfinished ones are kept, `groups` holds those that have an evaluation, and
    `finished` is False. `labels` has the name and the label of every group that was given, also of one that is not in
    `groups`.
    """

    groups: list[RunGroup]
    finished: bool = True
    left_out: list[tuple[str, Run]] = field(default_factory=list)  # label of the group, run
    not_begun: list[Path] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    @cached_property
    def missing_steps(self) -> dict[str, str]:
        """The optimizer steps that the records of runs lack, in words, by the folders of those runs."""
        runs = [*(run for group in self.groups for run in group.runs.values()), *(run for _, run in self.left_out)]
        return {str(run.path): steps for run in runs if (steps := run.missing_steps)}


def load_run_groups(paths: Sequence[str | PathLike[str]], *, keep_unfinished: bool = False) -> LoadedRuns:
    """Read run directories and gather those that differ in nothing but their seed, in the order given.

    Args:
        paths: the run directories.
        keep_unfinished: whether runs that are not finished count like the finished ones, once they have an evaluation.

    Raises:
        ValueError: if a folder is no run, a run that should count has no evaluation or no seed, or a group has a seed
            twice.
    """
    not_begun = [Path(path) for path in paths if has_not_begun(path)]
    runs = [_with_samples_of_ends(read_run(path)) for path in paths if Path(path) not in not_begun]
    if not runs and not_begun and keep_unfinished:
        return LoadedRuns([], False, not_begun=not_begun)
    if not runs and not_begun:
        raise ValueError(f"{not_begun[0]} has not begun; wait for its first evaluation, or give --live")
    if not runs:
        raise ValueError("no runs given: name at least one run directory")
    names = group_names([_configuration(run) for run in runs])
    labels = short_labels(list(dict.fromkeys(names)), can_be_drawn)
    any_finished = any(run.summary is not None for run in runs) and not keep_unfinished
    gathered: dict[str, dict[int, Run]] = {}
    left_out = []
    for run, name in zip(runs, names, strict=True):
        if (any_finished and run.summary is None) or (keep_unfinished and not run.judged_evals):
            left_out.append((labels[name], run))
            continue
        if not run.judged_evals:
            raise ValueError(f"{run.path} has no evaluation yet: train it with eval_strategy set, or leave it out")
        _check_last_evaluation(run)
        seed = _seed(run)
        seeds = gathered.setdefault(name, {})
        if seed in seeds:
            raise ValueError(
                f"{run.path} and {seeds[seed].path} are the same configuration with the same seed, {seed}; give one "
                "of them"
            )
        seeds[seed] = run
    groups = [RunGroup(name, dict(sorted(seeds.items())), labels[name]) for name, seeds in gathered.items()]
    return LoadedRuns(groups, any_finished, left_out, not_begun, labels)


def choose_baseline(groups: Sequence[RunGroup], name: str | None, others: Collection[str] = ()) -> RunGroup:
    """The group called `name`; without a name the largest fixed window, or else the first group.

    Args:
        groups: those that can be one.
        name: of a group, or its label.
        others: names and labels of groups that have no run that counts.

    Raises:
        ValueError: if no group has that name or label.
    """
    if name is not None:
        for group in groups:
            if name in (group.name, group.label):
                return group
        if name in others:
            raise ValueError(f"baseline = {name!r} has no finished run yet; train it, or choose another")
        known = ", ".join(group.name for group in groups)
        raise ValueError(f"baseline = {name!r} is none of the run groups; choose one of {known}")
    fixed = [group for group in groups if group.config.get("window_strategy") == "fixed"]
    return max(fixed or groups[:1], key=lambda group: group.config.get("window_max") or 0)


def _configuration(run: Run) -> dict[str, Any]:
    """What tells groups apart, after a look at the fields that names and order are made of.

    Not the fields that its window strategy does not read: older records hold them, and their defaults have changed.
    """
    recipe = run.config.get("recipe") or (run.summary or {}).get("recipe")
    configuration = {**run.config, "recipe": recipe}
    for name in ("recipe", "window_strategy"):
        if not isinstance(value := configuration.get(name), str | None):
            raise ValueError(f"{run.path}: {name} = {shortened(value)} in its {CONFIG} is no text; correct it there")
    if type(longest := configuration.get("window_max", 1)) is not int:
        raise ValueError(
            f"{run.path}: window_max = {shortened(longest)} in its {CONFIG} is no whole number; correct it there"
        )
    unread = {f"window_{name}" for name in unread_fields(configuration.get("window_strategy"))}
    return {name: value for name, value in configuration.items() if name not in unread}


def _check_last_evaluation(run: Run) -> None:
    """Refuse records of a finished run that have lost its last evaluation, which its summary knows."""
    known = (run.summary or {}).get("accuracy_after")
    mean = known.get("mean") if isinstance(known, dict) else None
    last = run.judged_evals[-1]["eval/acc"]
    if mean is not None and is_finite_number(mean) and not math.isclose(mean, last, abs_tol=1e-9):
        raise ValueError(
            f"{run.path}: its last evaluation in {EVAL} has the accuracy {last:.4f}, and {SUMMARY} {mean:.4f}; lines "
            "are missing: copy the file anew"
        )


def sampled(run: Run) -> list[dict[str, Any]]:
    """The completions that a page may show: held-out ones where there are some."""
    return [sample for sample in run.completions if sample.get("source") == "eval"] or run.completions


def _with_samples_of_ends(run: Run) -> Run:
    """The run with the completions of its first and of its last sampled step alone, for those between fill memories."""
    samples = sampled(run)
    steps = {sample["step"] for sample in samples}
    ends = {min(steps, default=0), max(steps, default=0)}
    return replace(run, completions=[sample for sample in samples if sample["step"] in ends])


def _seed(run: Run) -> int:
    seed = run.config.get("seed")
    if type(seed) is not int:
        raise ValueError(f"{run.path}: seed = {shortened(seed)} in its {CONFIG} is no whole number; correct it there")
    return seed
