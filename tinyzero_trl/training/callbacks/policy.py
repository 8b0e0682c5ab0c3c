"""A callback with a window policy: it shows rollouts to the policy, names its figures and saves it in checkpoints."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerState

from tinyzero_trl.training.callbacks.events import SavedInCheckpoints
from tinyzero_trl.training.rollout.hints import RolloutHints
from tinyzero_trl.windows import RolloutObservation, WindowPolicy


class PolicyCallback(SavedInCheckpoints):
    """What `AdaptiveWindowCallback` and `WindowController` share.

    Attributes:
        has_observed: whether the policy has been shown a rollout.
    """

    has_observed = False
    _hints: RolloutHints

    @property
    def policy(self) -> WindowPolicy:
        """The policy in use."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """The figures of the policy in use, by the names that they are logged under."""
        windows = {f"adaptive_window/{name}": value for name, value in self.policy.figures().items()}
        return windows | {f"group_window/{name}": value for name, value in self.policy.group_figures().items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of the policy."""
        return self.policy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the policy."""
        self.policy.load_state_dict(state)

    def _show(self, seen: RolloutObservation, state: TrainerState) -> None:
        """Show a rollout of all ranks to the policy.

        Raises:
            ValueError: after the first rollout, a checkpoint could not keep what the policy holds.
        """
        self.policy.observe(seen)
        if not self.has_observed:
            self.state()  # what a checkpoint could not keep is said now, and not at the first checkpoint
        self.has_observed = True
        if state.is_world_process_zero:
            self._hints.look_at(seen)
