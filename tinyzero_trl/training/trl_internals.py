"""Every private name of TRL, Transformers, Accelerate and the Hub client that training relies on, each with its reason.

The methods that `AdaptiveGRPOTrainer` wraps are listed by its own file. What is read or set besides stands here alone,
so that an upgrade has one file to look at: `tests/contract/test_trl_internals.py` fails for each name that is gone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub import HfApi
from huggingface_hub.utils._http import default_client_factory
from torch.distributed.fsdp import FSDPModule
from transformers.utils.hub import hf_api
from trl import GRPOTrainer
from trl.data_utils import is_conversational

from tinyzero_trl.generation.completions import as_turns
from tinyzero_trl.replacing import replaced

Inputs = dict[str, Any]

# Inputs of the loss whose first axis counts images, tiles or patches and not completions.
MULTIMODAL_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "image_position_ids",
    "num_images",
    "token_type_ids",
    "mm_token_type_ids",
)


def is_multimodal(inputs: Mapping[str, Any]) -> bool:
    """Whether a batch holds images, which cannot be taken apart row by row."""
    return any(inputs.get(name) is not None for name in MULTIMODAL_INPUTS)


def rollout_buffer(trainer: Any) -> list[Inputs] | None:
    """The micro-batches of the latest rollout, a new list for each rollout; None before the first.

    TRL reads from it in every micro-step, so it is where rows can be regrouped.
    """
    buffered: list[Inputs] | None = trainer._buffered_inputs
    return buffered


def replace_rollout_buffer(trainer: Any, micro_batches: list[Inputs]) -> Inputs:
    """Let the trainer go on with other micro-batches of the same rollout; returns the one whose turn it is."""
    trainer._buffered_inputs = micro_batches
    return micro_batches[trainer._step % trainer.args.steps_per_generation]


def forget_rollout(trainer: Any) -> None:
    """Let a training begin with a rollout of its own weights.

    TRL would train again on what is left of a former training, and would not load the weights into vLLM if both
    trainings begin at the same step.
    """
    trainer._buffered_inputs, trainer._step = None, 0
    if trainer.use_vllm:
        trainer._last_loaded_step = -1


def keep_columns(trainer: GRPOTrainer, *columns: str) -> None:
    """Let the data loaders keep `columns` as well under `remove_unused_columns`; no name is no column."""
    kept: Any = trainer._signature_columns  # what Trainer's own method has set
    trainer._signature_columns = kept + [name for name in columns if name and name not in kept]


def keep_columns_of_stock(trainer: GRPOTrainer, *columns: str) -> None:
    """The same for a trainer whose own method does not call `keep_columns`: the columns are chosen now."""
    trainer._set_signature_columns_if_needed()
    keep_columns(trainer, *columns)


def training_metrics(trainer: GRPOTrainer) -> dict[str, list[float]]:
    """The lists to which the loss appends its figures, averaged and emptied by `log`."""
    metrics: dict[str, list[float]] = trainer._metrics["train"]
    return metrics


def forget_unlogged_figures(trainer: GRPOTrainer) -> None:
    """Drop what an interrupted training has not logged; TRL would count it as figures of the next one."""
    training_metrics(trainer).clear()
    trainer._current_train_step_time, trainer._entropy_window_stats = 0.0, None


def forget_unlogged_evaluation(trainer: GRPOTrainer) -> None:
    """Drop what a prediction or an interrupted evaluation has left; TRL would count it as figures of the next one."""
    trainer._metrics["eval"].clear()


def loss_since_the_last_log(trainer: GRPOTrainer) -> torch.Tensor:
    """The loss of this rank, summed over the optimizer steps since Trainer's last log line; a scalar."""
    return trainer._tr_loss


def learning_rate(trainer: GRPOTrainer) -> float:
    """The rate that Trainer logs for the step that it is taking, whatever holds the schedule."""
    return trainer._get_learning_rate()


@contextmanager
def logged_column(trainer: GRPOTrainer, column: str) -> Iterator[list[list[Any]]]:
    """Within it, what reward functions give to `log_extra` for a column: the values of each call, in their order.

    TRL strings the values of all calls together, whatever their number.
    """
    calls: list[list[Any]] = []
    log = trainer._log_completion_extra

    def noted(name: str, values: Iterable[Any]) -> None:
        values = list(values)
        if name == column:
            calls.append(values)
        log(name, values)

    with replaced(trainer, "_log_completion_extra", noted):
        yield calls


def forget_logs_of_rewards(trainer: GRPOTrainer) -> None:
    """Drop what reward functions have logged in a batch that was interrupted; TRL would add it to the next one."""
    trainer._pending_extra_logs.clear()
    trainer._pending_metrics.clear()


def tokenizer_of(trainer: GRPOTrainer) -> Any:
    """The tokenizer, also where `processing_class` is the processor of a model with images."""
    return trainer._tokenizer


def has_entropy_bonus(trainer: GRPOTrainer) -> bool:
    """Whether the loss has an entropy term, whose weight may also be adapted while training."""
    return bool(trainer._entropy_bonus_enabled)


@contextmanager
def unchanged_mode(model: torch.nn.Module) -> Iterator[None]:
    """Afterwards the model is in training or in evaluation mode, as before.

    After continuous batching TRL leaves the model in training mode, also in an evaluation. It then takes the next batch
    of the evaluation for a rollout.
    """
    training = model.training
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def mode_of_logs(model: torch.nn.Module, logs: Mapping[str, Any]) -> Iterator[None]:
    """Within it, the model is in training mode if `logs` are the last line of a training; afterwards as before.

    TRL goes by the mode to know which figures belong to a line. An evaluation after the last step leaves the model in
    evaluation mode, and the figures of the steps since the line before would be in no line at all.
    """
    with unchanged_mode(model):
        if "train_runtime" in logs:
            model.train()
        yield


@contextmanager
def unchanged_checkpointing(model: torch.nn.Module) -> Iterator[None]:
    """Afterwards the same layers as before compute their activations anew in the backward pass, in the same way.

    TRL switches gradient checkpointing off to sample and to score, and on again with the whole of
    `gradient_checkpointing_kwargs`. Trainer takes `every_n_layers` and `offload` out of it, TRL does not: then PyTorch
    refuses them, or all layers are checkpointed and nothing is offloaded.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_gradient_checkpointing_func")]
    before = [(layer.gradient_checkpointing, layer._gradient_checkpointing_func) for layer in layers]
    try:
        yield
    finally:
        for layer, (is_on, function) in zip(layers, before, strict=True):
            layer.gradient_checkpointing, layer._gradient_checkpointing_func = is_on, function


def without_tied(load_result: Any, model: torch.nn.Module) -> Any:
    """What PyTorch says of a loaded state, without the missing names of weights that have come under another name.

    A checkpoint holds tied weights once, and Trainer warns of the name that it lacks.
    """
    missing = set(load_result.missing_keys)
    weights = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(weight) for name, weight in weights.items() if name not in missing}
    left = [name for name in load_result.missing_keys if name not in weights or id(weights[name]) not in loaded]
    return load_result._replace(missing_keys=left)


def attention_of(model_config: Any) -> str:
    """The attention implementation that a loaded model uses; empty if none is chosen."""
    return model_config._attn_implementation or ""


def set_sync_gradients(accelerator: Accelerator, synchronises: bool) -> None:
    """Say whether the next backward pass exchanges gradients. Accelerate has no public switch for its own flag."""
    accelerator.gradient_state._set_sync_gradients(synchronises)


def keep_outputs_whole(trainer: GRPOTrainer) -> None:
    """Let FSDP2 return what a pass has computed, such as log-probabilities in float32.

    In mixed precision Accelerate 1.15 lets it round them to bfloat16, where neighbours between 4 and 8 differ by 0.03:
    more than a step moves them. The reference is sharded in `__init__` of TRL, the trained model when training begins.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None or plugin.fsdp_version != 2 or plugin.mixed_precision_policy is None:
        return
    plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)
    for module in trainer.ref_model.modules() if trainer.ref_model else ():
        if isinstance(module, FSDPModule):
            module._get_fsdp_state()._mp_policy = plugin.mixed_precision_policy


def hub_client() -> Any:
    """The client that huggingface_hub makes by itself, to be given time limits: httpx's, and from 2.0 on httpx2's."""
    return default_client_factory()


def hub_api() -> HfApi:
    """The client of the Hub that Trainer pushes with."""
    return hf_api()


def as_completions(
    trainer: Any, prompt_ids: list[list[int]], completion_ids: list[list[int]], examples: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Completions as TRL will hand them to the reward functions: texts, or turns where the prompts are chats."""
    if not completion_ids:
        return []
    if is_conversational({"prompt": examples[0]["prompt"]}):
        turns = as_turns(tokenizer_of(trainer), prompt_ids, completion_ids, trainer.tools)
        return [[turn] for turn in turns]
    return trainer.processing_class.batch_decode(completion_ids, skip_special_tokens=True)


def loop_of_reward_functions(trainer: GRPOTrainer) -> Any:
    """The event loop on which TRL runs asynchronous reward functions."""
    return trainer.async_loop
