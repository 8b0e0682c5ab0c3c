"""`tinyzero-trl doctor`: what works on this machine, why the rest does not, and the command that fixes it."""

import argparse
import sys
from typing import Any

from tinyzero_trl.commands.console import progress_bar


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser("doctor", help="say what works on this machine, and how to install the rest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run every check and print what was found."""
    from rich.console import Console

    from tinyzero_trl.commands import diagnosis
    from tinyzero_trl.commands.diagnosis.table import print_findings

    with progress_bar("checked", len(diagnosis.CHECKS)) as advance:
        findings = diagnosis.run_checks(advance)
    print_findings(findings, Console(highlight=False, width=None if sys.stdout.isatty() else 160))
