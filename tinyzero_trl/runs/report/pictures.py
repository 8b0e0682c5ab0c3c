"""The pictures of a report: held-out accuracy against its cost, the window, the health of training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from tinyzero_trl.metrics import Interval, mean_interval
from tinyzero_trl.runs.records import Run
from tinyzero_trl.runs.report.compare import Curve, accuracy_curve, final_accuracy
from tinyzero_trl.runs.report.names import file_slugs
from tinyzero_trl.runs.report.old_pictures import remove_old_pictures
from tinyzero_trl.runs.report.panels import Panel, is_on_policy, lines_of, panels_of
from tinyzero_trl.runs.report.run_groups import RunGroup
from tinyzero_trl.runs.report.style import (
    MUTED,
    STYLES,
    Canvas,
    LineStyle,
    Look,
    Percent,
    Picture,
    house_style,
    looks,
)

Array = NDArray[np.float64]

_WINDOW = (
    "The longest completion allowed, and how long correct completions are under it. A window far above "
    "the dashed line pays for tokens that are rarely needed. Exploring rollouts are left out."
)
_STOPS = (
    "Where the groups of completions that were stopped ended, on average, and how long correct completions are. "
    "The other groups went on, so correct completions may be longer than the stops."
)
_MOST_POINTS = 160  # of a line: a run of 5,000 records shows its course, and the page stays small
_SEED: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.45}  # one seed among several
_GROUPS_WITH_SEEDS = 6  # with more groups in one picture the lines of seeds hide those of means


def draw_pictures(
    groups: Sequence[RunGroup], baseline: str, folders: Sequence[Path], *, for_page: bool = True
) -> list[Picture]:
    """Draw every picture that the records hold figures for, and write each as a PNG into all `folders`.

    Pictures that an earlier report has drawn there and this one does not are removed: they show other runs.

    Returns:
        What a page shows; nothing if not `for_page`, since it takes as long again.
    """
    palette = looks([group.label for group in groups], baseline)
    slugs = file_slugs([group.label for group in groups])
    with house_style():
        canvases = [_accuracy_over_tokens(groups, palette), _accuracy_over_time(groups, palette)]
        canvases += [accuracy_and_cost(groups, palette)] if len(groups) > 1 else []
        canvases += [
            _window(group, palette[group.label], slugs[group.label] if len(groups) > 1 else None) for group in groups
        ]
        on_policy = is_on_policy(groups)
        moving = [panel for panel in panels_of(groups) if panel.idle is None or not on_policy]
        canvases += [_health(panel, groups, palette) for panel in moving]
        drawn = [canvas for canvas in canvases if canvas.axes.has_data()]
        for canvas in drawn:
            canvas.write(palette, folders)
        pictures = [canvas.picture() for canvas in drawn] if for_page else []
    for folder in folders:
        remove_old_pictures(folder, [canvas.name for canvas in drawn])
    return pictures


def _accuracy_over_tokens(groups: Sequence[RunGroup], palette: Mapping[str, Look]) -> Canvas:
    canvas = Canvas(
        name="accuracy",
        title="Held-out accuracy against rollout tokens",
        caption="Share of unseen problems solved at full length, against the tokens generated so far. "
        + ("Thin lines are seeds, the" if _shows_seeds(groups) else "The")
        + " band is the 95 % interval.",
        x_label="rollout tokens",
        y_label="held-out accuracy",
        lines_tell_groups=True,
    )
    canvas.axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    _draw_accuracy(canvas, groups, palette, lambda curve: curve.tokens)
    return canvas


def _shows_seeds(groups: Sequence[RunGroup]) -> bool:
    return len(groups) <= _GROUPS_WITH_SEEDS and any(len(group.runs) > 1 for group in groups)


def _accuracy_over_time(groups: Sequence[RunGroup], palette: Mapping[str, Look]) -> Canvas:
    longest = max(accuracy_curve(run).elapsed_s[-1] for group in groups for run in group.runs.values())
    unit, seconds = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if longest >= 2 * s), ("s", 1))
    canvas = Canvas(
        name="accuracy-time",
        title="Held-out accuracy against training time",
        caption="The same accuracy against wall-clock, without the time that evaluation took.",
        x_label=f"training time ({unit})",
        y_label="held-out accuracy",
        lines_tell_groups=True,
    )
    _draw_accuracy(canvas, groups, palette, lambda curve: curve.elapsed_s / seconds)
    return canvas


def accuracy_and_cost(groups: Sequence[RunGroup], palette: Mapping[str, Look]) -> Canvas:
    """One point per run group: where its runs ended, and what they took."""
    canvas = Canvas(
        name="accuracy-cost",
        title="What each run group costs and earns",
        caption="Held-out accuracy at the end of training, against the tokens of the whole run; up and to the left is "
        "better. Bars are 95 % intervals over seeds.",
        x_label="rollout tokens of a run",
        y_label="final held-out accuracy",
    )
    ends = {group.label: _ends(group) for group in groups}
    for name, (tokens, accuracy) in ends.items():
        canvas.axes.errorbar(
            tokens.mean,
            accuracy.mean,
            xerr=_reach(tokens),
            yerr=_reach(accuracy),
            color=palette[name].colour,
            marker=palette[name].marker,
            markersize=5,
            elinewidth=1.1,
        )
    canvas.axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    canvas.axes.yaxis.set_major_formatter(Percent())
    canvas.axes.set_xlim(0, 1.1 * max(1.0, canvas.axes.dataLim.x1))
    canvas.axes.margins(y=0.12)
    canvas.label({name: (tokens.mean, accuracy.mean) for name, (tokens, accuracy) in ends.items()}, palette)
    return canvas


def _ends(group: RunGroup) -> tuple[Interval, Interval]:
    """Tokens of a group's whole runs, and accuracy at their ends."""
    curves = [accuracy_curve(run) for run in group.runs.values()]
    return mean_interval([float(curve.tokens[-1]) for curve in curves]), final_accuracy(curves)


def _reach(interval: Interval) -> list[list[float]] | None:
    """How far an interval reaches below and above its mean, as (2, 1) error bars; None for a single seed."""
    if interval.low is None or interval.high is None:
        return None
    return [[interval.mean - interval.low], [interval.high - interval.mean]]


def _draw_accuracy(
    canvas: Canvas,
    groups: Sequence[RunGroup],
    palette: Mapping[str, Look],
    axis: Callable[[Curve], Array],
) -> None:
    for group in groups:
        look = palette[group.label]
        seeds = [(axis(curve), curve.accuracy) for curve in map(accuracy_curve, group.runs.values())]
        if len(seeds) > 1:
            x, values = on_common_axis(seeds)
            for curve in seeds if _shows_seeds(groups) or not len(x) else ():
                draw_line(canvas.axes, *curve, color=look.colour, **_SEED)
            if not len(x):
                continue
            mean, low, high = np.array([_with_bounds(mean_interval(column)) for column in values.T.tolist()]).T
        else:
            x, mean = seeds[0]
            low, high = (_bounds(group.first, name, mean) for name in ("eval/acc_low", "eval/acc_high"))
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        if len(x) > 1:
            canvas.axes.fill_between(x, low, high, color=look.colour, alpha=0.14, linewidth=0)
        else:
            canvas.axes.vlines(x, low, high, color=look.colour, alpha=0.4, clip_on=False)
        draw_line(canvas.axes, x, mean, color=look.colour, linestyle=look.line)
    canvas.axes.yaxis.set_major_formatter(Percent())
    canvas.axes.set_ylim(0, min(1.0, canvas.axes.dataLim.y1 * 1.08 + 0.02))
    canvas.axes.set_xlim(left=0)
    if canvas.axes.dataLim.x1 <= 0:  # nothing but evaluations before the first step
        canvas.axes.set(xlim=(0, 1), xticks=[0])


def _with_bounds(interval: Interval) -> Interval:
    """With the mean as its bounds where it has none, so that the band is empty there."""
    mean, low, high = interval
    return Interval(mean, mean if low is None else low, mean if high is None else high)


def _bounds(run: Run, name: str, accuracy: Array) -> Array:
    """Wilson's bounds of the evaluations of a lone run; without them the band is empty."""
    return np.array([line.get(name, value) for line, value in zip(run.judged_evals, accuracy, strict=True)])


def _window(group: RunGroup, look: Look, slug: str | None) -> Canvas:
    """The window of each rollout; where single groups stop, the tokens at which they did so."""
    stops = _over_tokens(group, "group_window/mean_stop")
    drawn, about = ("stopped groups", _STOPS) if stops else ("window", _WINDOW)
    canvas = Canvas(
        name="window" if slug is None else f"window-{slug}",
        title=f"{drawn.capitalize()} and lengths of correct completions"
        if slug is None
        else f"{drawn.capitalize()} of {group.label}",
        caption=about,
        x_label="rollout tokens",
        y_label="tokens",
    )
    for name, style in (("p95", "--"), ("median", ":")):
        seeds = _over_tokens(group, f"adaptive_window/{name}_success_length")
        if seeds:
            x, values = on_common_axis(seeds)
            draw_line(canvas.axes, x, values.mean(axis=0), color=MUTED, linestyle=style, linewidth=1.3)
    curves = stops or _over_tokens(group, "adaptive_window/current_window")
    for x, tokens in curves:
        draw_line(
            canvas.axes, x, tokens, drawstyle="steps-pre", color=look.colour, **(_SEED if len(curves) > 1 else {})
        )
    if len(curves) > 1:
        x, values = on_common_axis(curves)
        draw_line(canvas.axes, x, values.mean(axis=0), color=look.colour)
    canvas.axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    canvas.axes.set_xlim(left=0)
    canvas.axes.set_ylim(bottom=0)
    canvas.key({drawn: "-", "p95 of correct": "--", "median": ":"})
    return canvas


def _over_tokens(group: RunGroup, name: str) -> list[tuple[Array, Array]]:
    """A figure over rollout tokens, one curve per seed that has it, without the rollouts that explored."""
    curves = []
    for run in group.runs.values():
        kept = replace(run, metrics=[m for m in run.metrics if not m.get("adaptive_window/explored_step")])
        x, y = kept.series(name, "tokens/response_cumulative")
        if len(x):
            curves.append(thinned(x, y))
    return curves


def _health(panel: Panel, groups: Sequence[RunGroup], palette: Mapping[str, Look]) -> Canvas:
    canvas = Canvas(panel.name, panel.title, panel.caption, "training step", panel.y_label)
    drawn: dict[str, LineStyle] = {}
    points = max(40, _MOST_POINTS // len(groups))  # many lines in one picture need calmer ones
    for (label, figure), style in zip(panel.figures.items(), STYLES * len(panel.figures), strict=False):
        for group in groups:
            lines = lines_of([group], held_out=panel.held_out)
            pairs = [(line["step"], value) for line in lines if (value := figure(line)) is not None]
            if pairs:
                steps, values = np.array(pairs, dtype=np.float64).T
                x, y = thinned(steps, values, points)
                draw_line(canvas.axes, x, y, color=palette[group.label].colour, linestyle=style, linewidth=1.4)
                drawn[label] = style
    canvas.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.name != "ratios":  # all others count from zero
        canvas.axes.set_ylim(bottom=0)
    if panel.held_out or panel.y_label.startswith("share"):
        canvas.axes.set_ylim(top=max(0.05, canvas.axes.get_ylim()[1]))
        canvas.axes.yaxis.set_major_formatter(Percent())
    canvas.key(drawn)
    return canvas


def thinned(x: Array, y: Array, points: int = _MOST_POINTS) -> tuple[Array, Array]:
    """Means of (N,) values over `points` equal stretches of x, or over equal x where those are fewer."""
    values, stretch = np.unique(x, return_inverse=True)
    if len(values) > points:
        edges = np.linspace(values[0], values[-1], points + 1)
        stretch = np.searchsorted(edges[1:-1], x, side="right")
    counts = np.bincount(stretch)
    sums = np.bincount(stretch, x), np.bincount(stretch, y)
    return sums[0][counts > 0] / counts[counts > 0], sums[1][counts > 0] / counts[counts > 0]


def on_common_axis(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Curves of several seeds, interpolated where all of them are known: x (N,) and values (seeds, N).

    N is 1 where they have a single x in common, and 0 where they have none.
    """
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(start, end, _MOST_POINTS if start < end else int(start == end))
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def draw_line(axes: Axes, x: Array, y: Array, **look: Any) -> None:
    """Draw a line; of a single point, which makes none, draw a dot, and nothing of no point."""
    if len(x) == 1:
        look |= {"marker": "o", "markersize": 4, "clip_on": False}
    if len(x):
        axes.plot(x, y, **look)
