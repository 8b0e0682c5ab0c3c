"""The adaptive success window: shrink while the model succeeds, grow where it does not.

The rule comes from a fork of TinyZero, which docs/windows.md calls "the fork". Its faults are fixed here: the smoothed
rate is updated before it is used, a probe lasts one rollout, the standard deviation counts, truncation is what the
observation says it is, a bound can always be reached, memory is bounded, and everything is seeded and saved. With
`std_multiplier=0`, `saturation_frac=1` and `growth_needs_pressure=False` the fork's own decisions remain.

What it cannot know: only successes that fit the window are seen (they are right-censored), so the target length is a
lower bound while the window cuts. Saturation and probes are its two answers; `signal` has a better one.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyzero_trl.windows.config import AdaptiveConfig
from tinyzero_trl.windows.fields import choice, flag, number, shown
from tinyzero_trl.windows.lengths import MODES, length_moments
from tinyzero_trl.windows.policy import RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import register_policy


@dataclass(frozen=True, kw_only=True)
class SuccessConfig(AdaptiveConfig):
    """When the window follows the success rate, and how lengths of successes become a target length."""

    warmup_steps: int = number(0, "number of first rollouts at `initial`, before the window changes", low=0)
    std_multiplier: float = number(2.0, "target length = mean + this x standard deviation; the fork has 0", low=0)
    update_frequency: int = number(5, "rollouts between two updates", low=1)
    min_change: int = number(64, "smaller changes (tokens) are dropped, unless the window reaches a bound", low=0)
    target_success_rate: float = number(0.7, "target of the smoothed success rate", low=0, high=1)
    success_rate_margin: float = number(
        0.05, "the window does not change while the success rate is this near to its target", low=0, high=1
    )
    success_rate_ema_beta: float = number(0.9, "weight of the past in the smoothed success rate", low=0, below=1)
    length_tolerance: int = number(32, "largest |window - target length| that counts as equal", low=0)
    hold_steps_before_growth: int = number(20, "rollouts without a change, after which the window grows", low=1)
    growth_needs_pressure: bool = flag(True, "grow only if successes need longer windows; the fork has false")
    saturation_frac: float = number(
        0.5, "grow if more than this share of the batch is cut; the fork has 1 (never)", low=0, high=1
    )
    mode: str = choice("basic", "which success lengths count", MODES)
    rolling_window: int = number(100, "mode rolling: smallest number of success lengths that are kept", low=1)
    epsilon: float = number(0.1, "probability per update that the next rollout is a probe at `max`", low=0, high=1)
    ema_beta: float = number(0.98, "mode ema: weight of the past in mean and deviation of the lengths", low=0, below=1)
    ema_bias_correction: bool = flag(True, "mode ema: mean and deviation start at zero, and this is corrected")

    def __post_init__(self) -> None:
        """Refuse values under which the rule could never act."""
        super().__post_init__()
        for sign, bound in ((1, 1.0), (-1, 0.0)):
            edge = self.target_success_rate + sign * self.success_rate_margin
            if sign * edge > sign * bound + 1e-12:
                raise ValueError(
                    f"{shown('success_rate_margin')}: {self.success_rate_margin} puts target "
                    f"{'+' if sign > 0 else '-'} margin at {edge:g}, which no success rate reaches; lower "
                    f"it, or move {shown('target_success_rate')}"
                )
        for name in ("growth_delta", "shrink_delta"):
            if (delta := getattr(self, name)) < self.min_change:
                raise ValueError(
                    f"{shown(name)}: {delta} is below {shown('min_change')} {self.min_change}, so that every "
                    f"such change would be dropped; raise it or lower {shown('min_change')}"
                )
        if self.mode == "rolling" and self.rolling_window < self.min_samples:
            raise ValueError(
                f"{shown('rolling_window')}: {self.rolling_window} is below {shown('min_samples')} "
                f"{self.min_samples}, so that the policy might never act; raise it or lower {shown('min_samples')}"
            )


@register_policy("success", config=SuccessConfig)
class SuccessWindow(WindowPolicy[SuccessConfig]):
    """A window that follows the smoothed success rate and the lengths of the successes seen under it."""

    STATE = ("_base_window", "_probing", "_probed", "_rollouts", "_probes", "_last_change",
              "_rate_ema", "_truncated_frac", "_successes", "_edge_successes")  # fmt: skip

    def __init__(self, config: SuccessConfig) -> None:
        super().__init__(config)
        self._base_window = config.initial
        self._probing = False  # the next rollout runs at max
        self._probed = False  # the last one did
        self._rollouts = 0
        self._probes = 0
        self._last_change = 0  # in rollouts
        self._rate_ema: float | None = None
        self._truncated_frac = 0.0  # of the last rollout at the base window
        self._successes = self._edge_successes = 0  # since the last update; edge: in the last shrink_delta
        self._lengths = length_moments(
            config.mode, keep=config.rolling_window, beta=config.ema_beta, bias_correction=config.ema_bias_correction
        )
        self._generator = random.Random(config.seed)

    def metrics(self) -> dict[str, float]:
        """Adds the success rate that it goes by, the target length in tokens, and what the probes did."""
        figures = super().metrics() | {
            "epsilon": self.config.epsilon,
            "explored_step": float(self._probed),
            "exploration_rate": self._probes / max(self._rollouts, 1),
        }
        if self._rate_ema is not None:
            figures["policy_success_rate"] = self._rate_ema
        if self._lengths.count:
            figures["demand"] = self._lengths.target_length(self.config.std_multiplier)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Adds the length moments and the generator."""
        version, internal, gauss_next = self._generator.getstate()
        return super().state_dict() | {
            "lengths": self._lengths.state(),
            "mode": self.config.mode,
            "generator": [version, list(internal), gauss_next],  # JSON knows no tuples
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Also rejects moments that another `mode` saved."""
        super().load_state_dict(state)
        if state["mode"] != self.config.mode:
            raise ValueError(
                f"window_mode: {self.config.mode!r} cannot continue the moments of {state['mode']!r}; "
                "resume with the mode of the checkpoint, or start a new run"
            )
        self._lengths.restore(state["lengths"])
        version, internal, gauss_next = state["generator"]
        self._generator.setstate((version, tuple(internal), gauss_next))

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        return self._largest if self._probing else self._base_window

    def learn(self, observation: RolloutObservation) -> None:
        """See `WindowPolicy.learn`."""
        self._rollouts += 1
        self._probed, self._probing = self._probing, False
        self._probes += self._probed
        self._measure(observation)
        since_warmup = self._rollouts - self.config.warmup_steps
        if since_warmup == 0 and self._lengths.count:
            self._set_base(self._lengths.mean())
        elif since_warmup > 0 and since_warmup % self.config.update_frequency == 0:
            self._update()

    def _measure(self, observation: RolloutObservation) -> None:
        """Take in lengths from any rollout; judge the base window only by rollouts that ran under it."""
        lengths = observation.success_lengths(self.config.success_threshold)
        self._lengths.add(lengths)
        if self._probed or not observation.lengths:
            return
        rate = len(lengths) / len(observation.lengths)
        beta = self.config.success_rate_ema_beta
        self._rate_ema = rate if self._rate_ema is None else beta * self._rate_ema + (1 - beta) * rate
        self._truncated_frac = observation.truncated_frac
        self._successes += len(lengths)
        self._edge_successes += sum(length > observation.window - self.config.shrink_delta for length in lengths)

    def _update(self) -> None:
        proposal = self._proposal()
        self._successes = self._edge_successes = 0
        if abs(proposal - self._base_window) >= self.config.min_change or proposal in (
            self._smallest,
            self._largest,
        ):
            self._set_base(proposal)
        probes = self._generator.random() < self.config.epsilon  # drawn always: one draw per update
        self._probing = probes and self._base_window < self._largest

    def _proposal(self) -> int:
        """The window that the rule asks for, before small changes are dropped."""
        config, window, rate = self.config, self._base_window, self._rate_ema
        if rate is None:
            return window
        grown = self._clip(window + config.growth_delta)
        high = rate >= config.target_success_rate + config.success_rate_margin
        low = rate <= config.target_success_rate - config.success_rate_margin
        saturated = self._truncated_frac > config.saturation_frac and not high
        if self._lengths.count < config.min_samples:
            return grown if saturated else window  # too short a window to succeed in must not last
        gap = window - self._lengths.target_length(config.std_multiplier)
        shrunk = window
        if gap > config.length_tolerance:
            shrunk = self._clip(window - min(config.shrink_delta, int(gap)))
        if high and shrunk < window:
            return shrunk
        if low or saturated:
            if self._pressing() or not config.growth_needs_pressure:
                return grown
            return shrunk if low else window
        rested = self._rollouts - self._last_change >= config.hold_steps_before_growth
        if rate >= config.target_success_rate and abs(gap) <= config.length_tolerance and rested:
            return grown
        return window

    def _pressing(self) -> bool:
        """Whether the next shrinking would give up more than `slack` of the successes of the last rollouts.

        Counted under the base window itself, so exact; without a success there, whether the window cuts at
        all.
        """
        if self._successes == 0:
            return self._truncated_frac > 0
        return self._edge_successes > self.config.slack * self._successes

    def _set_base(self, window: float) -> None:
        base = self._clip(window)
        if base != self._base_window:
            self._base_window, self._last_change = base, self._rollouts
