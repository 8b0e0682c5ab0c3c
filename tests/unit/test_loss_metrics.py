"""One value per figure and optimizer step, weighted by what is behind it."""

from collections import defaultdict
from math import nan

import pytest

from tinyzero_trl.training.loss.loss_metrics import LossMetrics


def after_two_passes(first: dict[str, float], second: dict[str, float], *, sequence_level: bool = False):
    """What the trainer's metrics hold after passes of 30 tokens in 1 row and of 10 tokens in 3 rows."""
    metrics: dict[str, list[float]] = defaultdict(list, {"reward": [0.5], "entropy": [7.0]})
    collector = LossMetrics(is_sequence_level=sequence_level)
    for values, tokens, rows in ((first, 30, 1), (second, 10, 3)):
        with collector.collect(metrics, tokens=tokens, rows=rows):
            for name, value in values.items():
                metrics[name].append(value)
    before_flush = {name: list(values) for name, values in metrics.items()}
    collector.flush(metrics)
    return before_flush, dict(metrics)


def test_means_are_weighted_by_tokens_and_follow_what_was_there():
    before, after = after_two_passes({"entropy": 1.0, "kl": 4.0}, {"entropy": 5.0, "kl": 0.0})
    assert before["entropy"] == [7.0]
    assert after == {"reward": [0.5], "entropy": [7.0, 2.0], "kl": [3.0]}


def test_figures_per_row_are_weighted_by_rows():
    name = "clip_ratio/region_mean"
    assert after_two_passes({name: 1.0}, {name: 0.0}, sequence_level=True)[1][name] == [0.25]
    assert after_two_passes({name: 1.0}, {name: 0.0}, sequence_level=False)[1][name] == [0.75]
    phi = "vespo/phi_seq_mean"
    assert after_two_passes({phi: 1.0}, {phi: 0.0})[1][phi] == [0.25]


def test_smallest_and_largest_stay_so_and_skip_what_is_missing():
    low, high = "clip_ratio/low_min", "clip_ratio/high_max"
    after = after_two_passes({low: 0.2, high: nan}, {low: 0.1, high: 0.3})[1]
    assert after[low] == [0.1]
    assert after[high] == [0.3]


def test_figures_of_others_are_left_where_they_are():
    before, after = after_two_passes({"entropy_coef": 0.1, "kl_to_something": 1.0}, {"entropy_coef": 0.2})
    assert before["entropy_coef"] == after["entropy_coef"] == [0.1, 0.2]
    assert after["kl_to_something"] == [1.0]


def test_a_figure_with_nothing_behind_it_is_absent():
    metrics: dict[str, list[float]] = defaultdict(list, {"entropy": [7.0]})
    collector = LossMetrics(is_sequence_level=False)
    with collector.collect(metrics, tokens=0, rows=0):
        metrics["kl"].append(0.0)
        metrics["entropy"].append(0.0)
    collector.flush(metrics)
    assert metrics == {"entropy": [7.0]}


def test_each_optimizer_step_starts_anew():
    metrics: dict[str, list[float]] = defaultdict(list)
    collector = LossMetrics(is_sequence_level=False)
    for value in (1.0, 2.0):
        with collector.collect(metrics, tokens=5, rows=1):
            metrics["entropy"].append(value)
        collector.flush(metrics)
    assert metrics["entropy"] == pytest.approx([1.0, 2.0])


def test_what_an_interrupted_step_has_left_is_forgotten_when_a_training_begins() -> None:
    metrics: dict[str, list[float]] = defaultdict(list)
    collector = LossMetrics(is_sequence_level=False)
    for value in (9.0, 1.0):
        collector.clear()
        with collector.collect(metrics, tokens=1, rows=1):
            metrics["entropy"].append(value)
    collector.flush(metrics)
    assert metrics == {"entropy": [1.0]}
