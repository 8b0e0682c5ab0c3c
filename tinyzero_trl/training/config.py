"""What a recipe may say: dataclasses on top of TRL's, judged before anything is loaded.

Window fields are `tinyzero_trl.windows.WindowConfig`'s own, flat and with the prefix `window_`: they are derived from
that class, so that each is declared, documented and checked in one place.
"""

import json
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from trl import GRPOConfig

from tinyzero_trl.generation.engine import choose_engine, is_built_in
from tinyzero_trl.runs.files import shortened
from tinyzero_trl.training.preflight.values import check_choices, check_numbers, check_schedule
from tinyzero_trl.windows import WindowConfig

FORK_INITIAL_WINDOW = 1024
_OF_TRLS_ENGINES = ("use_transformers_continuous_batching", "cache_implementation", "generation_kwargs")
"""Fields that only the engines of TRL know."""


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
            "Elsewhere than in the models of tinyzero_trl/models/architectures.py it has no effect"
        },
    )
    engine: str | None = field(
        default=None,
        metadata={
            "help": "what samples rollouts: auto (vLLM where it is installed beside a CUDA device, else transformers), "
            "transformers, vllm, a registered engine, or package.module:Class; left out, use_vllm decides"
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
        metadata={"help": "auto: newest complete checkpoint in output_dir; never; or a checkpoint's path"},
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

    @property
    def has_registered_engine(self) -> bool:
        """Whether rollouts come from an engine that somebody registered, and not from one of TRL's."""
        return self.engine is not None and not is_built_in(self.engine)

    def _choose_engine(self) -> None:
        if self.engine is None:
            return
        if self.engine not in ("auto", "vllm") and self.use_vllm:
            raise ValueError(f"engine: {self.engine!r} contradicts use_vllm true; leave out one of the two")
        for name in _OF_TRLS_ENGINES:
            if self.has_registered_engine and getattr(self, name):
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} has no effect on the engine {self.engine!r}; leave it out"
                )
        on_cpu = self.engine == "auto" and self.use_cpu
        self.use_vllm = not on_cpu and choose_engine(self.engine) == "vllm"


def _json_phases(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"window_phases: {shortened(text)} is not JSON; write pairs such as [[0, 512], [100, 1024]]"
        ) from None
