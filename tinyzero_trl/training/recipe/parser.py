"""Reading a recipe as strictly as a command line: existence and type of every field, before any dataclass is made."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from trl import ModelConfig, TrlParser

from tinyzero_trl.messages import text_of
from tinyzero_trl.models.toy import SHIPPED
from tinyzero_trl.runs.redaction import shown
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.tasks.config import TaskConfig, config_class
from tinyzero_trl.tasks.registry import option_defaults
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.best_figure import check_best_figure
from tinyzero_trl.training.recipe.policy_fields import (
    add_policy_fields,
    for_strategy,
    gather_policy_fields,
    given_option,
)
from tinyzero_trl.training.recipe.shipped import advice_for_recipe, find_recipe
from tinyzero_trl.training.recipe.unknown_fields import advice_for_unknown

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "not a whole number"),
    "float": ((int, float), "not a number"),
    "string_to_bool": ((bool,), "neither true nor false"),
}
DEFAULTS = {"resume": "auto", "log_history_lines": 100}
"""Where recipes differ from Python: a command is given again to go on, and the records hold what is logged."""

_MAY_BE_NONE = ("top_k", "max_completion_length")  # the configuration says what None means
_GIVE = {  # what argparse calls a value of the wrong type
    "invalid int value": "give a whole number",
    "invalid float value": "give a number",
    "invalid json_value value": "give JSON in quotes, such as '[1, 2]'",
    "Truthy value expected": "give true or false",
    "expected one argument": "give a value after it, as in --field=-1e-3 if it begins with a minus sign",
    "expected at least one argument": "give a value after it",
}


class RecipeParser(TrlParser):
    """`TrlParser` that judges a YAML recipe as strictly as a command line, and raises instead of printing usage.

    It also knows the fields of a window policy of the user's own, once the command line or the recipe names it.
    """

    def __init__(self, *types: Any, strategy: str | None = None) -> None:
        super().__init__(types, allow_abbrev=False)
        self.strategy = strategy  # of the command line, which wins over the recipe's
        if strategy is not None:
            add_policy_fields(self, strategy)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What argparse gives; fields of a window policy of the user's own are gathered in `window_options`."""
        parsed, rest = super().parse_known_args(args, namespace)
        gather_policy_fields(parsed)
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Raise the one line that argparse would print after its usage, under the field's plain name."""
        remedy = next((f"; {give}" for reason, give in _GIVE.items() if reason in message), "")
        found = re.match(r"argument --(\w+)\S*: invalid", message)
        if found and any(each.dest == found[1] and each.nargs in ("+", "*") for each in self._actions):
            remedy += " for each entry, with spaces between them"
        raise ValueError(re.sub(r"^argument --(\w+)\S*:", r"\1:", message) + remedy)

    def set_defaults_with_config(self, **recipe: Any) -> list[str]:
        """Check every field of the recipe for existence and type, then use it as a default.

        Raises:
            ValueError: an unknown field, or a value of the wrong type.
        """
        recipe = for_strategy(self.strategy, recipe)
        if isinstance(strategy := recipe.get("window_strategy"), str):
            add_policy_fields(self, strategy)
        actions, texts = {action.dest: action for action in self._actions}, self._text_fields()
        for name, value in recipe.items():
            if name not in actions:
                value = shown(name, value)
                self._refuse_option_of_another_task(name, value)
                raise ValueError(f"{name}: unknown field in the recipe (value {value}); {self.hint(name)}")
            _check_type(name, value, actions[name])
            _check_text(name, value, pure=name in texts)
        return super().set_defaults_with_config(**recipe)

    def _text_fields(self) -> set[str]:
        """Fields that are text and nothing else, though a command line can spell numbers for them."""
        hints = {name: hint for kind in self.dataclass_types for name, hint in get_type_hints(kind).items()}
        text = {name for name, hint in hints.items() if set(get_args(hint) or (hint,)) <= {str, type(None)}}
        return text - {"scale_rewards"}  # it was once a truth value

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raise if a command line left anything over.

        Raises:
            ValueError: names its first unknown field.
        """
        if unknown:
            name = unknown[0].removeprefix("--").split("=")[0]
            if unknown[0] == "--config":
                raise ValueError("config: stands twice on the command line; give one recipe, and fields after it")
            if not unknown[0].startswith("-"):
                remedy = f"--config {name}" if name.endswith((".yaml", ".yml")) else "--name value for each field"
                raise ValueError(f"{shown(name, name)}: is no field on the command line; give {remedy}")
            self._refuse_option_of_another_task(name, " ".join(unknown[1:2]))
            raise ValueError(f"{name}: unknown field on the command line; {self.hint(name)}")

    def _refuse_option_of_another_task(self, name: str, value: str) -> None:
        if name in option_defaults():
            task = next(kind.task for kind in self.dataclass_types if issubclass(kind, TaskConfig))
            raise ValueError(f"{name}: {value} has no effect on the task {task}; remove it")

    def hint(self, name: str) -> str:
        """What to do about a field that does not exist."""
        return advice_for_unknown(name, [action.dest for action in self._actions])


def _check_text(name: str, value: Any, pure: bool) -> None:
    if pure and value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: {shown(name, value)} is no text; put it in quotes, or change it")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{name}: {shown(name, value)} holds a NUL character; remove it")


def _check_type(name: str, value: Any, action: argparse.Action) -> None:
    if value is None and action.default is not None and name not in _MAY_BE_NONE:
        raise ValueError(f"{name}: empty in the recipe; give a value, or remove the line for {action.default!r}")
    if value is None:
        return
    # Transformers wraps the types of optional fields, but keeps their names
    kind = getattr(action.type, "__name__", "")
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


def _recipe_name(arguments: Sequence[str]) -> str | None:
    """The stem of the file after `--config`; parsing has checked that there is one."""
    return Path(arguments[list(arguments).index("--config") + 1]).stem if "--config" in arguments else None


def _parser(arguments: Sequence[str], recipe: Mapping[str, Any]) -> RecipeParser:
    """The parser whose fields are those of the task that the command line or else the recipe names."""
    given = given_option("task", arguments)
    named = recipe.get("task") if given is None else given
    others = {each.name for kind in (AdaptiveGRPOConfig, ModelConfig) for each in fields(kind)}
    task = config_class(named if isinstance(named, str) else TaskConfig.task, others)
    parser = RecipeParser(task, AdaptiveGRPOConfig, ModelConfig, strategy=given_option("window_strategy", arguments))
    parser.set_defaults(**DEFAULTS)
    return parser


def check_fields(recipe: str, options: Sequence[str]) -> None:
    """Existence and type of the fields of a recipe and of `--field value ...`; ranges and devices are not asked.

    Raises:
        ValueError: an unreadable recipe, an unknown field, or a wrong type.
        OSError: the recipe cannot be read.
    """
    given = read_mapping(find_recipe(recipe))
    parser = _parser(options, given)
    parser.set_defaults_with_config(**given)
    parser.refuse(parser.parse_known_args(list(options))[1])


def parse_recipe(
    arguments: Sequence[str] | None = None,
) -> tuple[TaskConfig, AdaptiveGRPOConfig, ModelConfig]:
    """Read `--config RECIPE.yaml` and the fields given after it, which win.

    Raises:
        ValueError: an unreadable recipe, an unknown field, a wrong type, an out-of-range or contradictory value.
    """
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [part for text in given for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
    if arguments[-1:] == ["--config"] or ("--config", "") in pairwise(arguments):
        raise ValueError("config: names no recipe; give --config PATH.yaml")
    arguments = [find_recipe(part) if name == "--config" else part for name, part in pairwise(["", *arguments])]
    try:
        recipe: dict[str, Any] = {}
        for name, value in pairwise(arguments):
            if name == "--config":
                recipe = read_mapping(value)
        parser = _parser(arguments, recipe)
        task, training, model, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except FileNotFoundError as error:
        name = error.filename
        raise ValueError(f"config: there is no recipe {name!r}; {advice_for_recipe(name)}") from error
    except (OSError, yaml.YAMLError, IndexError) as error:
        reason = text_of(error)
        raise ValueError(f"config: the recipe cannot be read ({reason}); give --config PATH.yaml") from error
    except TypeError as error:  # a mapping whose names TRL hands on as they are
        raise ValueError(f"config: a field has a value that is refused ({error}); correct it") from error
    parser.refuse(unknown)
    task.recipe = task.recipe or _recipe_name(arguments)
    if "eval_strategy" not in recipe and given_option("eval_strategy", arguments) is None:
        _check_steps_are_used(training)
    _check_program_fields(training, model)
    return task, training, model


def _check_steps_are_used(training: AdaptiveGRPOConfig) -> None:
    """Transformers goes by `eval_steps` only where `eval_strategy` says so.

    Raises:
        ValueError: nothing says so.
    """
    if training.eval_steps is not None:
        raise ValueError(
            f"eval_steps: {training.eval_steps:g} has no effect without eval_strategy; set eval_strategy to steps"
        )


def _check_program_fields(training: AdaptiveGRPOConfig, model: ModelConfig) -> None:
    """Fields that mean something from Python, and that the program decides itself or reads otherwise.

    Raises:
        ValueError: names field, value and remedy.
    """
    if training.max_steps == 0 or training.max_steps < -1:
        raise ValueError(
            f"max_steps: {training.max_steps} is below 1; set it to 1 or more, or leave it out to train "
            "num_train_epochs"
        )
    if training.resume_from_checkpoint is not None:
        given = training.resume_from_checkpoint
        raise ValueError(f"resume_from_checkpoint: {given!r} is not read here; remove it, and give resume: {given}")
    if training.reward_weights is not None:
        raise ValueError(f"reward_weights: {training.reward_weights!r} would be replaced; choose with reward_shaping")
    if training.remove_unused_columns:
        raise ValueError("remove_unused_columns: true would remove what the score of a task reads; leave it out")
    check_best_figure(training.metric_for_best_model, is_recipe=True)
    if training.save_strategy == "best" and training.eval_strategy == "no":
        raise ValueError(
            "save_strategy: 'best' saves after evaluations, and none are asked for; set eval_strategy to steps"
        )
    for name in ("load_in_8bit", "load_in_4bit"):
        if getattr(model, name):
            raise ValueError(f"{name}: true has no effect, models are trained in {model.dtype}; remove it")
    if not model.model_name_or_path:
        raise ValueError(
            f"model_name_or_path: {model.model_name_or_path!r} names no model; give --config RECIPE, or a model"
        )
    if not training.output_dir or Path(training.output_dir).is_file():
        reason = "is a file" if training.output_dir else "names nothing"
        raise ValueError(f"output_dir: {training.output_dir!r} {reason}; name a folder")
    named = model.model_name_or_path
    if named not in SHIPPED and Path(training.output_dir).resolve() == Path(named).expanduser().resolve():
        raise ValueError(
            f"output_dir: {training.output_dir!r} is the folder of the model too, which the result would replace; name "
            "another folder"
        )
