"""Checkpoint + problems -> verdicts, accuracy with intervals.

`settings` says what is evaluated on what, `engines` who writes the completions, `rows` what is kept of them
and which figures follow, and `run` goes from the one to the other.
"""

from tinyzero_trl.evaluation.rows import summarise
from tinyzero_trl.evaluation.run import default_out, evaluate, format_result
from tinyzero_trl.evaluation.settings import EvaluationSettings
from tinyzero_trl.generation.engines import load_model
from tinyzero_trl.models.loading import load_tokenizer

__all__ = [
    "EvaluationSettings",
    "default_out",
    "evaluate",
    "format_result",
    "load_model",
    "load_tokenizer",
    "summarise",
]
