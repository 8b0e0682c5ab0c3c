"""The adaptive success window: shrink while the model succeeds, grow where it does not.

The rule is the TinyZero fork's, with its mistakes mended: the smoothed rate is updated before it is used, an
exploration lasts one rollout, the standard deviation counts, truncation is what the observation says it is, a
bound can always be reached, memory is bounded, and everything is seeded and saved. With `std_multiplier=0`
and `saturation_frac=1` the fork's own decisions remain.

What it cannot know: only successes that fit the window are seen (they are right-censored), so the demand is a
lower bound while the window cuts. Saturation and exploration are its two answers; `signal` has a better one.
"""

import random
from collections.abc import Mapping
from typing import Any

from tinyzero_trl.windows.config import WindowConfig
from tinyzero_trl.windows.lengths import length_moments
from tinyzero_trl.windows.policy import RolloutObservation, WindowPolicy, generator_state, set_generator_state


class SuccessWindow(WindowPolicy):
    """A window that follows the smoothed success rate and the lengths of the successes seen under it."""

    strategy = "success"
    _STATE = ("_settled_window", "_exploring", "_explored", "_rollouts", "_explored_rollouts", "_last_change",
              "_rate_ema", "_truncated_frac", "_successes", "_edge_successes")  # fmt: skip

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config)
        self._settled_window = config.initial
        self._exploring = False  # the next rollout runs at max
        self._explored = False  # the last one did
        self._rollouts = 0
        self._explored_rollouts = 0
        self._last_change = 0  # in rollouts
        self._rate_ema: float | None = None
        self._truncated_frac = 0.0  # of the last rollout at the settled window
        self._successes = self._edge_successes = 0  # since the last update; edge: in the last shrink_delta
        self._lengths = length_moments(config)
        self._generator = random.Random(config.seed)

    def metrics(self) -> dict[str, float]:
        """Adds the success rate that it goes by, the demand in tokens, and what exploration did."""
        figures = super().metrics() | {
            "epsilon": self.config.epsilon,
            "explored_step": float(self._explored),
            "exploration_rate": self._explored_rollouts / max(self._rollouts, 1),
        }
        if self._rate_ema is not None:
            figures["policy_success_rate"] = self._rate_ema
        if self._lengths.count:
            figures["demand"] = self._lengths.demand(self.config.std_multiplier)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Adds the length moments and the generator."""
        own = {
            "lengths": self._lengths.state(),
            "mode": self.config.mode,
            "generator": generator_state(self._generator),
        }
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Also rejects moments that another `mode` saved."""
        super().load_state_dict(state)
        if state["mode"] != self.config.mode:
            raise ValueError(
                f"window_mode: {self.config.mode!r} cannot continue the moments of {state['mode']!r}; "
                "resume with the mode of the checkpoint, or start a new run"
            )
        self._lengths.restore(state["lengths"])
        set_generator_state(self._generator, state["generator"])

    def _next_window(self) -> float:
        return self._largest if self._exploring else self._settled_window

    def _learn(self, observation: RolloutObservation) -> None:
        self._rollouts += 1
        self._explored, self._exploring = self._exploring, False
        self._explored_rollouts += self._explored
        self._measure(observation)
        since_warmup = self._rollouts - self.config.warmup_steps
        if since_warmup == 0 and self._lengths.count:
            self._settle(self._lengths.mean())
        elif since_warmup > 0 and since_warmup % self.config.update_frequency == 0:
            self._update()

    def _measure(self, observation: RolloutObservation) -> None:
        """Take in lengths from any rollout; judge the settled window only by rollouts that ran under it."""
        lengths = observation.success_lengths(self.config.success_threshold)
        self._lengths.add(lengths)
        if self._explored or not observation.lengths:
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
        if abs(proposal - self._settled_window) >= self.config.min_change or proposal in (
            self._smallest,
            self._largest,
        ):
            self._settle(proposal)
        explores = self._generator.random() < self.config.epsilon  # drawn always: one draw per update
        self._exploring = explores and self._settled_window < self._largest

    def _proposal(self) -> int:
        """The window that the rule asks for, before small changes are dropped."""
        config, window, rate = self.config, self._settled_window, self._rate_ema
        if rate is None:
            return window
        grown = self._clip(window + config.growth_delta)
        high = rate >= config.target_success_rate + config.success_rate_margin
        low = rate <= config.target_success_rate - config.success_rate_margin
        saturated = self._truncated_frac > config.saturation_frac and not high
        if self._lengths.count < config.min_samples:
            return grown if saturated else window  # too short a window to succeed in must not last
        gap = window - self._lengths.demand(config.std_multiplier)
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

        Counted under the settled window itself, so exact; without a success there, whether the window cuts at
        all.
        """
        if self._successes == 0:
            return self._truncated_frac > 0
        return self._edge_successes > self.config.slack * self._successes

    def _settle(self, window: float) -> None:
        settled = self._clip(window)
        if settled != self._settled_window:
            self._settled_window, self._last_change = settled, self._rollouts
