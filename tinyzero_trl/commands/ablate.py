"""`tinyzero-trl ablate`: a grid of recipes, overrides and seeds becomes training runs."""

import argparse
import shlex
import sys
from contextlib import suppress
from typing import Any

from tinyzero_trl.commands.ablation.checks import faults_of
from tinyzero_trl.commands.ablation.grid import read_grid, shard_of
from tinyzero_trl.commands.console import path


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "ablate",
        help="train a grid of recipes, overrides and seeds from one YAML file; finished runs are not repeated",
    )
    parser.add_argument("grid", type=path, metavar="FILE.yaml", help="the grid: output, seeds, common, runs")
    parser.add_argument("--shard", metavar="I/N", help="only this machine's share of the seeds, such as 1/2")
    parser.add_argument("--dry-run", action="store_true", help="check the runs, print the commands, and run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train what is not finished; the exit status is 1 if a run failed, 128 and more after a signal."""
    from tinyzero_trl.commands.ablation.execution import run_grid  # signals and locks that Windows does not have
    from tinyzero_trl.commands.ablation.session import StoppedBySignal

    runs = read_grid(args.grid)
    runs = runs if args.shard is None else shard_of(runs, args.shard)
    if faults := faults_of(runs):
        for fault in faults:
            print(f"tinyzero-trl ablate: {fault}", file=sys.stderr)
        return 2
    if args.dry_run:
        for planned in runs:
            print(shlex.join([*planned.launch, *planned.arguments]))
        return 0
    try:
        failed = run_grid(runs, lambda line: print(line, flush=True))
    except StoppedBySignal as stop:
        with suppress(OSError):  # Ctrl-C ends the reader of a pipe as well
            print(f"tinyzero-trl ablate: {stop}", file=sys.stderr)
        return 128 + stop.number
    if failed:
        print(f"failed: {'; '.join(each.label for each in failed)}", file=sys.stderr)
    return 1 if failed else 0
