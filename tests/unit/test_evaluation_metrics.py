"""The figures of an evaluation during training, against a recount."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero_trl.metrics import describe, evaluation_metrics, wilson_interval

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 50), st.booleans(), st.integers(0, 4)),
    min_size=1,
    max_size=30,
)


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_figures_equal_a_recount(rows) -> None:
    rewards, lengths, truncated, difficulties = zip(*rows, strict=True)
    figures = evaluation_metrics(rewards=rewards, lengths=lengths, truncated=truncated, difficulties=difficulties)
    correct = [reward >= 1.0 for reward in rewards]
    low, high = wilson_interval(sum(correct), len(rows))
    expected = {
        "eval/acc": sum(correct) / len(rows),
        "eval/acc_low": low,
        "eval/acc_high": high,
        "eval/reward": sum(rewards) / len(rows),
        "eval/mean_length": sum(lengths) / len(rows),
        "eval/truncated_frac": sum(truncated) / len(rows),
        "eval/n": len(rows),
    }
    for operands in set(difficulties) - {0}:
        chosen = [good for good, difficulty in zip(correct, difficulties, strict=True) if difficulty == operands]
        expected[f"eval/{operands}_acc"] = sum(chosen) / len(chosen)
    assert figures == pytest.approx(expected)
    assert all(describe(name) for name in figures)


def test_no_completion_gives_no_figure() -> None:
    assert evaluation_metrics(rewards=[], lengths=[], truncated=[], difficulties=[]) == {}


def test_the_threshold_decides_what_is_correct() -> None:
    rows = {"rewards": [0.1, 1.0], "lengths": [1, 1], "truncated": [False, False], "difficulties": [3, 3]}
    assert evaluation_metrics(**rows)["eval/acc"] == 0.5
    assert evaluation_metrics(**rows, success_threshold=0.1)["eval/acc"] == 1.0
