"""Runs -> pictures, a table and one HTML page. The only folder that imports matplotlib.

run_groups    run directories -> groups of runs that differ in their seed alone
names         what the groups are called, in full and in short
comparable    what of two groups can be compared: their evaluations, their devices
compare       what each group costs and earns against a baseline
summary       the same for programs: summary.json, summary.csv
style         palette, PNG and themed SVG
panels        which figures of training health are drawn
pictures      how they are drawn
old_pictures  which of them an earlier report has drawn, and this one has not
samples       the browser of sampled completions
headlines     what was reached and what it took, in words
live          a page that follows runs while they go on
formats       how numbers are written on the page
page          the page around all of it; templates/ holds its HTML, style and script
"""

import json
import logging
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tinyzero_trl.messages import printable
from tinyzero_trl.runs.files import file_on_path, write_atomically
from tinyzero_trl.runs.records import CONFIG, EVAL, METRICS
from tinyzero_trl.runs.report.compare import compare
from tinyzero_trl.runs.report.page import notes_of_records, render_page
from tinyzero_trl.runs.report.pictures import draw_pictures
from tinyzero_trl.runs.report.run_groups import LoadedRuns, choose_baseline, load_run_groups
from tinyzero_trl.runs.report.summary import summary, summary_csv

__all__ = ["write_pictures", "write_report"]

logger = logging.getLogger(__name__)

StrPath = str | PathLike[str]


def write_report(runs: Sequence[StrPath], out: StrPath, *, baseline: str | None = None) -> Path:
    """Write `index.html`, `plots/*.png`, `summary.json` and `summary.csv` into `out`.

    A lone run gets the pictures into its own `plots/` as well, if that can be written and is no link. Runs that are
    not finished are listed apart, and are no part of any figure, unless none is finished.

    Args:
        runs: run directories; those that differ in nothing but their seed form one group.
        out: the folder of the report; created if it is missing.
        baseline: name of the run group to compare with; by default the largest fixed window, else the first.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: if a folder is no run with an evaluation, the baseline is unknown, or `out` is a run.
    """
    own = [Path(run) / "plots" for run in runs if len(runs) == 1 and os.access(run, os.W_OK)]  # others are read alone
    own = [plots for plots in own if not plots.is_symlink()]  # a run from elsewhere may name any folder by it
    loaded = load_run_groups(runs)
    for note in notes_of_records(loaded):
        logger.warning(printable(note))
    return write_loaded(loaded, out, baseline=baseline, more_plots=own)


def write_loaded(
    loaded: LoadedRuns,
    out: StrPath,
    *,
    baseline: str | None,
    more_plots: Sequence[Path] = (),
    reload_s: int | None = None,
) -> Path:
    """As `write_report`, for runs that are read already.

    Args:
        loaded: the runs.
        out: the folder of the report; created if it is missing.
        baseline: as in `write_report`.
        more_plots: folders that get the pictures as well.
        reload_s: browsers load the page again after so many seconds; never if left out.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: the baseline is unknown, or `out` is a run.
    """
    folder = Path(out)
    if any((folder / name).exists() for name in (CONFIG, EVAL, METRICS, f"{EVAL}.gz", f"{METRICS}.gz")):
        raise ValueError(f"out = {folder} is a run directory, whose summary.json would be lost; give another folder")
    if (file := file_on_path(folder)) is not None:
        raise ValueError(f"out = {folder}: {file} is a file; name a folder")
    reference = choose_baseline(loaded.groups, baseline, {*loaded.labels, *loaded.labels.values()})
    outcomes = compare(loaded.groups, reference)
    plots = [folder / "plots", *more_plots]
    for target in plots:
        target.mkdir(parents=True, exist_ok=True)
    pictures = draw_pictures(loaded.groups, reference.label, plots)
    result = summary(loaded, outcomes, reference.name)
    write_atomically(folder / "summary.json", json.dumps(result, indent=2) + "\n")
    write_atomically(folder / "summary.csv", summary_csv(outcomes))
    write_atomically(folder / "index.html", render_page(loaded, reference, outcomes, pictures, reload_s))
    return folder / "index.html"


def write_pictures(run: StrPath) -> Path:
    """Draw a single run's pictures into its `plots/` and return that folder."""
    groups = load_run_groups([run]).groups
    plots = Path(run) / "plots"
    plots.mkdir(exist_ok=True)
    draw_pictures(groups, groups[0].label, [plots], for_page=False)
    return plots
