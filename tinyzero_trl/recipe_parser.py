"""Reading a recipe as strictly as a command line: existence and type of every field, before any dataclass is made."""

import argparse
import difflib
import re
from typing import Any, NoReturn

from trl import TrlParser

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "not a whole number"),
    "float": ((int, float), "not a number"),
    "string_to_bool": ((bool,), "neither true nor false"),
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
                raise ValueError(f"{name}: unknown field in the recipe (value {value!r}); {self.hint(name)}")
            _check_type(name, value, actions[name])
        return super().set_defaults_with_config(**recipe)

    def hint(self, name: str) -> str:
        """What to do about a field that does not exist."""
        close = difflib.get_close_matches(name, [action.dest for action in self._actions], n=1)
        return f"did you mean {close[0]}?" if close else "remove it"


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
