"""How the rows of a batch were scored, on this rank and over all ranks."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from tinyzero_trl.metrics import Label, as_label
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.callbacks.events import Rollout
from tinyzero_trl.training.config import optimizer_steps_per_rollout
from tinyzero_trl.windows import RolloutObservation
from tinyzero_trl.windows.outcomes import as_reward

logger = logging.getLogger(__name__)

SAMPLED_COMPLETIONS = 8


@dataclass(frozen=True)
class ScoredRows:
    """The rows of the batch being generated: N of this rank, and the rewards of all ranks (B rows).

    The score is the reward of the first function: what policies, metrics and evaluation call success.
    """

    lengths: list[int]
    truncated: list[bool]
    difficulties: list[Label]
    rewards: list[float | None]
    samples: list[dict[str, Any]]


def score_rows(
    trainer: Any,
    rewards_per_func: Tensor,
    inputs: Sequence[dict[str, Any]],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[list[int]],
    reasons: Sequence[Sequence[Any]] = (),
) -> ScoredRows:
    """What is known of each row once TRL has called the reward functions.

    Args:
        trainer: an `AdaptiveGRPOTrainer`, asked for its rank, its mode and where completions end.
        rewards_per_func: (B of all ranks, reward functions); the first is the score. What is not finite is no score:
            NaN in the result, which counts as neither success nor failure.
        inputs: the examples of this rank's N rows.
        prompts: N texts or conversations.
        completions: N texts or conversations.
        completion_ids: N lists of tokens.
        reasons: what reward functions have logged as `reason`, call by call.
    """
    first = trainer.accelerator.process_index * len(prompts)
    local = slice(first, first + len(prompts))
    rewards = scores(rewards_per_func)
    lengths = [len(ids) for ids in completion_ids]
    truncated = [trainer.rollouts.ends.is_cut(ids) for ids in completion_ids]
    difficulties = [as_label(row.get("difficulty")) for row in inputs]
    columns: dict[str, Sequence[Any]] = {
        "source": ["train" if trainer.model.training else "eval"] * len(prompts),
        "prompt": [completion_text(prompt) for prompt in prompts],
        "completion": [completion_text(completion) for completion in completions],
        "reward": rewards[local],
        "reason": _reason_of_each_row(reasons, len(prompts), functions=rewards_per_func.size(1)),
        "length": lengths,
        "truncated": truncated,
        "difficulty": difficulties,
    }
    samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return ScoredRows(lengths, truncated, difficulties, rewards, samples)


def _reason_of_each_row(calls: Sequence[Sequence[Any]], rows: int, *, functions: int) -> Sequence[Any]:
    """Reasons of the first function that gave one for each row; empty where nothing says of which rows they are.

    One function alone may give them in several calls.
    """
    one_by_one = [[reason for values in calls for reason in values]] if functions == 1 else []
    for values in (*calls, *one_by_one):
        if len(values) == rows:
            return values
    if calls:
        _warn_of_reasons()
    return [""] * rows


@cache
def _warn_of_reasons() -> None:
    """Once in a process."""
    logger.warning(
        "log_extra: no reward function gave a reason for each completion, so that samples of these completions have "
        "none; give as many values as there are completions"
    )


def scores(rewards_per_func: Tensor) -> list[float | None]:
    """The rewards of the first function, (B,): None where it gave no finite number, so that nothing was judged."""
    return [as_reward(reward) for reward in rewards_per_func[:, 0].tolist()]


def gather_rollout(
    trainer: Any, scored: ScoredRows, prompt_lengths: Tensor, *, window: int, duration_s: float
) -> Rollout:
    """The batch over all ranks, in the order in which TRL groups it; every rank must call it.

    Args:
        trainer: an `AdaptiveGRPOTrainer`, asked for its accelerator, its step, its groups and how a rollout is used.
        scored: this rank's rows.
        prompt_lengths: (N,), in tokens.
        window: completion tokens that the rollout could use.
        duration_s: how long it took.
    """
    local = torch.tensor([scored.lengths, scored.truncated], device=prompt_lengths.device)
    lengths, truncated, prompts = gather_columns(trainer, torch.cat([local, prompt_lengths.unsqueeze(0)]))
    difficulties = gather_object(scored.difficulties)  # text cannot be a tensor
    facts = trainer.groups.facts()
    return Rollout(
        observation=observation_of(trainer, lengths, truncated, scored.rewards, window=window, **facts),
        prompt_lengths=prompts,
        difficulties=difficulties if any(difficulties) else None,
        duration_s=duration_s,
        samples=scored.samples[:SAMPLED_COMPLETIONS],
    )


def gather_columns(trainer: Any, columns: Tensor) -> list[list[int]]:
    """K figures of this rank's N rows, (K, N), as K lists over the rows of all ranks; every rank must call it."""
    gathered: list[list[int]] = trainer.accelerator.gather(columns.T.contiguous()).T.tolist()
    return gathered


def observation_of(
    trainer: Any,
    lengths: Sequence[int],
    truncated: Sequence[int],
    rewards: Sequence[float | None],
    *,
    window: int,
    **facts: Any,
) -> RolloutObservation:
    """What a window policy learns from a rollout of any `trl.GRPOTrainer`.

    Args:
        trainer: asked for its step, the size of its groups and how a rollout is used.
        lengths: tokens of the completions of all ranks, (B,).
        truncated: whether each was cut, (B,).
        rewards: scores, (B,).
        window: completion tokens that the rollout could use.
        **facts: further fields of the observation.
    """
    return RolloutObservation(
        step=trainer.state.global_step,
        window=window,
        lengths=lengths,
        rewards=rewards,
        truncated=[bool(cut) for cut in truncated],
        groups=[row // trainer.num_generations for row in range(len(lengths))],
        optimizer_steps=optimizer_steps_per_rollout(trainer.args),
        **facts,
    )


def prompt_key(prompt: Any) -> str:
    """The same for every visit of a prompt, text or conversation, and hardly ever for two prompts."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
