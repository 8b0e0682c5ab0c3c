"""`tinyzero-trl report`: one page, pictures and tables from run directories. Loads no PyTorch."""

import argparse
import sys
from contextlib import suppress
from typing import Any

from tinyzero_trl.commands.console import path

LIVE_S = 30


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser("report", help="write one HTML page, pictures and tables from the folders of runs")
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="output_dir of a training run")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="run group that the others are compared with; by default the largest fixed window, else the first",
    )
    parser.add_argument(
        "--live",
        type=_seconds,
        nargs="?",
        const=LIVE_S,
        metavar="SECONDS",
        help=f"update the page until all runs are finished; every {LIVE_S} seconds by default",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the report, once or until its runs are finished, and print where its page lies."""
    from tinyzero_trl.runs.report import write_report
    from tinyzero_trl.runs.report.live import watch

    if args.live is None:
        print(write_report(args.runs, args.out, baseline=args.baseline))
        return

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with suppress(KeyboardInterrupt):
        print(watch(args.runs, args.out, baseline=args.baseline, every_s=args.live, say=say))


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give 1 or more")
    return int(text)
