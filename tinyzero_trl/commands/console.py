"""The command line's parser, errors of one line, and progress bars for terminals alone."""

import argparse
import difflib
import errno
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tinyzero_trl.messages import printable, text_of
from tinyzero_trl.runs.redaction import without_secrets, words_without_secrets


def one_line(error: Exception) -> str:
    """What went wrong, on one line; a refusal of the file system names the path first and what to look at.

    Messages of libraries quote files and servers: what would steer a terminal is shown as its escape.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        remedy = "free some space" if error.errno == errno.ENOSPC else "check the path and what lies there"
        return f"{str(error.filename)!r}: {error.strerror.lower()}; {remedy}"
    return printable(without_secrets(text_of(error)))


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and takes no abbreviations, as recipes take none."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """End with exit status 2, without the usage that argparse puts in front."""
        remedy = self._meant_option(message) or f"see {self.prog} --help"
        self.exit(2, f"{self.prog}: {' '.join(words_without_secrets(message.split()))}; {remedy}\n")

    def _meant_option(self, message: str) -> str | None:
        """What a misspelled option may have been meant for; None where nothing is like it."""
        if not (found := re.match(r"unrecognized arguments: (--[\w-]+)", message)):
            return None
        known = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(found[1], known, n=1)
        return f"did you mean {close[0]}?" if close else None


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that says the default of each option, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def path(text: str) -> Path:
    """The type of an option that names a file or folder: an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("'' names nothing (an unset variable?)")
    return Path(text)


def true_or_false(text: str) -> bool:
    """The type of an option that is spelled as in a recipe."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def json_mapping(text: str) -> dict[str, Any]:
    """The type of an option that holds a mapping."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping; write it as in '{{\"name\": value}}'")
    return value


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` units on standard error; yields the function that adds finished units."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda finished: progress.advance(task, finished)
