"""How pictures look: one palette with a light and a dark face, and figures written as PNG and as themed SVG.

The hues are those of Okabe and Ito, which stay apart for colour-blind readers; a baseline is grey. An SVG
refers to its colours as CSS variables, so that the page decides between light and dark.
"""

import html
import io
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from tinyzero_trl.runs.files import replacing

# name of the CSS variable: (light, dark)
COLOURS = {
    "ink": ("#1d2733", "#e6ebf2"),
    "muted": ("#5b6673", "#9aa6b5"),
    "grid": ("#e4e8ed", "#2c3642"),
    "baseline": ("#7a8593", "#aab4c0"),
    "series-0": ("#0072b2", "#56aee2"),
    "series-1": ("#d55e00", "#f28c4c"),
    "series-2": ("#009e73", "#3fcb9f"),
    "series-3": ("#b0568f", "#e39bc6"),
    "series-4": ("#c98a00", "#f0c050"),
    "series-5": ("#4b8fc9", "#a5d6f7"),
}
LineStyle = Literal["-", "--", ":", "-."]
STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK, MUTED, GRID = (COLOURS[name][0] for name in ("ink", "muted", "grid"))
_PLACES = [(right, up) for up in (7, -7, 14, -14) for right in (1, -1)]  # beside a point, in points above it
_HEIGHT_INCHES, _LEGEND_ROW_INCHES, _FREE_LEGEND_ROWS = 2.65, 0.16, 2
_KEY_CHARACTERS, _SAMPLE_CHARACTERS = 64, 7  # that fit beside each other in a key; that the sample of a line takes
_LONGEST_NAME = 40  # characters of it
_SHORT = 5  # characters of a label, of which four fit beside each other
_SERIES = sum(name.startswith("series") for name in COLOURS)

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.labelsize": 8,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8,
    "legend.columnspacing": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.color": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
}
_PNG_DOTS_PER_INCH = 200
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without ending, what it shows, and the figure as themed SVG."""

    name: str
    title: str
    caption: str
    svg: str


def house_style() -> AbstractContextManager[None]:
    """Matplotlib in the style of the report, for as long as the context lasts."""
    return matplotlib.rc_context(_STYLE)


@dataclass(frozen=True)
class Look:
    """How a run group is drawn: hues repeat after six groups, then with another line style and another marker."""

    colour_name: str
    line: LineStyle = "-"
    marker: str = "o"

    @property
    def colour(self) -> str:
        """The colour in light pictures."""
        return COLOURS[self.colour_name][0]

    @property
    def css_border(self) -> str:
        """The line style as a style sheet names it."""
        return {"-": "solid", ":": "dotted"}.get(self.line, "dashed")


def looks(labels: Sequence[str], baseline: str) -> dict[str, Look]:
    """Label of a group -> its look; the baseline is grey unless it is alone."""
    others = [label for label in labels if label != baseline or len(labels) == 1]
    found = {}
    for position, label in enumerate(others):
        cycle = position // _SERIES % len(STYLES)
        found[label] = Look(f"series-{position % _SERIES}", STYLES[cycle], MARKERS[cycle])
    return {label: found.get(label, Look("baseline")) for label in labels}


def can_be_drawn(text: str) -> bool:
    """Whether the font of the pictures has a glyph for every character, and none of them steers others around it.

    A mark for writing from right to left has a glyph, and would turn the figures of a sentence around.
    """
    font = get_font(findfont(FontProperties(family=matplotlib.rcParams["font.family"])))
    return text.isprintable() and all(font.get_char_index(ord(character)) for character in text)


class Percent(PercentFormatter):
    """Shares as per cent, with as many decimals as tell all ticks apart."""

    def __init__(self) -> None:
        super().__init__(1.0, decimals=0)

    def set_locs(self, locs: Any) -> None:
        """Choose the decimals by the distance between the ticks, `locs` in shares."""
        super().set_locs(locs)
        step = min((high - low for low, high in pairwise(sorted(locs)) if high > low), default=0.01)
        rounded = (places for places in range(5) if math.isclose(round(100 * step, places), 100 * step, rel_tol=1e-6))
        self.decimals = next(rounded, 5)


class Canvas:
    """One set of axes: within `house_style()`, draw on `axes`, then `write` the file and give the `picture`.

    Line styles tell either groups apart (`lines_tell_groups`) or the figures of a panel (`key`).
    """

    def __init__(
        self, name: str, title: str, caption: str, x_label: str, y_label: str, *, lines_tell_groups: bool = False
    ) -> None:
        self.name, self.title, self.caption = name, title, caption
        self.lines_tell_groups = lines_tell_groups
        self.figure = Figure(figsize=(3.9, _HEIGHT_INCHES))
        self.axes: Axes = self.figure.add_subplot()
        self.axes.set_xlabel(x_label)
        self.axes.set_ylabel(y_label)

    def key(self, styles: dict[str, LineStyle]) -> None:
        """Explain line styles above the axes, such as {"mean": "-", "p95": "--"}, if there are several."""
        if len(styles) > 1:
            names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in styles]
            lines = [
                Line2D([], [], color=MUTED, linestyle=style, label=name)
                for name, style in zip(names, styles.values(), strict=True)
            ]
            columns = max(1, _KEY_CHARACTERS // (max(map(len, names)) + _SAMPLE_CHARACTERS))
            self.axes.legend(
                handles=lines, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=min(columns, len(lines))
            )

    def label(self, points: Mapping[str, tuple[float, float]], palette: Mapping[str, Look]) -> None:
        """Name points in their colours, clear of other names, of bars and of the edge; the PNG then needs no legend."""
        self.figure.draw_without_rendering()  # limits and layout decide what is where
        inside = self.axes.get_window_extent()
        bars = [
            bar for drawn in self.axes.collections if isinstance(drawn, LineCollection) for bar in drawn.get_segments()
        ]
        taken = [Bbox(self.axes.transData.transform(bar)).padded(1) for bar in bars]
        for text, point in points.items():
            names = [
                self.axes.annotate(
                    text,
                    point,
                    (5 * right, up),
                    textcoords="offset points",
                    ha="left" if right > 0 else "right",
                    va="center",
                    color=palette[text].colour,
                    fontsize=7,
                )
                for right, up in _PLACES
            ]
            boxes = [name.get_window_extent() for name in names]
            crossed = [box.count_overlaps(taken) + (not inside.x0 < box.x0 < box.x1 < inside.x1) for box in boxes]
            best = crossed.index(min(crossed))
            taken.append(boxes[best])
            for name in names[:best] + names[best + 1 :]:
                name.remove()

    def write(self, legend: Mapping[str, Look], folders: Sequence[Path]) -> None:
        """Write the PNG, with a legend of the groups, into `folders`."""
        drawn = None
        if len(legend) > 1 and not self.axes.texts:  # labels name the groups already
            lines = [
                Line2D([], [], color=look.colour, linestyle=look.line if self.lines_tell_groups else "-", label=label)
                for label, look in legend.items()
            ]
            columns = 2 if max(map(len, legend)) > _SHORT else 4
            rows = math.ceil(len(legend) / columns)
            drawn = self.figure.legend(handles=lines, loc="outside upper left", ncols=columns)
            self.figure.set_figheight(_HEIGHT_INCHES + _LEGEND_ROW_INCHES * max(0, rows - _FREE_LEGEND_ROWS))
        first, *others = (folder / f"{self.name}.png" for folder in folders)
        with replacing(first) as draft:  # in a run from elsewhere the picture may be a link to another place
            self.figure.savefig(draft, format="png", dpi=_PNG_DOTS_PER_INCH)
        for other in others:
            with replacing(other) as draft:
                shutil.copyfile(first, draft)
        if drawn is not None:
            drawn.remove()
            self.figure.set_figheight(_HEIGHT_INCHES)

    def picture(self) -> Picture:
        """The figure for a page, which has its own legend."""
        text = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": self.name}):  # the same figures give the same page
            self.figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
        return Picture(self.name, self.title, self.caption, _themed(text.getvalue(), self.title))


def _themed(svg: str, title: str) -> str:
    """The `<svg>` element alone, ready to stand beside others in one page, in the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the names repeat in every figure; nothing refers to them
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]


def style_sheet() -> str:
    """The palette as CSS variables, light by default and dark where the reader prefers it."""
    light, dark = (" ".join(f"--{name}: {faces[face]};" for name, faces in COLOURS.items()) for face in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
