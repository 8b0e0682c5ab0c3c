"""The signal window's steps, probes and safeguards; its estimates are tested with `survival`."""

import pytest
from windows_histories import Wanted, observed

from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy

MIXED = [Wanted(length, length % 20 == 0, index // 4) for index, length in enumerate(range(110, 310, 10))]
RAMBLING = [Wanted(None, False, index // 4) for index in range(8)]


def policy(**changes: object) -> WindowPolicy:
    values = dict(strategy="signal", initial=256, min=20, max=1024, min_samples=4, memory_rollouts=8, probe_every=4)
    return make_policy(WindowConfig(**(values | changes)))  # type: ignore[arg-type]


def see(policy: WindowPolicy, batch: list[Wanted], rollouts: int) -> list[int]:
    """The windows that produce the next rollouts."""
    windows = []
    for step in range(rollouts):
        windows.append(policy.window)
        policy.observe(observed(step, policy.window, batch))
    return windows


def test_the_second_rollout_and_then_every_fourth_runs_at_the_maximum() -> None:
    windows = see(policy(), MIXED, 14)
    assert [step for step, window in enumerate(windows) if window == 1024] == [1, 5, 9, 13]


def test_probes_are_counted_and_the_estimates_reported() -> None:
    probing = policy()
    assert set(probing.metrics()) == {"next_window", "explored_step", "exploration_rate"}
    see(probing, MIXED, 2)
    figures = probing.metrics()
    assert (figures["explored_step"], figures["exploration_rate"]) == (1.0, 0.5)
    assert figures["estimated_success_at_max"] == pytest.approx(0.5)
    assert figures["best_window"] <= 300


def test_no_probe_is_needed_at_the_maximum() -> None:
    at_max = policy(initial=1024, shrink_delta=1)
    see(at_max, RAMBLING, 10)
    assert (at_max.window, at_max.metrics()["exploration_rate"]) == (1024, 0.0)


def test_a_probe_that_the_engine_clamps_still_was_the_probe() -> None:
    clamped = policy()
    asked = []
    for step in range(9):
        asked.append(clamped.window)
        clamped.observe(observed(step, min(clamped.window, 500), MIXED))
    assert [step for step, window in enumerate(asked) if window == 1024] == [1, 5]


def test_the_window_shrinks_by_bounded_steps_to_the_longest_success() -> None:
    shrinking = policy(initial=500, slack=0.0)
    settled = []
    for _ in range(6):
        see(shrinking, MIXED, 1)
        settled.append(shrinking.state_dict()["settled_window"])
    assert settled == [436, 372, 308, 300, 300, 300]  # without slack, the longest success must fit


def test_the_window_at_most_doubles_toward_a_measured_optimum() -> None:
    long = [Wanted(900, index % 2 == 0, index // 4) for index in range(16)]
    windows = see(policy(initial=100, probe_every=8), long, 7)
    # Nothing is known at first: growth_delta. The probe shows 900: doubling, up to there.
    assert windows == [100, 1024, 328, 656, 900, 900, 900]


def test_an_unknown_tail_is_probed_until_it_is_known_and_moves_nothing() -> None:
    """One completion a rollout goes on beyond the window, four must be followed there: so four probes in a row."""
    batch = [*MIXED, Wanted(None, False, 9)]
    seen = policy(probe_every=12, memory_rollouts=12, initial=310)
    windows, settled = [], []
    for _ in range(12):
        windows += see(seen, batch, 1)
        settled.append(seen.state_dict()["settled_window"])
    assert [step for step, window in enumerate(windows) if window == 1024] == [1, 2, 3, 4]
    assert settled[:4] == [310] * 4 and set(settled[4:]) == {300}


def test_without_any_success_it_grows_while_something_is_cut_and_holds_otherwise() -> None:
    wrong = [Wanted(50, False, index // 4) for index in range(8)]
    assert policy_after(wrong, 6) == 256
    assert policy_after(RAMBLING, 20) == 1024


def policy_after(batch: list[Wanted], rollouts: int) -> int:
    seen = policy()
    see(seen, batch, rollouts)
    return seen.state_dict()["settled_window"]


def test_where_nothing_is_left_to_learn_tokens_are_saved() -> None:
    solved = [Wanted(length, True, index // 4) for index, length in enumerate(range(110, 190, 10))]
    assert policy_after(solved, 12) == 180


def test_more_slack_gives_shorter_windows() -> None:
    easy = [Wanted(100 + 10 * (index % 20), True, index // 4) for index in range(40)]
    windows = []
    for slack in (0.0, 0.05, 0.1, 0.3, 0.5):
        seen = policy(slack=slack)
        see(seen, easy, 20)
        windows.append(seen.state_dict()["settled_window"])
    assert windows == [290, 280, 270, 230, 190]  # keeping all, 19, 18, 14 and 10 of 20 lengths


def test_an_empty_batch_teaches_nothing() -> None:
    seen = policy()
    seen.observe(RolloutObservation(0, 256, [], [], [], []))
    assert seen.state_dict()["settled_window"] == 256


def test_a_shorter_memory_keeps_the_newest_rollouts() -> None:
    long_memory = policy(memory_rollouts=8)
    see(long_memory, MIXED, 8)
    state = long_memory.state_dict()
    short_memory = policy(memory_rollouts=4)
    short_memory.load_state_dict(state)
    assert short_memory.state_dict()["memory"] == state["memory"][-4:]
