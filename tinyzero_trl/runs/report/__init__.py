"""Runs -> pictures, a table and one HTML page. The only room that imports matplotlib.

policies      run directories -> policies, told apart by their configuration
compare       what each policy costs and earns against a baseline
style         palette, PNG and themed SVG
panels        which figures of training health are drawn
pictures      how they are drawn
samples       the browser of sampled completions
page          the page around all of it
"""

import csv
import io
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tinyzero_trl.metrics import Interval
from tinyzero_trl.runs.records import CONFIG, write_atomically
from tinyzero_trl.runs.report.compare import Outcome, compare
from tinyzero_trl.runs.report.page import render_page
from tinyzero_trl.runs.report.pictures import draw_pictures
from tinyzero_trl.runs.report.policies import choose_baseline, load_policies

__all__ = ["write_pictures", "write_report"]

StrPath = str | PathLike[str]


def write_report(runs: Sequence[StrPath], out: StrPath, *, baseline: str | None = None) -> Path:
    """Write `index.html`, `plots/*.png`, `summary.json` and `summary.csv` into `out`.

    A lone run gets the pictures into its own `plots/` as well.

    Args:
        runs: run directories; those that differ in nothing but their seed form one policy.
        out: the folder of the report; created if it is missing.
        baseline: name of the policy to compare with; by default the largest fixed window, else the first.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: if a folder is no run with an evaluation, the baseline is unknown, or `out` is a run.
    """
    folder = Path(out)
    if (folder / CONFIG).exists():
        raise ValueError(f"out = {folder} is a run directory, whose summary.json would be lost; give another folder")
    if (file := next((each for each in (folder, *folder.parents) if each.is_file()), None)) is not None:
        raise ValueError(f"out = {folder}: {file} is a file; name a folder")
    policies = load_policies(runs)
    reference = choose_baseline(policies, baseline)
    outcomes = compare(policies, reference)
    plots = [folder / "plots"] + ([Path(runs[0]) / "plots"] if len(runs) == 1 else [])
    for target in plots:
        target.mkdir(parents=True, exist_ok=True)
    pictures = draw_pictures(policies, reference.name, plots)
    write_atomically(folder / "summary.json", json.dumps(_summary(outcomes, reference.name), indent=2) + "\n")
    write_atomically(folder / "summary.csv", _csv(outcomes))
    write_atomically(folder / "index.html", render_page(policies, reference.name, outcomes, pictures))
    return folder / "index.html"


def write_pictures(run: StrPath) -> Path:
    """Draw a single run's pictures into its `plots/` and return that folder."""
    policies = load_policies([run])
    plots = Path(run) / "plots"
    plots.mkdir(exist_ok=True)
    draw_pictures(policies, policies[0].name, [plots])
    return plots


def _summary(outcomes: Sequence[Outcome], baseline: str) -> dict[str, Any]:
    """The machine-readable result; what cannot be compared is null."""
    return {
        "baseline": baseline,
        "policies": {
            outcome.name: {
                "seeds": outcome.seeds,
                "final_acc": _object(outcome.final_acc),
                "acc_difference": _object(outcome.acc_difference),
                "tokens_ratio": _object(outcome.tokens_ratio),
                "time_ratio": _object(outcome.time_ratio),
                "tokens_to_target_ratio": _object(outcome.tokens_to_target_ratio),
                "time_to_target_ratio": _object(outcome.time_to_target_ratio),
                "paired_seeds": outcome.paired_seeds,
                "reached_target": outcome.reached_target,
            }
            for outcome in outcomes
        },
    }


def _object(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else interval._asdict()


def _csv(outcomes: Sequence[Outcome]) -> str:
    """One row per policy; an interval takes three columns, and an empty cell stands for nothing."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row: dict[str, Any] = {"policy": outcome.name, "seeds": outcome.seeds}
        for name in (
            *("final_acc", "acc_difference", "tokens_ratio", "time_ratio"),
            *("tokens_to_target_ratio", "time_to_target_ratio"),
        ):
            interval = getattr(outcome, name) or (None, None, None)
            row |= zip((f"{name}_{part}" for part in Interval._fields), interval, strict=True)
        for name in (
            "tokens_to_target",
            "time_to_target_s",
            "paired_seeds",
            "reached_target",
            "tokens",
            "elapsed_s",
        ):
            row[name] = getattr(outcome, name)
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
