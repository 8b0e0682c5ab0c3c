"""What a trainer that is measured was shown, and how many tokens its training passes take."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer


@dataclass
class SeenCompletions:
    """What the reward function was shown, for the proof that both trainers saw the same."""

    lengths: list[list[int]] = field(default_factory=list)
    first_rollout: list[list[int]] = field(default_factory=list)
    prompts: list[list[str]] = field(default_factory=list)

    def recording(self, rewards: list[float]) -> Callable[..., list[float]]:
        """A reward function that pays by place and remembers what it was shown."""

        def reward_by_place(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
            assert len(completion_ids) == len(rewards)
            self.first_rollout = self.first_rollout or completion_ids
            self.lengths.append([len(ids) for ids in completion_ids])
            self.prompts.append(prompts)
            return rewards

        return reward_by_place

    def processed_tokens(self, lengths: list[int], rewards: list[float], trainer: Any, num_generations: int) -> float:
        """Tokens in the training passes of a measured step, the median; the first step warms up."""
        leaves_out = isinstance(trainer, AdaptiveGRPOTrainer)
        widths = [[len(ids) for ids in trainer.processing_class(prompts).input_ids] for prompts in self.prompts[1:]]
        rows = ([*map(sum, zip(prompts, lengths, strict=True))] for prompts in widths)
        return median(tokens_in_passes(each, rewards, num_generations, leaves_out=leaves_out) for each in rows)


def tokens_in_passes(rows: list[int], rewards: list[float], num_generations: int, *, leaves_out: bool) -> int:
    """Tokens that training passes take, without padding.

    Args:
        rows: tokens of each, prompt and completion.
        rewards: of each row.
        num_generations: rows of a group.
        leaves_out: whether groups of equal rewards, whose advantage is 0, are left out, as ours are.
    """
    groups = [slice(first, first + num_generations) for first in range(0, len(rows), num_generations)]
    return sum(sum(rows[each]) for each in groups if not leaves_out or len(set(rewards[each])) > 1)
