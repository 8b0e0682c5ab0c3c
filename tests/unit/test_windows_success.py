"""The success window, rule by rule, and its golden trace beside the fork's rule."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from tests.support.windows_histories import Wanted, observed
from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "success_window.json").read_text())
EASY = [Wanted(length, True) for length in (100, 100, 140, 140)]
CUT = [Wanted(None, False)] * 4
WRONG = [Wanted(50, False)] * 4


def policy(**changes: object) -> WindowPolicy[Any]:
    values = dict(strategy="success", initial=256, min=64, max=1024, update_frequency=1, min_samples=4, epsilon=0.0)
    return make_policy(WindowConfig(**(values | changes)))  # type: ignore[arg-type]


def see(policy: WindowPolicy[Any], *rollouts: list[Wanted]) -> list[int]:
    """The windows that follow each rollout."""
    windows = []
    for step, batch in enumerate(rollouts):
        policy.observe(observed(step, policy.window, batch))
        windows.append(policy.window)
    return windows


@pytest.mark.parametrize("rule", ["fork", "corrected"])
def test_golden_trace(rule: str) -> None:
    traced = make_policy(WindowConfig(**GOLDEN["config"], **(GOLDEN["fork"] if rule == "fork" else {})))
    for number, row in enumerate(GOLDEN["rows"]):
        assert traced.window == row[rule]["window"], f"row {number}"
        batch = [Wanted(length, right) for length, right in row["wanted"]]
        traced.observe(observed(number, traced.window, batch))
        assert traced.window == row[rule]["next"], f"row {number}: {row[rule]['reason']}"


def test_warmup_holds_and_then_sets_the_mean_success_length() -> None:
    assert see(policy(warmup_steps=3), EASY, EASY, EASY) == [256, 256, 120]
    assert see(policy(warmup_steps=2), WRONG, WRONG) == [256, 256]  # nothing succeeded: nothing to set
    assert see(policy(warmup_steps=1, min=130), EASY) == [130]


def test_updates_come_at_their_frequency_after_the_warmup() -> None:
    assert see(policy(update_frequency=3), *[EASY] * 6) == [256, 256, 192, 192, 192, 192]
    changes = see(policy(update_frequency=2, warmup_steps=1, min=200), *[EASY] * 5)
    assert changes[:2] == [200, 200]


def test_the_rate_of_a_batch_counts_in_the_update_that_it_triggers() -> None:
    assert see(policy(initial=1024, success_rate_ema_beta=0.0), EASY, WRONG)[0] == 960
    policy_ = policy(initial=512, success_rate_ema_beta=0.5)
    see(policy_, EASY, WRONG)
    assert policy_.metrics()["policy_success_rate"] == 0.5


def test_few_success_lengths_allow_growth_out_of_saturation_alone() -> None:
    assert see(policy(min_samples=9), EASY, EASY) == [256, 256]
    assert see(policy(), CUT, CUT) == [320, 384]
    assert see(policy(saturation_frac=1.0), CUT, CUT) == [256, 256]
    assert see(policy(), WRONG, WRONG) == [256, 256]  # nothing was cut: no window would help


def test_an_end_token_at_the_limit_is_not_saturation() -> None:
    finished = RolloutObservation(0, 256, [256] * 4, [0.0] * 4, [False] * 4, [0] * 4)
    unmoved = policy()
    unmoved.observe(finished)
    assert unmoved.window == 256


def test_a_small_change_is_dropped_unless_it_reaches_a_bound() -> None:
    hard = [Wanted(300, True)] * 2 + [Wanted(40, False)] * 2
    assert see(policy(initial=300, max=400, min_samples=2), hard) == [364]
    assert see(policy(initial=300, max=330, min_samples=2), hard) == [330]  # 30 tokens, but the bound
    assert see(policy(initial=210, min=64), EASY) == [210]  # D = 160: 50 tokens of room, below min_change
    assert see(policy(initial=210, min=160), EASY) == [160]


def test_an_exploration_lasts_one_rollout_and_its_rate_is_not_the_windows() -> None:
    exploring = policy(epsilon=1.0, update_frequency=2, initial=256)
    long = [Wanted(600, True)] * 4
    assert see(exploring, EASY, EASY, long, long) == [256, 1024, 192, 1024]
    figures = exploring.metrics()
    assert (figures["exploration_rate"], figures["explored_step"]) == (0.25, 0.0)
    # Rollout 3 was a probe and succeeded at 1024; only rollout 4 tells of the base window: 0.9 x 1 + 0.1 x 0.
    assert figures["policy_success_rate"] == pytest.approx(0.9)
    assert figures["demand"] > 600  # its lengths count


def test_exploration_is_drawn_from_the_policys_own_seed() -> None:
    traces = {seed: see(policy(epsilon=0.5, seed=seed), *[EASY] * 40) for seed in (0, 0, 1)}
    assert traces[0] == see(policy(epsilon=0.5, seed=0), *[EASY] * 40)
    assert traces[0] != traces[1]


@pytest.mark.parametrize(
    ("mode", "kept"), [({}, slice(0, 12)), ({"mode": "rolling", "rolling_window": 6, "min_samples": 4}, slice(4, 12))]
)
def test_demand_counts_all_lengths_or_the_newest_whole_batches(mode: dict[str, Any], kept: slice) -> None:
    lengths = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]
    batches = [[Wanted(length, True) for length in lengths[start : start + 4]] for start in (0, 4, 8)]
    moments = policy(**mode)
    see(moments, *batches)
    assert moments.metrics()["demand"] == pytest.approx(fmean(lengths[kept]) + 2 * pstdev(lengths[kept]))


@pytest.mark.parametrize(("corrected", "weights"), [(True, (0.5**2, 0.5)), (False, (0.5, 0.5))])
def test_exponential_moments_start_where_their_correction_assumes(
    corrected: bool, weights: tuple[float, float]
) -> None:
    moments = policy(mode="ema", ema_beta=0.5, ema_bias_correction=corrected, std_multiplier=0.0)
    see(moments, [Wanted(100, True)] * 4, [Wanted(40, True)] * 4)
    expected = (100 * weights[0] + 40 * weights[1]) / sum(weights)
    assert moments.metrics()["demand"] == pytest.approx(expected)


def test_a_completion_that_was_cut_and_not_judged_is_no_success_to_the_policy() -> None:
    """So its rate may lie below `success_rate`, which counts judged completions alone (docs/metrics.md)."""
    batch = observed(0, 256, [Wanted(100, True), Wanted(50, False), Wanted(None, False), Wanted(None, False)])
    policy_ = policy()
    policy_.observe(replace(batch, rewards=[1.0, 0.0, 0.0, None]))
    assert policy_.metrics()["policy_success_rate"] == 0.25
