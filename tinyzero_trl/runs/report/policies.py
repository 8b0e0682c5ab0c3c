"""Run directories -> policies: runs that differ in nothing but their seed, by their configuration alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from tinyzero_trl.runs.files import shortened
from tinyzero_trl.runs.records import CONFIG, Run, read_run
from tinyzero_trl.windows import unread_fields

# Fields in which the runs of one policy may differ: which repetition it is, and where it is kept. Seeds come on top.
_BOOKKEEPING = {
    *("output_dir", "logging_dir", "run_name", "resume", "resume_from_checkpoint"),
    *("report_to", "project", "hub_model_id", "push_to_hub"),
}


@dataclass(frozen=True)
class Policy:
    """Runs of one configuration, by seed."""

    name: str
    runs: dict[int, Run]


def load_policies(paths: Sequence[str | PathLike[str]]) -> list[Policy]:
    """Read run directories and gather those that differ in nothing but their seed, in the order given.

    Raises:
        ValueError: if a folder is no run, a run has no evaluation or no seed, or a policy has a seed twice.
    """
    runs = [read_run(path) for path in paths]
    if not runs:
        raise ValueError("no runs given: name at least one run directory")
    gathered: dict[str, dict[int, Run]] = {}
    for run, name in zip(runs, policy_names([_configuration(run) for run in runs]), strict=True):
        if not any("eval/acc" in line for line in run.evals):
            raise ValueError(f"{run.path} has no evaluation yet: train it with eval_strategy set, or leave it out")
        seed = _seed(run)
        seeds = gathered.setdefault(name, {})
        if seed in seeds:
            raise ValueError(
                f"{run.path} and {seeds[seed].path} are the same configuration with the same seed, {seed}; give one "
                "of them"
            )
        seeds[seed] = run
    return [Policy(name, dict(sorted(seeds.items()))) for name, seeds in gathered.items()]


def _configuration(run: Run) -> dict[str, Any]:
    """What tells policies apart, after a look at the fields that names and order are made of.

    Not the fields of another window strategy: their defaults may have changed between two runs at a fixed window.
    """
    recipe = run.config.get("recipe") or (run.summary or {}).get("recipe")
    configuration = {**run.config, "recipe": recipe}
    for field in ("recipe", "window_strategy"):
        if not isinstance(value := configuration.get(field), str | None):
            raise ValueError(f"{run.path}: {field} = {shortened(value)} in its {CONFIG} is no text; correct it there")
    if type(longest := configuration.get("window_max", 1)) is not int:
        raise ValueError(
            f"{run.path}: window_max = {shortened(longest)} in its {CONFIG} is no whole number; correct it there"
        )
    unread = {f"window_{name}" for name in unread_fields(str(configuration.get("window_strategy")))}
    return {field: value for field, value in configuration.items() if field not in unread}


def _seed(run: Run) -> int:
    seed = run.config.get("seed")
    if type(seed) is not int:
        raise ValueError(f"{run.path}: seed = {shortened(seed)} in its {CONFIG} is no whole number; correct it there")
    return seed


def policy_names(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each configuration, the same for two of them only if they differ in bookkeeping alone.

    The recipe, or else the window strategy, where that tells all policies apart; otherwise the recipe
    followed by the fields that vary among the runs of that recipe.
    """
    given = {field for configuration in configurations for field in configuration}
    fields = sorted(field for field in given - _BOOKKEEPING if not field.endswith("seed"))
    varying = _varying(fields, configurations)
    policies = {_values(varying, configuration) for configuration in configurations}
    for field in ("recipe", "window_strategy"):
        names = [configuration.get(field) for configuration in configurations]
        if all(names) and len(set(names)) == len(policies):
            return [str(name) for name in names]
    return [_described(configuration, varying, configurations) for configuration in configurations]


def _described(
    configuration: Mapping[str, Any], varying: Sequence[str], configurations: Sequence[Mapping[str, Any]]
) -> str:
    recipe = configuration.get("recipe")
    same_recipe = [other for other in configurations if other.get("recipe") == recipe]
    details = [f"{field}={configuration.get(field)}" for field in _varying(varying, same_recipe)]
    return " ".join([str(recipe)] * bool(recipe) + details) or "run"


def _varying(fields: Sequence[str], configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    return [field for field in fields if len({_values([field], other) for other in configurations}) > 1]


def _values(fields: Sequence[str], configuration: Mapping[str, Any]) -> str:
    return json.dumps([configuration.get(field) for field in fields], sort_keys=True, default=str)


def choose_baseline(policies: Sequence[Policy], name: str | None) -> Policy:
    """The policy called `name`; without a name the largest fixed window, or else the first policy.

    Raises:
        ValueError: if no policy has that name.
    """
    if name is not None:
        for policy in policies:
            if policy.name == name:
                return policy
        known = ", ".join(policy.name for policy in policies)
        raise ValueError(f"baseline = {name!r} is none of the policies; choose one of {known}")
    configurations = {policy.name: next(iter(policy.runs.values())).config for policy in policies}
    fixed = [policy for policy in policies if configurations[policy.name].get("window_strategy") == "fixed"]
    return max(fixed or policies[:1], key=lambda policy: configurations[policy.name].get("window_max") or 0)
