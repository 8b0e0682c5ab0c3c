"""The signal window's steps, probes and safeguards; its estimates are tested with `survival`."""

from typing import Any

import pytest

from tests.support.windows_histories import Wanted, observed
from tinyzero_trl.windows import GroupState, RolloutObservation, WindowConfig, WindowPolicy, make_policy

MIXED = [Wanted(length, length % 20 == 0, index // 4) for index, length in enumerate(range(110, 310, 10))]
RAMBLING = [Wanted(None, False, index // 4) for index in range(8)]


def policy(**changes: object) -> WindowPolicy[Any]:
    values = dict(
        strategy="signal", initial=256, min=20, max=1024, min_samples=4, headroom=1.0, memory_rollouts=8, probe_every=4
    )
    return make_policy(WindowConfig(**(values | changes)))  # type: ignore[arg-type]


def see(policy: WindowPolicy[Any], batch: list[Wanted], rollouts: int) -> list[int]:
    """The windows that produce the next rollouts."""
    windows = []
    for step in range(rollouts):
        windows.append(policy.window)
        policy.observe(observed(step, policy.window, batch))
    return windows


def probes(windows: list[int]) -> list[int]:
    return [step for step, window in enumerate(windows) if window == 1024]


def test_probes_come_in_quick_succession_at_first_and_then_regularly() -> None:
    assert probes(see(policy(), MIXED, 18)) == [1, 3, 7, 11, 15]
    rare = policy(probe_every=16, memory_rollouts=16)
    assert probes(see(rare, MIXED, 48)) == [1, 3, 7, 15, 31, 47]
    assert probes(see(policy(probe_every=1), MIXED, 5)) == [1, 2, 3, 4]


def test_the_window_keeps_headroom_over_the_measured_optimum() -> None:
    roomy = policy(slack=0.0, headroom=1.25)
    see(roomy, MIXED, 12)
    assert roomy.metrics()["best_window"] == 300
    assert roomy.state_dict()["base_window"] == 375


@pytest.mark.parametrize(("headroom", "windows"), [(1.0, [300, 1024, 360, 360]), (1.25, [375, 450, 450, 450])])
def test_with_headroom_a_longer_answer_is_seen_without_a_probe(headroom: float, windows: list[int]) -> None:
    """Answers that grow from 300 to 360 tokens are cut by a window of 300, and end within one of 375."""
    grown = [Wanted(length + 60, right, group) for length, right, group in MIXED if length]
    seen = policy(slack=0.05, headroom=headroom, probe_every=8)
    see(seen, MIXED, 8)  # of which the eighth is a probe
    assert see(seen, grown, 4) == windows


def test_probes_are_counted_and_the_estimates_reported() -> None:
    probing = policy()
    assert set(probing.metrics()) == {"next_window", "explored_step", "exploration_rate"}
    see(probing, MIXED, 2)
    figures = probing.metrics()
    assert (figures["explored_step"], figures["exploration_rate"]) == (1.0, 0.5)
    assert figures["estimated_success_at_max"] == pytest.approx(0.5)
    assert figures["best_window"] <= 300


def see_in_stages(policy: WindowPolicy[Any], batch: list[Wanted], rollouts: int) -> int:
    """The tokens that the rollouts take, where groups stop between stages."""
    tokens = 0
    for step in range(rollouts):
        groups = sorted({wanted.group for wanted in batch})
        first, last = policy.stages[0], policy.window
        goes_on = policy.go_on([GroupState(group, first, 0, 0, 4) for group in groups])
        limits = {group: last if on else first for group, on in zip(groups, goes_on, strict=True)}
        parts = [observed(step, limits[wanted.group], [wanted]) for wanted in batch]
        columns = {name: [getattr(part, name)[0] for part in parts] for name in ("lengths", "rewards", "truncated")}
        tokens += sum(columns["lengths"])
        groups_of = [wanted.group for wanted in batch]
        policy.observe(RolloutObservation(step=step, window=last, groups=groups_of, **columns))
    return tokens


def test_a_probe_of_some_groups_finds_the_same_window_for_fewer_tokens() -> None:
    """Half of the completions ramble, the others end within 300 tokens."""
    batch = [*MIXED, *(Wanted(None, False, 5 + index // 4) for index in range(20))]
    whole, some = (policy(initial=600, slack=0.0, probe_group_every=every) for every in (1, 4))
    tokens = [see_in_stages(seen, batch, 16) for seen in (whole, some)]
    assert whole.state_dict()["base_window"] == some.state_dict()["base_window"] == 300
    assert tokens[1] < 0.9 * tokens[0]
    assert some.metrics()["exploration_rate"] == whole.metrics()["exploration_rate"] > 0


def test_every_group_has_its_turn_in_probes() -> None:
    probing = policy(probe_group_every=3)
    states = [GroupState(group, 256, 0, 0, 4) for group in range(7)]
    assert probing.stages == (256,) and probing.samples_in_stages
    turns = []
    for _ in range(3):
        see(probing, MIXED, 1)
        turns.append(probing.go_on(states))
    assert [sum(turn) for turn in zip(*turns, strict=True)] == [1] * 7


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
    assert probes(asked) == [1, 3, 7]


def test_the_window_shrinks_by_bounded_steps_to_the_longest_success() -> None:
    shrinking = policy(initial=500, slack=0.0)
    base = []
    for _ in range(6):
        see(shrinking, MIXED, 1)
        base.append(shrinking.state_dict()["base_window"])
    assert base == [436, 372, 308, 300, 300, 300]  # without slack, the longest success must fit


def test_a_window_more_than_twice_too_long_halves_unless_it_may_shrink_by_more() -> None:
    for steps, expected in ({"shrink_delta": 64}, [512, 448, 384, 320, 300]), ({"shrink_delta": 700}, [324, 300]):
        wide = policy(initial=1024, slack=0.0, **steps)
        base = []
        for _ in expected:
            see(wide, MIXED, 1)
            base.append(wide.state_dict()["base_window"])
        assert base == expected


def test_the_window_at_most_doubles_toward_a_measured_optimum() -> None:
    long = [Wanted(900, index % 2 == 0, index // 4) for index in range(16)]
    growing, base = policy(initial=100), []
    for _ in range(5):
        see(growing, long, 1)
        base.append(growing.state_dict()["base_window"])
    # Nothing is known at first: growth_delta. The second rollout, a probe, shows 900: doubling, up to there.
    assert base == [164, 328, 656, 900, 900]


def test_an_unknown_tail_is_probed_until_it_is_known_and_moves_nothing() -> None:
    """One completion a rollout goes on beyond the window, four must be followed there: so four probes in a row."""
    batch = [*MIXED, Wanted(None, False, 9)]
    seen = policy(probe_every=12, memory_rollouts=12, initial=310)
    windows, base = [], []
    for _ in range(12):
        windows += see(seen, batch, 1)
        base.append(seen.state_dict()["base_window"])
    assert probes(windows) == [1, 2, 3, 4, 9]  # the last in its turn
    assert base[:4] == [310] * 4 and set(base[4:]) == {300}


def test_without_any_success_it_grows_while_something_is_cut_and_holds_otherwise() -> None:
    wrong = [Wanted(50, False, index // 4) for index in range(8)]
    assert policy_after(wrong, 6) == 256
    assert policy_after(RAMBLING, 20) == 1024


def policy_after(batch: list[Wanted], rollouts: int) -> int:
    seen = policy()
    see(seen, batch, rollouts)
    return int(seen.state_dict()["base_window"])


def test_where_nothing_is_left_to_learn_tokens_are_saved() -> None:
    solved = [Wanted(length, True, index // 4) for index, length in enumerate(range(110, 190, 10))]
    assert policy_after(solved, 12) == 180


def test_more_slack_gives_shorter_windows() -> None:
    easy = [Wanted(100 + 10 * (index % 20), True, index // 4) for index in range(40)]
    windows = []
    for slack in (0.0, 0.05, 0.1, 0.3, 0.5):
        seen = policy(slack=slack)
        see(seen, easy, 20)
        windows.append(seen.state_dict()["base_window"])
    assert windows == [290, 280, 270, 230, 190]  # keeping all, 19, 18, 14 and 10 of 20 lengths


def test_an_empty_batch_teaches_nothing() -> None:
    seen = policy()
    seen.observe(RolloutObservation(0, 256, [], [], [], []))
    assert seen.state_dict()["base_window"] == 256


def test_a_shorter_memory_keeps_the_newest_rollouts() -> None:
    long_memory = policy(memory_rollouts=8)
    see(long_memory, MIXED, 8)
    state = long_memory.state_dict()
    short_memory = policy(memory_rollouts=4)
    short_memory.load_state_dict(state)
    assert short_memory.state_dict()["memory"] == state["memory"][-4:]
