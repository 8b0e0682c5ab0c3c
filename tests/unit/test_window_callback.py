"""The window policy of a running trainer: another one takes over everywhere, or is refused; and what is warned of."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tinyzero_trl.training.callbacks.events import Rollout
from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
from tinyzero_trl.training.rollout.hints import RolloutHints
from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy

LONGEST = 100
CONFIG = WindowConfig(strategy="fixed", initial=50, min=10, max=LONGEST)


def observe(
    callback: AdaptiveWindowCallback, step: int, rewards: Sequence[float | None], truncated: bool = False
) -> None:
    seen = RolloutObservation(step, callback.window, [9, 9], rewards, [truncated] * 2, [0, 0])
    callback.on_rollout_end(
        SimpleNamespace(), TrainerState(), SimpleNamespace(), rollout=Rollout(seen, [4, 4], None, 0.1)
    )


def test_an_assigned_policy_is_asked_shown_recorded_and_saved() -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    callback.policy = make_policy(WindowConfig(strategy="fixed", initial=70, min=10, max=70))
    assert callback.window == 70
    observe(callback, 0, [1.0, 0.0])
    assert callback.figures() == {"adaptive_window/current_window": 70.0, "adaptive_window/next_window": 70.0}
    assert callback.state_dict() == callback.policy.state_dict()


def phased() -> WindowPolicy:
    return make_policy(WindowConfig(strategy="phased", min=10, max=LONGEST, phases=((0, 20), (3, 30), (5, 50))))


def test_a_policy_knows_at_which_step_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    """In a training, in another one of the same trainer, and from a checkpoint, whatever it holds."""
    callback, args = AdaptiveWindowCallback(phased().config), TrainingArguments("out", use_cpu=True, report_to="none")
    ended_in_mid_rollout = phased()
    ended_in_mid_rollout.observe(RolloutObservation(1, 20, [9], [1.0], [False], [0], optimizer_steps=4))
    saved = {"AdaptiveWindowCallback": {"attributes": {"saved": ended_in_mid_rollout.state_dict()}}}
    for step, stored, window in ((0, {}, 20), (4, {}, 30), (0, {}, 20), (3, saved, 30), (2, saved, 20)):
        state = TrainerState(global_step=step, stateful_callbacks=stored)
        callback.on_train_begin(args, state, TrainerControl())
        assert callback.window == window


def test_a_policy_that_takes_over_in_a_run_knows_its_step() -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    callback.policy = phased()
    assert callback.window == 20
    for step, window in ((2, 30), (3, 30), (4, 50)):
        observe(callback, step, [1.0, 0.0])
        callback.policy = phased()
        assert callback.window == window


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (CONFIG, r"^policy: a \w+ is no WindowPolicy; derive"),
        (
            make_policy(WindowConfig(strategy="fixed", initial=200, min=10, max=200)),
            r"^policy: its window 200 is outside 1 to 100.*raise max_completion_length",
        ),
        (
            make_policy(WindowConfig(strategy="fixed", max=LONGEST, success_threshold=0.5)),
            r"^policy: its success_threshold 0.5 is not the 1.0 by which records.*set window_success_threshold to 0.5",
        ),
    ],
)
def test_a_policy_that_cannot_take_over_is_refused_and_the_former_one_stays(policy: object, why: str) -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    former = callback.policy
    with pytest.raises(ValueError, match=why):
        callback.policy = policy  # type: ignore[assignment]
    assert callback.policy is former


def test_rewards_that_never_reach_the_threshold_are_named_once(caplog) -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    for step in range(9):
        observe(callback, step, [0.25, step / 16])
    assert not caplog.messages
    for step in range(9, 30):
        observe(callback, step, [0.1, 0.2])
    [line] = caplog.messages
    assert line.startswith("step 10: none of the last 10 rollouts") and "was 0.5, and a success is 1" in line
    assert line.endswith("set window_success_threshold.")


def test_a_first_function_that_judges_nothing_is_named(caplog) -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    for step in range(12):
        observe(callback, step, [None, None])
    [line] = caplog.messages
    assert line.startswith("step 10: none of the last 10 rollouts") and "judged no completion" in line


@pytest.mark.parametrize(
    ("config", "window", "raised"),
    [
        (CONFIG, LONGEST - 1, "initial or min"),
        (CONFIG, LONGEST, "max"),
        (replace(CONFIG, max=2 * LONGEST), 2 * LONGEST, "max_completion_length"),
        (WindowConfig(strategy="phased", max=LONGEST, phases=((0, 20), (3, 30))), 20, "phases"),
    ],
)
def test_what_to_raise_follows_from_what_limits_the_window(
    config: WindowConfig, window: int, raised: str, caplog
) -> None:
    RolloutHints(config, full_length=2 * LONGEST).look_at(RolloutObservation(0, window, [window], [0.0], [True], [0]))
    assert f"none earned a reward. Raise {raised}, or" in caplog.text


@pytest.mark.parametrize(("rule", "hints"), [("plain", 1), ("value", 0)])
def test_groups_that_stop_early_were_not_cut_by_the_longest_window(rule: str, hints: int, caplog) -> None:
    """The plain rule stops at `initial`. The other one knows by then that successes are elsewhere."""
    config = WindowConfig(strategy="group", group_rule=rule, initial=8, max=LONGEST)
    lengths = [*[8] * 18, LONGEST, LONGEST]  # the last two have explored
    seen = RolloutObservation(0, LONGEST, lengths, [0.0] * 20, [True] * 20, [row // 2 for row in range(20)])
    RolloutHints(config).look_at(seen)
    assert len(caplog.messages) == hints
    for line in caplog.messages:
        assert "cut, mostly at 8 tokens, and none earned a reward. Raise initial or min, or" in line


def test_after_a_success_nothing_is_said(caplog) -> None:
    callback = AdaptiveWindowCallback(CONFIG)
    observe(callback, 0, [1.0, 0.0])
    for step in range(1, 30):
        observe(callback, step, [0.0, 0.0])
    assert not caplog.messages


def test_a_checkpoint_of_another_trainer_is_said_to_hold_no_policy(caplog: pytest.LogCaptureFixture) -> None:
    args, control = TrainingArguments("out", use_cpu=True, report_to="none"), TrainerControl()
    for step in (0, 3):
        state = TrainerState(global_step=step, stateful_callbacks={"TrainerControl": {}})
        AdaptiveWindowCallback(CONFIG).on_train_begin(args, state, control)
    assert "AdaptiveWindowCallback" in state.stateful_callbacks, "Trainer looks there at the next checkpoint"
    [line] = caplog.messages
    assert line.startswith("resume: the checkpoint of step 3 holds no state of AdaptiveWindowCallback, perhaps because")


@pytest.mark.parametrize("value", [{1, 2}, {3: 0.5}, (1, 2), object()], ids=["set", "number", "tuple", "object"])
def test_what_a_checkpoint_would_change_is_refused(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed would go on with another state, or not at all."""
    callback = AdaptiveWindowCallback(CONFIG)
    assert callback.state()["attributes"]["saved"] == callback.policy.state_dict()
    for kept in (None, float("nan"), [1, 0.1, float("inf")], {"3": [{"lengths": [4]}]}):
        monkeypatch.setattr(callback.policy, "state_dict", lambda kept=kept: {"seen": kept})
        callback.state()
    monkeypatch.setattr(callback.policy, "state_dict", lambda: {"seen": value})
    with pytest.raises(ValueError, match=r"AdaptiveWindowCallback: a checkpoint cannot keep seen .* as it is; convert"):
        callback.state()


def test_what_a_policy_has_learned_is_looked_at_after_the_first_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint may come hours later."""
    callback = AdaptiveWindowCallback(CONFIG)
    learned: dict[str, object] = {"seen": 3}
    monkeypatch.setattr(callback.policy, "state_dict", lambda: learned)
    monkeypatch.setattr(callback.policy, "learn", lambda seen: learned.update(seen=np.max(np.array(seen.lengths))))
    with pytest.raises(ValueError, match=r"a checkpoint cannot keep seen np.int64\(9\) as it is; convert"):
        observe(callback, 0, [1.0, 0.0])
