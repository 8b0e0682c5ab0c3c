"""Whether the model takes `model_init_kwargs` and the adapter that the recipe describes, without its weights."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from trl import ModelConfig, get_peft_config

from tinyzero_trl.messages import shortened, text_of
from tinyzero_trl.models.loading import SAFE, load
from tinyzero_trl.runs.json_lines import read_object

_OF_FIELDS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "attn_implementation": "attn_implementation",
    "revision": "model_revision",
}


def check_no_field_twice(given: dict[str, Any] | None, model: ModelConfig) -> None:
    """`model_init_kwargs` may repeat a field of the recipe, as the `config.yaml` of a run does, and not contradict it.

    Raises:
        ValueError: names the field to set.
    """
    for name, field in _OF_FIELDS.items():
        value, of_field = (given or {}).get(name), getattr(model, field)
        if value is not None and value != of_field:
            raise ValueError(
                f"model_init_kwargs: {name} {shortened(value)} contradicts the field {field} ({of_field!r}); remove "
                "it, and set the field"
            )


def check_model_init_kwargs(path: str, given: dict[str, Any] | None, **settings: Any) -> None:
    """`from_pretrained` must know every name; whether their values fit shows on the device that they are for.

    Raises:
        ValueError: an unknown name.
    """
    if not given:
        return
    try:
        load(AutoModelForCausalLM.from_pretrained, path, **{**settings, **given, **SAFE, "device_map": "meta"})
    except ValueError as error:
        if unknown := re.search(r"unexpected keyword argument '\w+'", str(error)):
            raise ValueError(
                f"model_init_kwargs: {shortened(given)} is refused by the model ({unknown[0]}); correct it, or "
                "remove it"
            ) from None


def check_adapter(model: ModelConfig, model_config: Any) -> None:
    """Fit the adapter to a model without weights; the `lora_` fields must describe one that fits.

    Raises:
        ValueError: names the field that PEFT refuses.
    """
    if not model.use_peft:
        return
    from peft import get_peft_model

    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    try:
        get_peft_model(bare, get_peft_config(model))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = text_of(error).rstrip(".")
        name = _guilty_field(reason)
        value = getattr(model, name)
        is_name = name == "lora_target_modules" and isinstance(value, str) and value.isidentifier()
        remedy = (
            f"change it; one name alone is a pattern for whole paths, such as '.*{value}'" if is_name else "change it"
        )
        raise ValueError(f"{name}: {value!r} is refused ({reason}); {remedy}") from None


def check_continued_adapter(path: str, model: ModelConfig) -> None:
    """An adapter that is trained on keeps its size; a recipe with `use_peft` may not ask for another.

    Raises:
        ValueError: names the field, and what the adapter has.
    """
    if not model.use_peft:
        return
    saved = read_object(Path(path) / "adapter_config.json") or {}
    for name, value in (("lora_r", saved.get("r")), ("lora_alpha", saved.get("lora_alpha"))):
        if getattr(model, name) != value:
            raise ValueError(
                f"{name}: {getattr(model, name)!r} differs from {value!r} of the adapter {path!r}, which is trained "
                f"further; set it to {value!r}, or leave out use_peft"
            )


def check_kept_precision(training: Any, *, is_float32: bool) -> None:
    """Whether a rollout leaves the weights as they are.

    For continuous batching TRL 1.16 casts the model itself to `bf16` or `fp16`, and does not cast it back: from the
    first rollout on the optimizer moves half-precision weights. DeepSpeed's optimizer has float32 copies of its own.

    Args:
        training: configuration of the run.
        is_float32: whether the weights are loaded in float32.

    Raises:
        ValueError: they are, and would be cast.
    """
    half = next((name for name in ("bf16", "fp16") if getattr(training, name)), None)
    if half and training.use_transformers_continuous_batching and is_float32 and training.deepspeed_plugin is None:
        raise ValueError(
            f"use_transformers_continuous_batching: true with {half}: true casts the float32 weights for good at the "
            f"first rollout, and small steps are rounded away; set {half} to false, or sample with another engine"
        )


def _guilty_field(reason: str) -> str:
    """PEFT names no field of the recipe: the most likely one, by what its message speaks of."""
    signs = {
        "`r`": "lora_r",
        "task type": "lora_task_type",
        "arget param": "lora_target_parameters",
        "arget module": "lora_target_modules",
        "target_modules": "lora_target_modules",
        "modules_to_save": "lora_modules_to_save",
        "dropout": "lora_dropout",
        "alpha": "lora_alpha",
    }
    return next((name for sign, name in signs.items() if sign in reason), "use_peft")
