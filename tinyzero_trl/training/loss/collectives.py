"""What ranks must agree on when each cuts its rows into micro-batches: how many, how large, when to exchange."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from tinyzero_trl.replacing import replaced
from tinyzero_trl.training.trl_internals import set_sync_gradients


def largest_on_any_rank(accelerator: Accelerator, count: int) -> int:
    """The largest `count` among the ranks."""
    if accelerator.num_processes == 1:
        return count
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def summed_over_ranks(accelerator: Accelerator, rows: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Equally long lists of tuples, added up over the ranks."""
    if accelerator.num_processes == 1:
        return list(rows)
    summed = accelerator.reduce(torch.tensor(rows, device=accelerator.device), reduction="sum")
    return [tuple(row) for row in summed.tolist()]


@contextlib.contextmanager
def figures_of_unequal_rows(accelerator: Accelerator, length: int, *, is_dummy: bool) -> Iterator[None]:
    """Inside the context, the figures of TRL's loss are right where ranks have different numbers of rows, or none.

    - `accelerator.gather` takes vectors of different lengths, up to `length`. It needs equal shapes on all ranks, and
      TRL gathers one figure per row for the smallest and the largest clip ratio. What a rank lacks becomes NaN, which
      TRL's `nanmin` and `nanmax` pass over.
    - The figures of a dummy are no part of the result: NaN in `gather`, and 0 in the sums and counts of
      `accelerator.reduce`, which TRL divides by each other.

    Args:
        accelerator: the trainer's own, whose `gather` and `reduce` are wrapped for the time being.
        length: the longest vector that any rank can have.
        is_dummy: whether this rank's figures belong to no row of the batch.
    """
    if accelerator.num_processes == 1:
        yield
        return
    gather, reduce = accelerator.gather, accelerator.reduce

    def gather_padded(tensor: Tensor) -> Tensor:
        if tensor.dim() == 1:
            tensor = torch.full_like(tensor, torch.nan) if is_dummy else tensor
            tensor = nn.functional.pad(tensor, (0, length - len(tensor)), value=torch.nan)
        return gather(tensor)

    def reduce_without_dummies(tensor: Tensor, *args: Any, **options: Any) -> Any:
        return reduce(torch.zeros_like(tensor) if is_dummy else tensor, *args, **options)

    with replaced(accelerator, "gather", gather_padded), replaced(accelerator, "reduce", reduce_without_dummies):
        yield


@contextlib.contextmanager
def accumulating_only(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Inside the context, backward passes add to the gradients of this rank and exchange nothing.

    The first backward pass outside of it that synchronises exchanges the whole sum.
    """
    state = accelerator.gradient_state
    synchronises = state.sync_gradients
    # Before the last micro-batch Trainer has entered no_sync itself, and FSDP2's must not be left twice. DeepSpeed
    # goes by the flag alone, as Trainer lets it.
    is_entered = not (synchronises or state.plugin_kwargs.get("sync_each_batch", False))
    needs_flag_only = is_entered or accelerator.distributed_type == DistributedType.DEEPSPEED
    set_sync_gradients(accelerator, False)
    try:
        with contextlib.nullcontext() if needs_flag_only else accelerator.no_sync(model):
            yield
    finally:
        set_sync_gradients(accelerator, synchronises)


def propagate(accelerator: Accelerator, loss: Tensor) -> None:
    """Backward as `Trainer.training_step` does it, for a loss that is already divided by the accumulation steps."""
    # DeepSpeed would divide by the accumulation steps once more.
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    accelerator.backward(loss, **({"scale_wrt_gas": False} if is_deepspeed else {}))
