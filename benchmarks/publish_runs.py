"""Copies what is worth keeping of finished runs to results/: records, compressed, and one configuration per run group.

    python benchmarks/publish_runs.py runs/ablation_tiny results/ablation_tiny

The first folder holds `<run group>/<run>`, as `tinyzero-trl ablate` leaves them. Kept are figures, evaluations and the
summary. Completions, pictures, checkpoints and models stay where they are. `tinyzero-trl report` reads the result as it
reads the runs themselves.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.gathered import CONFIG, ENVIRONMENT, gather
from tinyzero_trl.runs.records import EVAL, METRICS, SUMMARY, read_run


def publish(source: Path, target: Path) -> list[Path]:
    """Publish every run group of a grid. Returns the folders of the runs.

    Raises:
        ValueError: a run that is not finished or cannot be read, or none at all.
    """
    groups = sorted(folder for folder in source.iterdir() if any(folder.glob(f"*/{EVAL}")))
    if not groups:
        raise ValueError(f"{source} holds no runs, <run group>/<run>; give the output of a grid")
    return [run for group in groups for run in _publish_group(group, target / group.name)]


def _publish_group(source: Path, target: Path) -> list[Path]:
    runs = {folder.name: read_run(folder) for folder in sorted(source.iterdir()) if (folder / EVAL).is_file()}
    if unfinished := [str(run.path) for run in runs.values() if run.summary is None]:
        raise ValueError(f"{', '.join(unfinished)}: not finished; train to the end first")
    for name, run in runs.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        for lines in (EVAL, SUMMARY):
            shutil.copyfile(run.path / lines, target / name / lines)
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in run.metrics)
        (target / name / f"{METRICS}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    shared = {
        CONFIG: gather({name: run.config for name, run in runs.items()}),
        ENVIRONMENT: gather({name: run.environment for name, run in runs.items()}),
    }
    head = f"# The runs in {target.name}/: what they share, and what each has besides.\n"
    text = head + yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(target.with_name(f"{target.name}.yaml"), text)
    return [target / name for name in runs]


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish a grid and print where its runs lie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    for folder in publish(args.source, args.target):
        print(folder)


if __name__ == "__main__":
    main()
