"""The schedules: windows that follow the step alone."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.windows_histories import config_of, observed
from tinyzero_trl.windows import WindowConfig, make_policy, strategies


def window_at(config: WindowConfig, step: int) -> int:
    """The window that follows an observation at `step` - 1."""
    policy = make_policy(config)
    if step:
        policy.observe(observed(step - 1, policy.window, []))
    return policy.window


def test_fixed_is_always_the_maximum() -> None:
    assert {window_at(WindowConfig(strategy="fixed", max=777), step) for step in (0, 1, 1000)} == {777}


def test_phased_changes_at_its_steps_and_holds_the_last() -> None:
    config = WindowConfig(strategy="phased", initial=100, max=512, phases=((2, 200), (5, 50), (6, 512)))
    assert [window_at(config, step) for step in range(8)] == [100, 100, 200, 200, 200, 50, 512, 512]


def test_cosine_rises_from_initial_to_the_maximum_along_half_a_cosine() -> None:
    config = WindowConfig(strategy="cosine", initial=100, max=500, total_steps=4)
    # 400 x (1 - cos(pi / 4)) / 2 = 58.6
    assert [window_at(config, step) for step in (0, 1, 2, 3, 4, 99)] == [100, 159, 300, 441, 500, 500]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(0, 300), st.integers(20, 900), st.integers(0, 900))
def test_cosine_never_shrinks(total_steps: int, step: int, initial: int, rise: int) -> None:
    config = WindowConfig(strategy="cosine", initial=initial, max=initial + rise, total_steps=total_steps)
    assert window_at(config, step) <= window_at(config, step + 1)


def test_a_schedule_follows_the_trainers_step_not_the_number_of_rollouts() -> None:
    config = WindowConfig(strategy="phased", initial=100, max=512, phases=((10, 300),))
    policy = make_policy(config)
    windows = []
    for step in (0, 4, 8, 12):  # one rollout serves four steps
        policy.observe(observed(step, policy.window, []))
        windows.append(policy.window)
    assert windows == [100, 100, 100, 300]


@pytest.mark.parametrize("strategy", strategies())
def test_schedules_alone_follow_the_step_at_which_training_begins(strategy: str) -> None:
    config = config_of(strategy, initial=100, max=512, phases=((2, 200),), total_steps=4)
    policy = make_policy(config)
    policy.observe(observed(6, policy.window, []))
    before = policy.state_dict()
    for step in (2, 0, 9):
        policy.begin_at_step(step)
        if "next_step" in before:
            assert policy.window == window_at(config, step)
        else:
            assert policy.state_dict() == before


def test_a_window_that_is_due_at_a_rollout_is_that_rollouts() -> None:
    """An observation says how many steps are taken on its batch, so that the next rollout's step is known."""
    policy = make_policy(WindowConfig(strategy="phased", initial=100, max=512, phases=((4, 300),)))
    observation = observed(0, policy.window, [])
    policy.observe(replace(observation, optimizer_steps=4))
    assert policy.window == 300
