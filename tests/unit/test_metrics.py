"""Every figure against a brute-force recomputation from the raw rows, and the statistics against known values."""

import hashlib
import math
import runpy
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rollout_recount import Row, mean, quantile, recount
from tinyzero_trl.metrics import (
    METRICS,
    Interval,
    RunningTotals,
    as_label,
    describe,
    labels_of,
    mean_interval,
    paired_difference,
    paired_ratio,
    pass_at_k,
    ratio_metrics,
    rollout_metrics,
    student_t_quantile,
    wilson_interval,
)
from tinyzero_trl.windows import RolloutObservation, WindowConfig, make_policy

ROOT = Path(__file__).parents[2]
WINDOW = 50

ROWS = st.lists(
    st.tuples(
        st.integers(0, WINDOW),  # length
        st.sampled_from([0.0, 0.1, 1.0]),  # reward
        st.booleans(),  # truncated
        st.integers(0, 3),  # group
        st.integers(1, 30),  # prompt length
        st.integers(3, 4),  # difficulty
    ),
    min_size=1,
    max_size=24,
)


def observation(rows):
    lengths, rewards, truncated, groups, _, _ = zip(*rows, strict=True)
    return RolloutObservation(0, WINDOW, lengths, rewards, truncated, groups)


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_rollout_figures_equal_a_recount_of_the_rows(rows):
    figures = rollout_metrics(
        observation(rows), prompt_lengths=[row[4] for row in rows], difficulties=[row[5] for row in rows]
    )
    expected = recount([Row(*row) for row in rows])
    assert figures == pytest.approx({name: value for name, value in expected.items() if value is not None})


def test_figures_without_a_sample_in_their_denominator_are_absent():
    figures = rollout_metrics(observation([(5, 0.0, False, 0, 1, 3), (6, 0.0, False, 0, 1, 3)]))
    assert "adaptive_window/mean_success_length" not in figures
    assert "completion/truncated_correct_frac" not in figures
    assert "completion/correct_mean_length" not in figures
    assert not [name for name in figures if name.startswith("difficulty/") or "prompt" in name]
    assert rollout_metrics(RolloutObservation(0, 8, [], [], [], [])) == {}


def test_difficulties_may_be_texts_that_say_nothing_of_some_completions():
    batch = observation([(5, 1.0, False, 0, 1, 3), (6, 0.0, False, 0, 1, 3), (6, 1.0, False, 1, 1, 3)])
    figures = rollout_metrics(batch, difficulties=["easy a/b", "easy a/b", ""])
    named = {name: value for name, value in figures.items() if name.startswith("difficulty/")}
    about = "difficulty/easy a/b"
    assert named == {f"{about}_acc": 0.5, f"{about}_count": 2.0, f"{about}_mean_length": 5.5}
    assert all(describe(name) for name in named)
    MARK = hashlib.sha256(b"z" * 99).hexdigest()[:5]
    values = ("x  y\n", 3, -1, 0, True, None, "z" * 40, "z" * 99, "\x1b[31mred\ud800")
    assert [as_label(value) for value in values] == ["x y", 3, 0, 0, 0, 0, "z" * 40, f"{'z' * 34}~{MARK}", "[31mred"]
    assert [as_label(value) for value in (2.5, 4.0, 0.5, -0.5, math.nan, math.inf)] == ["2.5", 4, "0.5", 0, 0, 0]
    assert labels_of(["b", 10, 9, "a", 0, "", 9]) == [9, 10, "a", "b"]
    many = observation([(5, 1.0, False, 0, 1, 3)] * 33)
    assert not [name for name in rollout_metrics(many, difficulties=[*range(1, 34)]) if name.startswith("difficulty/")]


def test_a_column_of_the_wrong_size_is_refused():
    batch = observation([(5, 0.0, False, 0, 1, 3)] * 2)
    with pytest.raises(ValueError, match=r"difficulties has shape \(1,\): give one entry per completion, \(2,\)"):
        rollout_metrics(batch, difficulties=[3])


def test_ratio_figures_are_those_of_their_definitions():
    ratios, logs = [1.0, 1.1, 1.3, 0.7, 1.25], [0.0, math.log(1.1), math.log(1.3), math.log(0.7), math.log(1.25)]
    log_ratios = np.array(logs)
    assert ratio_metrics(log_ratios, clip_range=(0.8, 1.28)) == pytest.approx(
        {
            "actor/is_ratio/mean": mean(ratios),
            "actor/is_ratio/std": statistics.pstdev(ratios),
            "actor/is_ratio/p95": quantile(ratios, 0.95),
            "actor/is_log_ratio/mean": mean(logs),
            "actor/is_log_ratio/std": statistics.pstdev(logs),
            "actor/is_clip/outside_frac": 2 / 5,  # 0.7 and 1.3; 1.25 lies within 1 + 0.28
        }
    )
    assert ratio_metrics(log_ratios[:0], clip_range=(0.8, 1.2)) == {}
    assert "actor/is_clip/outside_frac" not in ratio_metrics(log_ratios, clip_range=None)


def test_float16_log_ratios_are_summed_in_double_precision():
    figures = ratio_metrics(np.full(5000, 0.001, dtype=np.float16), clip_range=(0.8, 1.2))
    assert figures["actor/is_log_ratio/mean"] == pytest.approx(float(np.float16(0.001)), rel=1e-12)


def test_running_totals_add_up_over_batches_and_survive_a_checkpoint():
    batches = [
        [(5, 1.0, False, 0, 1, 3), (9, 0.0, True, 0, 1, 3)],
        [(7, 1.0, False, 0, 1, 3)] * 3 + [(2, 0.1, False, 1, 1, 3)],
        [(4, 0.0, False, 0, 1, 3)],
    ]
    totals = RunningTotals(ema_beta=0.5)
    assert "adaptive_window/success_rate_ema" not in totals.metrics()
    for batch in batches:
        resumed = RunningTotals()
        resumed.load_state_dict(totals.state_dict())
        totals = resumed
        totals.update(observation(batch))
    average = 0.0
    for rate in (0.5, 0.75, 0.0):
        average = 0.5 * average + 0.5 * rate
    assert totals.metrics() == pytest.approx(
        {
            "tokens/response_cumulative": 14 + 23 + 4,
            "adaptive_window/cumulative_reward": 1.0 + 3.1 + 0.0,
            "adaptive_window/cumulative_success_rate": 4 / 7,
            "adaptive_window/success_rate_ema": average / (1 - 0.5**3),
            "train/cumulative_reward": 1 / 2 + 3.1 / 4 + 0.0,
        }
    )


def test_the_smoothed_success_rate_starts_at_the_first_batch():
    totals = RunningTotals(ema_beta=0.99)
    totals.update(observation([(5, 1.0, False, 0, 1, 3), (5, 0.0, False, 0, 1, 3)]))
    assert totals.metrics()["adaptive_window/success_rate_ema"] == pytest.approx(0.5)


def test_totals_refuse_a_state_that_is_not_theirs_and_a_beta_of_one():
    with pytest.raises(ValueError, match="expected"):
        RunningTotals().load_state_dict({"rollouts": 3})
    with pytest.raises(ValueError, match="ema_beta = 1"):
        RunningTotals(ema_beta=1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_has_the_published_bounds(successes, trials, low, high):
    """81 of 263 is Newcombe's example (Statistics in Medicine 17, 1998, table I)."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_wilson_interval_holds_the_rate_and_mirrors(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


@given(st.integers(1, 8), st.data())
@settings(max_examples=60, deadline=None)
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n, data):
    from itertools import combinations

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (120, 1.9799)]
)
def test_student_t_quantile_equals_the_printed_tables(degrees, t):
    assert student_t_quantile(degrees) == pytest.approx(t, abs=5e-5)


def test_intervals_over_seeds():
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert mean_interval([0.5]) == Interval(0.5, None, None)
    assert paired_difference([0.6, 0.7], [0.5, 0.7]) == pytest.approx(
        (0.05, 0.05 - 12.7062 * 0.05, 0.05 + 12.7062 * 0.05)
    )
    assert paired_ratio([2.0, 1.0], [1.0, 2.0]).mean == pytest.approx(1.0)  # twice and half cancel
    ours, baseline = [3.0, 4.0, 7.0], [2.0, 5.0, 6.0]
    inverse = paired_ratio(baseline, ours)
    assert paired_ratio(ours, baseline) == pytest.approx((1 / inverse.mean, 1 / inverse.high, 1 / inverse.low))


def test_samples_without_spread_have_no_bounds():
    """Nor those that differ by rounding: 0.6 - 0.5 is not 0.7 - 0.6."""
    assert mean_interval([1.0, 1.0]) == Interval(1.0, None, None)
    assert paired_difference([0.6, 0.7], [0.5, 0.6]) == (pytest.approx(0.1), None, None)
    assert paired_difference([0.3, 0.5], [0.3, 0.2 + 0.3]) == (pytest.approx(0.0, abs=1e-9), None, None)
    assert paired_ratio([3.0, 6.0], [2.0, 4.0]) == (pytest.approx(1.5), None, None)


def test_a_five_seed_interval_covers_the_truth_as_often_as_it_says():
    """A normal quantile would cover 88 %: the reason for Student's t."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1.0, size=(3000, 5)).tolist()
    covered = np.mean([low <= 0.3 <= high for _, low, high in map(mean_interval, samples)])
    assert covered == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(0, 0), "trials = 0"),
        (lambda: wilson_interval(3, 2), "successes = 3"),
        (lambda: pass_at_k(4, 5, 1), "c = 5"),
        (lambda: pass_at_k(4, 2, 5), "k = 5"),
        (lambda: student_t_quantile(0), "degrees = 0"),
        (lambda: mean_interval([]), "at least one sample"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "shorter|longer"),
        (lambda: paired_ratio([1.0], [0.0]), "positive"),
    ],
)
def test_statistics_refuse_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_computed_name_is_registered_with_unit_formula_and_meaning():
    batch = observation([(5, 1.0, False, 0, 1, 3), (50, 0.0, True, 0, 1, 4)])
    totals = RunningTotals()
    totals.update(batch)
    names = {
        *rollout_metrics(batch, prompt_lengths=[1, 1], difficulties=[3, 4]),
        *totals.metrics(),
        *ratio_metrics(np.zeros(3), clip_range=(0.8, 1.2)),
    }
    assert not [name for name in names if describe(name) is None]
    assert all(all(entry) for entry in METRICS.values())
    assert describe("loss") is None


def test_the_figures_of_one_of_several_evaluation_sets_are_those_of_all():
    for name in (each for each in METRICS if each.startswith("eval/")):
        assert describe(name.replace("eval/", "eval_my-set/")) is METRICS[name]
    assert describe("eval_my-set/3_acc") is METRICS["eval/{label}_acc"]
    for of_trl in ("eval_completions/mean_length", "eval_my-set_completions/mean_length", "eval_my-set_reward"):
        assert describe(of_trl) is None


@pytest.mark.parametrize("strategy", ["fixed", "phased", "cosine", "success", "signal"])
def test_every_figure_of_a_policy_is_registered(strategy):
    options = {"phased": {"phases": ((5, 40),)}, "cosine": {"total_steps": 10}}.get(strategy, {})
    policy = make_policy(WindowConfig(strategy=strategy, initial=30, max=WINDOW, **options))
    rows = [(12, 1.0, False, 0, 1, 3), (9, 0.0, False, 0, 1, 3), (20, 1.0, False, 1, 1, 3), (22, 0.0, False, 1, 1, 3)]
    for _ in range(30):
        policy.observe(observation(rows))
    names = {f"adaptive_window/{name}" for name in policy.metrics()}
    assert {"adaptive_window/current_window", "adaptive_window/next_window"} <= names
    assert not [name for name in names if describe(name) is None]


def test_the_tables_of_the_documentation_are_those_of_the_registry():
    page = ROOT / "docs" / "metrics.md"
    written = runpy.run_path(str(ROOT / "docs" / "metrics_tables.py"))["with_tables"](page.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8") == written, "run python docs/metrics_tables.py"
    assert all(written.count(f"| `{name}` |") == 1 for name in METRICS)


@given(ROWS, st.data())
@settings(max_examples=60, deadline=None)
def test_what_was_not_judged_changes_no_figure_that_asks_for_a_reward(rows, data):
    """The same as if it had not been sampled; its tokens, its length and its cut count all the same."""
    judged = [data.draw(st.booleans()) for _ in rows]
    rewards = [
        row[1] if known else data.draw(st.sampled_from([None, math.nan]))
        for row, known in zip(rows, judged, strict=True)
    ]
    batch = observation([(row[0], reward, *row[2:]) for row, reward in zip(rows, rewards, strict=True)])
    kept = [row for row, known in zip(rows, judged, strict=True) if known]
    prompts, difficulties = [row[4] for row in rows], [row[5] for row in rows]
    figures = rollout_metrics(batch, prompt_lengths=prompts, difficulties=difficulties)
    whole = rollout_metrics(observation(rows), prompt_lengths=prompts, difficulties=difficulties)
    of_judged = rollout_metrics(observation(kept), difficulties=[row[5] for row in kept]) if kept else {}
    by_reward = ("adaptive_window/", "group/", "correct_frac", "correct_mean_length", "_acc")
    for name in whole | of_judged:
        expected = of_judged if any(part in name for part in by_reward) else whole
        assert figures.get(name) == pytest.approx(expected.get(name)), name
    totals, expected_totals = RunningTotals(), RunningTotals()
    totals.update(batch)
    expected_totals.update(observation(kept) if kept else RolloutObservation(0, WINDOW, [], [], [], []))
    tokens = {"tokens/response_cumulative": whole["tokens/response_total"]}
    assert totals.metrics() == pytest.approx(expected_totals.metrics() | tokens)
