"""What a window policy sees, and what every policy must be able to do.

A policy is state plus arithmetic: no clock, no global, no thread, random numbers from its own seeded
generator alone. The same configuration and the same observations therefore give the same windows on every
rank and after every resume.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, Generic, TypeVar

from tinyzero_trl.windows.config import WindowConfig
from tinyzero_trl.windows.outcomes import is_judged, is_success
from tinyzero_trl.windows.own_policies import checked_figures

ConfigT = TypeVar("ConfigT", bound=WindowConfig)
_COLUMNS = ("lengths", "rewards", "truncated", "groups")
_PROMPT_COLUMNS = ("labels", "prompt_keys")


@dataclass(frozen=True, slots=True)
class RolloutObservation:
    """One generation batch over all ranks, B completions; the order of the completions carries no meaning.

    Attributes:
        step: training step at which the batch was generated, from 0.
        window: completion tokens that were allowed when it was generated.
        lengths: (B,) completion lengths in tokens, end token included.
        rewards: (B,) rewards; a completion is a success from the policy's `success_threshold` on. None (or NaN) where
            a completion was not judged: see `judged`.
        truncated: (B,) True where the window cut the completion, so that its length is right-censored: the
            model would have written more. An end token exactly at the limit is not truncated.
        groups: (B,) the prompt that a completion belongs to, as any integer that is unique within the batch.
        optimizer_steps: training steps that are taken on the batch, before the next one is generated.
        labels: (B,) what is known of the prompts beforehand, such as their difficulty; empty where there are none.
        prompt_keys: (B,) the same for every visit of a prompt, such as a hash of it; empty where there are none.
        timings: of the stages of the rollout: (steps, sum of the rows over these steps, seconds).

    Raises:
        ValueError: the sequences differ in length, or a number is negative.
    """

    step: int
    window: int
    lengths: Sequence[int]
    rewards: Sequence[float | None]
    truncated: Sequence[bool]
    groups: Sequence[int]
    optimizer_steps: int = 1
    labels: Sequence[str] = ()
    prompt_keys: Sequence[str] = ()
    timings: Sequence[tuple[int, int, float]] = ()

    def __post_init__(self) -> None:
        """Reject what cannot be a batch."""
        sizes = {name: len(getattr(self, name)) for name in self._columns}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"observation: {sizes} differ; give one entry per completion in each")
        if self.step < 0 or self.window < 1 or self.optimizer_steps < 1:
            raise ValueError(
                f"observation: step {self.step}, window {self.window}, optimizer_steps {self.optimizer_steps}; give "
                "step >= 0, window >= 1 and optimizer_steps >= 1"
            )
        if min(self.lengths, default=0) < 0:
            raise ValueError(f"observation: length {min(self.lengths)} is negative; count completion tokens")

    def success_lengths(self, threshold: float) -> list[int]:
        """Lengths of the successes, right-censored at `window`: longer ones cannot be among them."""
        return [
            length for length, reward in zip(self.lengths, self.rewards, strict=True) if is_success(reward, threshold)
        ]

    def judged(self, success_threshold: float) -> "RolloutObservation":
        """The same rollout as policies see it, without the completions that were not judged.

        One that was cut before there was anything to judge says that it was cut, and counts as no success: but not
        where a finished completion of its group has no score either, which may be of a group that nobody judges, and
        not in a rollout without any score, unless all its completions were cut.
        """
        if all(map(is_judged, self.rewards)):
            return self
        no_success = min(0.0, success_threshold - 1)
        ends = zip(self.rewards, self.truncated, strict=True)
        rewards = [no_success if cut and not is_judged(reward) else reward for reward, cut in ends]
        silent = {group for group, reward in zip(self.groups, rewards, strict=True) if not is_judged(reward)}
        if silent and not any(map(is_judged, self.rewards)):
            silent = set(self.groups)
        kept = [
            row
            for row, group in enumerate(self.groups)
            if is_judged(self.rewards[row]) or (is_judged(rewards[row]) and group not in silent)
        ]
        columns: dict[str, Any] = {name: [getattr(self, name)[row] for row in kept] for name in self._columns}
        return replace(self, **columns | {"rewards": [rewards[row] for row in kept]})

    @property
    def _columns(self) -> list[str]:
        """The fields that have one entry per completion; labels and keys of prompts may be left out."""
        return [*_COLUMNS, *(name for name in _PROMPT_COLUMNS if getattr(self, name))]

    @property
    def next_step(self) -> int:
        """Training step at which the next batch is generated."""
        return self.step + self.optimizer_steps

    @property
    def scores(self) -> list[float]:
        """The rewards of the completions that were judged."""
        return [reward for reward in self.rewards if reward is not None and is_judged(reward)]

    @property
    def truncated_frac(self) -> float:
        """Fraction of the completions that the window cut; 0 for an empty batch."""
        return sum(map(bool, self.truncated)) / len(self.truncated) if self.truncated else 0.0

    @property
    def group_stops(self) -> dict[int, int]:
        """Tokens at which each group stopped that did so before the window: where a completion of theirs was cut."""
        completions = zip(self.groups, self.lengths, self.truncated, strict=True)
        return {group: length for group, length, cut in completions if cut and length < self.window}


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group of completions of one prompt at the end of a stage, over all ranks.

    Attributes:
        group: its place in the rollout, from 0.
        stage_end: tokens that its unfinished completions have.
        successes: finished completions whose reward reaches the policy's `success_threshold`.
        failures: the other finished completions.
        unfinished: completions that may go on.
        label: see `RolloutObservation.labels`.
        prompt_key: see `RolloutObservation.prompt_keys`.
    """

    group: int
    stage_end: int
    successes: int
    failures: int
    unfinished: int
    label: str = ""
    prompt_key: str = ""


class WindowPolicy(ABC, Generic[ConfigT]):
    """Chooses how many tokens the next rollout may spend on a completion, and which groups go on between its stages.

    A subclass is decorated with `@register_policy(name, config=...)` and implements `choose_window` and `learn`.

    Attributes:
        STATE: names of the attributes that a checkpoint must hold. Their values must be ones that JSON keeps as they
            are. Anything else a subclass converts in `state_dict`.
        strategy: the registered name. `register_policy` sets it.
        config_class: the dataclass of the policy's fields. `register_policy` sets it.
        config: the fields of this policy.
    """

    strategy: ClassVar[str]
    config_class: ClassVar[type[WindowConfig]]
    STATE: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self._smallest, self._largest = config.min, config.largest
        self._observed_window: int | None = None

    @property
    def window(self) -> int:
        """Tokens that the next rollout may spend on a completion, in [min, max]."""
        return self._clip(self.choose_window())

    @property
    def stages(self) -> tuple[int, ...]:
        """Ends of the stages of the next rollout in tokens, ascending; the last is `window`."""
        return (self.window,)

    @property
    def samples_in_stages(self) -> bool:
        """Whether a rollout may have several stages. A trainer that cannot sample in stages refuses such a policy."""
        return len(self.stages) > 1

    def go_on(self, states: Sequence[GroupState]) -> list[bool]:
        """Which groups go on beyond the stage that has ended; the others are cut there. One answer per state.

        Asked once for each stage but the last, about the groups that have gone on so far and still have unfinished
        completions.
        """
        return [True] * len(states)

    def group_metrics(self) -> dict[str, float]:
        """What came of the groups of the last rollout, by metric name without prefix; empty without stages."""
        return {}

    def begin_at_step(self, step: int) -> None:
        """Take in that the next rollout is that of training step `step`: before the first observation nothing tells it.

        Called when a training begins or is continued, after `load_state_dict`, when the policy takes over from another,
        and before each rollout where rollouts do not serve whole optimizer steps. Nothing to do for a policy that does
        not follow the step.
        """

    def observe(self, observation: RolloutObservation) -> None:
        """Learn from one generation batch; its window need not be the one that was asked for.

        A batch of which nothing was judged (`RolloutObservation.judged`) teaches nothing: the window stays as it is.
        """
        judged = observation.judged(self.config.success_threshold)
        if judged.lengths or not observation.lengths:
            self.learn(judged)
        self._observed_window = observation.window

    def metrics(self) -> dict[str, float]:
        """What this policy alone knows, by metric name without prefix.

        `current_window` produced the last observed batch (absent before the first), `next_window` is to come.
        """
        figures = {"next_window": float(self.window)}
        if self._observed_window is not None:
            figures["current_window"] = float(self._observed_window)
        return figures

    def figures(self) -> dict[str, float]:
        """What is recorded of the policy: its windows, and `metrics`.

        Raises:
            ValueError: one of them is no number.
        """
        return WindowPolicy.metrics(self) | checked_figures(self, "metrics")

    def group_figures(self) -> dict[str, float]:
        """What is recorded of the groups of the last rollout: `group_metrics`.

        Raises:
            ValueError: as `figures`.
        """
        return checked_figures(self, "group_metrics")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the policy has learned, as plain JSON values."""
        names = ("_observed_window", *self.STATE)
        return {"strategy": self.config.strategy} | {name.lstrip("_"): getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; windows outside changed bounds are clipped.

        Raises:
            ValueError: the state was saved by another strategy, or lacks an entry.
        """
        strategy = self.config.strategy
        if state.get("strategy") != strategy:
            raise ValueError(
                f"window_strategy: {strategy!r} cannot continue the state of {state.get('strategy')!r}; "
                "resume with the strategy of the checkpoint, or start a new run"
            )
        names = ("_observed_window", *self.STATE)
        if missing := [name.lstrip("_") for name in names if name.lstrip("_") not in state]:
            lost = ", ".join(missing)
            raise ValueError(f"window_strategy: the saved state of {strategy!r} lacks {lost}; start a new run")
        for name in names:
            setattr(self, name, state[name.lstrip("_")])

    def _clip(self, window: Any) -> int:
        if isinstance(window, bool) or not isinstance(window, Real) or not math.isfinite(window):
            raise ValueError(
                f"window_strategy: {self.config.strategy!r} chose {window!r} for a window; let choose_window return a "
                "finite number of tokens"
            )
        return max(self._smallest, min(round(float(window)), self._largest))

    @abstractmethod
    def choose_window(self) -> float:
        """Tokens that the next rollout may spend on a completion, before they are rounded and kept in [min, max].

        Asked often: it must not change the state.
        """

    @abstractmethod
    def learn(self, observation: RolloutObservation) -> None:
        """Learn from a rollout, of which every completion has a reward."""
