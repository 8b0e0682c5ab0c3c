"""What of a run may change when it is continued: a declared table, against which two configurations are compared."""

import json
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs.redaction import without_secrets
from tinyzero_trl.tasks.config import EVAL_SIZE
from tinyzero_trl.tasks.registry import option_defaults
from tinyzero_trl.training.loss.traits import joins_rows

MAY_CHANGE: dict[str, tuple[str, ...]] = {
    "where results go": (
        *("recipe", "output_dir", "run_name", "project", "report_to", "trackio_*", "hub_*", "push_to_hub"),
        *("logging_*", "log_*", "num_completions_to_print", "include_num_input_tokens_seen", "skip_memory_metrics"),
        *("disable_tqdm", "debug"),
    ),
    "when to save and to evaluate": (
        *("save_*", "enable_jit_checkpoint", "eval_steps", "eval_strategy", "eval_delay", "do_*"),
        *("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "per_device_eval_batch_size"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "prediction_loss_only"),
        *("compute_eval_loss", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
    ),
    "the machine, and how it computes the same": (
        *("use_cpu", "bf16", "fp16", "tf32", "attn_implementation", "padding_free", "max_tokens_per_micro_batch"),
        *("skip_zero_advantage_rows", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile*"),
        *("torch_empty_cache_steps", "use_liger_kernel", "liger_kernel_config", "pad_to_multiple_of", "use_cache"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "ddp_*", "fsdp*", "deepspeed"),
        *("accelerator_config", "parallelism_config", "local_rank", "full_determinism"),
        *("average_tokens_across_devices", "ds3_gather_for_generation"),
        *("engine", "use_vllm", "vllm_mode", "vllm_model_impl", "vllm_server_*"),
        *("vllm_group_port", "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size"),
        *("vllm_enable_sleep_mode", "cache_implementation", "use_transformers_*", "transformers_continuous_*"),
    ),
    "faults, and how to continue": ("resume", "resume_from_checkpoint", "max_skipped_steps"),
}
"""Fields, or patterns of them, that apply from the step on at which the run continues. All others stay as they were."""

_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
_LENGTH = ("max_steps", "num_train_epochs")
_DERIVED = ("reward_weights", "eval_on_start")  # the program sets them
_PATHS = ("model_name_or_path", "dataset")
_MODEL_FIELDS = ("dtype", "attn_implementation", "revision", "trust_remote_code", "use_safetensors")
_ENDLESS = ("constant", "reduce_lr_on_plateau", "greedy")
_ENDLESS_AFTER_WARMUP = ("constant_with_warmup", "inverse_sqrt")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What has changed between two configurations: what may change, and what may not.

    Args:
        old: the fields of `config.yaml` in the folder of the run.
        new: the fields of the recipe as resolved, which would continue it.

    Returns:
        Two mappings of a field to "old there, new here". A field that only one of the two has is not compared: it
        belongs to another version of this package, or to the other of two window policies.
    """
    old, new = _comparable(old), _comparable(new)
    defaults = option_defaults()
    old |= {name: defaults[name] for name, value in old.items() if value is None and name in defaults}  # older runs
    if new.get("eval_size") is None and isinstance(old.get("eval_size"), int):
        new["eval_size"] = min(EVAL_SIZE, old["eval_size"])  # by default; it is set when the problems are loaded
    changed = {name: _change(old[name], new[name]) for name in old if name in new and old[name] != new[name]}
    for name in _PATHS:
        if name in changed and _same_place(old[name], new[name]):
            del changed[name]
    free = {name: text for name, text in changed.items() if may_change(name)}
    refused = {name: text for name, text in changed.items() if name not in free}
    if not _schedule_depends_on_length(new):
        free |= {name: refused.pop(name) for name in _LENGTH if name in refused}
    elif old.get("max_steps", -1) == new.get("max_steps") and new["max_steps"] > 0:
        refused.pop("num_train_epochs", None)  # which max_steps overrides
    if _same_batches(old, new):
        free |= {name: refused.pop(name) for name in _BATCH if name in refused}
    return free, refused


def may_change(name: str) -> bool:
    """Whether the table names the field."""
    return any(fnmatchcase(name, pattern) for patterns in MAY_CHANGE.values() for pattern in patterns)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values alone, without what a run adds to the fields of its recipe."""
    plain: dict[str, Any] = without_secrets(json.loads(json.dumps(dict(config), default=str)))
    given = {name: value for name, value in (plain.get("model_init_kwargs") or {}).items() if name not in _MODEL_FIELDS}
    if "model_init_kwargs" in plain:
        plain["model_init_kwargs"] = given or None
    return {name: value for name, value in plain.items() if name not in _DERIVED}


def _change(old: Any, new: Any) -> str:
    return f"{shortened(old)} there, {shortened(new)} here"


def _same_place(old: Any, new: Any) -> bool:
    """Whether two paths lead to the same folder or file."""
    places = [os.path.realpath(os.path.expanduser(str(path))) for path in (old, new)]
    return places[0] == places[1] and os.path.exists(places[0])


def _schedule_depends_on_length(config: Mapping[str, Any]) -> bool:
    """Whether the learning rate of a step depends on how many steps there are in all."""
    kind, warmup = config.get("lr_scheduler_type"), config.get("warmup_steps") or 0
    return kind not in _ENDLESS and not (kind in _ENDLESS_AFTER_WARMUP and (warmup == 0 or warmup >= 1))


def _same_batches(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a rollout and an optimizer step have as many completions as before, and how they are split is all one.

    `generation_batch_size` completions of all processes are dealt out to `steps_per_generation` micro-batches.
    """
    if not {"generation_batch_size", *_BATCH} <= old.keys() & new.keys() or joins_rows(new):
        return False
    if new.get("loss_type") == "bnpo":  # the mean over the tokens of each micro-batch
        return False
    rows = [config["generation_batch_size"] for config in (old, new)]
    shares = [config["gradient_accumulation_steps"] / config["steps_per_generation"] for config in (old, new)]
    return rows[0] == rows[1] and shares[0] == shares[1]
