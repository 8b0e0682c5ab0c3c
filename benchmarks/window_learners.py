"""Learners whose length and success distributions are known, and drift as they learn: the truth behind a simulation.

A learner answers prompts of five levels of difficulty. With probability p (higher for easy prompts) a completion is
right and its length is log-logistic; otherwise it rambles on without an end, or ends wrong after a log-logistic
length of its own. The drift depends on the rollout number alone, so that every policy, and the oracle, meets the same
learner and only the windows differ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyzero_trl.windows import RolloutObservation

_EASE = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # of the five levels, in log-odds of success
_LENGTH_PER_EASE = -0.12  # log length; easy prompts are answered in fewer tokens


@dataclass(frozen=True)
class Learner:
    """The distributions at one moment.

    Attributes:
        success: probability that a completion of middling difficulty is right, given all the tokens it wants.
        success_tokens: median length of right completions.
        failure_tokens: median length of wrong completions that end.
        rambling: share of the wrong completions that never end.
        shape: of the log-logistic lengths; larger is narrower.
    """

    success: float
    success_tokens: float
    failure_tokens: float
    rambling: float
    shape: float = 5.0

    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Success probability and median success length, (5,) each."""
        log_odds = math.log(self.success / (1 - self.success)) + _EASE
        return 1 / (1 + np.exp(-log_odds)), self.success_tokens * np.exp(_LENGTH_PER_EASE * _EASE)

    def success_by(self, largest: int) -> np.ndarray:
        """Probability of success within w tokens, for each level of difficulty and w = 0 .. largest: (5, W)."""
        success, median = (values[:, None] for values in self._levels())
        return success * _log_logistic_cdf(np.arange(largest + 1)[None, :], median, self.shape)

    def truth(self, largest: int) -> "Truth":
        """S(w), Q(w) and C(w) for w = 0 .. largest."""
        success = self._levels()[0][:, None]  # (5, 1)
        tokens = np.arange(largest + 1)[None, :]  # (1, W)
        right = self.success_by(largest)  # (5, W)
        ended_wrong = (1 - success) * (1 - self.rambling)
        ended = right + ended_wrong * _log_logistic_cdf(tokens, self.failure_tokens, self.shape)
        unfinished = 1 - ended.mean(axis=0)
        cost = np.concatenate(([0.0], np.cumsum(unfinished)[:-1]))
        return Truth(right.mean(axis=0), (right**2).mean(axis=0), cost)

    def rollout(
        self, step: int, window: int, prompts: int, group_size: int, generator: np.random.Generator
    ) -> RolloutObservation:
        """Sample `prompts` groups of completions under a window."""
        levels = np.repeat(generator.integers(0, len(_EASE), prompts), group_size)
        success, median = (values[levels] for values in self._levels())
        right = generator.random(levels.shape) < success
        rambles = ~right & (generator.random(levels.shape) < self.rambling)
        uniform = generator.random(levels.shape)
        wanted = np.where(right, median, self.failure_tokens) * (uniform / (1 - uniform)) ** (1 / self.shape)
        truncated = rambles | (wanted > window)
        lengths = np.where(truncated, window, np.ceil(np.maximum(wanted, 1e-9))).astype(int)
        rewards = (right & ~truncated).astype(float)
        groups = np.repeat(np.arange(prompts), group_size)
        return RolloutObservation(step, window, lengths.tolist(), rewards.tolist(), truncated.tolist(), groups.tolist())


@dataclass(frozen=True)
class Truth:
    """Success, success of a pair of one prompt, and tokens per completion, by window 0 .. max: (W,) each."""

    success: np.ndarray
    pair_success: np.ndarray
    cost: np.ndarray

    def best_window(self, smallest: int, slack: float) -> int:
        """The window with the most signal per token among those that keep (1 - slack) of the success at max."""
        windows = np.arange(len(self.cost))
        allowed = (windows >= smallest) & (self.success >= (1 - slack) * self.success[-1])
        signal_per_token = (self.success - self.pair_success)[allowed] / self.cost[allowed]
        return int(windows[allowed][np.argmax(signal_per_token)])


@dataclass(frozen=True)
class Scenario:
    """A learner's life: `learner(progress)` for progress from 0 to 1, and the windows that a user would set."""

    name: str
    initial: int
    largest: int
    learner: Callable[[float], Learner]


def _log_logistic_cdf(tokens: np.ndarray, median: np.ndarray | float, shape: float) -> np.ndarray:
    return 1 / (1 + (median / np.maximum(tokens, 1e-9)) ** shape)


def between(start: float, end: float, progress: float) -> float:
    """A smooth path from start to end."""
    return start + (end - start) * progress * progress * (3 - 2 * progress)


def _short_answers(progress: float) -> Learner:
    return Learner(
        success=between(0.35, 0.93, progress),
        success_tokens=between(220, 120, progress),
        failure_tokens=between(400, 200, progress),
        rambling=between(0.3, 0.05, progress),
    )


def _long_answers(progress: float) -> Learner:
    return Learner(
        success=between(0.4, 0.9, progress),
        success_tokens=between(250, 800, progress),
        failure_tokens=between(300, 900, progress),
        rambling=between(0.1, 0.2, progress),
    )


def _needs_growth(progress: float) -> Learner:
    return Learner(
        success=between(0.5, 0.92, progress),
        success_tokens=between(700, 600, progress),
        failure_tokens=between(800, 700, progress),
        rambling=0.1,
    )


def _rambling_collapse(progress: float) -> Learner:
    learnt, lost = min(progress / 0.4, 1.0), max((progress - 0.5) / 0.5, 0.0)
    return Learner(
        success=between(0.5, 0.9, learnt) - between(0.0, 0.6, lost),
        success_tokens=between(200, 240, learnt),
        failure_tokens=between(300, 400, lost),
        rambling=between(0.1, 0.8, lost),
    )


SCENARIOS = (
    Scenario("short answers", initial=1024, largest=2048, learner=_short_answers),
    Scenario("long answers", initial=1024, largest=2048, learner=_long_answers),
    Scenario("needs growth", initial=128, largest=2048, learner=_needs_growth),
    Scenario("rambling collapse", initial=1024, largest=2048, learner=_rambling_collapse),
)
