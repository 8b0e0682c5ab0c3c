"""What a recipe may say: dataclasses on top of TRL's, judged before anything is loaded.

Window fields are `tinyzero_trl.windows.WindowConfig`'s own, flat and with the prefix `window_`: they are derived from
that class, so that each is declared, documented and checked in one place.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from trl import GRPOConfig, ModelConfig

from tinyzero_trl.files import read_mapping, shortened
from tinyzero_trl.generation import choose_engine
from tinyzero_trl.limits import check_choices, check_numbers, check_schedule
from tinyzero_trl.recipe_parser import RecipeParser
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
    padding_free: bool | None = field(
        default=None,
        metadata={
            "help": "take the rows of a pass end to end, without padding; left out: where the model attends by "
            "FlashAttention. With another attention it is exact, but slow: its mask grows with the square of a pass. "
            "Elsewhere than in the models of tinyzero_trl/architectures.py it has no effect"
        },
    )
    engine: str | None = field(
        default=None,
        metadata={
            "help": "what samples rollouts: auto (vLLM where it is installed beside a CUDA device, else transformers), "
            "transformers or vllm; left out, use_vllm decides"
        },
    )
    stop_at_answer: bool = field(
        default=False,
        metadata={"help": "end a completion with its first </answer>, for models that ramble on after it"},
    )
    max_skipped_steps: int = field(
        default=10,
        metadata={"help": "most optimizer steps in a row without effect, because a number in them is not finite"},
    )
    resume: str = field(
        default="auto",
        metadata={"help": "auto: newest whole checkpoint in output_dir; never; or a checkpoint's path"},
    )

    def __post_init__(self) -> None:
        """Check the window and what TRL would find out too late, then let TRL check the rest."""
        check_numbers(self)
        check_choices(self)
        self._choose_engine()
        self.window_config()
        super().__post_init__()
        check_schedule(self)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled into `training_args.bin`, and pushed with a model, holds no token."""
        return {**self.__dict__, "hub_token": None}

    @property
    def optimizer_steps_per_rollout(self) -> int:
        """Optimizer steps that are taken on one generation batch."""
        assert self.steps_per_generation is not None, "TRL sets it"
        return self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps

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

    def _choose_engine(self) -> None:
        if self.engine is None:
            return
        if self.engine == "transformers" and self.use_vllm:
            raise ValueError("engine: 'transformers' contradicts use_vllm true; leave out one of the two")
        on_cpu = self.engine == "auto" and self.use_cpu
        self.use_vllm = not on_cpu and choose_engine(self.engine) == "vllm"


def _json_phases(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"window_phases: {shortened(text)} is not JSON; write pairs such as [[0, 512], [100, 1024]]"
        ) from None


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
        if self.problem_seed < 0:
            raise ValueError(f"problem_seed: {self.problem_seed!r} is negative; use 0 or more")
        for name in (each.name for each in fields(self) if each.name.startswith("cosine_")):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name}: {value!r} is no finite number; change it")
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


def _parser() -> RecipeParser:
    types: Any = (TaskConfig, AdaptiveGRPOConfig, ModelConfig)
    return RecipeParser(types, allow_abbrev=False)


def check_fields(recipe: str, options: Sequence[str]) -> None:
    """Existence and type of the fields of a recipe and of `--field value ...`; ranges and devices are not asked.

    Raises:
        ValueError: an unreadable recipe, an unknown field, or a wrong type.
        OSError: the recipe cannot be read.
    """
    parser = _parser()
    parser.set_defaults_with_config(**read_mapping(recipe))
    parser.refuse(parser.parse_known_args(list(options))[1])


def parse_recipe(
    arguments: Sequence[str] | None = None,
) -> tuple[TaskConfig, AdaptiveGRPOConfig, ModelConfig]:
    """Read `--config RECIPE.yaml` and the fields given after it, which win.

    Raises:
        ValueError: an unreadable recipe, an unknown field, a wrong type, an out-of-range or contradictory value.
    """
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [part for text in given for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
    if arguments[-1:] == ["--config"]:
        raise ValueError("config: names no recipe; give --config PATH.yaml")
    try:
        for name, value in pairwise(arguments):
            if name == "--config":
                read_mapping(value)
        task, training, model, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except (OSError, yaml.YAMLError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: the recipe cannot be read ({reason}); give --config PATH.yaml") from error
    except TypeError as error:  # a mapping whose names TRL hands on as they are
        raise ValueError(f"config: a field holds what it does not know ({error}); correct it") from error
    parser.refuse(unknown)
    task.recipe = task.recipe or _recipe_name(arguments)
    if training.reward_weights is not None:
        raise ValueError(f"reward_weights: {training.reward_weights!r} would be replaced; choose with reward_shaping")
    for name in ("load_in_8bit", "load_in_4bit"):
        if getattr(model, name):
            raise ValueError(f"{name}: true has no effect, policies are trained in {model.dtype}; remove it")
    if not model.model_name_or_path:
        raise ValueError(f"model_name_or_path: {model.model_name_or_path!r} names no model; give a folder or a Hub id")
    if not training.output_dir or Path(training.output_dir).is_file():
        reason = "is a file" if training.output_dir else "names nothing"
        raise ValueError(f"output_dir: {training.output_dir!r} {reason}; name a folder")
    return task, training, model
