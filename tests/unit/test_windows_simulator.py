"""The published comparison, small: every scenario's targets, and that no adaptive policy gets stuck."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulate_windows as simulator
from window_learners import SCENARIOS as LEARNERS

SCENARIOS = ["short answers", "long answers", "needs growth", "rambling collapse"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_signal_is_close_to_the_oracle_and_nothing_gets_stuck(name: str) -> None:
    scenario = next(scenario for scenario in LEARNERS if scenario.name == name)
    settings = simulator.Settings(rollouts=300, seeds=1)
    adaptive = ("success, basic", "success, ema", "success, rolling", "signal")
    rows = simulator.simulate(scenario, settings, adaptive)["policies"]
    assert rows["signal"]["tokens_over_oracle"] <= 1.25
    assert rows["signal"]["points_lost"] <= 1.0  # of the success at full length, of which the oracle loses 1.2 to 1.4
    for policy in adaptive:
        assert rows[policy]["idle_at_max_frac"] < 0.2, policy  # probes and explorations alone
        assert rows[policy]["kept_at_end_frac"] > 0.8, policy


def test_the_measure_of_being_stuck_can_fail() -> None:
    """A fixed window always is, on a learner of short answers."""
    short = LEARNERS[0]
    rows = simulator.simulate(short, simulator.Settings(rollouts=60, seeds=1), ("fixed",))["policies"]
    assert rows["fixed"]["idle_at_max_frac"] == 1.0
    assert rows["fixed"]["tokens_over_oracle"] > 1.5


@pytest.mark.parametrize("name", SCENARIOS)
def test_samples_follow_the_stated_truth(name: str) -> None:
    scenario = next(scenario for scenario in LEARNERS if scenario.name == name)
    learner, window = scenario.learner(0.6), 500
    truth = learner.truth(scenario.largest)
    rollout = learner.rollout(0, window, prompts=4000, group_size=2, generator=np.random.default_rng(0))
    rewards = np.array(rollout.rewards).reshape(-1, 2)
    assert rewards.mean() == pytest.approx(truth.success[window], abs=0.02)
    assert rewards.prod(axis=1).mean() == pytest.approx(truth.pair_success[window], abs=0.02)
    assert np.mean(rollout.lengths) == pytest.approx(truth.cost[window], rel=0.02)


def test_the_script_writes_record_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", "--out", str(tmp_path), "--rollouts", "6", "--seeds", "1"])
    simulator.main()
    assert {path.name for path in tmp_path.iterdir()} == {"simulation.json", "table.md", "windows.png"}
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert len(rows) == 2 + 4 * (1 + 9)


@pytest.mark.parametrize("slack", [0.02, 0.3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_scaled_advantages_would_choose_the_same_windows(name: str, slack: float) -> None:
    """docs/windows.md: 1 - p^G - (1 - p)^G in place of p (1 - p) changes no choice of the oracle."""
    scenario = next(scenario for scenario in LEARNERS if scenario.name == name)
    for progress in np.linspace(0, 1, 21):
        learner = scenario.learner(float(progress))
        truth = learner.truth(scenario.largest)
        success = learner.success_by(scenario.largest)  # (levels, W)
        mixed = (1 - success**8 - (1 - success) ** 8).mean(axis=0)
        scaled = replace(truth, pair_success=truth.success - mixed)
        assert scaled.best_window(20, slack) == truth.best_window(20, slack)
