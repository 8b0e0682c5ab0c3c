"""`tinyzero-trl data`: generated examples of a task as parquet files."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from tinyzero_trl.commands.console import DefaultsFormatter, OneLineParser, path, progress_bar, true_or_false
from tinyzero_trl.tasks import Task, generating_forms, get_task
from tinyzero_trl.tasks.config import config_class, option_kind
from tinyzero_trl.tasks.registry import default_of

_TASK_HELP = "a task's name, or package.module:Class"


def register(commands: Any) -> None:
    """Add the subcommand to the parser's `commands`; each task has options of its own, so `run` reads the rest."""
    parser = commands.add_parser(
        "data",
        help="write train.parquet and test.parquet with generated examples",
        add_help=False,
        epilog="The options are those of the task: tinyzero-trl data TASK --help. Tasks that generate examples: "
        f"{', '.join(generating_forms())}.",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help=_TASK_HELP)
    parser.set_defaults(run=lambda args: run(args, parser), takes_fields=True)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Generate the examples and write the two files."""
    if args.task is None:
        if {"-h", "--help"} & set(args.fields):
            parser.print_help()
            parser.exit(0)
        parser.error("the following arguments are required: TASK")
    from tinyzero_trl.tasks.datasets import train_test_examples
    from tinyzero_trl.tasks.parquet import write_splits

    options = parse_options(args.task, args.fields)
    out, template = options.pop("out"), options.pop("template")
    asked = {name: options.pop(name) for name in ("train_size", "test_size", "seed")}
    task, total = get_task(args.task, options), asked["train_size"] + asked["test_size"]
    with progress_bar("examples", total) as advance:
        train, test = train_test_examples(task, progress=advance, **asked)
    with progress_bar("rows written", total) as advance:
        splits = {"train": train, "test": test}
        paths = write_splits(out, splits, task=task, template=template, progress=advance)
    for file, examples in zip(paths, splits.values(), strict=True):
        print(f"{file}: {len(examples)} problems")


def parse_options(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The options after the task's name: those of every task, and those of its generator.

    Raises:
        ValueError: there is no such task, it generates no examples, or one of its options has a name that is taken.
        SystemExit: with status 2, an option that the task does not have, or a value of the wrong type.
    """
    task = get_task(name)
    if not task.can_generate:
        forms = ", ".join(generating_forms())
        raise ValueError(f"task: {name!r} generates no examples to write; use one of {forms}, or package.module:Class")
    configuration = config_class(name)  # refuses options that no command can take
    parser = OneLineParser(
        prog=f"tinyzero-trl data {name}",
        description=(type(task).__doc__ or name).strip().splitlines()[0],
        formatter_class=DefaultsFormatter,
    )
    _add_generator_options(parser, configuration, task)
    add = parser.add_argument
    add("--out", type=path, required=True, metavar="DIR", help="folder for the two files")
    add("--train-size", type=int, default=327_680, help="examples in train.parquet")
    add("--test-size", type=int, default=1024, help="examples in test.parquet")
    add("--seed", type=int, default=0, help="the same seed gives the same examples")
    add("--template", choices=task.templates, default=task.templates[0], help="prompt template")
    return vars(parser.parse_args(list(arguments)))


def _add_generator_options(parser: argparse.ArgumentParser, configuration: type[Any], task: Task) -> None:
    """The fields of the task's options, `min_number` as `--min-number`; `config_class` has checked their types."""
    own, hints = {each.name for each in fields(task.options)}, get_type_hints(configuration)
    for each in fields(configuration):
        if each.name in own and (kind := option_kind(hints[each.name])):
            parser.add_argument(
                f"--{each.name.replace('_', '-')}",
                type=true_or_false if kind.value is bool else kind.value,
                nargs="+" if kind.several else None,
                choices=kind.choices,
                default=default_of(each),
                help=each.metadata.get("help", " "),
            )
