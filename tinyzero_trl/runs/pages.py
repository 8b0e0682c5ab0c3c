"""Where a page of the documentation is: a wheel holds none, so that a message must say where to find one."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
_PAGES = "docs"
_LABEL = "Documentation"  # of the links that hatch_build.py writes into the metadata of a package with an address


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
