"""What a recipe may say: dataclasses on top of TRL's, judged before anything is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig
from trl.trainer.utils import get_config_model_id

from tinyzero_trl.generation.registry import choose_engine, is_built_in
from tinyzero_trl.messages import shortened
from tinyzero_trl.training.preflight.best_figure import warn_where_the_loss_chooses
from tinyzero_trl.training.preflight.explained import explained_by_field
from tinyzero_trl.training.preflight.mappings import check_mappings
from tinyzero_trl.training.preflight.schedule import check_schedule
from tinyzero_trl.training.preflight.values import check_choices, check_hardware, check_mapping_texts, check_numbers
from tinyzero_trl.training.recipe.renamed import give_new_names, other_name
from tinyzero_trl.training.token_in_memory import TokenInMemory
from tinyzero_trl.windows import WindowConfig, declarations, find_policy, strategies
from tinyzero_trl.windows.fields import shown_as

WINDOW_PREFIX = "window_"
_OF_TRLS_ENGINES = ("use_transformers_continuous_batching", "cache_implementation")
"""Fields that only the engines of TRL know, besides `generation_kwargs` other than `stop_strings`."""


def _window(name: str) -> Any:
    """The field `name` of window policies, left out: then each policy has its own default. Help says whose it is."""
    readers_of: dict[str, list[str]] = {}
    for strategy, declared in declarations(name).items():
        default = "" if declared.default in (None, MISSING, (), "") else f" (default {declared.default})"
        readers_of.setdefault(f"{declared.metadata['help']}{default}", []).append(strategy)
    shared = name in WindowConfig.__dataclass_fields__
    lines = [help if shared else f"{' and '.join(names)}: {help}" for help, names in readers_of.items()]
    return field(default=None, metadata={"help": "; ".join(lines)})


@dataclass
class AdaptiveGRPOConfig(TokenInMemory, GRPOConfig):
    """TRL's `GRPOConfig` with a rollout window (`window_*`) and the savings of the training step.

    `max_completion_length` is the largest window (unless `window_max` is lower) and the length of evaluation. The
    rollout window is the completion-length limit of a rollout. `window_strategy` names the policy that chooses it, and
    `tinyzero_trl.windows` has one configuration class per policy. Their fields stand here with the prefix `window_`.
    None means the policy's own default, so that a field of another policy is found out and refused.

    Raises:
        ValueError: a value out of range, two that contradict each other, or a field of another window policy. It names
            field, value and remedy.
    """

    window_strategy: str = field(
        default="signal",
        metadata={"help": f"window policy: one of {', '.join(strategies())}, or package.module:Class of your own"},
    )
    window_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "fields of your own window policy, without prefix; recipes may write window_NAME instead"},
    )
    window_initial: int | None = _window("initial")
    window_min: int | None = _window("min")
    window_max: int | None = _window("max")
    window_success_threshold: float | None = _window("success_threshold")
    window_seed: int | None = _window("seed")
    window_phases: Sequence[Sequence[int]] | str | None = _window("phases")
    window_total_steps: int | None = _window("total_steps")
    window_min_samples: int | None = _window("min_samples")
    window_growth_delta: int | None = _window("growth_delta")
    window_shrink_delta: int | None = _window("shrink_delta")
    window_slack: float | None = _window("slack")
    window_headroom: float | None = _window("headroom")
    window_memory_rollouts: int | None = _window("memory_rollouts")
    window_label_column: str | None = _window("label_column")
    window_prompt_memory: bool | None = _window("prompt_memory")
    window_group_rule: str | None = _window("group_rule")
    window_group_gain: str | None = _window("group_gain")
    window_group_price: str | None = _window("group_price")
    window_min_groups: int | None = _window("min_groups")
    window_first_stage: int | None = _window("first_stage")
    window_stage_growth: float | None = _window("stage_growth")
    window_explore_share: float | None = _window("explore_share")
    window_probe_every: int | None = _window("probe_every")
    window_probe_group_every: int | None = _window("probe_group_every")
    window_warmup_steps: int | None = _window("warmup_steps")
    window_std_multiplier: float | None = _window("std_multiplier")
    window_update_frequency: int | None = _window("update_frequency")
    window_min_change: int | None = _window("min_change")
    window_target_success_rate: float | None = _window("target_success_rate")
    window_success_rate_margin: float | None = _window("success_rate_margin")
    window_success_rate_ema_beta: float | None = _window("success_rate_ema_beta")
    window_length_tolerance: int | None = _window("length_tolerance")
    window_hold_steps_before_growth: int | None = _window("hold_steps_before_growth")
    window_growth_needs_pressure: bool | None = _window("growth_needs_pressure")
    window_saturation_frac: float | None = _window("saturation_frac")
    window_mode: str | None = _window("mode")
    window_rolling_window: int | None = _window("rolling_window")
    window_epsilon: float | None = _window("epsilon")
    window_ema_beta: float | None = _window("ema_beta")
    window_ema_bias_correction: bool | None = _window("ema_bias_correction")

    max_tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={"help": "largest number of token positions in one forward and backward pass; none: no limit"},
    )
    skip_zero_advantage_rows: bool = field(
        default=True, metadata={"help": "leave out rows without a gradient, wherever the result stays exact"}
    )
    padding_free: bool | None = field(
        default=None,
        metadata={
            "help": "put the rows of a micro-batch one after the other, without padding. By default this is on with "
            "FlashAttention, and with sdpa in half precision on a GPU for which PyTorch has a kernel. With sdpa on "
            "other devices attention is computed row by row; with eager attention it is slow, because the mask grows "
            "with the square of the tokens. It works only for the models of tinyzero_trl/models/architectures.py"
        },
    )
    engine: str | None = field(
        default=None,
        metadata={
            "help": "what samples rollouts: auto (vLLM if it is installed and there is a CUDA device, else "
            "transformers), transformers, vllm, a registered engine, or package.module:Class; by default use_vllm "
            "decides"
        },
    )
    stop_at_answer: bool = field(
        default=False,
        metadata={"help": "end a completion at its first </answer>, for models that go on after it"},
    )
    max_skipped_steps: int = field(
        default=10,
        metadata={"help": "most optimizer steps in a row that may be skipped because a number is not finite"},
    )
    compute_eval_loss: bool = field(
        default=False,
        metadata={
            "help": "compute TRL's loss on held-out completions as eval_loss; it costs a forward pass and says little "
            "about accuracy. It is always computed if metric_for_best_model names a loss"
        },
    )
    log_history_lines: int | None = field(
        default=None,
        metadata={
            "help": "largest number of lines in trainer.state.log_history, which is kept in memory and in every "
            "checkpoint; none: all. Recipes keep 100, because the records have all lines"
        },
    )
    resume: str = field(
        default="never",
        metadata={
            "help": "auto: continue from the newest complete checkpoint in output_dir; never: start a new run, and "
            "move earlier records to output_dir/_earlier; or a checkpoint's path. Recipes have auto, Python has never"
        },
    )

    def __post_init__(self) -> None:
        """Check the window and what TRL would find out too late, then let TRL check the rest."""
        if self.top_k is None:  # TRL's other spelling of no limit
            self.top_k = 0
        if self.bf16 is None and not self.fp16:
            self.bf16 = is_torch_bf16_gpu_available()  # TRL's own default is true, which Transformers refuses on a CPU
        check_numbers(self)
        check_mapping_texts(self)
        check_choices(self)
        self._choose_engine()
        self.window_config()
        give_new_names(self)
        best = self.metric_for_best_model
        with explained_by_field(self):
            super().__post_init__()
        check_schedule(self)
        check_hardware(self)
        check_mappings(self)
        warn_where_the_loss_chooses(best, wants_best=self.load_best_model_at_end)
        self._is_complete = True

    _is_complete = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; from a complete configuration on, one that has two names under both."""
        super().__setattr__(name, value)
        if self._is_complete and (other := other_name(self, name)) is not None:
            super().__setattr__(other, value)

    @property
    def optimizer_steps_per_rollout(self) -> int:
        """Optimizer steps that are taken on one generation batch."""
        return optimizer_steps_per_rollout(self)

    def window_config(self) -> WindowConfig:
        """The configuration of the window policy: the fields that were set, and its defaults.

        Raises:
            ValueError: as the class says.
        """
        flat = {each.name.removeprefix(WINDOW_PREFIX) for each in fields(self) if each.name.startswith(WINDOW_PREFIX)}
        given = {name: getattr(self, WINDOW_PREFIX + name) for name in flat - {"options"}}
        values = {name: value for name, value in given.items() if value is not None}
        for name, value in options_as_mapping(self.window_options).items():
            if name in values:
                raise ValueError(f"window_options: {name} is also set by window_{name}; remove one of the two")
            values[name] = value
        if isinstance(phases := values.get("phases"), str):
            values["phases"] = _parsed_json("window_phases", phases, "pairs such as [[0, 512], [100, 1024]]")
        assert self.max_completion_length is not None, "check_numbers refuses it"
        names = {} if "max" in values else {"max": "max_completion_length"}  # which bounds the window then
        longest = values.setdefault("max", self.max_completion_length)
        if isinstance(longest, int) and longest > self.max_completion_length:
            raise ValueError(
                f"window_max: {longest} exceeds max_completion_length {self.max_completion_length}; lower it, or raise "
                "max_completion_length"
            )
        values |= self._of_trainer(values)
        with shown_as(lambda name: names.get(name, WINDOW_PREFIX + name)):
            return WindowConfig(**values)

    def _of_trainer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the window policy asks of this configuration."""
        values = asked_of_trainer(find_policy(self.window_strategy).config_class, self)
        if taken := sorted(given.keys() & values.keys()):
            name = taken[0]
            raise ValueError(f"window_{name}: {given[name]!r} follows {name} of the training; remove it")
        return values

    @property
    def has_registered_engine(self) -> bool:
        """Whether rollouts come from an engine that somebody registered, and not from one of TRL's."""
        return self.engine is not None and not is_built_in(self.engine)

    def _choose_engine(self) -> None:
        if self.engine is None:
            return
        if self.engine not in ("auto", "vllm") and self.use_vllm:
            raise ValueError(f"engine: {self.engine!r} contradicts use_vllm true; leave out one of the two")
        if self.has_registered_engine:
            self._check_registered_engine()
        on_cpu = self.engine == "auto" and self.use_cpu
        self.use_vllm = not on_cpu and choose_engine(self.engine) == "vllm"

    def _check_registered_engine(self) -> None:
        kwargs: Any = self.generation_kwargs or {}
        given = {name: getattr(self, name) for name in _OF_TRLS_ENGINES}
        given["generation_kwargs"] = {name: value for name, value in kwargs.items() if name != "stop_strings"}
        for name, value in given.items():
            if value:
                raise ValueError(f"{name}: {value!r} has no effect on the engine {self.engine!r}; leave it out")


def optimizer_steps_per_rollout(args: GRPOConfig) -> int:
    """Optimizer steps that are taken on one generation batch; 1 where a step takes several batches."""
    assert args.steps_per_generation is not None, "TRL sets it"
    return max(1, args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps)


def asked_of_trainer(window: type[WindowConfig], args: GRPOConfig) -> dict[str, Any]:
    """What a window policy with this configuration class asks of the trainer's configuration, such as `loss_type`."""
    values = {each.name: getattr(args, each.name) for each in fields(window) if each.metadata.get("of_trainer")}
    if type(scaled := values.get("scale_rewards")) is bool:  # TRL's older spelling
        values["scale_rewards"] = "group" if scaled else "none"
    return values


def options_as_mapping(options: dict[str, Any] | str | None) -> dict[str, Any]:
    """`window_options` as a mapping; a command line gives it as JSON.

    Raises:
        ValueError: it is neither.
    """
    given: Any = options
    if isinstance(options, str):
        given = _parsed_json("window_options", options, 'a mapping such as {"patience": 3}')
    if not isinstance(given, dict | None):
        raise ValueError(f"window_options: {shortened(given)} is not a mapping; write {{name: value}}")
    return given or {}


def _parsed_json(name: str, text: str, example: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: {shortened(text)} is not JSON; write {example}") from None


def config_or_default(args: Any, model: Any) -> AdaptiveGRPOConfig:
    """`args` as given to a trainer of `model`; None stands for a default in the folder that TRL would name.

    Raises:
        ValueError: it is another configuration.
    """
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return AdaptiveGRPOConfig(f"{name.split('/')[-1]}-GRPO")
    if not isinstance(args, AdaptiveGRPOConfig):
        kind = type(args).__name__
        raise ValueError(f"args: a {kind} has no rollout window; give an AdaptiveGRPOConfig with the same fields")
    return args
