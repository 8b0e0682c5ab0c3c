"""Reading a recipe as strictly as a command line: existence and type of every field, before any dataclass is made."""

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, get_args, get_type_hints

from trl import TrlParser

from tinyzero_trl.redaction import shown

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "not a whole number"),
    "float": ((int, float), "not a number"),
    "string_to_bool": ((bool,), "neither true nor false"),
}
_MAPPINGS = {
    *("model_init_kwargs", "generation_kwargs", "chat_template_kwargs"),
    *("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"),
}


class RecipeParser(TrlParser):
    """`TrlParser` that judges a YAML recipe as strictly as a command line, and raises instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the one line that argparse would print after its usage, under the field's plain name."""
        raise ValueError(re.sub(r"^argument --(\w+)\S*:", r"\1:", message))

    def set_defaults_with_config(self, **recipe: Any) -> list[str]:
        """Check every field of the recipe for existence and type, then use it as a default.

        Raises:
            ValueError: an unknown field, or a value of the wrong type.
        """
        actions = {action.dest: action for action in self._actions}
        for name, value in recipe.items():
            if name not in actions:
                value = shown(name, value)
                raise ValueError(f"{name}: unknown field in the recipe (value {value}); {self.hint(name)}")
            _check_type(name, value, actions[name])
            _check_text(name, value, pure=name in self._text_fields())
        return super().set_defaults_with_config(**recipe)

    def _text_fields(self) -> set[str]:
        """Fields that are text and nothing else, though a command line can spell numbers for them."""
        hints = {name: hint for kind in self.dataclass_types for name, hint in get_type_hints(kind).items()}
        text = {name for name, hint in hints.items() if set(get_args(hint) or (hint,)) <= {str, type(None)}}
        return text - {"window_phases", "scale_rewards"}  # the one may be pairs, the other was once a truth value

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raise if a command line left anything over.

        Raises:
            ValueError: names its first unknown field.
        """
        if unknown:
            name = unknown[0].removeprefix("--").split("=")[0]
            raise ValueError(f"{name}: unknown field on the command line; {self.hint(name)}")

    def hint(self, name: str) -> str:
        """What to do about a field that does not exist."""
        close = difflib.get_close_matches(name, [action.dest for action in self._actions], n=1)
        return f"did you mean {close[0]}?" if close else "remove it"


def _check_text(name: str, value: Any, pure: bool) -> None:
    if name in _MAPPINGS and value is not None and not isinstance(value, dict):
        try:
            is_mapping = isinstance(json.loads(value), dict)
        except (TypeError, ValueError, RecursionError):
            is_mapping = False
        if not is_mapping:
            raise ValueError(f"{name}: {shown(name, value)} is no mapping; write it as in {{name: value}}")
    if pure and value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: {shown(name, value)} is no text; put it in quotes, or change it")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{name}: {shown(name, value)} holds a NUL character; remove it")


def _check_type(name: str, value: Any, action: argparse.Action) -> None:
    if value is None and action.default is not None:
        raise ValueError(f"{name}: empty in the recipe; give a value, or remove the line for {action.default!r}")
    if value is None:
        return
    kind = getattr(
        action.type, "__name__", ""
    )  # transformers wraps the types of optional fields, but keeps their names
    takes_list = action.nargs in ("+", "*")
    if kind in _TYPES and takes_list != isinstance(value, list):
        raise ValueError(f"{name}: {value!r} is {'no' if takes_list else 'a'} list; change it in the recipe")
    for entry in value if isinstance(value, list) else [value]:
        if action.choices is not None and entry not in action.choices:
            quoted = " (in quotes: YAML reads a bare no as false)" if entry is False else ""
            choices = ", ".join(map(str, action.choices))
            raise ValueError(f"{name}: {entry!r} is unknown; choose one of {choices}{quoted}")
        if kind in _TYPES and not isinstance(value, str):  # argparse converts a string itself
            types, description = _TYPES[kind]
            if not isinstance(entry, types) or (isinstance(entry, bool) and bool not in types):
                raise ValueError(f"{name}: {entry!r} is {description}; change it in the recipe")
