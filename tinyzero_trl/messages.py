"""What stands in the messages of all rooms: the texts of errors and values in one line, and where a page is."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).parents[1]
_PAGES = "docs"
_LABEL = "Documentation"  # of the links that hatch_build.py writes into the metadata of a package with an address


def text_of(error: BaseException) -> str:
    """The text of an error in one line; the name of its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line_of(error: BaseException) -> str:
    """The first line of an error's text, where the rest is long; the name of its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Text of others in one line: what would steer a terminal is shown as its escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(value: Any) -> str:
    """What `value` looks like in a message of one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def page(name: str) -> str:
    """The page `name`, such as `tasks.md`, as messages name it: a file of the checkout, else its address."""
    file = f"{_PAGES}/{name}"
    if (_CHECKOUT / file).is_file():
        return file
    try:
        links = metadata("tinyzero-trl").get_all("Project-URL") or []
    except PackageNotFoundError:
        links = []
    for label, address in (link.split(", ", 1) for link in links):
        if label == _LABEL:
            return f"{address}/{name}"
    return f"{file} in the repository of tinyzero-trl"
