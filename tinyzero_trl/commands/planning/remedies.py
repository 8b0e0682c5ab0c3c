"""What to change where a run does not fit, found by trying the changes on the memory arithmetic."""

import math
from dataclasses import replace
from typing import Any

from tinyzero_trl.commands.planning.memory import WAYS, MemoryPlan, Workload, memory_plan

_Change = tuple[str, dict[str, Any]]  # what to write, and the fields of a workload that it changes


def with_remedies(plan: MemoryPlan) -> MemoryPlan:
    """The plan, and if it does not fit: every single change that makes it fit, or the first sum of them that does."""
    if plan.fits:
        return plan
    changes = [change for change in _changes(plan.workload) if change is not None]
    alone = [text for text, changed in changes if memory_plan(replace(plan.workload, **changed)).fits]
    if alone:
        return replace(plan, remedies=alone)
    work, together = plan.workload, []
    for text, changed in changes:
        work = replace(work, **changed)
        together.append(text)
        if memory_plan(work).fits:
            return replace(plan, remedies=[" and ".join(together)])
    more = "use_peft: true trains an adapter alone; else more GPUs under zero3, larger ones, or a smaller model"
    return replace(plan, remedies=[more])


def _changes(work: Workload) -> list[_Change | None]:
    """Changes to one recipe field or to the way of launching, the cheapest first."""
    changes: list[_Change | None] = []
    if not work.gradient_checkpointing:
        changes.append(("gradient_checkpointing: true", {"gradient_checkpointing": True}))
    changes.append(_smaller_passes(work))
    if work.use_vllm:
        changes.append(_vllm_share(work))
        if not work.vllm_enable_sleep_mode:
            changes.append(("vllm_enable_sleep_mode: true", {"vllm_enable_sleep_mode": True}))
    elif work.per_device_train_batch_size > 1:
        half, rows = work.per_device_train_batch_size // 2, math.ceil(work.rollout_rows / 2)
        text = f"per_device_train_batch_size: {half} (half the rollout)"
        changes.append((text, {"per_device_train_batch_size": half, "rollout_rows": rows}))
    if work.beta > 0 and not work.shape.frozen_parameters:
        changes.append(("beta: 0 (no reference model)", {"beta": 0.0}))
    if work.gpus > 1 and not WAYS[work.way].weights:
        further = ("zero3",) if work.way == "zero2" else ("zero2", "zero3")
        changes += [(f"launch with {way}", {"way": way}) for way in further]
    return changes


def _smaller_passes(work: Workload) -> _Change | None:
    """The largest budget that fits, at most half of today's passes; without one, a single row in a pass."""
    if not work.divides_batches:
        return None
    budget = work.pass_positions // 2
    while budget > work.row_tokens:
        if memory_plan(replace(work, max_tokens_per_micro_batch=budget)).fits:
            break
        budget //= 2
    budget = max(budget, work.row_tokens)
    if budget >= work.pass_positions:
        return None
    return f"max_tokens_per_micro_batch: {budget}", {"max_tokens_per_micro_batch": budget}


def _vllm_share(work: Workload) -> _Change | None:
    """Another share for vLLM: as much as fits beside the training, if its cache then holds a row."""
    free = work.gpu_memory - memory_plan(replace(work, vllm_gpu_memory_utilization=0.0)).peak
    share = math.floor(20 * free / work.gpu_memory) / 20  # in steps of 0.05
    if share <= 0 or share == work.vllm_gpu_memory_utilization:
        return None
    return f"vllm_gpu_memory_utilization: {share:.2f}", {"vllm_gpu_memory_utilization": share}
