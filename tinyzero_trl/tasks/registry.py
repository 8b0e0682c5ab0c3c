"""Tasks by name: built in, registered, installed with an entry point, or `package.module:Class`."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, TypeVar

from tinyzero_trl.messages import page
from tinyzero_trl.plugins import find_class, made, offered_names
from tinyzero_trl.tasks.declarations import check_declarations
from tinyzero_trl.tasks.task import Task

ENTRY_POINTS = "tinyzero_trl.tasks"
"""The entry point group by which an installed package brings tasks: `name = "package.module:Class"`."""

_TASKS: dict[str, type[Task]] = {}
_FAMILIES: dict[str, "Family"] = {}
_Kind = TypeVar("_Kind", bound=type[Task])


class Family(NamedTuple):
    """Tasks with names of the form `family:member`.

    Attributes:
        make: the task's class for a member's name; raises ValueError where there is no such member.
        runs_code: whether scoring evaluates what a model wrote, so that a person must have named the task.
    """

    make: Callable[[str], type[Task]]
    runs_code: bool = False


def register_family(name: str, family: Family) -> None:
    """Make tasks known by the names `name:member`."""
    _FAMILIES[name] = family


def runs_code(name: str) -> bool:
    """Whether a task runs code that only its name brings: a class by its path, or a scorer that evaluates text."""
    family = _FAMILIES.get(name.partition(":")[0])
    return family.runs_code if family else ":" in name


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


def name_forms() -> list[str]:
    """What people may write: the names, and the form of those that belong to a family."""
    return [*task_names(), *(f"{name}:DATASET" for name, family in _FAMILIES.items() if not family.runs_code)]


def generating_forms() -> list[str]:
    """Those of `name_forms` that generate examples; of installed packages all, because only an import would tell."""
    return [name for name in name_forms() if name not in _TASKS or get_task(name).can_generate]


def get_task(name: str | Task, options: Mapping[str, Any] | None = None) -> Task:
    """The task of a name, or of `package.module:Class`, looked for in the current directory too.

    Args:
        name: of the task, or a task.
        options: values of the task's `options`; what is left out has its default, or the value that a task has already.

    Raises:
        ValueError: there is none, what the name points to cannot be imported or is no task, or the task declares what
            no task can have.
    """
    if isinstance(name, Task):
        return name.with_options(options or {})
    family, _, member = name.partition(":")
    if family in _FAMILIES:
        kind: Any = _FAMILIES[family].make(member)
    else:
        kind = _TASKS.get(name) or find_class(name, field="task", group=ENTRY_POINTS)
    if kind is None:
        names = ", ".join(name_forms())
        raise ValueError(f"task: {name!r} is unknown; use one of {names}, or package.module:Class")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task: {name!r} is no subclass of tinyzero_trl.Task; derive the class from it")
    task = made(kind, field="task", name=name, remedy=f"see {page('tasks.md')}")
    check_declarations(task, name)
    task.name, task.given = name, dict(options or {})
    return task


def option_defaults() -> dict[str, Any]:
    """The options of all registered tasks, with their defaults."""
    return {each.name: default_of(each) for kind in _TASKS.values() for each in fields(kind.options)}


def default_of(option: "Field[Any]") -> Any:
    """The default of a field of a dataclass; None if it has none."""
    if option.default_factory is not MISSING:
        return option.default_factory()
    return None if option.default is MISSING else option.default
