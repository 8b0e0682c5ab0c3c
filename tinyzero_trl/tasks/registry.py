"""Tasks by name: built in, registered, installed with an entry point, or `package.module:Class`."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from tinyzero_trl.plugins import find_class, offered_names
from tinyzero_trl.tasks.task import Task

ENTRY_POINTS = "tinyzero_trl.tasks"
"""The entry point group by which an installed package brings tasks: `name = "package.module:Class"`."""

_TASKS: dict[str, type[Task]] = {}
_Kind = TypeVar("_Kind", bound=type[Task])


def register_task(name: str) -> Callable[[_Kind], _Kind]:
    """Make a task known by a name, for the programs that import its module.

    Raises:
        ValueError: another task has the name, or it holds a colon.
    """

    def register(kind: _Kind) -> _Kind:
        if ":" in name:
            raise ValueError(f"task: {name!r} holds a colon, as package.module:Class does; choose another name")
        known = _TASKS.get(name, kind)
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"task: {name!r} is the name of {known.__module__}:{known.__qualname__}; choose another")
        _TASKS[name] = kind
        return kind

    return register


def task_names() -> list[str]:
    """The names that `get_task` knows, the built-in ones first."""
    return list(dict.fromkeys([*_TASKS, *offered_names(ENTRY_POINTS)]))


def get_task(name: str) -> Task:
    """The task of a name, or of `package.module:Class`, looked for in the current directory too.

    Raises:
        ValueError: there is none, or what the name points to cannot be imported or is no task.
    """
    kind = _TASKS.get(name) or find_class(name, field="task", group=ENTRY_POINTS)
    if kind is None:
        names = ", ".join(task_names())
        raise ValueError(f"task: {name!r} is unknown; use one of {names}, or package.module:Class")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task: {name!r} is no subclass of tinyzero_trl.Task; make it one")
    try:
        task = kind()
    except TypeError as error:  # abstract: score is missing
        raise ValueError(f"task: {name!r} cannot be made ({error}); see docs/tasks.md") from None
    task.name = name
    return task


def option_defaults() -> dict[str, Any]:
    """The generator options of all registered tasks, with their defaults."""
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for kind in _TASKS.values()
        for each in fields(kind.options)
    }
