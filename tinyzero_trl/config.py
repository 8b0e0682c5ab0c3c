"""What a recipe may say: dataclasses on top of TRL's, judged before anything is loaded.

Window fields are `tinyzero_trl.windows.WindowConfig`'s own, flat and with the prefix `window_`: they are derived from
that class, so that each is declared, documented and checked in one place.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import GRPOConfig, ModelConfig, TrlParser
from trl.scripts.utils import DataClass

from tinyzero_trl.rewards import CosineShaping
from tinyzero_trl.tasks import get_task
from tinyzero_trl.windows import WindowConfig

FORK_INITIAL_WINDOW = 1024


def _flat(window_field: Any) -> tuple[str, Any, Any]:
    """A `WindowConfig` field as a flat training field: prefixed, and of a type that a command line can spell."""
    kind, default = window_field.type, window_field.default
    if window_field.name == "phases":
        kind, default = str | None, None
    elif window_field.name == "initial":
        kind, default = int | None, None
    return f"window_{window_field.name}", kind, field(default=default, metadata={"help": window_field.metadata["help"]})


_WindowFields: Any = make_dataclass("_WindowFields", [_flat(each) for each in fields(WindowConfig)])


@dataclass
class AdaptiveGRPOConfig(_WindowFields, GRPOConfig):
    """TRL's `GRPOConfig` with a rollout window (`window_*`) and the savings of the training step.

    `max_completion_length` is the largest window (unless `window_max` is lower) and the length of evaluation;
    `window_initial` defaults to 1024, or to the maximum where that is smaller.

    Raises:
        ValueError: a value out of range or two that contradict each other; names field, value and remedy.
    """

    max_tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={"help": "most token positions in one forward and backward pass; none: a micro-batch is one pass"},
    )
    skip_zero_advantage_rows: bool = field(
        default=True, metadata={"help": "leave out rows that cannot move the policy, wherever that is exact"}
    )
    resume: str = field(
        default="auto",
        metadata={"help": "auto: newest whole checkpoint in output_dir; never; or a checkpoint's path"},
    )

    def __post_init__(self) -> None:
        """Check the window and what TRL would find out too late, then let TRL check the rest."""
        self._check_counts()
        self.window_config()
        super().__post_init__()
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation: {self.steps_per_generation} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}, so that one optimizer step would mix two windows; make it one"
            )

    def window_config(self) -> WindowConfig:
        """The window fields without their prefix, defaults filled in."""
        values = {each.name: getattr(self, f"window_{each.name}") for each in fields(WindowConfig)}
        if values["max"] is None:
            values["max"] = self.max_completion_length
        elif values["max"] > self.max_completion_length:
            raise ValueError(
                f"window_max: {values['max']} exceeds max_completion_length {self.max_completion_length}; lower it, "
                "or raise max_completion_length"
            )
        if values["initial"] is None:
            values["initial"] = max(values["min"], min(FORK_INITIAL_WINDOW, values["max"]))
        if isinstance(values["phases"], str):
            values["phases"] = _json_phases(values["phases"])
        values["phases"] = values["phases"] or ()
        return WindowConfig(**values)

    def _check_counts(self) -> None:
        for name, least in (
            ("max_completion_length", 1),
            ("num_generations", 2),
            ("max_tokens_per_micro_batch", 1),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}: {value!r} is no whole number of {least} or more; change it")
        if not self.temperature > 0:
            raise ValueError(
                f"temperature: {self.temperature!r} gives every completion of a group the same text; "
                "set it above 0, such as 1.0"
            )


def _json_phases(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"window_phases: {text!r} is not JSON; write pairs such as [[0, 512], [100, 1024]]") from None


@dataclass
class TaskConfig:
    """What is learned, from which problems, and what a completion earns.

    Raises:
        ValueError: an unknown task, template or shaping, or a problem count below 1.
    """

    recipe: str | None = field(default=None, metadata={"help": "name in the records; by default the recipe's file"})
    task: str = field(default="countdown", metadata={"help": "countdown or multiplication"})
    dataset: str = field(
        default="generate", metadata={"help": "generate, a parquet or JSON file or folder, or a Hub id"}
    )
    prompt_template: str = field(default="base", metadata={"help": "base, qwen-instruct or chat"})
    train_size: int = field(default=327_680, metadata={"help": "problems to train on (dataset: generate)"})
    test_size: int = field(default=1024, metadata={"help": "held-out problems (dataset: generate)"})
    eval_size: int = field(default=256, metadata={"help": "held-out problems evaluated during training"})
    problem_seed: int = field(default=0, metadata={"help": "decides the problems and their split (dataset: generate)"})
    operands: list[int] | None = field(default=None, metadata={"help": "countdown: numbers in a problem"})
    min_number: int | None = field(default=None, metadata={"help": "countdown: smallest number"})
    max_number: int | None = field(default=None, metadata={"help": "countdown: largest number"})
    min_target: int | None = field(default=None, metadata={"help": "countdown: smallest target"})
    max_target: int | None = field(default=None, metadata={"help": "countdown: largest target"})
    digits: list[int] | None = field(default=None, metadata={"help": "multiplication: digits of a factor"})
    reward_shaping: str = field(default="none", metadata={"help": "none (the binary verdict) or cosine (2502.03373)"})
    cosine_correct_at_zero: float = field(default=2.0, metadata={"help": "reward of a right answer of length 0"})
    cosine_correct_at_max: float = field(default=1.0, metadata={"help": "of a right answer as long as allowed"})
    cosine_wrong_at_zero: float = field(default=-10.0, metadata={"help": "of a wrong answer of length 0"})
    cosine_wrong_at_max: float = field(default=0.0, metadata={"help": "of a wrong answer as long as allowed"})
    cosine_over_length: float = field(default=-10.0, metadata={"help": "of a completion that reaches the maximum"})

    def __post_init__(self) -> None:
        """Check names and counts."""
        templates = get_task(self.task).TEMPLATES
        for name, choices in (("prompt_template", templates), ("reward_shaping", ("none", "cosine"))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}: {value!r} is unknown; choose one of {', '.join(choices)}")
        for name in ("train_size", "test_size", "eval_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: {value!r} is below 1; set it to 1 or more")

    def generator_options(self) -> dict[str, Any]:
        """The options given for the task's problem generator."""
        names = {
            "countdown": ("operands", "min_number", "max_number", "min_target", "max_target"),
            "multiplication": ("digits",),
        }[self.task]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def shaping(self, max_completion_length: int) -> CosineShaping | None:
        """The shaped reward that was asked for, or None."""
        if self.reward_shaping == "none":
            return None
        names = ("correct_at_zero", "correct_at_max", "wrong_at_zero", "wrong_at_max", "over_length")
        return CosineShaping(max_completion_length, **{name: getattr(self, f"cosine_{name}") for name in names})


class RecipeParser(TrlParser):
    """`TrlParser` that judges a YAML recipe as strictly as a command line, and raises instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the one line that argparse would print after its usage."""
        raise ValueError(message)

    def set_defaults_with_config(self, **recipe: Any) -> list[str]:
        """Check every field of the recipe for existence and type, then use it as a default.

        Raises:
            ValueError: an unknown field, or a value of the wrong type.
        """
        actions = {action.dest: action for action in self._actions}
        for name, value in recipe.items():
            if name not in actions:
                close = difflib.get_close_matches(name, actions, n=1)
                hint = f"did you mean {close[0]}?" if close else "remove it"
                raise ValueError(f"{name}: unknown field in the recipe (value {value!r}); {hint}")
            _check_type(name, value, actions[name])
        return super().set_defaults_with_config(**recipe)


def _check_type(name: str, value: Any, action: argparse.Action) -> None:
    if value is None or isinstance(value, str):  # argparse converts strings itself
        return
    if action.nargs in ("+", "*"):
        values = value if isinstance(value, list) else [value]
    else:
        values = [value]
    wanted = {int: (int, "a whole number"), float: ((int, float), "a number")}.get(action.type)  # type: ignore[call-overload]
    for entry in values:
        if wanted and (isinstance(entry, bool) or not isinstance(entry, wanted[0])):
            raise ValueError(f"{name}: {entry!r} is not {wanted[1]}; change it in the recipe")
        if getattr(action.type, "__name__", "") == "string_to_bool" and not isinstance(entry, bool):
            raise ValueError(f"{name}: {entry!r} is neither true nor false; change it in the recipe")


def _recipe_name(arguments: Sequence[str]) -> str | None:
    """The stem of the file after `--config`; parsing has checked that there is one."""
    return Path(arguments[list(arguments).index("--config") + 1]).stem if "--config" in arguments else None


def parse_recipe(
    arguments: Sequence[str] | None = None,
) -> tuple[TaskConfig, AdaptiveGRPOConfig, ModelConfig]:
    """Read `--config RECIPE.yaml` and the fields given after it, which win.

    Raises:
        ValueError: an unreadable recipe, an unknown field, a wrong type, an out-of-range or contradictory value.
    """
    types: list[type[DataClass]] = [TaskConfig, AdaptiveGRPOConfig, ModelConfig]
    parser = RecipeParser(types, allow_abbrev=False)
    try:
        task, training, model = parser.parse_args_and_config(arguments)
    except (OSError, yaml.YAMLError, IndexError) as error:
        raise ValueError(f"config: the recipe cannot be read ({error}); give --config PATH.yaml") from error
    task.recipe = task.recipe or _recipe_name(sys.argv[1:] if arguments is None else arguments)
    if Path(training.output_dir).is_file():
        raise ValueError(f"output_dir: {training.output_dir!r} is a file; name a folder")
    return task, training, model
