"""A report that follows runs while they go on: written anew when their records have changed, until all are finished."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyzero_trl.runs.records import EVAL, METRICS, SUMMARY, is_finished
from tinyzero_trl.runs.report import write_loaded, write_report
from tinyzero_trl.runs.report.run_groups import LoadedRuns, load_run_groups

_REST = 4  # times what the last page took, so that pages take a fifth of a core at most


def watch(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None,
    every_s: int,
    say: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Write the report every `every_s` seconds until each run is finished; a browser loads the page again by itself.

    The training needs the machine: nothing is read or drawn while no record has changed, and where a page takes long,
    the next one waits longer. Runs without an evaluation are waited for.

    Args:
        runs: run directories.
        out: the folder of the report.
        baseline: as in `write_report`.
        every_s: seconds between two looks at the records, at least.
        say: told each line for people.
        sleep: what waits.
        clock: seconds.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: as `write_report`.
    """
    seen: tuple[object, ...] | None = None
    said = ""
    while not all(map(is_finished, runs)):
        began = clock()
        if (now := _versions(runs)) != seen:
            seen = now
            loaded = load_run_groups(runs, keep_unfinished=True)
            line = _waits_for(loaded, baseline)
            if not line:
                page = write_loaded(loaded, out, baseline=baseline, reload_s=every_s)
                line = f"{page} is written anew while the runs go on; Ctrl-C ends this"
            if line != said:
                say(line)
                said = line
        sleep(max(every_s, _REST * (clock() - began)))
    return write_report(runs, out, baseline=baseline)


def _waits_for(loaded: LoadedRuns, baseline: str | None) -> str:
    """What must come before there is something to draw; empty where there is."""
    if not loaded.groups:
        return "no run has an evaluation yet; waiting for the first one"
    evaluated = {name for group in loaded.groups for name in (group.name, group.label)}
    if baseline in {*loaded.labels, *loaded.labels.values()} - evaluated:
        return f"baseline {baseline} has no evaluation yet; waiting for its first one"
    return ""


def _versions(runs: Sequence[Path]) -> tuple[object, ...]:
    """What changes whenever a record does."""
    files = [run / name for run in runs for name in (METRICS, EVAL, SUMMARY)]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists())
