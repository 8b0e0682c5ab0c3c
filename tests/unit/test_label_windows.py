"""The window for each label that someone sets by hand."""

from typing import Any

import pytest

from tinyzero_trl.windows import GroupState, WindowConfig, WindowPolicy, make_policy, registry


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy is known in these tests alone."""
    monkeypatch.setattr(registry, "_POLICIES", dict(registry._POLICIES))


def windows(by_label: str) -> WindowPolicy[Any]:
    config = WindowConfig(strategy="label_windows:LabelWindows", max=100, by_label=by_label, label_column="topic")
    return make_policy(config)


def test_a_group_stops_at_the_window_of_its_label() -> None:
    policy = windows('{"short": 10, "middle": 40}')
    assert policy.stages == (10, 40, 100)
    for end, goes_on in ((10, [False, True, True]), (40, [False, False, True])):
        states = [GroupState(place, end, 0, 1, 3, label) for place, label in enumerate(("short", "middle", "other"))]
        assert policy.go_on(states) == goes_on


def test_a_window_as_long_as_the_rollout_is_no_further_stage() -> None:
    assert windows('{"all": 100, "more": 300}').stages == (100,)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "b"}', '{"a": 0}'])
def test_what_is_no_mapping_of_windows_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^window_by_label: .* give JSON such as"):
        windows(text)
