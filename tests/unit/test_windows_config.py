"""Every value that a window policy cannot work with is refused by name, with what to do about it."""

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.windows_histories import config_of
from tinyzero_trl import AdaptiveGRPOConfig
from tinyzero_trl.windows import (
    MODES,
    AdaptiveConfig,
    FixedConfig,
    GroupConfig,
    PhasedConfig,
    SignalConfig,
    SuccessConfig,
    WindowConfig,
    declarations,
    fields_read,
    make_policy,
    unread_fields,
)
from tinyzero_trl.windows.fidelity import Gain

PHASES = ((0, 100), (10, 200))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "adaptive"}, r"strategy: 'adaptive' is unknown; choose one of fixed, phased"),
        (
            {"strategy": "success", "mode": "median"},
            r"mode: 'median' is unknown; choose one of basic, ema, rolling",
        ),
        ({"min": 0}, r"min: 0 is below 1; set it to 1 or more"),
        ({"initial": 512.5}, r"initial: 512.5 is not a whole number"),
        ({"min_samples": True}, r"min_samples: True is not a whole number"),
        ({"seed": "7"}, r"seed: '7' is not a whole number"),
        ({"slack": 1.0}, r"slack: 1.0 is not below 1; set it below 1"),
        ({"slack": float("nan")}, r"slack: nan is not finite; give a finite number"),
        ({"strategy": "success", "epsilon": 1.5}, r"epsilon: 1.5 is above 1; set it to 1 or less"),
        ({"strategy": "success", "std_multiplier": -1}, r"std_multiplier: -1 is below 0; set it to 0 or more"),
        ({"strategy": "success", "ema_beta": 1}, r"ema_beta: 1 is not below 1"),
        (
            {"strategy": "success", "ema_bias_correction": "yes"},
            r"ema_bias_correction: 'yes' is neither true nor false",
        ),
        (
            {"strategy": "success", "growth_needs_pressure": 1},
            r"growth_needs_pressure: 1 is neither true nor false",
        ),
        ({"max": 0}, r"max: 0 is not a positive whole number; give 1 or more"),
        (
            {"strategy": "cosine", "total_steps": 2.0},
            r"total_steps: 2.0 is not written as a positive whole num.* write 2",
        ),
        ({"strategy": "cosine", "total_steps": -2.0}, r"total_steps: -2.0 is not a positive whole number; give 1 or"),
        ({"initial": np.int64(32)}, r"initial: np.int64\(32\) is not written as a whole number; write 32$"),
        ({"initial": 32.0}, r"initial: 32.0 is not written as a whole number; write 32$"),
        ({"initial": float("inf")}, r"initial: inf is not a whole number; change it"),
        (
            {"success_threshold": np.float32(0.5)},
            r"success_threshold: np.float32\(0.5\) is not written as a number; write 0.5$",
        ),
        ({"min": 300, "max": 200}, r"min: 300 exceeds max 200; lower min or raise max"),
        ({"initial": 1024, "max": 512}, r"initial: 1024 is outside \[min 20, max 512\]"),
        ({"strategy": "phased"}, r"phases: empty; strategy phased needs pairs such as"),
        ({"strategy": "phased", "phases": ((5, 100), (5, 200))}, r"phases: steps \[5, 5\] do not strictly"),
        ({"strategy": "phased", "phases": ((-1, 100),)}, r"phases: steps \[-1\] do not strictly"),
        ({"strategy": "phased", "phases": PHASES, "max": 150}, r"phases: window 200 at step 10 is outside"),
        (
            {"strategy": "phased", "phases": [[1, 2, 3]]},
            r"phases: \[\[1, 2, 3\]\] is not a list of \[step, window\] pairs",
        ),
        ({"strategy": "phased", "phases": "0:100"}, r"phases: '0:100' is not a list of \[step, window\] pairs"),
        ({"strategy": "phased", "phases": 7}, r"phases: 7 is not a list of \[step, window\] pairs"),
        ({"strategy": "cosine"}, r"total_steps: not set; strategy cosine needs"),
        (
            {"strategy": "success", "target_success_rate": 0.97},
            r"success_rate_margin: 0.05 puts target \+ margin at 1.02",
        ),
        (
            {"strategy": "success", "target_success_rate": 0.01},
            r"success_rate_margin: 0.05 puts target - margin at -0.04",
        ),
        ({"strategy": "success", "growth_delta": 32}, r"growth_delta: 32 is below min_change 64"),
        ({"strategy": "success", "shrink_delta": 10}, r"shrink_delta: 10 is below min_change 64"),
        (
            {"strategy": "success", "mode": "rolling", "rolling_window": 5},
            r"rolling_window: 5 is below min_samples 10",
        ),
        ({"strategy": "signal", "probe_every": 30}, r"probe_every: 30 exceeds memory_rollouts 24"),
    ],
)
def test_a_bad_value_is_refused_with_field_value_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        WindowConfig(**values)


@pytest.mark.parametrize(
    ("of_trainer", "gain"),
    [
        ({}, (True, True, True)),
        ({"loss_type": "grpo", "scale_rewards": "none"}, (False, False, True)),
        ({"scale_rewards": "none", "multi_objective_aggregation": "normalize_then_sum"}, (True, True, True)),
        ({"mask_truncated_completions": True}, (True, True, False)),
    ],
)
def test_the_gain_of_a_group_follows_the_loss(
    of_trainer: dict[str, Any], gain: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    """Also where TRL scales each reward by itself, or leaves completions that are cut out of the loss."""
    args = AdaptiveGRPOConfig(str(tmp_path), window_strategy="group", use_cpu=True, bf16=False, **of_trainer)
    made: Any = args.window_config()
    assert made.gain == Gain(*gain)


def test_the_largest_window_must_be_set_before_a_policy_is_made() -> None:
    with pytest.raises(ValueError, match=r"^max: not set; give the largest window"):
        make_policy(WindowConfig(strategy="fixed"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"strategy": "success", "headroom": 2.0},
            r"headroom: 2.0 has no effect on strategy success, which does not read it \(signal does\); rem",
        ),
        (
            {"strategy": "fixed", "slack": 0.1},
            r"slack: 0.1 has no effect .* \(group, signal and success read it\); remove",
        ),
        ({"phases": ((0, 100),)}, r"phases: \(\(0, 100\),\) has no effect on strategy signal"),
        ({"headrom": 2.0}, r"headrom: 2.0 is not a field of strategy signal; did you mean headroom\?"),
        ({"window_slack": 0.1}, r"window_slack: 0.1 is not a field of strategy signal; did you mean slack\?"),
        ({"strategy": "fixed", "qqq": 1}, r"qqq: 1 is not a field of strategy fixed; remove it"),
    ],
)
def test_a_field_that_the_strategy_does_not_read_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        WindowConfig(**values)


def test_the_strategy_chooses_the_class_of_the_configuration() -> None:
    success = WindowConfig(strategy="success", std_multiplier=1.5, max=2048)
    assert success == SuccessConfig(std_multiplier=1.5, max=2048)
    assert success.strategy == "success"
    assert type(WindowConfig()) is SignalConfig
    for copied in (pickle.loads(pickle.dumps(success)), copy.deepcopy(success), replace(success)):
        assert copied == success


def test_a_class_of_another_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^strategy: 'signal' takes a SignalConfig, not a SuccessConfig; leave"):
        SuccessConfig(strategy="signal")
    with pytest.raises(
        ValueError, match=r"^window_strategy: AdaptiveConfig belongs to no policy; name it in @register"
    ):
        AdaptiveConfig()


@pytest.mark.parametrize("largest", [1, 8, 100, 2000])
def test_defaults_never_exceed_the_maximum(largest: int) -> None:
    for values in ({}, {"strategy": "success"}, {"strategy": "fixed"}, {"strategy": "cosine", "total_steps": 9}):
        config = WindowConfig(**values, max=largest)
        assert (config.min, config.initial) == (min(20, largest), min(1024, largest))
        assert make_policy(config).window == (largest if values.get("strategy") == "fixed" else config.initial)
    assert WindowConfig(min=1500, max=2000).initial == 1500


def test_a_smallest_window_that_is_left_out_exceeds_no_window_that_is_named() -> None:
    assert WindowConfig(initial=8, max=512).min == 8
    assert WindowConfig(initial=64, max=512).min == 20
    assert PhasedConfig(phases=((0, 12), (5, 40)), max=512).min == 12
    assert FixedConfig(max=512, initial=3).min == 20  # `fixed` does not use its first window
    with pytest.raises(ValueError, match=r"^initial: 8 is outside \[min 20"):
        WindowConfig(initial=8, min=20, max=512)
    with pytest.raises(ValueError, match=r"^phases: window 0 at step 0 is outside \[min 1"):
        PhasedConfig(phases=((0, 0),), max=512)


def test_a_contradiction_matters_only_to_the_strategy_that_meets_it() -> None:
    assert make_policy(WindowConfig(strategy="fixed", initial=1024, max=512)).window == 512
    assert WindowConfig(strategy="signal", growth_delta=1) == SignalConfig(growth_delta=1), "it has no min_change"
    assert WindowConfig(strategy="phased", initial=1024, phases=PHASES, max=512).largest == 512


def test_lists_from_yaml_become_tuples() -> None:
    assert PhasedConfig(phases=[[0, 100], [10, 200]]).phases == PHASES  # type: ignore[arg-type]


def test_every_strategy_and_mode_can_be_made_from_its_defaults() -> None:
    for strategy in ("fixed", "phased", "cosine", "success", "signal"):
        for mode in MODES:
            config = config_of(strategy, mode=mode, max=4096, phases=PHASES, total_steps=10)
            assert make_policy(config).window in (100, 1024, 4096)


def test_the_fields_that_a_strategy_reads_are_those_of_its_class() -> None:
    common = {"strategy", "initial", "min", "max", "success_threshold", "seed"}
    assert fields_read("fixed") == common
    assert fields_read("phased") == common | {"phases"}
    assert {"phases", "mode", "slack", "headroom"} <= unread_fields("fixed") and not common & unread_fields("fixed")
    assert {"headroom"} <= unread_fields("success") and not fields_read("success") & unread_fields("success")
    assert fields_read("of another project") == unread_fields("of another project") == frozenset()
    assert {"success", "signal"} <= declarations("slack").keys() and "fixed" not in declarations("slack")
    assert list(declarations("mode")) == ["success"]


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(("value", "plain")), st.integers(1, 2**16), st.floats(1.1, 1e6), st.integers(1, 2**16), st.data()
)
@example("value", 5, 1.1, 512, None)
@example("value", 2, 1.25, 512, None)
@example("value", 1, 1.1, 2, None)
def test_each_stage_ends_after_the_one_before(rule: str, first: int, growth: float, largest: int, data: Any) -> None:
    initial = data.draw(st.integers(1, largest)) if data else None
    config = GroupConfig(group_rule=rule, first_stage=first, stage_growth=growth, initial=initial, max=largest)
    ends = config.stage_ends()
    assert list(ends) == sorted(set(ends)) and ends[0] >= 1 and ends[-1] == largest
    if rule == "plain":
        assert ends[0] == config.initial and len(ends) <= 2
    elif first * growth < largest:
        assert ends[0] == first


@pytest.mark.parametrize("chosen", [None, "64", math.nan, math.inf, True, [64]])
def test_a_policy_that_chooses_no_number_is_named(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(WindowConfig(strategy="fixed", max=100))
    monkeypatch.setattr(type(policy), "choose_window", lambda self: chosen)
    with pytest.raises(ValueError, match=r"^window_strategy: 'fixed' chose .* for a window; let choose_window return"):
        _ = policy.window


@pytest.mark.parametrize("value", [None, "64", [64]])
def test_a_metric_that_is_no_number_is_named(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's log fails on one without its name, and records would keep it as text."""
    policy = make_policy(WindowConfig(strategy="fixed", max=100))
    monkeypatch.setattr(type(policy), "metrics", lambda self: {"mood": value})
    with pytest.raises(ValueError, match=r"^window_strategy: the metric mood of 'fixed' is .*; let metrics return num"):
        policy.figures()
    monkeypatch.setattr(type(policy), "metrics", lambda self: {"mood": 3})
    assert policy.figures() == {"next_window": 100.0, "mood": 3}
