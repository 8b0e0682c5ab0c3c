"""The figures of an evaluation during training, against a recount."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero_trl.metrics import (
    accuracy,
    accuracy_interval,
    describe,
    evaluation_metrics,
    wilson_interval,
)

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
        "eval/problems": len(rows),
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


def test_several_answers_to_a_problem_are_no_independent_trials() -> None:
    """Eight problems answered four times are eight problems: the interval is about twice as wide as that of 32."""
    rewards = [1.0] * 16 + [0.0] * 16
    plain = {"lengths": [1] * 32, "truncated": [False] * 32, "difficulties": [3] * 32}
    figures = evaluation_metrics(rewards=rewards, problems=[row // 4 for row in range(32)], **plain)
    assert (figures["eval/acc"], figures["eval/n"], figures["eval/problems"]) == (0.5, 32, 8)
    low, high = accuracy_interval([[True] * 4] * 4 + [[False] * 4] * 4)
    assert (figures["eval/acc_low"], figures["eval/acc_high"]) == (low, high)
    naive = wilson_interval(16, 32)
    assert high - low > 1.9 * (naive[1] - naive[0])


def test_a_problem_counts_as_much_as_it_has_answers() -> None:
    """The variance of the mean is 1/24 = 0.5 x 0.5 / 6: six independent trials, fewer because it is an estimate."""
    outcomes = [[True, True], [True, False], [False, False], [False, True]]
    trials = 6 * (1.959964 / 3.182446) ** 2
    assert accuracy_interval(outcomes) == pytest.approx(wilson_interval(trials / 2, trials))
    flat = [outcome for answers in outcomes for outcome in answers] + [True]
    uneven = accuracy(flat, [0, 0, 1, 1, 2, 2, 3, 3, 3])
    assert uneven is not None and uneven.mean == pytest.approx(5 / 9)
    assert uneven.low < 5 / 9 < uneven.high


@pytest.mark.parametrize(("problems", "answers", "mean"), [(64, 8, 0.01), (128, 4, 0.02), (64, 8, 0.5)])
def test_the_interval_holds_the_truth_as_often_as_it_says(problems: int, answers: int, mean: float) -> None:
    """Also where hardly any answer is right: Student's interval over problems covers 0.86 and 0.89 there."""
    generator = np.random.default_rng(0)
    chances = generator.beta(5 * mean, 5 * (1 - mean), size=(1000, problems, 1))
    correct = generator.random((1000, problems, answers)) < chances
    covered = [low <= mean <= high for low, high in map(accuracy_interval, correct.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_equal_problems_count_as_one_trial_each() -> None:
    assert accuracy_interval([[True, False]] * 3) == wilson_interval(1.5, 3)
    assert accuracy_interval([[False] * 4] * 9) == wilson_interval(0, 9)


def test_what_was_not_judged_is_left_out_of_numerator_and_denominator() -> None:
    rows = {"lengths": [2, 4, 6], "truncated": [False, True, True], "difficulties": [3, 3, 4], "problems": [0, 0, 1]}
    figures = evaluation_metrics(rewards=[1.0, None, float("nan")], **rows)
    assert (figures["eval/acc"], figures["eval/reward"], figures["eval/n"], figures["eval/problems"]) == (1, 1, 1, 1)
    assert (figures["eval/mean_length"], figures["eval/3_acc"]) == (4, 1), "a length needs no score"
    assert "eval/4_acc" not in figures
    nothing = evaluation_metrics(rewards=[None] * 3, **rows)
    assert nothing.keys() == {"eval/mean_length", "eval/truncated_frac"}
