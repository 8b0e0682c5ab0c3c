"""What a success is: the one definition behind policies, figures, pages, filters and evaluations."""

import math
from collections.abc import Iterable
from ctypes import c_float

FULL_REWARD = 1.0
"""Reward of a right answer, and the threshold of a success unless a run sets another."""


def as_reward(reward: float | None) -> float | None:
    """What a task or a reward function gave, as records have it: None where it is no finite number, so not judged."""
    return float(reward) if reward is not None and math.isfinite(reward) else None


def is_judged(reward: float | None) -> bool:
    """Whether a completion has a score: None and NaN say that the reward function gave none."""
    return reward is not None and not math.isnan(reward)


def is_success(reward: float | None, threshold: float = FULL_REWARD) -> bool:
    """Whether a completion is a success ("correct"): it was judged, and its reward is at least `threshold`.

    Both count as 32-bit numbers, as which TRL keeps rewards: a reward of 0.9 reaches a threshold of 0.9 wherever it is
    compared, though the nearest 32-bit number to 0.9 is smaller.
    """
    return reward is not None and c_float(float(reward)).value >= c_float(threshold).value


def outcomes(rewards: Iterable[float | None], threshold: float = FULL_REWARD) -> list[bool | None]:
    """Success or not of every completion, in order; None where a completion was not judged."""
    return [is_success(reward, threshold) if is_judged(reward) else None for reward in rewards]
