"""One file for the configurations and environments of a run group that is kept: what they share is written once.

`full.yaml` beside the folder `full/` holds, for `config` and for `environment`, what is `common` to the runs in that
folder, and under `runs` by the name of each run's folder what it has besides. `read_run` reads it where a run has no
files of its own. `benchmarks/publish_runs.py` writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyzero_trl.runs.strict_yaml import read_mapping

CONFIG = "config"
ENVIRONMENT = "environment"


def gathered_file(run: Path) -> Path:
    """Where the configuration of a kept run stands: `grid/full.yaml` for `grid/full/seed_0`."""
    group = run.resolve().parent
    return group.with_name(f"{group.name}.yaml")


def read_gathered(run: Path, part: str) -> dict[str, Any] | None:
    """The configuration or environment of one run; None where no gathered file names the run.

    Args:
        run: the run's folder.
        part: `CONFIG` or `ENVIRONMENT`.
    """
    file = gathered_file(run)
    if not file.is_file():
        return None
    group, name = read_mapping(file).get(part), run.resolve().name
    if not isinstance(group, dict) or not isinstance(group.get("runs"), dict) or name not in group["runs"]:
        return None
    own = group["runs"][name]
    if not isinstance(own, dict) or not isinstance(group.get("common"), dict):
        raise ValueError(f"{file}: {part} holds no mappings `common` and `runs`; write it anew")
    return {**group["common"], **own}


def gather(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`common` and `runs` of the configurations (or environments) of runs, by the names of their folders."""
    first = next(iter(runs.values()))
    common = {
        name: value
        for name, value in first.items()
        if all(name in each and each[name] == value and type(each[name]) is type(value) for each in runs.values())
    }
    own = {folder: {name: value for name, value in each.items() if name not in common} for folder, each in runs.items()}
    return {"common": common, "runs": own}
