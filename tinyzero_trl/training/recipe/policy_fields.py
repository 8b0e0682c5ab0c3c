"""Fields of window policies in recipes and on command lines.

`AdaptiveGRPOConfig` has a field for everything that the policies of this package read. It cannot know the fields of a
user's own policy: the parser learns them from the policy's configuration class, and hands them on in `window_options`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from transformers.hf_argparser import string_to_bool

from tinyzero_trl.tasks.config import option_kind
from tinyzero_trl.training.config import WINDOW_PREFIX, AdaptiveGRPOConfig, options_as_mapping
from tinyzero_trl.windows import find_policy

_STRATEGY, _OPTIONS = "window_strategy", "window_options"


def given_option(name: str, options: Sequence[str]) -> str | None:
    """The value of an option on a command line, the last one if there are several; None if there is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest="value", nargs="?")
    return parser.parse_known_args(options)[0].value


def for_strategy(strategy: str | None, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe for the strategy of the command line: what only the recipe's own strategy reads is left out.

    So `--window_strategy fixed` works with any recipe. A field that neither of the two reads stays, and is refused.
    """
    own = recipe.get(_STRATEGY, AdaptiveGRPOConfig.window_strategy)
    if strategy is None or strategy == own or not isinstance(own, str):
        return dict(recipe)
    replaced = {_OPTIONS, *(WINDOW_PREFIX + name for name in _names(own) - _names(strategy))}
    return {name: value for name, value in recipe.items() if name not in replaced} | {_STRATEGY: strategy}


def add_policy_fields(parser: argparse.ArgumentParser, strategy: str) -> None:
    """Add `--window_<field>` for each field of the policy that the parser does not know yet.

    Raises:
        ValueError: there is no such policy, or it cannot be imported.
    """
    config_class = find_policy(strategy).config_class
    kinds, known = get_type_hints(config_class), {action.dest for action in parser._actions}
    for declared in fields(config_class):
        if (flat := WINDOW_PREFIX + declared.name) not in known and not declared.metadata.get("of_trainer"):
            help = f"{strategy}: {declared.metadata.get('help', '')}".replace("%", "%%")
            names = (f"--{flat}", f"--{flat.replace('_', '-')}")
            parser.add_argument(*names, dest=flat, type=_converter(kinds[declared.name]), help=help)


def gather_policy_fields(parsed: argparse.Namespace) -> None:
    """Move what `add_policy_fields` added to `window_options`. It wins over what `window_options` says itself."""
    known = {each.name for each in fields(AdaptiveGRPOConfig)}
    added = [name for name in vars(parsed) if name.startswith(WINDOW_PREFIX) and name not in known]
    values = {name.removeprefix(WINDOW_PREFIX): vars(parsed).pop(name) for name in added}
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        parsed.window_options = options_as_mapping(parsed.window_options) | given


def _names(strategy: str) -> set[str]:
    return {each.name for each in fields(find_policy(strategy).config_class)}


def _converter(kind: Any) -> Any:
    """What turns the text of a command line into a value of this type: JSON for one that a single word cannot spell."""
    known = option_kind(kind)
    if known is None or known.several:
        return json_value
    return string_to_bool if known.value is bool else known.value


def json_value(text: str) -> Any:
    """A list or mapping as a command line spells it. (argparse shows the name of this function in its message.)"""
    return json.loads(text)
