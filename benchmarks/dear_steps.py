r"""The policy `group` as on a machine where a decoding step costs as much as 1,000 rows: a GPU with small batches.

    PYTHONPATH=benchmarks tinyzero-trl train --config countdown_tiny --model_name_or_path embedded-impatient \
        --recipe dear-steps --window_strategy dear_steps:DearSteps --window_group_price seconds --seed 0 \
        --output_dir runs/dear_steps/seed_0

On a CPU a row costs a large part of a step. Here the timings of a rollout are replaced by the steps and rows that it
took, so that every machine chooses the same, and the records show how many decoding steps such a GPU would take.
"""

import dataclasses

from tinyzero_trl.windows.group import GroupWindow
from tinyzero_trl.windows.group_config import GroupConfig
from tinyzero_trl.windows.policy import RolloutObservation
from tinyzero_trl.windows.registry import register_policy

_ROWS_PER_STEP = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class DearStepsConfig(GroupConfig):
    """The fields of `group`."""


@register_policy("dear_steps", config=DearStepsConfig)
class DearSteps(GroupWindow):
    """`group` with the prices of another machine."""

    def learn(self, observation: RolloutObservation) -> None:
        """See `WindowPolicy.learn`."""
        timings = [(steps, rows, float(_ROWS_PER_STEP * steps + rows)) for steps, rows, _ in observation.timings]
        super().learn(dataclasses.replace(observation, timings=timings))
