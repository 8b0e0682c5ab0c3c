"""A task's score in TRL's reward-function signature, and the optional cosine shaping.

The score always comes first in the list that `reward_functions` returns: it is what window policies, metrics and
evaluation call success. With shaping, the score keeps weight 0 and the model learns from the shaped reward alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyzero_trl.tasks.datasets import from_columns, scored
from tinyzero_trl.tasks.registry import get_task
from tinyzero_trl.tasks.task import Task
from tinyzero_trl.windows.outcomes import FULL_REWARD, is_success

RewardFunction = Callable[..., list[float]]


@dataclass(frozen=True)
class CosineShaping:
    """Length-dependent reward of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, section 4.2).

    Between length 0 and `max_completion_length` the reward follows half a cosine from its value at zero to its value
    at the maximum, for right and for wrong answers each; a completion that reaches the maximum gets `over_length`.
    The maximum is the configured one, whatever the rollout window is at the time.
    """

    max_completion_length: int
    correct_at_zero: float = 2.0
    correct_at_max: float = 1.0
    wrong_at_zero: float = -10.0
    wrong_at_max: float = 0.0
    over_length: float = -10.0

    def reward(self, correct: bool, length_tokens: int) -> float:
        """Shaped reward of one completion of `length_tokens` tokens."""
        if length_tokens >= self.max_completion_length:
            return self.over_length
        at_zero, at_max = (
            (self.correct_at_zero, self.correct_at_max) if correct else (self.wrong_at_zero, self.wrong_at_max)
        )
        fall = 0.5 * (1 + math.cos(math.pi * length_tokens / self.max_completion_length))
        return at_max + (at_zero - at_max) * fall


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion, conversational or not."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def reward_functions(
    task: str | Task, shaping: CosineShaping | None = None, success_threshold: float = FULL_REWARD
) -> tuple[list[RewardFunction], list[float] | None]:
    """The reward functions of a task and their weights (None where each counts once), in TRL's terms.

    The dataset must have the columns of the task, as `tasks.datasets.to_dataset` makes them. Shaping pays a completion
    as a right one from a score of `success_threshold` on, which is the run's `window_success_threshold`.
    """
    judge = get_task(task)

    def score(
        completions: Sequence[Any], log_extra: Callable[[str, list[Any]], None] | None = None, **columns: Any
    ) -> list[float]:
        rows = zip(completions, from_columns(judge, columns), strict=True)
        scores = [scored(judge, completion_text(completion), example) for completion, example in rows]
        if log_extra is not None:
            log_extra("reason", [each.reason for each in scores])
        return [each.reward for each in scores]

    if shaping is None:
        return [score], None

    def cosine(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        columns.pop("log_extra", None)
        correct = score(completions, **columns)
        return [
            shaping.reward(is_success(reward, success_threshold), len(ids))
            for reward, ids in zip(correct, completion_ids, strict=True)
        ]

    return [score, cosine], [0.0, 1.0]
