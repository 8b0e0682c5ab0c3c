"""`tinyzero-trl warmstart`: makes a small model, and measures it on the held-out problems of its tasks."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tinyzero_trl.commands.console import DefaultsFormatter, path
from tinyzero_trl.models.toy.curricula import CURRICULA
from tinyzero_trl.runs.lock import locked


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "warmstart",
        help="make a small model by supervised training on search traces",
        formatter_class=DefaultsFormatter,
    )
    add = parser.add_argument
    add("--out", type=path, default=Path("runs/warmstart"), metavar="DIR", help="folder to write")
    add(
        "--size",
        choices=list(CURRICULA),
        default="tiny",
        help="tiny: the model `embedded`; impatient: `embedded-impatient`; demo: `embedded-demo`, of the recipe "
        "countdown_tiny; lengths: `embedded-lengths`, of the recipe lengths_tiny; small: 31 M, for a GPU",
    )
    add("--steps", type=int, help="optimizer steps in all; by default those of the curriculum")
    add("--seed", type=int, default=0, help="seed of the first weights and of the traces")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train the model, measure it, and print the folder that holds it."""
    from tinyzero_trl.evaluation.warmstart import held_out
    from tinyzero_trl.models.toy.warmstart import warm_start
    from tinyzero_trl.training.callbacks.progress import quiet_without_terminal

    quiet_without_terminal()
    curriculum = CURRICULA[args.size]
    if args.steps is not None:
        curriculum = curriculum.shortened(args.steps)
    with locked(args.out, "out"):  # which also tries, before a long training, whether the folder can be written
        folder = warm_start(args.out, curriculum, seed=args.seed, show_progress=sys.stderr.isatty())
    for measured in held_out(folder, curriculum):
        print(
            f"{measured.task}: {measured.accuracy:.1%} of {measured.problems} held-out problems, "
            f"{measured.mean_length_tokens:.0f} tokens on average, {measured.truncated_frac:.1%} truncated"
        )
    print(folder)
