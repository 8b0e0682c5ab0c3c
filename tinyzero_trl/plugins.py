"""How a class of a user's own is found: as `package.module:Class`, or by an entry point of an installed package.

Window policies, tasks and engines have a registry each. For a name that is not registered, all three look here; and
all three make their objects here, so that a class with other arguments is named in one line.
"""

import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def offered_names(group: str) -> list[str]:
    """The names of the entry points in a group, such as `tinyzero_trl.tasks`, that installed packages offer."""
    return sorted({each.name for each in entry_points(group=group)})


def made(kind: Callable[..., Any], *arguments: Any, field: str, name: str, remedy: str) -> Any:
    """An object of a class that was found.

    Raises:
        ValueError: the class takes other arguments, or lacks a method.
    """
    try:
        return kind(*arguments)
    except TypeError as error:
        raise ValueError(f"{field}: {name!r} cannot be made ({error}); {remedy}") from error


def find_class(name: str, *, field: str, group: str) -> Any:
    """Import the class that a name stands for; None if the name is neither a path nor an entry point.

    The module of a path is also looked for in the working directory, after all other places, so that it hides no
    installed module. Importing a module runs its code.

    Args:
        name: `package.module:Class`, or the name of an entry point.
        field: the field that holds the name, for the message.
        group: the entry point group to look in.

    Raises:
        ValueError: the class cannot be imported.
    """
    is_path = ":" in name
    source = EntryPoint(name, name, group) if is_path else next(iter(entry_points(group=group, name=name)), None)
    if source is None:
        return None
    here = os.getcwd()
    is_added = is_path and not {here, ""} & {*sys.path}
    if is_added:
        sys.path.append(here)
    try:
        return source.load()
    except Exception as error:  # whatever a module does when it is imported
        if is_added:
            sys.path.remove(here)
        remedy = "give package.module:Class" if is_path else f"repair or remove the package that offers {source.value}"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{field}: {name!r} cannot be imported ({reason}); {remedy}") from error
