"""Every value that a window policy cannot work with is refused by name, with what to do about it."""

import pytest

from tinyzero_trl.windows import MODES, STRATEGIES, WindowConfig, make_policy, unread_fields

PHASES = ((0, 100), (10, 200))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "adaptive"}, r"window_strategy: 'adaptive' is unknown; choose one of fixed, phased"),
        ({"mode": "median"}, r"window_mode: 'median' is unknown; choose one of basic, ema, rolling"),
        ({"min": 0}, r"window_min: 0 is below 1; set it to 1 or more"),
        ({"initial": 512.5}, r"window_initial: 512.5 is not a whole number"),
        ({"min_samples": True}, r"window_min_samples: True is not a whole number"),
        ({"seed": "7"}, r"window_seed: '7' is not a whole number"),
        ({"slack": 1.0}, r"window_slack: 1.0 is not below 1; set it below 1"),
        ({"slack": float("nan")}, r"window_slack: nan is not finite; give a finite number"),
        ({"epsilon": 1.5}, r"window_epsilon: 1.5 is above 1; set it to 1 or less"),
        ({"std_multiplier": -1}, r"window_std_multiplier: -1 is below 0; set it to 0 or more"),
        ({"ema_beta": 1}, r"window_ema_beta: 1 is not below 1"),
        ({"ema_bias_correction": "yes"}, r"window_ema_bias_correction: 'yes' is neither true nor false"),
        ({"growth_needs_pressure": 1}, r"window_growth_needs_pressure: 1 is neither true nor false"),
        ({"max": 0}, r"window_max: 0 is not a positive whole number; give 1 or more"),
        ({"total_steps": 2.0}, r"window_total_steps: 2.0 is not a positive whole number"),
        ({"min": 300, "max": 200}, r"window_min: 300 exceeds window_max 200; lower window_min or raise window_max"),
        ({"initial": 1024, "max": 512}, r"window_initial: 1024 is outside \[window_min 20, window_max 512\]"),
        ({"strategy": "phased"}, r"window_phases: empty; strategy phased needs pairs such as"),
        ({"strategy": "phased", "phases": ((5, 100), (5, 200))}, r"window_phases: steps \[5, 5\] do not strictly"),
        ({"strategy": "phased", "phases": ((-1, 100),)}, r"window_phases: steps \[-1\] do not strictly"),
        ({"strategy": "phased", "phases": PHASES, "max": 150}, r"window_phases: window 200 at step 10 is outside"),
        ({"phases": [[1, 2, 3]]}, r"window_phases: \[\[1, 2, 3\]\] is not a list of \[step, window\] pairs"),
        ({"phases": "0:100"}, r"window_phases: '0:100' is not a list of \[step, window\] pairs"),
        ({"phases": 7}, r"window_phases: 7 is not a list of \[step, window\] pairs"),
        ({"strategy": "cosine"}, r"window_total_steps: not set; strategy cosine needs"),
        (
            {"strategy": "success", "target_success_rate": 0.97},
            r"window_success_rate_margin: 0.05 puts target \+ margin at 1.02",
        ),
        (
            {"strategy": "success", "target_success_rate": 0.01},
            r"window_success_rate_margin: 0.05 puts target - margin at -0.04",
        ),
        ({"strategy": "success", "growth_delta": 32}, r"window_growth_delta: 32 is below window_min_change 64"),
        ({"strategy": "success", "shrink_delta": 10}, r"window_shrink_delta: 10 is below window_min_change 64"),
        (
            {"strategy": "success", "mode": "rolling", "rolling_window": 5},
            r"window_rolling_window: 5 is below window_min_samples 10",
        ),
        ({"strategy": "signal", "probe_every": 30}, r"window_probe_every: 30 exceeds window_memory_rollouts 24"),
    ],
)
def test_a_bad_value_is_refused_with_field_value_and_remedy(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        WindowConfig(**values)


def test_the_largest_window_must_be_set_before_a_policy_is_made() -> None:
    with pytest.raises(ValueError, match=r"^window_max: not set; give the largest window"):
        make_policy(WindowConfig(strategy="fixed"))


def test_a_contradiction_matters_only_to_the_strategy_that_meets_it() -> None:
    assert make_policy(WindowConfig(strategy="fixed", initial=1024, max=512)).window == 512
    assert WindowConfig(strategy="fixed", growth_delta=1).growth_delta == 1
    assert WindowConfig(strategy="phased", initial=1024, phases=PHASES, max=512).largest == 512


def test_lists_from_yaml_become_tuples() -> None:
    assert WindowConfig(phases=[[0, 100], [10, 200]]).phases == PHASES  # type: ignore[arg-type]
    assert WindowConfig(phases=None).phases == ()  # type: ignore[arg-type]


def test_every_strategy_and_mode_can_be_made_from_its_defaults() -> None:
    for strategy in STRATEGIES:
        for mode in MODES:
            config = WindowConfig(strategy=strategy, mode=mode, max=4096, phases=PHASES, total_steps=10)
            assert make_policy(config).window in (100, 1024, 4096)


def test_a_strategy_reads_what_is_its_own_and_what_belongs_to_none() -> None:
    unread = {strategy: unread_fields(strategy) for strategy in STRATEGIES}
    assert {"headroom", "probe_every", "memory_rollouts"} <= unread["fixed"] & unread["success"] - unread["signal"]
    assert {"mode", "ema_beta", "rolling_window"} <= unread["signal"] - unread["success"]
    assert {"phases"} <= unread["cosine"] - unread["phased"]
    assert not {"strategy", "initial", "min", "max", "slack", "shrink_delta"} & frozenset().union(*unread.values())
    assert unread_fields("of another project") == frozenset()
