"""A report that follows runs while they go on: written anew when their records have changed, until all are finished."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyzero_trl.runs.records import EVAL, METRICS, SUMMARY, is_finished, read_run
from tinyzero_trl.runs.report import write_report


def watch(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None,
    every_s: int,
    say: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Write the report every `every_s` seconds until each run is finished; a browser loads the page again by itself.

    Nothing is drawn while no record has changed, since the training needs the machine. Runs without an evaluation are
    waited for.

    Args:
        runs: run directories.
        out: the folder of the report.
        baseline: as in `write_report`.
        every_s: seconds between two looks at the records.
        say: told each line for people.
        sleep: what waits.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: as `write_report`.
    """
    seen: tuple[object, ...] | None = None
    page: Path | None = None
    while not all(map(is_finished, runs)):
        now, evaluated = _versions(runs), [run for run in runs if read_run(run).judged_evals]
        if not evaluated and seen is None:
            say("no run has an evaluation yet; waiting for the first one")
        elif evaluated and now != seen:
            is_first = page is None
            page = write_report(evaluated, out, baseline=baseline, reload_s=every_s)
            if is_first:
                say(f"{page} is written anew while the runs go on; Ctrl-C ends this")
        seen = now
        sleep(every_s)
    return write_report(runs, out, baseline=baseline)


def _versions(runs: Sequence[Path]) -> tuple[object, ...]:
    """What changes whenever a record does."""
    files = [run / name for run in runs for name in (METRICS, EVAL, SUMMARY)]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists())
