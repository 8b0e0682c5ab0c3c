"""The configuration of a data set of reasoning-gym as options of a task, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tinyzero_trl.tasks.reasoning_gym import library
from tinyzero_trl.tasks.registry import default_of

_OWN = ("seed", "size")  # decided by problem_seed, train_size and test_size
_PLAIN = (bool, int, float, str)
_TAKEN = {"max_steps"}  # a field of every recipe


@dataclass
class CommonOptions:
    """What every task of reasoning-gym can be told besides the configuration of its data set."""

    partial_scores: bool = field(
        default=False, metadata={"help": "keep the library's reward for partly right answers, instead of 0"}
    )
    difficulty_label: str = field(
        default="", metadata={"help": "entry of the metadata that is the label; empty: the first usable entry"}
    )


@lru_cache
def options_class(name: str) -> type[Any]:
    """A dataclass with the fields of a data set's configuration whose type a command line can give.

    Raises:
        ValueError: when it is made, values that the library refuses.
    """
    _, config = library.data_sets()[name]
    hints = get_type_hints(config)
    listed = []
    for each in fields(config):
        kind = _kind(hints[each.name], default_of(each))
        if kind is not None and each.name not in _OWN:
            help_text = {"help": f"reasoning_gym:{name}: {each.name.replace('_', ' ')}"}
            listed.append((_option(name, each.name), kind, _with_default(_plain(default_of(each)), help_text)))

    def check(self: Any) -> None:
        library.make(name, seed=0, size=1, **configuration(name, self))

    return make_dataclass("Options", listed, bases=(CommonOptions,), namespace={"__post_init__": check})


def configuration(name: str, options: Any) -> dict[str, Any]:
    """The fields of the data set's configuration that the options change, Enums by their values."""
    _, config = library.data_sets()[name]
    changed = {}
    for each in fields(config):
        default, option = default_of(each), _option(name, each.name)
        if hasattr(options, option) and (value := getattr(options, option)) != _plain(default):
            changed[each.name] = tuple(value) if isinstance(default, tuple) else value
    return changed


def _option(dataset: str, name: str) -> str:
    return f"{dataset}_{name}" if name in _TAKEN else name


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _with_default(value: Any, metadata: dict[str, str]) -> Any:
    if isinstance(value, list):
        return field(default_factory=lambda: list(value), metadata=metadata)
    return field(default=value, metadata=metadata)


def _kind(hint: Any, default: Any) -> Any:
    """The type by which a command line gives a field; None where it cannot."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return hint
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        return str
    if origin is Union:
        inner = [_kind(each, default) for each in arguments if each is not type(None)]
        return inner[0] | None if len(inner) == 1 and inner[0] in _PLAIN else None
    if hint is tuple or origin in (list, tuple, Sequence):
        kinds = {type(each) for each in _plain(default or ())}
        return list[kinds.pop()] if len(kinds) == 1 and kinds <= {*_PLAIN} else None  # type: ignore[misc]
    return None
