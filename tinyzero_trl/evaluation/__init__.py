"""Checkpoint + examples -> scores, accuracy with intervals.

`settings` says what is evaluated on what, `rows` what is kept of the completions and which figures follow, and `run`
goes from the one to the other. An engine of `tinyzero_trl.generation` writes the completions.
"""

from tinyzero_trl.evaluation.run import GENERATIONS, RESULT, default_out, evaluate, format_result
from tinyzero_trl.evaluation.settings import EvaluationSettings

__all__ = [
    "GENERATIONS",
    "RESULT",
    "EvaluationSettings",
    "default_out",
    "evaluate",
    "format_result",
]
