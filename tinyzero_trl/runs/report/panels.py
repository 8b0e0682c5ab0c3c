"""Which figures a report draws over training steps: every panel's title, caption, unit and figures."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tinyzero_trl.runs.report.run_groups import RunGroup

Figure = Callable[[Mapping[str, Any]], float | None]  # a line of the records -> what to draw, if it holds it

_MOST_LINES = 4  # that a reader can tell apart: there are so many styles


class Panel(NamedTuple):
    """One picture: figures of every run group over training steps, one line style each."""

    name: str
    title: str
    caption: str
    y_label: str
    figures: dict[str, Figure]
    idle: float | None = None  # what the figures are throughout while each rollout serves one optimizer step
    held_out: bool = False  # figures of evaluations, in place of those of steps


def panels_of(groups: Sequence[RunGroup]) -> list[Panel]:
    """Every panel; one whose figures no record holds is not drawn."""
    difficulties = _names(groups, r"difficulty/(.+)_acc")
    asked, sets = _names(groups, r"eval/(.+)_acc", held_out=True), _names(groups, r"eval_(.+)/acc", held_out=True)
    return [
        Panel(
            *("accuracy-difficulty", "Held-out accuracy by difficulty"),
            "Share of unseen problems solved at full length, by the difficulty that the task gives to a problem"
            + _which(asked),
            "held-out accuracy",
            {label: _figure(f"eval/{label}_acc") for label in _spread(asked) if len(asked) > 1},
            held_out=True,
        ),
        Panel(
            *("accuracy-sets", "Held-out accuracy by evaluation set"),
            "Share of unseen problems solved at full length, of each evaluation set" + _which(sets),
            "held-out accuracy",
            {name: _figure(f"eval_{name}/acc") for name in _spread(sets) if len(sets) > 1},
            held_out=True,
        ),
        Panel(
            *("truncation", "Truncated completions"),
            "Completions that were cut, by the window or with their group. Near 100 % little is learned.",
            "share of completions",
            {"truncated": _figure("completion/truncated_frac")},
        ),
        Panel(
            *("difficulty", "Accuracy by difficulty"),
            "Training accuracy under the window, by the difficulty that the task gives to a problem"
            + _which(difficulties),
            "share correct",
            {label: _figure(f"difficulty/{label}_acc") for label in _spread(difficulties)},
        ),
        Panel(
            *("lengths", "Tokens by difficulty"),
            "Mean tokens of a completion, by the difficulty that the task gives to a problem" + _which(difficulties),
            "tokens",
            {label: _figure(f"difficulty/{label}_mean_length") for label in _spread(difficulties)},
        ),
        Panel(
            *("groups", "Groups without reward variance"),
            "Groups whose rewards are all equal teach nothing: all correct, or all wrong.",
            "share of groups",
            {
                "no variance": _figure("group/zero_variance_frac"),
                "all correct": _figure("group/all_correct_frac"),
                "all wrong": _figure("group/all_wrong_frac"),
            },
        ),
        Panel(
            *("fates", "What became of groups"),
            "Groups that stopped early, went on to their end, or went on against the rule to measure it (explored).",
            "share of groups",
            {
                "stopped": _figure("group_window/stopped_frac"),
                "went on": _figure("group_window/continued_frac"),
                "explored": _figure("group_window/explored_frac"),
            },
        ),
        Panel(
            *("saved", "Tokens saved by stopping groups"),
            "Tokens that the stopped groups would have taken, as estimated, over these and the tokens spent.",
            "share of tokens",
            {"saved": _figure("group_window/tokens_saved_frac")},
        ),
        Panel(
            *("kl", "Drift of the policy"),
            "KL divergence within a step from the policy that rolled out, mean(r - 1 - log r) over tokens, "
            "and from the reference model where one is kept.",
            "KL (nats per token)",
            {"from the rollout": _drift, "from the reference": _figure("kl")},
            idle=0.0,
        ),
        Panel(
            *("ratios", "Importance ratios"),
            "New over old probability of the sampled tokens; 1 while the policy is the one that sampled.",
            "importance ratio",
            {"mean": _figure("actor/is_ratio/mean"), "95 % quantile": _figure("actor/is_ratio/p95")},
            idle=1.0,
        ),
        Panel(
            *("clip", "Tokens outside the trust region"),
            "Tokens whose ratio has left the clip range; a share that keeps growing asks for a smaller step.",
            "share of tokens",
            {"outside": _figure("actor/is_clip/outside_frac")},
            idle=0.0,
        ),
        Panel(
            *("seconds", "Seconds per rollout and update"),
            "Where the wall-clock of a step goes.",
            "seconds",
            {"rollout": _figure("time/rollout_s"), "update": _figure("time/optimize_s")},
        ),
    ]


def _names(groups: Sequence[RunGroup], pattern: str, *, held_out: bool = False) -> list[str]:
    """What the figures of a pattern are named after, where they occur: numbers by size, others by the alphabet."""
    runs = [run for group in groups for run in group.runs.values()]
    figures = {figure for run in runs for line in (run.evals if held_out else run.metrics) for figure in line}
    found = {match.group(1) for figure in figures if (match := re.fullmatch(pattern, figure))}
    return sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _spread(labels: Sequence[str]) -> list[str]:
    """As many labels as can be drawn, from the first to the last at equal distances."""
    if len(labels) <= _MOST_LINES:
        return list(labels)
    return [labels[round(place * (len(labels) - 1) / (_MOST_LINES - 1))] for place in range(_MOST_LINES)]


def _which(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return f": all have {labels[0]}."
    return f"; {_MOST_LINES} of {len(labels)} are drawn." if len(labels) > _MOST_LINES else "."


def _figure(name: str) -> Figure:
    return lambda line: line.get(name)


def _drift(line: Mapping[str, Any]) -> float | None:
    """Schulman's k3 estimate of KL(old, new), never negative; exact from the two logged means."""
    mean, log_mean = line.get("actor/is_ratio/mean"), line.get("actor/is_log_ratio/mean")
    return None if mean is None or log_mean is None else max(0.0, mean - 1 - log_mean)


def is_on_policy(groups: Sequence[RunGroup]) -> bool:
    """Whether every update saw only completions of the very policy that it updated: then these figures never move."""
    lines = [line for group in groups for run in group.runs.values() for line in run.metrics]
    off = [
        abs(value - panel.idle)
        for panel in panels_of(groups)
        for figure in panel.figures.values()
        for line in lines
        if panel.idle is not None and (value := figure(line)) is not None
    ]
    return bool(off) and max(off) < 1e-9
