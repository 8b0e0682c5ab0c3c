"""The `tinyzero-trl` command: one function per subcommand, each a thin door to the room that does the work.

Exit status: 0 on success, 2 with one clear line on bad input (argparse's own convention).
"""

import argparse
import sys
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; a subcommand's function is its `run` default."""
    parser = argparse.ArgumentParser(prog="tinyzero-trl", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for register in _REGISTER:
        register(commands)
    return parser


_REGISTER: list = []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input ends with exit status 2 and one line on standard error."""
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"tinyzero-trl {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
