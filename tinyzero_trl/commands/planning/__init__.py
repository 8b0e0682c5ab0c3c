"""What a recipe asks of a number of GPUs, before anything is loaded.

`memory.py`, `remedies.py` and `batches.py` are arithmetic alone; `shape.py` reads a model's configuration; `table.py`
prints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl import ModelConfig

from tinyzero_trl.commands.planning.batches import BatchPlan, batch_plan
from tinyzero_trl.commands.planning.memory import (
    GIB,
    WAYS,
    MemoryPlan,
    ModelShape,
    Workload,
    memory_plan,
)
from tinyzero_trl.commands.planning.remedies import with_remedies
from tinyzero_trl.commands.planning.shape import model_shape
from tinyzero_trl.models.loading import check_room
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.loss.traits import joins_rows
from tinyzero_trl.training.preflight.launch import LOST_LEARNING_RATE
from tinyzero_trl.training.recipe.other_machines import recipe_for
from tinyzero_trl.training.recipe.shipped import read_launch_file
from tinyzero_trl.windows import make_policy

_ON_ONE_GPU, _ON_SEVERAL = ("single_gpu",), ("ddp", "zero1", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Machines:
    """Where a recipe is to run: GPUs over all machines, and how they are launched."""

    gpus: int
    nodes: int = 1
    gpu_memory_gib: float = 80.0
    launch: str | None = None  # a file of configs/accelerate or its name; None: every way

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: a count below one, GPUs that do not divide among the machines, or no memory.
        """
        for name in ("gpus", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1; give 1 or more")
        if self.gpus % self.nodes:
            raise ValueError(
                f"gpus: {self.gpus} over all machines cannot be divided among {self.nodes} nodes; give a multiple of it"
            )
        if not 0 < self.gpu_memory_gib < math.inf:
            raise ValueError(f"gpu_memory_gib: {self.gpu_memory_gib} is no size above 0; give the card's memory")

    def ways(self) -> tuple[str, ...]:
        """The ways of launching to plan for."""
        if self.launch is None:
            return _ON_ONE_GPU if self.gpus == 1 else _ON_SEVERAL
        return (_way_of(self.launch),)


@dataclass(frozen=True)
class Plan:
    """A recipe on some machines; `complaints` contradict whatever the memory, `warnings` are about learning."""

    recipe: str
    machines: Machines
    shape: ModelShape
    batch: BatchPlan
    memory: list[MemoryPlan]
    complaints: list[str]
    warnings: list[str]

    @property
    def fits(self) -> bool:
        """Whether at least one way of launching fits, and nothing contradicts."""
        return not self.complaints and any(each.fits for each in self.memory)


def plan_recipe(arguments: Sequence[str], machines: Machines, *, prompt_tokens: int = 256) -> Plan:
    """Plan the recipe that `arguments` (`--config FILE` and fields) describe.

    Raises:
        ValueError: as `parse_recipe`, `Machines` and `model_shape` do.
    """
    if prompt_tokens < 1:
        raise ValueError(f"prompt_tokens: {prompt_tokens} is below 1; give the length of a prompt")
    with recipe_for(arguments, processes=machines.gpus) as recipe:
        task, training, model = recipe
    training.use_vllm |= training.engine == "auto"  # the machine that is planned for has it
    if joins_rows(vars(training)):
        training.max_tokens_per_micro_batch = None  # has no effect there
    assert training.steps_per_generation is not None, "TRL sets it"
    shape = model_shape(model)
    windows = training.window_config()
    batch = batch_plan(
        gpus=machines.gpus,
        per_device_train_batch_size=training.per_device_train_batch_size,
        steps_per_generation=training.steps_per_generation,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        num_iterations=training.num_iterations,
        num_generations=training.num_generations or 1,
        max_tokens_per_micro_batch=training.max_tokens_per_micro_batch,
        prompt_tokens=prompt_tokens,
        first_window=make_policy(windows).window,
        last_window=windows.largest,
    )
    work = [
        _workload(way, shape, training, model, machines=machines, prompt_tokens=prompt_tokens)
        for way in machines.ways()
    ]
    return Plan(
        recipe=str(task.recipe or model.model_name_or_path),
        machines=machines,
        shape=shape,
        batch=batch,
        memory=[with_remedies(memory_plan(each)) for each in work],
        complaints=_complaints(training, shape, machines, prompt_tokens),
        warnings=_warnings(training, work),
    )


def _workload(
    way: str,
    shape: ModelShape,
    training: AdaptiveGRPOConfig,
    model: ModelConfig,
    *,
    machines: Machines,
    prompt_tokens: int,
) -> Workload:
    is_half = bool(training.bf16 or training.fp16)
    weight_bytes = {"bfloat16": 2, "float16": 2, "float32": 4}.get(str(model.dtype), 2 if is_half else 4)
    rows = training.per_device_train_batch_size
    assert training.steps_per_generation is not None and training.max_completion_length is not None
    checkpointing: Any = training.gradient_checkpointing_kwargs or {}
    return Workload(
        shape=shape,
        way=way,
        gpus=machines.gpus,
        gpu_memory=machines.gpu_memory_gib * GIB,
        prompt_tokens=prompt_tokens,
        max_completion_length=training.max_completion_length,
        per_device_train_batch_size=rows,
        rollout_rows=rows * training.steps_per_generation,
        max_tokens_per_micro_batch=training.max_tokens_per_micro_batch,
        divides_batches=not joins_rows(vars(training)),
        gradient_checkpointing=training.gradient_checkpointing,
        every_n_layers=checkpointing.get("every_n_layers", 1),
        offload=checkpointing.get("offload", False),
        weight_bytes=weight_bytes,
        is_half=is_half,
        optimizer=str(getattr(training.optim, "value", training.optim)),
        beta=training.beta,
        use_vllm=training.use_vllm and training.vllm_mode == "colocate",
        is_served=training.use_vllm and training.vllm_mode == "server",
        vllm_gpu_memory_utilization=training.vllm_gpu_memory_utilization,
        vllm_tensor_parallel_size=training.vllm_tensor_parallel_size,
        vllm_enable_sleep_mode=training.vllm_enable_sleep_mode,
    )


def _warnings(training: AdaptiveGRPOConfig, work: Sequence[Workload]) -> list[str]:
    if work[0].weight_bytes > 2 or training.learning_rate >= LOST_LEARNING_RATE or work[0].shape.frozen_parameters:
        return []
    ways = [each.way for each in work if WAYS[each.way].library in ("none", "ddp")]
    lost = (
        f"{' and '.join(ways)}: weights and moments stay in half precision, where steps of {training.learning_rate:g} "
        "round to nothing; set dtype: float32 (bf16: true computes in half precision all the same), or launch with "
        "zero1 to zero3 or fsdp2, which keep float32 weights"
    )
    return [lost] if ways else []


def _complaints(training: AdaptiveGRPOConfig, shape: ModelShape, machines: Machines, prompt_tokens: int) -> list[str]:
    found = []
    assert training.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
    row = prompt_tokens + training.max_completion_length
    try:
        check_room(shape.positions, prompt_tokens, training.max_completion_length)
    except ValueError as error:
        found.append(str(error))
    if training.use_vllm and training.vllm_mode == "colocate":
        parts, per_node = training.vllm_tensor_parallel_size, machines.gpus // machines.nodes
        if per_node % parts:
            found.append(f"vllm_tensor_parallel_size: {parts} does not divide the {per_node} GPUs of a machine")
        if shape.heads % parts:
            found.append(f"vllm_tensor_parallel_size: {parts} does not divide the model's {shape.heads} heads")
        if training.vllm_max_model_length is not None and training.vllm_max_model_length < row:
            found.append(
                f"vllm_max_model_length: {training.vllm_max_model_length} is less than {row}, a prompt and a full "
                "completion; raise it"
            )
    budget = training.max_tokens_per_micro_batch
    if budget is not None and budget < row:
        found.append(
            f"max_tokens_per_micro_batch: {budget} is less than one row of {row} tokens, so that a pass takes more; "
            "raise it, or count with the row"
        )
    return found


def _way_of(launch: str) -> str:
    """The way of launching that a file of Accelerate, or the name of one of ours, describes."""
    if launch in WAYS:
        return launch
    config = read_launch_file(launch)
    if "distributed_type" not in config:
        raise ValueError(
            f"launch: {launch!r} is no launch file of accelerate; give the path of one, or {', '.join(WAYS)}"
        )
    kind = str(config["distributed_type"])
    stage = (config.get("deepspeed_config") or {}).get("zero_stage")
    named = {"NO": "single_gpu", "MULTI_GPU": "ddp", "FSDP": "fsdp2", "DEEPSPEED": f"zero{stage}"}
    way = named.get(kind)
    if way not in WAYS:
        raise ValueError(
            f"launch: {launch!r} is of the type {kind} (stage {stage}), which is not planned; give another"
        )
    return way


__all__ = ["Machines", "Plan", "plan_recipe"]
