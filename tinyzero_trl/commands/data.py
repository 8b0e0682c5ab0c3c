"""`tinyzero-trl data`: generated problems as parquet files."""

import argparse
from typing import Any

from tinyzero_trl.commands.console import path, progress_bar
from tinyzero_trl.tasks.prompts import TEMPLATES


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`."""
    parser = commands.add_parser("data", help="write train.parquet and test.parquet with generated problems")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    defaults = argparse.ArgumentDefaultsHelpFormatter
    countdown = tasks.add_parser(
        "countdown", help="make the target from the numbers, each used exactly once", formatter_class=defaults
    )
    countdown.add_argument("--operands", type=int, nargs="+", default=[3, 4], help="operand counts, a same share each")
    countdown.add_argument("--min-number", type=int, default=1, help="smallest number")
    countdown.add_argument("--max-number", type=int, default=99, help="largest number")
    countdown.add_argument("--min-target", type=int, default=10, help="smallest target")
    countdown.add_argument("--max-target", type=int, default=100, help="largest target")
    multiplication = tasks.add_parser("multiplication", help="the product of two numbers", formatter_class=defaults)
    multiplication.add_argument("--digits", type=int, nargs="+", default=[3], help="digit counts, a same share each")
    for task in (countdown, multiplication):
        task.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the two files")
        task.add_argument("--train-size", type=int, default=327_680, help="problems in train.parquet")
        task.add_argument("--test-size", type=int, default=1024, help="problems in test.parquet")
        task.add_argument("--seed", type=int, default=0, help="the same seed gives the same problems")
        task.add_argument("--template", choices=TEMPLATES, default="base", help="prompt template")
        task.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Generate the problems and write the two files."""
    from tinyzero_trl.tasks.datasets import train_test_examples
    from tinyzero_trl.tasks.parquet import write_splits

    options = vars(args).copy()
    for name in ("command", "run", "fields"):
        del options[name]
    task, out, template = options.pop("task"), options.pop("out"), options.pop("template")
    total = args.train_size + args.test_size
    with progress_bar("problems", total) as advance:
        train, test = train_test_examples(task, progress=advance, **options)
    with progress_bar("rows written", total) as advance:
        splits = {"train": train, "test": test}
        paths = write_splits(out, splits, task=task, template=template, progress=advance)
    for file, problems in zip(paths, splits.values(), strict=True):
        print(f"{file}: {len(problems)} problems")
