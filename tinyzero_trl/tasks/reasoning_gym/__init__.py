"""Tasks of reasoning-gym, a library of procedural data sets: `reasoning_gym:DATASET`.

The library is the extra `reasoning-gym`; this package imports it when one of its data sets is asked for.
"""

from tinyzero_trl.tasks.reasoning_gym.task import ReasoningGymTask

__all__ = ["ReasoningGymTask"]
