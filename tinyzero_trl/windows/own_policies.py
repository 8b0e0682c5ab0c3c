"""What a policy must give: a user's own one may give something else, and its author reads what, and what to return."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyzero_trl.windows.policy import GroupState, WindowPolicy


def checked_policy(policy: "WindowPolicy[Any]") -> "WindowPolicy[Any]":
    """A policy that has just been made.

    Raises:
        ValueError: its `__init__` does not call that of `WindowPolicy`, or does not set what `STATE` names; or as
            `checked_stages`.
    """
    name, state = type(policy).strategy, policy.STATE
    if not hasattr(policy, "_observed_window"):
        raise ValueError(
            f"window_strategy: __init__ of {name!r} does not call that of WindowPolicy; let it begin with "
            "super().__init__(config)"
        )
    if isinstance(state, str):
        raise ValueError(f"window_strategy: STATE of {name!r} is the text {state!r}; write a tuple, ({state!r},)")
    if missing := [each for each in state if not hasattr(policy, each)]:
        raise ValueError(
            f"window_strategy: STATE of {name!r} names {missing[0]!r}, which __init__ does not set; set it, or remove "
            "it from STATE"
        )
    checked_stages(policy)
    return policy


def checked_figures(policy: "WindowPolicy[Any]", method: str) -> dict[str, float]:
    """What `metrics` or `group_metrics` of a policy returns.

    Raises:
        ValueError: that is no mapping, or one of its values is no number.
    """
    figures = getattr(policy, method)()
    if not isinstance(figures, Mapping):
        raise ValueError(
            f"window_strategy: {method} of {policy.config.strategy!r} returned {figures!r}; return a mapping of names "
            "to numbers"
        )
    for name, value in figures.items():
        if not isinstance(value, Real):
            raise ValueError(
                f"window_strategy: the metric {name} of {policy.config.strategy!r} is {value!r}; let {method} return "
                "numbers, and leave out what is not known yet"
            )
    return dict(figures)


def checked_stages(policy: "WindowPolicy[Any]") -> tuple[int, ...]:
    """The ends of the stages of a policy.

    Raises:
        ValueError: they are no whole numbers from 1 that ascend to the window.
    """
    given: Any = policy.stages
    try:
        ends = tuple(map(int, given))
        is_whole = all(end == each for end, each in zip(ends, given, strict=True))
    except (TypeError, ValueError):
        ends, is_whole = (), False
    inner = list(ends[:-1])  # those from the window on are left out later
    ascend = bool(ends) and ends[0] >= 1 and inner == sorted(set(inner))
    if not is_whole or not ascend or (len(ends) > 1 and ends[-1] != policy.window):
        raise ValueError(
            f"window_strategy: stages of {policy.config.strategy!r} is {given!r}, and the window {policy.window}; let "
            "it be a property that returns whole numbers from 1, ascending, the last of them the window"
        )
    return ends


def checked_answers(policy: "WindowPolicy[Any]", states: "Sequence[GroupState]") -> list[bool]:
    """Which groups go on, as a policy says.

    Raises:
        ValueError: it does not return one answer for each group.
    """
    answers: Any = policy.go_on(states)
    try:
        told = list(map(bool, answers))
    except TypeError:
        told = []
    if len(told) != len(states):
        raise ValueError(
            f"window_strategy: go_on of {policy.config.strategy!r} returned {answers!r} for {len(states)} groups; "
            "return a list with True or False for each"
        )
    return told
