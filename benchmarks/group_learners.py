"""Learners whose prompts differ: hopeless, easy and late ones, with lengths of their own, drifting as they learn.

Every prompt has a type, and a success probability that is Beta-distributed around its type's. A completion of it is
right or wrong; right ones have log-normal lengths, wrong ones end after a log-normal length or loop to the maximum. The
drift depends on the rollout number alone, so that every rule meets the same learner and the same completions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from window_learners import between

MAXIMUM = 1024
GROUP = 8
_CONCENTRATION = 3.0  # of the Beta distribution within a type


@dataclass(frozen=True)
class PromptType:
    """What prompts of one type do at one moment.

    Attributes:
        share: of the prompts.
        success: mean probability that a completion is right, given all the tokens it wants.
        success_tokens: median length of right completions.
        success_spread: standard deviation of the logarithm of that length.
        looping: share of the wrong completions that never end.
        failure_tokens: median length of wrong completions that end.
        failure_spread: standard deviation of the logarithm of that length.
    """

    share: float
    success: float
    success_tokens: float
    success_spread: float
    looping: float
    failure_tokens: float
    failure_spread: float


@dataclass(frozen=True)
class Rollout:
    """Groups in full: (N, GROUP) outcomes and lengths without a limit, (N,) types and prompts."""

    right: NDArray[np.bool_]
    length: NDArray[np.int64]
    kind: NDArray[np.int64]
    prompt: NDArray[np.int64]


@dataclass(frozen=True)
class Scenario:
    """A learner's life: the types of its prompts by progress from 0 to 1. With `recurring` prompts come again."""

    name: str
    types: Callable[[float], list[PromptType]]
    has_labels: bool = False
    recurring: bool = False

    def pool(self, count: int, generator: np.random.Generator) -> "Pool":
        """`count` prompts: of each its type, and its place among the prompts of that type."""
        shares = [each.share for each in self.types(0.0)]
        return Pool(generator.choice(len(shares), size=count, p=shares), generator.random(count))


@dataclass(frozen=True)
class Pool:
    """Prompts: (P,) types, and quantiles of their success probability within the type."""

    kind: NDArray[np.int64]
    quantile: NDArray[np.float64]


def rollout(types: list[PromptType], pool: Pool, prompts: NDArray[np.int64], generator: np.random.Generator) -> Rollout:
    """Sample a group for each of `prompts`, (N,) places in the pool."""
    kind = pool.kind[prompts]

    def of(name: str) -> NDArray[np.float64]:
        return np.array([getattr(each, name) for each in types])[kind][:, None]

    chance = _beta_quantile(of("success")[:, 0], pool.quantile[prompts])[:, None]
    shape = (len(prompts), GROUP)
    right = generator.random(shape) < chance
    wanted = of("success_tokens") * np.exp(of("success_spread") * generator.standard_normal(shape))
    failing = of("failure_tokens") * np.exp(of("failure_spread") * generator.standard_normal(shape))
    failing = np.where(generator.random(shape) < of("looping"), 1e9, failing)
    length = np.maximum(1, np.ceil(np.where(right, wanted, failing)))
    return Rollout(right, length.astype(np.int64), kind, prompts)


def _beta_quantile(mean: NDArray[np.float64], quantile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of Beta(3 m, 3 (1 - m)), from a grid; 0 where the mean is 0."""
    grid = (np.arange(400) + 0.5) / 400
    result = np.zeros(len(mean))
    for value in np.unique(mean):
        if value > 0:
            a, b = _CONCENTRATION * value, _CONCENTRATION * (1 - value)
            cumulative = np.cumsum(np.exp((a - 1) * np.log(grid) + (b - 1) * np.log(1 - grid)))
            chosen = mean == value
            result[chosen] = np.interp(quantile[chosen], cumulative / cumulative[-1], grid)
    return result


def _demo(progress: float) -> list[PromptType]:
    """Short successes, half of the prompts hopeless: today's demo, which learns to answer more and longer."""
    return [
        PromptType(0.5, between(0.2, 0.45, progress), between(70, 90, progress), 0.5, 0.2, 90, 0.6),
        PromptType(0.5, 0.0, 1, 0.1, between(0.5, 0.3, progress), 150, 0.8),
    ]


def _many(hopeless: PromptType, progress: float) -> list[PromptType]:
    return [
        PromptType(0.25, between(0.5, 0.75, progress), 60, 0.4, 0.2, 80, 0.5),
        PromptType(0.25, between(0.35, 0.55, progress), 220, 0.35, 0.2, 250, 0.5),
        PromptType(0.25, between(0.25, 0.5, progress), between(650, 550, progress), 0.25, 0.3, 650, 0.4),
        hopeless,
    ]


def _fail_early(progress: float) -> list[PromptType]:
    """Many lengths; hopeless prompts partly fail early."""
    return _many(PromptType(0.25, 0.0, 1, 0.1, 0.5, 150, 0.8), progress)


def _look_late(progress: float) -> list[PromptType]:
    """Many lengths; hopeless prompts look like late ones."""
    return _many(PromptType(0.25, 0.0, 1, 0.1, 0.9, 650, 0.4), progress)


def _emerging(progress: float) -> list[PromptType]:
    """A third of the prompts is hopeless at first, and is answered late in the second half."""
    hope = between(0.0, 0.5, max(0.0, 2 * progress - 1))
    return [
        PromptType(0.65, between(0.4, 0.6, progress), 80, 0.4, 0.2, 90, 0.5),
        PromptType(0.35, hope if hope > 0.01 else 0.0, 500, 0.3, 0.5, 300, 0.6),
    ]


def _mostly_easy(progress: float) -> list[PromptType]:
    """Nearly everything is solved, and lengths shrink."""
    return [
        PromptType(0.8, between(0.6, 0.95, progress), between(200, 120, progress), 0.4, 0.3, 220, 0.5),
        PromptType(0.2, between(0.3, 0.7, progress), between(400, 300, progress), 0.3, 0.5, 400, 0.5),
    ]


def _with_knowledge(name: str, types: Callable[[float], list[PromptType]]) -> tuple[Scenario, ...]:
    return (
        Scenario(name, types),
        Scenario(f"{name}, label", types, has_labels=True),
        Scenario(f"{name}, recurring", types, recurring=True),
    )


SCENARIOS = (
    *_with_knowledge("short successes, half hopeless", _demo),
    *_with_knowledge("many lengths, failing early", _fail_early),
    *_with_knowledge("many lengths, looking late", _look_late),
    Scenario("hopeless, then late", _emerging),
    Scenario("mostly easy", _mostly_easy),
)
