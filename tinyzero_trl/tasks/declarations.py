"""What the class of a task declares is checked before anything reads it."""

from collections.abc import Mapping
from dataclasses import is_dataclass

from tinyzero_trl.messages import shortened
from tinyzero_trl.tasks.task import KINDS, Task


def check_declarations(task: Task, name: str) -> None:
    """Columns, templates and options have the form that `Task` says.

    Args:
        task: as it was made.
        name: by which it was asked for.

    Raises:
        ValueError: names what is wrong, and what to declare.
    """
    columns, templates, options = task.columns, task.templates, task.options
    if not isinstance(columns, Mapping):
        raise ValueError(
            f"task: {name!r} has the columns {shortened(columns)}; give a mapping of names to types, such as "
            "{'word': str}"
        )
    for column, kind in columns.items():
        if kind not in tuple(KINDS):
            raise ValueError(
                f"task: {name!r} has a column {column!r} of the type {shortened(kind)}; give one of "
                f"{', '.join(each.__name__ for each in KINDS)}"
            )
    if not isinstance(templates, tuple | list) or not templates or not all(isinstance(each, str) for each in templates):
        raise ValueError(
            f"task: {name!r} has the templates {shortened(templates)}; give a tuple of one name or more, such as "
            "('base',)"
        )
    if not isinstance(options, type) or not is_dataclass(options):
        raise ValueError(
            f"task: {name!r} has the options {shortened(options)}; give a dataclass, the class itself, with @dataclass "
            "above it"
        )
