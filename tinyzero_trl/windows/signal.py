"""The window that buys the most learning signal per token, estimated although it cuts completions itself.

Derivation. With a binary reward, a group of completions of prompt i moves the model only if it is mixed.
Under window w let S_i(w) be the probability of success within w tokens. The rewards of the group have
variance S_i(w) (1 - S_i(w)), the expected square of the advantages, and a completion costs C_i(w) =
E[min(length, w)] tokens. The window therefore maximises

    E_i[S_i(w) (1 - S_i(w))] / E_i[C_i(w)]    subject to    S(w) >= (1 - slack) S(max),    S = E_i[S_i].

Without the constraint, the quotient would often be best where only the easiest completions still fit; `slack`
says how much of the success at full length may be given up for tokens. A larger slack never asks for a longer
window.

Estimates. Completions are cut by windows that this policy chose, so plain averages would call every window
long enough. `survival` treats a cut as right-censoring instead. Everything up to the window of a rollout is
known exactly; beyond it the estimates live on the probes, single rollouts at `max`: the 2nd, 4th, 8th, 16th
of a run, and so on until they are `probe_every` apart, since a model changes fastest at first. With a
`probe_group_every` of 4, say, only every fourth group of a probe goes on beyond the window. Which groups these are
depends on their places alone, so that the cuts of the others stay independent. When fewer than
`min_samples` completions were followed beyond the window although more than slack x S(max) of them go on there,
the tail is unknown: the window waits, and the next rollout is a probe too. Small batches thus probe more often.
While fewer than `min_samples` successes are remembered and something is cut, the window grows by `growth_delta`.

Headroom. The window is `headroom` times the optimum. Answers that grow longer are then seen in the rollout in
which they do, not in the next probe; and late successes, of which a few rollouts show only a handful, lie
within it more often than the estimate knows.

Steps. Toward that target the window at most doubles, because a window that is too short loses the very
successes to learn from, and shrinks by at most `shrink_delta`, because one too long costs tokens alone. While it
is more than twice the target it halves: that is no noise, but a first guess far too long, or a model that
rambles no more.

Assumptions and limits. (1) Completions of the last `memory_rollouts` rollouts have one distribution: a model
that drifts is seen as it was about half a memory ago. (2) Prompts are drawn at random, each group from one
prompt; groups of one tell nothing about the difference between prompts, which is then taken to be nil. (3)
Rewards are binary at `success_threshold`. (4) Cost is generated tokens: prompts, padding and the time of the
slowest completion are not counted. (5) Being cut also teaches brevity; that effect on later distributions is
seen when it comes, not predicted. (6) The signal is that of advantages which are not divided by the deviation of
their group, with equal weight for each sequence; docs/windows.md compares. (7) A rewarded completion that never
ends counts as a success at the window that cut it, not earlier.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyzero_trl.windows.config import AdaptiveConfig
from tinyzero_trl.windows.fields import number, shown
from tinyzero_trl.windows.policy import GroupState, RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import register_policy
from tinyzero_trl.windows.survival import Point, RolloutTally, estimate


@dataclass(frozen=True, kw_only=True)
class SignalConfig(AdaptiveConfig):
    """How much success may be given up for tokens, and how the estimates are kept up to date."""

    headroom: float = number(1.25, "the window is this many times the measured optimum", low=1)
    memory_rollouts: int = number(24, "number of newest rollouts that count", low=1)
    probe_every: int = number(16, "one rollout in so many is a probe at `max`; at first more", low=1)
    probe_group_every: int = number(
        1, "in a probe one group in so many goes on to `max`, the others stop at the window; 1: all go on", low=1
    )

    def __post_init__(self) -> None:
        """Refuse a memory that might hold no rollout at full length."""
        super().__post_init__()
        if self.probe_every > self.memory_rollouts:
            raise ValueError(
                f"{shown('probe_every')}: {self.probe_every} exceeds {shown('memory_rollouts')} "
                f"{self.memory_rollouts}, so that the memory might hold no full-length rollout; "
                f"lower it or raise {shown('memory_rollouts')}"
            )


@register_policy("signal", config=SignalConfig)
class SignalWindow(WindowPolicy[SignalConfig]):
    """Follows, with headroom, the window of most estimated signal per token that keeps (1 - slack) of the success."""

    STATE = ("_base_window", "_probing", "_probed", "_since_probe", "_rollouts", "_probes")

    def __init__(self, config: SignalConfig) -> None:
        super().__init__(config)
        self._base_window = config.initial
        self._probing = False  # the next rollout runs at max
        self._probed = False  # the last one did, because it was asked to
        self._rollouts = self._probes = self._since_probe = 0  # the last: rollouts since one at max
        self._memory: deque[RolloutTally] = deque(maxlen=config.memory_rollouts)

    @property
    def samples_in_stages(self) -> bool:
        """Whether a probe stops some of its groups at the window."""
        return self.config.probe_group_every > 1

    @property
    def stages(self) -> tuple[int, ...]:
        """The window, and `max` in a probe; `max` alone where all groups of a probe go on."""
        window = self._clip(self._base_window)
        return (window, self.window) if self.samples_in_stages and window < self.window else (self.window,)

    def go_on(self, states: Sequence[GroupState]) -> list[bool]:
        """Every `probe_group_every`-th group, beginning with another one in every rollout."""
        return [(state.group + self._rollouts) % self.config.probe_group_every == 0 for state in states]

    def metrics(self) -> dict[str, float]:
        """Adds the probes, and the estimates at the base window and at `max` (absent at first)."""
        figures = super().metrics() | {
            "explored_step": float(self._probed),
            "exploration_rate": self._probes / max(self._rollouts, 1),
        }
        if not self._memory:
            return figures
        points = self._points()
        here, full = _at(points, self._clip(self._base_window)), points[-1]
        figures |= {
            "best_window": float(most_signal_per_token(points, self.config.slack).window),
            "estimated_success": here.success,
            "estimated_success_at_max": full.success,
            "estimated_unfinished_frac": here.unfinished,
            "estimated_signal": here.signal,
        }
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Adds the remembered rollouts as counts by length."""
        return super().state_dict() | {"memory": [tally.state() for tally in self._memory]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A shorter `memory_rollouts` than that of the checkpoint keeps the newest."""
        super().load_state_dict(state)
        self._memory.clear()
        self._memory.extend(map(RolloutTally.from_state, state["memory"]))

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        return self._largest if self._probing else self._base_window

    def learn(self, observation: RolloutObservation) -> None:
        """See `WindowPolicy.learn`."""
        self._rollouts += 1
        self._probed, self._probing = self._probing, False
        self._probes += self._probed
        tail_unknown = False
        if observation.lengths:
            self._memory.append(RolloutTally.of(observation, self.config.success_threshold))
            tail_unknown = self._step()
        # An engine may clamp a probe; it still was the probe, or every further rollout would be one.
        full_length = self._probed or observation.window >= self._largest
        self._since_probe = 0 if full_length else self._since_probe + 1
        interval = min(self.config.probe_every, self._rollouts - self._since_probe)
        due = tail_unknown or self._since_probe + 1 >= interval
        self._probing = due and self._base_window < self._largest

    def _step(self) -> bool:
        """Move the base window by one bounded step; or leave it and return True, where the tail is unknown."""
        window, points = self._clip(self._base_window), self._points()
        here, full, few = _at(points, window), points[-1], self.config.min_samples
        if sum(tally.successes for tally in self._memory) < few or full.success == 0:
            self._base_window = self._clip(window + self.config.growth_delta) if here.unfinished > 0 else window
            return False
        matters = here.unfinished > self.config.slack * full.success
        if window < self._largest and here.followed < few and matters:
            return True
        target = self.config.headroom * most_signal_per_token(points, self.config.slack).window
        lowest: float = window - self.config.shrink_delta
        if window > 2 * target:
            lowest = min(lowest, window / 2)
        self._base_window = self._clip(max(lowest, min(target, 2 * window)))
        return False

    def _points(self) -> list[Point]:
        """Estimates at every length worth considering, from `min` to `max`."""
        known = estimate(self._memory, (self._smallest, self._clip(self._base_window), self._largest))
        return [point for point in known if self._smallest <= point.window <= self._largest]


def most_signal_per_token(points: Sequence[Point], slack: float) -> Point:
    """The point with the most signal per token that keeps (1 - slack) of the last point's success.

    Between two observed lengths the signal stands still while the cost grows, so no other window can be
    better. Of equals the shortest wins: where there is nothing to learn, tokens are saved.

    Args:
        points: estimates with ascending windows, of which the last is the largest window.
        slack: share of the success at the largest window that may be given up, in [0, 1).
    """
    least = (1 - slack) * points[-1].success - 1e-12
    allowed = [point for point in points if point.success >= least]
    return max(allowed, key=lambda point: (point.signal / max(point.cost_tokens, 1.0), -point.window))


def _at(points: Sequence[Point], window: int) -> Point:
    return next(point for point in points if point.window == window)
