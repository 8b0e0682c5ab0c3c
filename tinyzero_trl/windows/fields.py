"""How a window policy's configuration declares its fields: default, help, and the values that are allowed.

Each helper returns a `dataclasses.field`. `WindowConfig.__post_init__` checks what it declares, and refuses a value
with one line that names field, value and remedy. A training configuration has the fields with the prefix `window_`. So
messages name a field by `shown`, as whoever set it has written it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import Field, field
from numbers import Real
from typing import Any

_names: ContextVar[Callable[[str], str]] = ContextVar("names of the fields in messages", default=str)


@contextmanager
def shown_as(names: Callable[[str], str]) -> Iterator[None]:
    """Inside the context, messages give a field the name that `names` returns for it."""
    token = _names.set(names)
    try:
        yield
    finally:
        _names.reset(token)


def shown(name: str) -> str:
    """A field's name for a message."""
    return _names.get()(name)


def number(
    default: float | None,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> Any:
    """A number in [low, high], or in [low, below). It is a whole number, unless `default` is a float.

    Args:
        default: value of a field that is left out. None: the configuration derives it in `__post_init__`.
        help: one line for `--help` and for readers of the class.
        low: smallest value.
        high: largest value.
        below: a bound that the value may not reach.
    """
    bounds = {"low": low, "high": high, "below": below}
    return field(default=default, metadata={"help": help, "check": _check_number} | bounds)


def count(help: str) -> Any:
    """A positive whole number that may be left out (None)."""
    return field(default=None, metadata={"help": help, "check": _check_count})


def choice(default: str, help: str, choices: tuple[str, ...]) -> Any:
    """One of a few words."""
    help = f"{help}: one of {', '.join(choices)}"
    return field(default=default, metadata={"help": help, "check": _check_choice, "choices": choices})


def text(default: str | None, help: str) -> Any:
    """Any text; None: the configuration derives it in `__post_init__`."""
    return field(default=default, metadata={"help": help, "check": _check_text})


def of_trainer(default: str | float | bool, help: str) -> Any:
    """What the trainer's configuration has under the same name, and fills in: users do not set it here.

    A text, true or false, or a number; a whole one, unless `default` is a float.
    """
    if isinstance(default, bool):
        declared = flag(default, help)
    else:
        declared = text(default, help) if isinstance(default, str) else number(default, help)
    return field(default=default, metadata={**declared.metadata, "of_trainer": True})


def flag(default: bool, help: str) -> Any:
    """True or false."""
    return field(default=default, metadata={"help": help, "check": _check_flag})


def check_field(declared: Field[Any], value: Any) -> None:
    """Refuse what the declaration does not allow. A field that was declared without these helpers is not checked.

    Raises:
        ValueError: the wrong type, or a value out of range. It names field, value and remedy.
    """
    left_out = value is None and declared.default is None
    if "check" in declared.metadata and not left_out:
        declared.metadata["check"](declared, value)


def _check_number(declared: Field[Any], value: Any) -> None:
    name, whole = declared.name, not isinstance(declared.default, float)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        kind = "a whole number" if whole else "a number"
        said = _of_another_type(value, kind, whole=whole) or f"is not {kind}; change it"
        raise ValueError(f"{shown(name)}: {value!r} {said}")
    low, high, below = (declared.metadata[key] for key in ("low", "high", "below"))
    if not math.isfinite(value):
        raise ValueError(f"{shown(name)}: {value!r} is not finite; give a finite number")
    if low is not None and value < low:
        raise ValueError(f"{shown(name)}: {value!r} is below {low}; set it to {low} or more")
    if high is not None and value > high:
        raise ValueError(f"{shown(name)}: {value!r} is above {high}; set it to {high} or less")
    if below is not None and value >= below:
        raise ValueError(f"{shown(name)}: {value!r} is not below {below}; set it below {below}")


def _check_count(declared: Field[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        said = _of_another_type(value, "a positive whole number", whole=True, low=1)
        said = said or "is not a positive whole number; give 1 or more"
        raise ValueError(f"{shown(declared.name)}: {value!r} {said}")


def _of_another_type(value: Any, kind: str, *, whole: bool, low: float = -math.inf) -> str | None:
    """What to say of the right number in another type, such as NumPy's; None if it is no right number."""
    if isinstance(value, bool | int) or not isinstance(value, Real) or not math.isfinite(value) or value < low:
        return None
    number = float(value)
    if whole and not number.is_integer():
        return None
    return f"is not written as {kind}; write {int(number) if whole else number}"


def _check_choice(declared: Field[Any], value: Any) -> None:
    choices = declared.metadata["choices"]
    if value not in choices:
        raise ValueError(f"{shown(declared.name)}: {value!r} is unknown; choose one of {', '.join(choices)}")


def _check_flag(declared: Field[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(declared.name)}: {value!r} is neither true nor false; set it to one of them")


def _check_text(declared: Field[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{shown(declared.name)}: {value!r} is not text; change it")
