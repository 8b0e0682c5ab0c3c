"""The `tinyzero-trl` command: its subcommands, each in the module of its name.

Exit status: 0 on success, 2 with one clear line on bad input (argparse's own convention), 130 after Ctrl-C (as a shell
says it). What `train` and `ablate` end with besides is said in docs/survival.md.
"""

import argparse
import sys
from collections.abc import Sequence

import tinyzero_trl
from tinyzero_trl.commands import ablate, data, doctor, eval, plan, report, train, warmstart
from tinyzero_trl.commands.console import OneLineParser, one_line

SUBCOMMANDS = (train, eval, ablate, report, data, warmstart, plan, doctor)

STOPPED_BY_CTRL_C = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; a subcommand's function is its `run` default."""
    parser = OneLineParser(
        prog="tinyzero-trl",
        description="GRPO on problems with a verifiable answer, with an adaptive rollout window.",
    )
    parser.add_argument("--version", action="version", version=f"tinyzero-trl {tinyzero_trl.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.register(commands)
    for each in commands.choices.values():
        each.set_defaults(parser=each)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input ends with exit status 2 and one line on standard error."""
    parser = build_parser()
    args, further = parser.parse_known_args(arguments)
    of_command = vars(args).pop("parser")
    if further and not hasattr(args, "takes_fields"):
        of_command.error(f"unrecognized arguments: {' '.join(further)}")
    args.fields = further
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        print(f"tinyzero-trl {args.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tinyzero-trl {args.command}: stopped by Ctrl-C", file=sys.stderr)
        return STOPPED_BY_CTRL_C


if __name__ == "__main__":
    sys.exit(main())
