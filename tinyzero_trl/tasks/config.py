"""What a recipe says of its task: the examples, their prompts, and what a completion earns."""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from tinyzero_trl.tasks.registry import get_task
from tinyzero_trl.tasks.rewards import CosineShaping
from tinyzero_trl.tasks.task import Task

EVAL_SIZE = 256

GENERATE = "generate"
"""The `dataset` of a run whose examples come from the task's generator."""


@dataclass
class TaskConfig:
    """What is learned, from which examples, and what a completion earns.

    The options of the task are fields too, in the class that `config_class` makes for the task.

    Raises:
        ValueError: an unknown task, template or shaping, a count below 1, or an option that the task refuses.
    """

    recipe: str | None = field(
        default=None, metadata={"help": "name of the recipe in the records; by default the name of its file"}
    )
    task: str = field(default="countdown", metadata={"help": "a task's name, or package.module:Class"})
    dataset: str = field(
        default=GENERATE, metadata={"help": "generate, a parquet, JSON or CSV file, a folder, or a Hub id"}
    )
    allow_overlap: bool = field(
        default=False, metadata={"help": "accept a data set whose held-out examples are training examples too"}
    )
    prompt_template: str = field(
        default="", metadata={"help": "base, qwen-instruct or chat; by default the first that the task offers"}
    )
    train_size: int = field(default=327_680, metadata={"help": "examples to train on (dataset: generate)"})
    test_size: int = field(
        default=1024,
        metadata={"help": "held-out examples: generated ones, or of data without splits so many, but at most a tenth"},
    )
    eval_size: int | None = field(
        default=None,
        metadata={"help": f"held-out examples evaluated during training; by default {EVAL_SIZE}, or all if fewer"},
    )
    problem_seed: int = field(
        default=0, metadata={"help": "decides which examples are generated, and which are held out"}
    )
    reward_shaping: str = field(
        default="none", metadata={"help": "none (the task's score) or cosine (arXiv 2502.03373)"}
    )
    cosine_correct_at_zero: float = field(default=2.0, metadata={"help": "reward of a right answer of length 0"})
    cosine_correct_at_max: float = field(
        default=1.0, metadata={"help": "reward of a right answer of the largest length"}
    )
    cosine_wrong_at_zero: float = field(default=-10.0, metadata={"help": "reward of a wrong answer of length 0"})
    cosine_wrong_at_max: float = field(default=0.0, metadata={"help": "reward of a wrong answer of the largest length"})
    cosine_over_length: float = field(
        default=-10.0, metadata={"help": "reward of a completion that reaches the maximum"}
    )

    def __post_init__(self) -> None:
        """Check names and counts."""
        task = get_task(self.task)
        self.prompt_template = self.prompt_template or task.templates[0]
        for name, choices in (("prompt_template", task.templates), ("reward_shaping", ("none", "cosine"))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}: {value!r} is unknown; choose one of {', '.join(choices)}")
        for name in ("train_size", "test_size", "eval_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: {value!r} is below 1; set it to 1 or more")
        if self.dataset == GENERATE:
            self.settle_eval_size(self.test_size)
        if self.problem_seed < 0:
            raise ValueError(f"problem_seed: {self.problem_seed!r} is negative; use 0 or more")
        for name in (each.name for each in fields(self) if each.name.startswith("cosine_")):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name}: {value!r} is no finite number; change it")
        task.check_options(self.task_options())

    def settle_eval_size(self, held_out: int) -> int:
        """How many of `held_out` problems an evaluation takes: sets `eval_size` if it was left out, and returns it.

        Raises:
            ValueError: `eval_size` exceeds them.
        """
        if self.eval_size is None:
            self.eval_size = min(EVAL_SIZE, held_out)
        if self.eval_size > held_out:
            where, more = "", "give more held-out problems"
            if self.dataset == GENERATE:
                where, more = " (test_size)", "raise test_size"
            raise ValueError(
                f"eval_size: {self.eval_size} exceeds the {held_out} held-out problems{where}; lower it, or {more}"
            )
        return self.eval_size

    def make_task(self) -> Task:
        """The task with its options."""
        return get_task(self.task, self.task_options())

    def task_options(self) -> dict[str, Any]:
        """The options of the task, of those that this class has: `config_class` brings all."""
        names = (each.name for each in fields(get_task(self.task).options))
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def shaping(self, max_completion_length: int) -> CosineShaping | None:
        """The shaped reward that was asked for, or None."""
        if self.reward_shaping == "none":
            return None
        names = ("correct_at_zero", "correct_at_max", "wrong_at_zero", "wrong_at_max", "over_length")
        return CosineShaping(max_completion_length, **{name: getattr(self, f"cosine_{name}") for name in names})


_OF_COMMANDS = {"out", "seed", "template"}


def config_class(task: str, others: Collection[str] = ()) -> type[TaskConfig]:
    """`TaskConfig` with the options of a task as further fields.

    Args:
        task: the name of the task.
        others: names of the fields that stand beside these, such as those of the training.

    Raises:
        ValueError: there is no such task, or one of its options has no default, the name of another field, or a type
            that a command line cannot give.
    """
    options = get_task(task).options
    hints = get_type_hints(options)
    taken = {each.name for each in fields(TaskConfig)} | _OF_COMMANDS | set(others)
    for each in fields(options):
        if each.name in taken:
            raise ValueError(
                f"task: {task!r} has an option {each.name!r}, a name that recipes or commands have already; rename it"
            )
        if each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"task: {task!r} has an option {each.name!r} without a default; give it one")
        if option_kind(hints[each.name]) is None:
            kind = getattr(hints[each.name], "__name__", hints[each.name])
            raise ValueError(
                f"task: {task!r} has an option {each.name!r} of the type {kind}, which a command line cannot give; "
                "declare it as bool, int, float, str, a Literal of texts or of whole numbers, or a list such as "
                "list[int]"
            )
    further = [
        (each.name, hints[each.name], field(**_default(each), metadata=_escaped(each.metadata)))
        for each in fields(options)
    ]
    named = ("task", str, field(default=task, metadata=TaskConfig.__dataclass_fields__["task"].metadata))
    return make_dataclass(TaskConfig.__name__, [named, *further], bases=(TaskConfig,))


class OptionKind(NamedTuple):
    """How a command line gives an option.

    Attributes:
        value: the type of one value.
        several: whether the option is a list.
        choices: the values to choose from; None for any value.
    """

    value: type[Any]
    several: bool = False
    choices: tuple[Any, ...] | None = None


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the one that a hint is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def option_kind(hint: Any) -> OptionKind | None:
    """The kind of an option with this type; None for a type whose values a command line cannot give."""
    kind, *others = [each for each in alternatives(hint) if each is not NoneType] or [None]
    origin, arguments = get_origin(kind), get_args(kind)
    if others:
        return None
    if origin is Literal and set(map(type, arguments)) in ({str}, {int}):
        return OptionKind(type(arguments[0]), choices=arguments)
    if origin is list and arguments[:1] and arguments[0] in (int, float, str):
        return OptionKind(arguments[0], several=True)
    return OptionKind(kind) if kind in (bool, int, float, str) else None


def _escaped(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """With a help text as argparse wants it, which takes a single percent sign for a placeholder."""
    return {name: str(value).replace("%", "%%") if name == "help" else value for name, value in metadata.items()}


def _default(option: Any) -> dict[str, Any]:
    if option.default is MISSING:
        return {"default_factory": option.default_factory}
    return {"default": option.default}


def task_config(**values: Any) -> TaskConfig:
    """A task's configuration, its options among the values.

    Raises:
        ValueError: as `config_class` and `TaskConfig`, or an option that the task does not have.
    """
    kind = config_class(values.get("task", TaskConfig.task))
    known = {each.name for each in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name}: {value!r} has no effect on the task {kind.task}; remove it")
    return kind(**values)
