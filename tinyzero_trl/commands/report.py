"""`tinyzero-trl report`: one page, pictures and tables from run directories. Loads no PyTorch."""

import argparse
from typing import Any

from tinyzero_trl.commands.console import path


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser("report", help="one HTML page, pictures and tables from run directories")
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="output_dir of a training run")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--baseline", metavar="NAME", help="policy to compare with; left out, the largest fixed window")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the report and print where its page lies."""
    from tinyzero_trl.runs.report import write_report

    print(write_report(args.runs, args.out, baseline=args.baseline))
