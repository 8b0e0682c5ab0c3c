"""`tinyzero-trl plan`: what a recipe asks of a number of GPUs, before anything is loaded."""

import argparse
import sys
from typing import Any

from tinyzero_trl.commands.console import DefaultsFormatter


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser(
        "plan",
        help="print batches, passes and memory of a recipe on N GPUs, and what to change if it does not fit",
        epilog="Every field of the recipe can be given as well: --any_field value.",
        formatter_class=DefaultsFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="R.yaml", help="the recipe, or the name of a shipped one")
    add("--gpus", type=int, required=True, metavar="N", help="GPUs over all machines")
    add("--nodes", type=int, default=1, metavar="M", help="machines that the GPUs are in")
    add("--gpu-memory-gib", type=float, default=80.0, metavar="GIB", help="memory of one GPU")
    add("--launch", metavar="FILE", help="launch file of accelerate, or a name such as zero2; by default all")
    add("--prompt-tokens", type=int, default=256, metavar="N", help="tokens of a prompt")
    parser.set_defaults(run=run, takes_fields=True)


def run(args: argparse.Namespace) -> None:
    """Plan the recipe and print the tables."""
    from rich.console import Console

    from tinyzero_trl.commands.planning import Machines, plan_recipe
    from tinyzero_trl.commands.planning.table import print_plan

    machines = Machines(args.gpus, args.nodes, args.gpu_memory_gib, args.launch)
    plan = plan_recipe(["--config", args.config, *args.fields], machines, prompt_tokens=args.prompt_tokens)
    print_plan(plan, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
