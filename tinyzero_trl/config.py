"""What a recipe may say: dataclasses on top of TRL's, judged before anything is loaded.

Window fields are `tinyzero_trl.windows.WindowConfig`'s own, flat and with the prefix `window_`: they are derived from
that class, so that each is declared, documented and checked in one place.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.integrations import get_reporting_integration_callbacks
from trl import GRPOConfig, ModelConfig

from tinyzero_trl.batching import LOSS_NORMALISERS
from tinyzero_trl.recipe_parser import RecipeParser
from tinyzero_trl.rewards import CosineShaping
from tinyzero_trl.tasks import get_task
from tinyzero_trl.windows import WindowConfig

FORK_INITIAL_WINDOW = 1024
_LEAST_COUNTS = {
    "max_completion_length": 1,
    "num_generations": 2,
    "num_generations_eval": 1,
    "num_iterations": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "generation_batch_size": 1,
    "max_tokens_per_micro_batch": 1,
    "seed": 0,
}
_OPTIONAL_COUNTS = (
    "num_generations_eval",
    "steps_per_generation",
    "generation_batch_size",
    "max_tokens_per_micro_batch",
)


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
        self._check_numbers()
        self._check_choices()
        self.window_config()
        super().__post_init__()
        self._check_schedule()

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

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled into `training_args.bin`, which checkpoints hold and the Hub gets: no token."""
        return {**self.__dict__, "hub_token": None}

    def _check_numbers(self) -> None:
        for name, least in _LEAST_COUNTS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL_COUNTS:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r} is no whole number of {least} or more; change it")
        for name in ("learning_rate", "beta", "epsilon", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value!r} is no finite number of 0 or more; change it")
        if self.temperature == 0:
            raise ValueError(
                f"temperature: {self.temperature!r} gives every completion of a group the same text; "
                "set it above 0, such as 1.0"
            )
        if self.max_steps == 0:
            raise ValueError("max_steps: 0 trains by num_train_epochs; set it to 1 or more, or leave it out")

    def _check_schedule(self) -> None:
        assert self.steps_per_generation is not None, "TRL sets it"
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation: {self.steps_per_generation} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}, so that one optimizer step would mix two windows; make it one"
            )
        for what in ("eval", "save"):
            steps = getattr(self, f"{what}_steps")
            if getattr(self, f"{what}_strategy") == "steps" and not steps > 0:
                raise ValueError(f"{what}_steps: {steps!r} is not above 0; change it, or set {what}_strategy to 'no'")

    def _check_choices(self) -> None:
        if not isinstance(self.output_dir, str | None):
            raise ValueError(f"output_dir: {self.output_dir!r} is no text; name a folder")
        for name, choices in (("loss_type", LOSS_NORMALISERS), ("vllm_mode", ("colocate", "server"))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}: {value!r} is unknown; choose one of {', '.join(choices)}")
        try:
            get_reporting_integration_callbacks(self.report_to)
        except ValueError as error:
            raise ValueError(f"report_to: {error}") from None
        if self.hub_model_id is not None:
            try:
                validate_repo_id(self.hub_model_id)
            except HFValidationError as error:
                raise ValueError(f"hub_model_id: {error} Give name, or owner/name") from None
        if self.restore_callback_states_from_checkpoint:
            raise ValueError(
                "restore_callback_states_from_checkpoint: true would build the window policy anew; leave it out, "
                "window and records are restored from every checkpoint"
            )


def _json_phases(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"window_phases: {text!r} is not JSON; write pairs such as [[0, 512], [100, 1024]]") from None


_GENERATOR_OPTIONS = {
    "countdown": ("operands", "min_number", "max_number", "min_target", "max_target"),
    "multiplication": ("digits",),
}


@dataclass
class TaskConfig:
    """What is learned, from which problems, and what a completion earns.

    Raises:
        ValueError: an unknown task, template or shaping, a problem count below 1, or an option of another task.
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

        for task, names in _GENERATOR_OPTIONS.items():
            for name in names if task != self.task else ():
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"{name}: {value!r} has no effect on the task {self.task}; remove it")

    def generator_options(self) -> dict[str, Any]:
        """The options given for the task's problem generator."""
        return {name: value for name in _GENERATOR_OPTIONS[self.task] if (value := getattr(self, name)) is not None}

    def shaping(self, max_completion_length: int) -> CosineShaping | None:
        """The shaped reward that was asked for, or None."""
        if self.reward_shaping == "none":
            return None
        names = ("correct_at_zero", "correct_at_max", "wrong_at_zero", "wrong_at_max", "over_length")
        return CosineShaping(max_completion_length, **{name: getattr(self, f"cosine_{name}") for name in names})


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
    types: Any = (TaskConfig, AdaptiveGRPOConfig, ModelConfig)
    parser = RecipeParser(types, allow_abbrev=False)
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [part for text in given for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
    try:
        task, training, model, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except (OSError, yaml.YAMLError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: the recipe cannot be read ({reason}); give --config PATH.yaml") from error
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise ValueError(f"{name}: unknown field on the command line; {parser.hint(name)}")
    task.recipe = task.recipe or _recipe_name(arguments)
    if not isinstance(model.model_name_or_path, str):
        raise ValueError(f"model_name_or_path: {model.model_name_or_path!r} is no text; give a folder or a Hub id")
    if Path(training.output_dir).is_file():
        raise ValueError(f"output_dir: {training.output_dir!r} is a file; name a folder")
    return task, training, model
