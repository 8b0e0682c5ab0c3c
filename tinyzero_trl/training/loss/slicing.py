"""Rows of a padded batch, taken out, trimmed and joined: tensor slices, pure PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tinyzero_trl.training.loss.micro_batches import MicroBatch


def take(
    inputs: Mapping[str, Any],
    micro_batch: MicroBatch,
    *,
    trim_prompts: bool,
    trim_completions: bool = True,
    multiple_of: int = 1,
) -> dict[str, Any]:
    """The rows of `micro_batch`, trimmed to its longest prompt and completion.

    Of the tensors with one row per completion, (B, P) ones named `prompt_*` lose padding on the left and
    (B, C) ones on the right; (B,) and (B, 1) ones have none to lose.

    Args:
        inputs: what TRL's trainer hands to its loss.
        micro_batch: rows measured in `inputs`.
        trim_prompts: False keeps the left padding, for models with absolute positions.
        trim_completions: False keeps the right padding, for models whose positions depend on the width.
        multiple_of: widths are rounded up to a multiple of this, as far as `inputs` are wide.
    """
    prompt_width, completion_width = inputs["prompt_ids"].size(1), inputs["completion_ids"].size(1)
    prompt_kept = _round_up(micro_batch.prompt_width, multiple_of, prompt_width) if trim_prompts else prompt_width
    completion_kept = (
        _round_up(micro_batch.completion_width, multiple_of, completion_width) if trim_completions else completion_width
    )

    def trim(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        if name.startswith("prompt_"):
            return value[:, prompt_width - prompt_kept :]
        return value[:, :completion_kept] if value.size(1) == completion_width else value

    taken = select_rows({name: trim(name, value) for name, value in inputs.items()}, micro_batch.indices)
    if micro_batch.is_dummy:
        taken["completion_mask"] = torch.zeros_like(taken["completion_mask"])
    return taken


def select_rows(inputs: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """Index every tensor and list that has one entry per row; whatever else there is stays as it is."""
    batch_rows = len(inputs["prompt_ids"])
    on_device = torch.tensor(indices, device=inputs["prompt_ids"].device)

    def select(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() and value.size(0) == batch_rows:
            return value.index_select(0, on_device)
        is_per_row = isinstance(value, list) and len(value) == batch_rows
        return [value[index] for index in indices] if is_per_row else value

    return {name: select(value) for name, value in inputs.items()}


def concatenate(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join micro-batches of one generation batch row after row; they share their padding and their scalars."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            return [item for value in values for item in value]
        return torch.cat(values) if isinstance(values[0], Tensor) and values[0].dim() else values[0]

    return {name: join([batch[name] for batch in batches]) for name in batches[0]}


def _round_up(width: int, multiple_of: int, limit: int) -> int:
    return min(-(-width // multiple_of) * multiple_of, limit)
