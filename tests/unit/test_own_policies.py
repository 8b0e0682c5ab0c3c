"""A user's policy that gives something else than a policy must is named in one line, with what to return."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tinyzero_trl.windows import GroupState, RolloutObservation, WindowConfig, WindowPolicy, make_policy, registry
from tinyzero_trl.windows.own_policies import checked_answers, checked_stages


@dataclass(frozen=True, kw_only=True)
class OwnConfig(WindowConfig):
    """No fields of its own."""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a policy whose class has some other attributes."""
    monkeypatch.setattr(registry, "_POLICIES", dict(registry._POLICIES))

    def make(**attributes: Any) -> WindowPolicy[Any]:
        class Own(WindowPolicy[OwnConfig]):
            def choose_window(self) -> float:
                return 16

            def learn(self, observation: RolloutObservation) -> None:
                pass

        for name, value in attributes.items():
            setattr(Own, name, value)
        registry.register_policy("own", config=OwnConfig)(Own)
        return make_policy(WindowConfig(strategy="own", min=4, initial=16, max=32))

    return make


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"__init__": lambda self, config: None}, "__init__ of 'own' does not call that of WindowPolicy; let it begin"),
        (
            {"__init__": lambda self: None},
            r"'own' cannot be made \(.*takes 1 positional.*\); let __init__ take",
        ),
        ({"STATE": "_wanted"}, r"STATE of 'own' is the text '_wanted'; write a tuple, \('_wanted',\)"),
        ({"STATE": ("_wonted",)}, "STATE of 'own' names '_wonted', which __init__ does not set; set it, or remove"),
        ({"stages": None}, "stages of 'own' is None, and the window 16; let it be a property"),
        ({"stages": lambda self: (8, 16)}, "stages of 'own' is <bound method"),
        ({"stages": ()}, r"stages of 'own' is \(\), and the window 16"),
        ({"stages": (12, 8, 16)}, r"stages of 'own' is \(12, 8, 16\), and the window 16"),
        ({"stages": (8, 12)}, r"stages of 'own' is \(8, 12\), and the window 16"),
        ({"stages": (0, 16)}, r"stages of 'own' is \(0, 16\), and the window 16"),
        ({"stages": (8.5, 16)}, r"stages of 'own' is \(8.5, 16\), and the window 16"),
    ],
)
def test_a_policy_is_checked_when_it_is_made(attributes: dict[str, Any], message: str, own: Any) -> None:
    with pytest.raises(ValueError, match=f"^window_strategy: {message}"):
        own(**attributes)


def test_ends_of_stages_may_be_an_array(own: Any) -> None:
    assert checked_stages(own(stages=np.array([8, 16]))) == (8, 16)


def test_ends_of_stages_may_lie_beyond_a_window_that_has_shrunk(own: Any) -> None:
    assert checked_stages(own(stages=(8, 24, 16))) == (8, 24, 16)


@pytest.mark.parametrize("method", ["metrics", "group_metrics"])
@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (None, "{method} of 'own' returned None; return a mapping of names to numbers"),
        ({"a": "x"}, "the metric a of 'own' is 'x'; let {method} return numbers"),
    ],
)
def test_figures_are_numbers(method: str, figures: Any, message: str, own: Any) -> None:
    policy = own(**{method: lambda self: figures})
    with pytest.raises(ValueError, match=f"^window_strategy: {message.format(method=method)}"):
        policy.group_figures() if method == "group_metrics" else policy.figures()


@pytest.mark.parametrize("answers", [None, True, [True], [True] * 3])
def test_there_is_one_answer_for_each_group(answers: Any, own: Any) -> None:
    states = [GroupState(group, 8, 1, 1, 2) for group in range(2)]
    policy = own(go_on=lambda self, states: answers)
    with pytest.raises(ValueError, match=r"^window_strategy: go_on of 'own' returned .* for 2 groups; return a list"):
        checked_answers(policy, states)


def test_answers_may_be_an_array_or_a_generator(own: Any) -> None:
    states = [GroupState(group, 8, 1, 1, 2) for group in range(2)]
    assert checked_answers(own(go_on=lambda self, states: np.array([True, False])), states) == [True, False]
    assert checked_answers(own(go_on=lambda self, states: (each.group > 0 for each in states)), states) == [False, True]
