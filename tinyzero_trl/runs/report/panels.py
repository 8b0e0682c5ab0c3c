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
            name="accuracy-difficulty",
            title="Held-out accuracy by difficulty",
            caption="Share of unseen problems solved at full length, by the difficulty that the task gives to a problem"
            + _which(asked),
            y_label="held-out accuracy",
            figures={label: _figure(f"eval/{label}_acc") for label in _spread(asked) if len(asked) > 1},
            held_out=True,
        ),
        Panel(
            name="accuracy-sets",
            title="Held-out accuracy by evaluation set",
            caption="Share of unseen problems solved at full length, of each evaluation set" + _which(sets),
            y_label="held-out accuracy",
            figures={name: _figure(f"eval_{name}/acc") for name in _spread(sets) if len(sets) > 1},
            held_out=True,
        ),
        Panel(
            name="truncation",
            title="Truncated completions",
            caption="Completions that were cut, by the window or with their group. Near 100 % little is learned.",
            y_label="share of completions",
            figures={"truncated": _figure("completion/truncated_frac")},
        ),
        Panel(
            name="difficulty",
            title="Accuracy by difficulty",
            caption="Training accuracy under the window, by the difficulty that the task gives to a problem"
            + _which(difficulties),
            y_label="share correct",
            figures={label: _figure(f"difficulty/{label}_acc") for label in _spread(difficulties)},
        ),
        Panel(
            name="lengths",
            title="Tokens by difficulty",
            caption="Mean tokens of a completion, by the difficulty that the task gives to a problem"
            + _which(difficulties),
            y_label="tokens",
            figures={label: _figure(f"difficulty/{label}_mean_length") for label in _spread(difficulties)},
        ),
        Panel(
            name="groups",
            title="Groups without reward variance",
            caption="Groups whose rewards are all equal teach nothing: all correct, or all wrong.",
            y_label="share of groups",
            figures={
                "no variance": _figure("group/zero_variance_frac"),
                "all correct": _figure("group/all_correct_frac"),
                "all wrong": _figure("group/all_wrong_frac"),
            },
        ),
        Panel(
            name="fates",
            title="What became of groups",
            caption="Groups that stopped early, went on to their end, or went on against the rule to measure it "
            "(explored).",
            y_label="share of groups",
            figures={
                "stopped": _figure("group_window/stopped_frac"),
                "went on": _figure("group_window/continued_frac"),
                "explored": _figure("group_window/explored_frac"),
            },
        ),
        Panel(
            name="saved",
            title="Tokens saved by stopping groups",
            caption="Tokens that the stopped groups would have taken, as estimated, over these and the tokens spent.",
            y_label="share of tokens",
            figures={"saved": _figure("group_window/tokens_saved_frac")},
        ),
        Panel(
            name="kl",
            title="Drift of the policy",
            caption="KL divergence within a step from the policy that rolled out, mean(r - 1 - log r) over tokens, "
            "and from the reference model where one is kept.",
            y_label="KL (nats per token)",
            figures={"from the rollout": _drift, "from the reference": _figure("kl")},
            idle=0.0,
        ),
        Panel(
            name="ratios",
            title="Importance ratios",
            caption="New over old probability of the sampled tokens; 1 while the policy is the one that sampled.",
            y_label="importance ratio",
            figures={"mean": _figure("actor/is_ratio/mean"), "95 % quantile": _figure("actor/is_ratio/p95")},
            idle=1.0,
        ),
        Panel(
            name="clip",
            title="Tokens outside the trust region",
            caption="Tokens whose ratio has left the clip range; a share that keeps growing asks for a smaller step.",
            y_label="share of tokens",
            figures={"outside": _figure("actor/is_clip/outside_frac")},
            idle=0.0,
        ),
        Panel(
            name="seconds",
            title="Seconds per rollout and update",
            caption="Where the wall-clock of a step goes.",
            y_label="seconds",
            figures={"rollout": _figure("time/rollout_s"), "update": _figure("time/optimize_s")},
        ),
    ]


def lines_of(groups: Sequence[RunGroup], *, held_out: bool = False) -> list[dict[str, Any]]:
    """The lines of all runs, run after run: those of steps, or those of evaluations."""
    runs = [run for group in groups for run in group.runs.values()]
    return [line for run in runs for line in (run.evals if held_out else run.metrics)]


def _names(groups: Sequence[RunGroup], pattern: str, *, held_out: bool = False) -> list[str]:
    """What the figures of a pattern are named after, where they occur: numbers by size, others by the alphabet."""
    figures = {figure for line in lines_of(groups, held_out=held_out) for figure in line}
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
    lines = lines_of(groups)
    off = [
        abs(value - panel.idle)
        for panel in panels_of(groups)
        for figure in panel.figures.values()
        for line in lines
        if panel.idle is not None and (value := figure(line)) is not None
    ]
    return bool(off) and max(off) < 1e-9
