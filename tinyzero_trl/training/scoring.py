"""How the rows of a batch were scored, on this rank and over all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.callbacks.events import Rollout
from tinyzero_trl.windows import RolloutObservation

SAMPLED_COMPLETIONS = 8


@dataclass(frozen=True)
class ScoredRows:
    """The rows of the batch being generated: N of this rank, and the rewards of all ranks (B rows).

    The score is the reward of the first function: what policies, metrics and evaluation call success.
    """

    lengths: list[int]
    truncated: list[bool]
    difficulties: list[int]
    rewards: list[float]
    samples: list[dict[str, Any]]


def score_rows(
    rewards_per_func: Tensor,
    inputs: Sequence[dict[str, Any]],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[list[int]],
    *,
    reasons: Sequence[str],
    is_truncated: Callable[[list[int], Any], bool],
    process_index: int,
    source: str,
) -> ScoredRows:
    """What is known of each row once TRL has called the reward functions.

    Args:
        rewards_per_func: (B of all ranks, reward functions); the first is the score, and no number is no success.
        inputs: the examples of this rank's N rows.
        prompts: N texts or conversations.
        completions: N texts or conversations.
        completion_ids: N lists of tokens.
        reasons: what reward functions logged as `reason`; those of the first come first, and there may be none.
        is_truncated: whether a completion was cut at the limit.
        process_index: which of the ranks this is.
        source: `train` or `eval`.
    """
    local = slice(process_index * len(prompts), (process_index + 1) * len(prompts))
    rewards: list[float] = rewards_per_func[:, 0].nan_to_num(0.0, posinf=0.0, neginf=0.0).tolist()
    lengths = [len(ids) for ids in completion_ids]
    truncated = [is_truncated(ids, text) for ids, text in zip(completion_ids, completions, strict=True)]
    difficulties = [_whole_number(row.get("difficulty")) for row in inputs]
    columns: dict[str, Sequence[Any]] = {
        "source": [source] * len(prompts),
        "prompt": [completion_text(prompt) for prompt in prompts],
        "completion": [completion_text(completion) for completion in completions],
        "reward": rewards[local],
        "reason": reasons[: len(prompts)] or [""] * len(prompts),
        "length": lengths,
        "truncated": truncated,
        "difficulty": difficulties,
    }
    samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return ScoredRows(lengths, truncated, difficulties, rewards, samples)


def gather_rollout(
    accelerator: Accelerator,
    scored: ScoredRows,
    prompt_lengths: Tensor,
    *,
    step: int,
    window: int,
    num_generations: int,
    optimizer_steps: int,
    duration_s: float,
) -> Rollout:
    """The batch over all ranks, in the order in which TRL groups it; every rank must call it.

    Args:
        accelerator: the trainer's own.
        scored: this rank's rows.
        prompt_lengths: (N,), in tokens.
        step: optimizer steps taken so far.
        window: completion tokens that the rollout could use.
        num_generations: rows of a group.
        optimizer_steps: optimizer steps that are taken on this rollout.
        duration_s: how long it took.
    """
    local = torch.tensor([scored.lengths, scored.truncated, scored.difficulties], device=prompt_lengths.device)
    table = accelerator.gather(torch.cat([local, prompt_lengths.unsqueeze(0)]).T.contiguous())  # (B, 4)
    lengths, truncated, difficulties, prompts = table.T.tolist()
    observation = RolloutObservation(
        step=step,
        window=window,
        lengths=lengths,
        rewards=scored.rewards,
        truncated=[bool(cut) for cut in truncated],
        groups=[row // num_generations for row in range(len(lengths))],
        optimizer_steps=optimizer_steps,
    )
    return Rollout(
        observation=observation,
        prompt_lengths=prompts,
        difficulties=difficulties if any(difficulties) else None,
        duration_s=duration_s,
        samples=scored.samples[:SAMPLED_COMPLETIONS],
    )


def _whole_number(difficulty: Any) -> int:
    """Operands of an example, 0 where they are not counted: a column of a user's own may hold anything."""
    return difficulty if type(difficulty) is int and difficulty > 0 else 0
