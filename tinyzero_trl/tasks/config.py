"""What a recipe says of its task: the problems, their prompts, and what a completion earns."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from tinyzero_trl.tasks import get_task
from tinyzero_trl.tasks.rewards import CosineShaping

_GENERATOR_OPTIONS = {
    "countdown": ("operands", "min_number", "max_number", "min_target", "max_target"),
    "multiplication": ("digits",),
}


EVAL_SIZE = 256


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
    eval_size: int | None = field(
        default=None,
        metadata={"help": f"held-out problems evaluated during training; by default {EVAL_SIZE}, or all if fewer"},
    )
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
            if (value := getattr(self, name)) is not None and value < 1:
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

    def evaluated(self, held_out: int) -> int:
        """How many of `held_out` problems an evaluation takes: `eval_size`, which is set here if it was left out.

        Raises:
            ValueError: `eval_size` exceeds them.
        """
        if self.eval_size is None:
            self.eval_size = min(EVAL_SIZE, held_out)
        if self.eval_size > held_out:
            where, more = "", "give more held-out problems"
            if self.dataset == "generate":
                where, more = " (test_size)", "raise test_size"
            raise ValueError(
                f"eval_size: {self.eval_size} exceeds the {held_out} held-out problems{where}; lower it, or {more}"
            )
        return self.eval_size

    def generator_options(self) -> dict[str, Any]:
        """The options given for the task's problem generator."""
        return {name: value for name in _GENERATOR_OPTIONS[self.task] if (value := getattr(self, name)) is not None}

    def shaping(self, max_completion_length: int) -> CosineShaping | None:
        """The shaped reward that was asked for, or None."""
        if self.reward_shaping == "none":
            return None
        names = ("correct_at_zero", "correct_at_max", "wrong_at_zero", "wrong_at_max", "over_length")
        return CosineShaping(max_completion_length, **{name: getattr(self, f"cosine_{name}") for name in names})
