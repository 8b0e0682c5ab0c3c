"""Ranges and choices of `AdaptiveGRPOConfig` that TRL checks too late, or not at all."""

import base64
import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import is_liger_kernel_available

from tinyzero_trl.runs.redaction import shown
from tinyzero_trl.training.loss.micro_batches import LOSS_NORMALISERS
from tinyzero_trl.training.preflight.best_figure import check_best_figure
from tinyzero_trl.training.recipe.shipped import launch_file

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
    "max_skipped_steps": 0,
    "save_total_limit": 0,
    "log_history_lines": 0,
    "dataloader_num_workers": 0,
    "top_k": 0,
    "data_seed": 0,
    "seed": 0,
    "ref_model_sync_steps": 1,
}
_SEEDS = ("seed", "data_seed")
_LARGEST_SEED = 2**32 - 1
_RANGES = {  # smallest and largest value
    "learning_rate": (0.0, math.inf),
    "beta": (0.0, math.inf),
    "epsilon": (0.0, math.inf),
    "epsilon_high": (0.0, math.inf),
    "delta": (1.0, math.inf),
    "top_entropy_quantile": (0.0, 1.0),
    "ref_model_mixup_alpha": (0.0, 1.0),
    **dict.fromkeys(("sapo_temperature_neg", "sapo_temperature_pos"), (0.0, math.inf)),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), (0.0, math.inf)),
    **dict.fromkeys(("entropy_coef", "entropy_coef_min", "entropy_coef_max"), (0.0, math.inf)),
    "weight_decay": (0.0, math.inf),
    "max_grad_norm": (0.0, math.inf),
    "warmup_steps": (0.0, math.inf),
    "num_train_epochs": (0.0, math.inf),
    "adam_beta1": (0.0, 1.0),
    "adam_beta2": (0.0, 1.0),
    "adam_epsilon": (0.0, math.inf),
    "temperature": (0.0, math.inf),
    "repetition_penalty": (0.0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
}
_ABOVE_ZERO = {
    "sapo_temperature_neg": "advantages are divided by it",
    "sapo_temperature_pos": "advantages are divided by it",
    "num_train_epochs": "nothing would be trained",
    "repetition_penalty": "scores are divided by it",
    "top_p": "no token would be left to choose from",
}
_MAPPINGS = (
    *("model_init_kwargs", "generation_kwargs", "chat_template_kwargs"),
    *("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "transformers_continuous_batching_config"),
)
_COLDEST = 1e-5  # below it vLLM takes the likeliest token, and scores overflow
_CHOICES: dict[str, tuple[Any, ...]] = {
    "loss_type": tuple(LOSS_NORMALISERS),
    "vllm_mode": ("colocate", "server"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}


def check_numbers(config: Any) -> None:
    """Counts and ranges; a field that may be left out is judged if it is there.

    Raises:
        ValueError: a value out of range; names field, value and remedy.
    """
    if config.max_completion_length is None:
        raise ValueError(
            "max_completion_length: None leaves the rollout window without a largest value; give the most tokens that "
            "a completion may have"
        )
    for name, least in _LEAST_COUNTS.items():
        if (value := getattr(config, name)) is None and _default_of(config, name) is None:
            continue
        if type(value) is not int or value < least:
            raise ValueError(f"{name}: {value!r} is no whole number of {least} or more; change it")
        if name in _SEEDS and value > _LARGEST_SEED:
            raise ValueError(f"{name}: {value} is above {_LARGEST_SEED}, the largest seed of NumPy; lower it")
    for name, (low, high) in _RANGES.items():
        if not hasattr(config, name):  # a field that older TRL does not have
            continue
        if (value := getattr(config, name)) is None and _default_of(config, name) is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value != math.inf
        if not is_number or not low <= value <= high:
            bounds = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(f"{name}: {value!r} is no finite number of {bounds}; change it")
        if value == 0 and name in _ABOVE_ZERO:
            raise ValueError(f"{name}: 0 is too low, {_ABOVE_ZERO[name]}; set it above 0")
    if config.temperature < _COLDEST:
        raise ValueError(
            f"temperature: {config.temperature!r} gives every completion of a group the same text; "
            "set it above 0, such as 1.0"
        )
    if config.logging_steps == 0 and config.logging_strategy == "steps":
        raise ValueError("logging_steps: 0 is not above 0; change it, or set logging_strategy to 'no'")


def check_choices(config: Any) -> None:
    """Values that must be one of a few, or that are known to go wrong.

    Raises:
        ValueError: an unknown value, a tracker or library that is not there, or what would run code of others.
    """
    if not isinstance(config.output_dir, str | None):
        raise ValueError(f"output_dir: {config.output_dir!r} is no text; name a folder")
    for name, choices in _CHOICES.items():
        if (value := getattr(config, name)) not in choices:
            raise ValueError(f"{name}: {value!r} is unknown; choose one of {', '.join(map(str, choices))}")
    if config.neftune_noise_alpha is not None:
        raise ValueError(
            f"neftune_noise_alpha: {config.neftune_noise_alpha!r} scales its noise by the width of a batch, and "
            "batches are divided here; leave it out"
        )
    _check_outlets(config)
    _check_ends_of_completions(config)
    _check_foreign_code(config)
    _check_deepspeed_file(config.deepspeed)
    if config.restore_callback_states_from_checkpoint:
        raise ValueError(
            "restore_callback_states_from_checkpoint: true would build the window policy anew; leave it out, "
            "window and records are restored from every checkpoint"
        )
    if config.use_liger_kernel and not is_liger_kernel_available():
        raise ValueError("use_liger_kernel: liger-kernel is not installed; pip install liger-kernel, or remove it")


def _check_outlets(config: Any) -> None:
    """Where figures and models go: trackers, the best checkpoint, the Hub."""
    try:
        get_reporting_integration_callbacks(config.report_to)
    except (TypeError, ValueError) as error:
        raise ValueError(f"report_to: {config.report_to!r} cannot be used ({error}); name a tracker or none") from None
    check_best_figure(config.metric_for_best_model)
    if config.metric_for_best_model is None and config.save_strategy == "best":
        raise ValueError(
            "save_strategy: 'best' needs a figure to choose by; give metric_for_best_model, such as eval/acc"
        )
    if config.hub_model_id is not None:
        try:
            validate_repo_id(config.hub_model_id)
        except HFValidationError as error:
            raise ValueError(f"hub_model_id: {error} Give name, or owner/name") from None


def _check_ends_of_completions(config: Any) -> None:
    """What cannot be true beside `stop_at_answer`."""
    if config.stop_at_answer and config.mask_truncated_completions:
        raise ValueError(
            "stop_at_answer: true ends completions without an end token, and mask_truncated_completions would "
            "leave all of them out; set one of the two to false"
        )
    if config.stop_at_answer and config.use_transformers_continuous_batching:
        raise ValueError(
            "stop_at_answer: true has no effect on use_transformers_continuous_batching, which ends completions with "
            "end tokens alone; set one of the two to false"
        )


def _check_foreign_code(config: Any) -> None:
    """Code from a model's repository is not run, and a token is not written to records."""
    inner = _mapping(config.model_init_kwargs) or {}
    if config.trust_remote_code or inner.get("trust_remote_code"):
        raise ValueError(
            "trust_remote_code: true is refused, because it runs code from the model's repository; remove it, and "
            "use a model that Transformers knows"
        )
    if "token" in inner:
        raise ValueError(
            "model_init_kwargs: a token would be written to config.yaml; remove it and set HF_TOKEN in the environment"
        )


def _check_deepspeed_file(given: Any) -> None:
    """A path of a file, a mapping, or one in base64, as Transformers takes it."""
    if not isinstance(given, str) or _mapping(given) is not None or Path(given).is_file():
        return
    try:
        json.loads(base64.urlsafe_b64decode(given))
    except ValueError:
        raise ValueError(
            f"deepspeed: {given!r} is no file; give the path of a DeepSpeed configuration, or remove it and launch "
            f"with {launch_file('zero2')}"
        ) from None


def check_mapping_texts(config: Any) -> None:
    """Fields that hold a mapping: a command line gives it as text, which must be a JSON object.

    Raises:
        ValueError: another value.
    """
    for name in _MAPPINGS:
        value = getattr(config, name)
        if isinstance(value, str | int | float | list) and _mapping(value) is None:
            raise ValueError(f"{name}: {shown(name, value)} is no mapping; write it as in {{name: value}}, or as JSON")


def _mapping(value: Any) -> dict[str, Any] | None:
    """The mapping that a value is, or holds as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def check_hardware(config: Any) -> None:
    """What would have no effect on the device that was found.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.fp16 and config.device.type == "cpu":
        raise ValueError("fp16: true has no effect on a CPU; set it to false, or give bf16: true")
    if config.fsdp_config and not config.fsdp:
        raise ValueError(
            f"fsdp_config: {config.fsdp_config} has no effect without fsdp; set fsdp to true, or remove it and "
            f"launch with {launch_file('fsdp2')}"
        )


def _default_of(config: Any, name: str) -> Any:
    return type(config).__dataclass_fields__[name].default
