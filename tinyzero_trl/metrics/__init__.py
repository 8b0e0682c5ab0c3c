"""Every logged figure: its name, unit and formula, as pure functions on lists and NumPy arrays.

`rollout` computes the figures of a batch and the running totals of a run, `intervals` the uncertainty of
what is estimated from few samples, and `registry` says for every name what it means. A figure with no sample
in its denominator is absent from the returned dictionary: a 0 would be a claim.
"""

from tinyzero_trl.metrics.accuracy import accuracy, accuracy_interval, by_problem
from tinyzero_trl.metrics.evaluation import evaluation_metrics
from tinyzero_trl.metrics.intervals import (
    Interval,
    mean_interval,
    paired_difference,
    paired_ratio,
    pass_at_k,
    student_t_quantile,
    wilson_interval,
)
from tinyzero_trl.metrics.labels import Label, as_label, labels_of
from tinyzero_trl.metrics.registry import METRICS, describe
from tinyzero_trl.metrics.rollout import RunningTotals, ratio_metrics, rollout_metrics

__all__ = [
    "METRICS",
    "Interval",
    "Label",
    "RunningTotals",
    "accuracy",
    "accuracy_interval",
    "as_label",
    "by_problem",
    "describe",
    "evaluation_metrics",
    "labels_of",
    "mean_interval",
    "paired_difference",
    "paired_ratio",
    "pass_at_k",
    "ratio_metrics",
    "rollout_metrics",
    "student_t_quantile",
    "wilson_interval",
]
