"""What holds for every window policy, whatever it observes."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.windows_histories import (
    Wanted,
    config_of,
    configs,
    histories,
    observed,
    random_history,
    through_json,
)
from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy, strategies

many = settings(max_examples=300, deadline=None)


def follow(policy: WindowPolicy[Any], history: list[list[Wanted]], first_step: int = 0) -> list[int]:
    """Let the policy see the history under its own windows; the windows that it chose."""
    windows = []
    for step, batch in enumerate(history, first_step):
        windows.append(policy.window)
        policy.observe(observed(step, policy.window, batch))
    return [*windows, policy.window]


@many
@given(configs, histories)
def test_windows_stay_in_bounds_and_figures_finite(config: WindowConfig, history: list[list[Wanted]]) -> None:
    policy = make_policy(config)
    for step, batch in enumerate(history):
        before = policy.window
        policy.observe(observed(step, before, batch))
        assert type(policy.window) is int
        assert config.min <= policy.window <= config.largest
        figures = policy.metrics()
        assert (figures["current_window"], figures["next_window"]) == (before, policy.window)
        assert all(type(figure) is float and math.isfinite(figure) for figure in figures.values())


@many
@given(configs, histories)
def test_a_cut_completion_may_have_no_score(config: WindowConfig, history: list[list[Wanted]]) -> None:
    """A task that finds nothing to judge in it says so, or gives it 0: the same windows and figures come of both."""
    scored, silent = make_policy(config), make_policy(config)
    for step, batch in enumerate(history):
        seen = observed(step, scored.window, batch)
        rewards = [None if cut else reward for reward, cut in zip(seen.rewards, seen.truncated, strict=True)]
        scored.observe(seen)
        silent.observe(replace(seen, rewards=rewards))
        assert (scored.metrics(), scored.group_metrics()) == (silent.metrics(), silent.group_metrics())
    assert scored.state_dict() == silent.state_dict()


@pytest.mark.parametrize("no_score", [None, math.nan])
def test_a_group_of_which_a_finished_completion_has_no_score_is_not_judged(no_score: float | None) -> None:
    """A completion of it that was cut says nothing: whoever judges these prompts is another function."""
    rewards = [no_score, no_score, 1.0, no_score, 0.0, no_score]
    cut, groups = [False, True, False, True, True, True], [0, 0, 1, 1, 2, 2]
    seen = RolloutObservation(0, 9, [5, 9, 4, 9, 9, 9], rewards, cut, groups, labels=list("aabbcc"))
    for threshold, no_success in ((1.0, 0.0), (0.0, -1.0), (-2.0, -3.0)):
        judged = seen.judged(threshold)
        assert judged.groups == [1, 1, 2, 2] and judged.rewards == [1.0, no_success, 0.0, no_success]
        assert (judged.lengths, judged.labels) == ([4, 9, 9, 9], list("bbcc"))


@many
@given(configs, histories, st.integers(0, 25))
def test_a_resumed_policy_continues_as_if_never_stopped(
    config: WindowConfig, history: list[list[Wanted]], stop: int
) -> None:
    stop = min(stop, len(history))
    stopped, uninterrupted = make_policy(config), make_policy(config)
    follow(stopped, history[:stop])
    follow(uninterrupted, history[:stop])
    resumed = through_json(stopped)
    assert resumed.metrics() == uninterrupted.metrics()
    assert follow(resumed, history[stop:], stop) == follow(uninterrupted, history[stop:], stop)
    assert resumed.state_dict() == uninterrupted.state_dict()


@pytest.mark.parametrize("strategy", strategies())
@pytest.mark.parametrize("mode", ["basic", "ema", "rolling"])
def test_what_a_policy_had_seen_before_it_is_loaded_is_forgotten(strategy: str, mode: str) -> None:
    config = config_of(
        strategy, mode=mode, initial=64, max=256, total_steps=10, phases=((0, 99),), update_frequency=1, min_samples=1
    )
    saved, used = make_policy(config), make_policy(config)
    follow(saved, random_history(rollouts=5, completions=16, seed=1))
    follow(used, random_history(rollouts=7, completions=16, seed=2))
    used.load_state_dict(saved.state_dict())
    resumed, history = through_json(saved), random_history(rollouts=3, completions=16, seed=3)
    assert used.state_dict() == resumed.state_dict()
    assert follow(used, history, 5) == follow(resumed, history, 5)
    assert used.state_dict() == resumed.state_dict()


@many
@given(configs, histories, st.randoms(use_true_random=False))
def test_neither_the_order_of_completions_nor_the_names_of_groups_matter(
    config: WindowConfig, history: list[list[Wanted]], shuffler: random.Random
) -> None:
    names = {0: 3, 1: 0, 2: 17, 3: -5}
    shuffled = [
        shuffler.sample([wanted._replace(group=names[wanted.group]) for wanted in batch], len(batch))
        for batch in history
    ]
    one, other = make_policy(config), make_policy(config)
    assert follow(one, history) == follow(other, shuffled)
    assert one.state_dict() == other.state_dict()


@many
@given(configs, histories, st.lists(st.integers(1, 500), min_size=25, max_size=25))
def test_an_engine_may_use_another_window_than_asked(
    config: WindowConfig, history: list[list[Wanted]], windows: list[int]
) -> None:
    policy = make_policy(config)
    for step, (batch, window) in enumerate(zip(history, windows, strict=False)):
        policy.observe(observed(step, window, batch))
        assert config.min <= policy.window <= config.largest
        assert policy.metrics()["current_window"] == window


@pytest.mark.parametrize("strategy", strategies())
@pytest.mark.parametrize("mode", ["basic", "ema", "rolling"])
def test_memory_does_not_grow_with_the_run(strategy: str, mode: str) -> None:
    config = config_of(strategy, mode=mode, initial=128, max=256, total_steps=10, phases=((0, 99),), memory_rollouts=16)
    policy = make_policy(config)
    sizes = []
    for round_ in range(3):
        follow(policy, random_history(rollouts=60, completions=24, seed=round_), 60 * round_)
        sizes.append(len(json.dumps(policy.state_dict())))
    assert max(sizes[1:]) < 1.15 * sizes[0]


@pytest.mark.parametrize("strategy", strategies())
def test_nothing_outside_the_policy_decides(strategy: str) -> None:
    history = random_history(rollouts=30, completions=16, seed=1)
    config = config_of(strategy, initial=128, max=512, total_steps=10, phases=((0, 99),), epsilon=0.5)
    runs = []
    for seed in (1, 2):
        random.seed(seed)
        runs.append(follow(make_policy(config), history))
    assert runs[0] == runs[1]


@many
@given(configs, histories, st.randoms(use_true_random=False))
def test_a_completion_that_was_not_judged_is_not_seen(
    config: WindowConfig, history: list[list[Wanted]], chance: random.Random
) -> None:
    """None and NaN alike. A rollout without any score leaves the window as it is; a schedule goes on.

    One that was cut counts as no success, unless a finished completion of its group has no score.
    """
    whole, judged = make_policy(config), make_policy(config)
    for step, batch in enumerate(history):
        window = whole.window
        seen = observed(step, window, batch)
        missing = [chance.choice([True, False]) for _ in batch]
        rewards = [
            chance.choice([None, math.nan]) if gone else reward
            for gone, reward in zip(missing, seen.rewards, strict=True)
        ]
        whole.observe(replace(seen, rewards=rewards))
        rows = list(zip(missing, seen.truncated, batch, strict=True))
        silent = {wanted.group for gone, cut, wanted in rows if gone and not cut}
        silent |= {wanted.group for wanted in batch} if silent and all(missing) else set()
        kept = [wanted for gone, cut, wanted in rows if not gone or (cut and wanted.group not in silent)]
        if kept or not batch or config.strategy in ("fixed", "phased", "cosine"):
            judged.observe(observed(step, window, kept))
        else:
            assert whole.window == window
        assert whole.window == judged.window


def test_a_reward_that_is_not_a_number_is_no_success() -> None:
    for strategy in ("success", "signal"):
        policy = make_policy(config_of(strategy, initial=128, max=512, update_frequency=1, min_samples=1))
        for step in range(5):
            policy.observe(RolloutObservation(step, 512, [9, 10], [math.nan, math.nan], [False, False], [0, 0]))
        assert all(math.isfinite(figure) for figure in policy.metrics().values())


def test_the_state_of_another_strategy_or_mode_is_refused() -> None:
    success = make_policy(WindowConfig(strategy="success", max=2048))
    with pytest.raises(ValueError, match=r"^window_strategy: 'signal' cannot continue the state of 'success'; resume"):
        make_policy(WindowConfig(strategy="signal", max=2048)).load_state_dict(success.state_dict())
    with pytest.raises(ValueError, match=r"^window_mode: 'ema' cannot continue the moments of 'basic'; resume"):
        make_policy(WindowConfig(strategy="success", mode="ema", max=2048)).load_state_dict(success.state_dict())
    state = {name: value for name, value in success.state_dict().items() if name != "rate_ema"}
    with pytest.raises(ValueError, match=r"^window_strategy: the saved state of 'success' lacks rate_ema"):
        success.load_state_dict(state)


def test_a_resumed_window_is_clipped_to_changed_bounds() -> None:
    for strategy in ("success", "signal"):
        saved = make_policy(WindowConfig(strategy=strategy, initial=1024, max=2048)).state_dict()
        smaller = make_policy(WindowConfig(strategy=strategy, initial=256, max=512))
        smaller.load_state_dict(saved)
        assert smaller.window == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rewards": [1.0]}, "^observation: .*'rewards': 1.* differ; give one entry per completion"),
        ({"window": 0}, "^observation: step 0, window 0, optimizer_steps 1; give step >= 0, window >= 1 and"),
        ({"step": -1}, "^observation: step -1"),
        ({"optimizer_steps": 0}, "^observation: step 0, window 8, optimizer_steps 0; give"),
        ({"lengths": [3, -1]}, "^observation: length -1 is negative"),
    ],
)
def test_what_cannot_be_a_batch_is_refused(values: dict[str, Any], message: str) -> None:
    batch: dict[str, Any] = {
        "step": 0,
        "window": 8,
        "lengths": [3, 4],
        "rewards": [1.0, 0.0],
        "truncated": [False] * 2,
        "groups": [0] * 2,
    }
    with pytest.raises(ValueError, match=message):
        RolloutObservation(**(batch | values))
