"""The HTML page of a report: one file that needs no other, light or dark as its reader prefers."""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from tinyzero_trl.metrics import Interval
from tinyzero_trl.runs.report.compare import Outcome, accuracy_curve
from tinyzero_trl.runs.report.panels import is_on_policy
from tinyzero_trl.runs.report.policies import Policy
from tinyzero_trl.runs.report.samples import samples_section
from tinyzero_trl.runs.report.style import Picture, colour_names, style_sheet

_NOTHING = "&ndash;"
_SECTIONS = {"accuracy": "accuracy", "window": "window", "truncation": "window"}


def render_page(
    policies: Sequence[Policy], baseline: str, outcomes: Sequence[Outcome], pictures: Sequence[Picture]
) -> str:
    """The whole page as text; every string that comes from a run is escaped."""
    page = files("tinyzero_trl.runs.report").joinpath("page.html").read_text(encoding="utf-8")
    alone = len(policies) == 1
    runs = sum(len(policy.runs) for policy in policies)
    sections: dict[str, list[str]] = {"accuracy": [], "window": [], "health": []}
    for picture in pictures:
        kind = _SECTIONS.get(picture.name.partition("-")[0], "health")
        sections[kind].append(_figure(picture))
    return Template(page).substitute(
        script_hash=_script_hash(page),
        title=escape(policies[0].name if alone else "Rollout windows compared"),
        subtitle=_described(policies[0])
        if alone
        else f"{len(policies)} policies, {runs} runs; baseline: {escape(baseline)}",
        note=_ON_POLICY if is_on_policy(policies) else "",
        palette=style_sheet(),
        tiles=_single_tiles(outcomes[0], policies[0]) if alone else _comparison_tiles(outcomes, baseline),
        legend="" if alone else _legend(policies, baseline),
        results="" if alone else _results(outcomes, baseline),
        samples=samples_section(policies),
        runs=_runs(policies),
        **{kind: "".join(figures) for kind, figures in sections.items()},
    )


_ON_POLICY = """<p class="muted note">Each rollout served one optimizer step, so the policy that learned was the policy
that wrote: importance ratios were exactly 1, its drift and the share of clipped tokens 0 throughout.</p>"""

_RESULTS = """<h2>Results</h2>
<div class="card scroll">{table}</div>
<p class="muted note">The target of each seed is the final accuracy of the baseline with that seed; the cost
of reaching it is linear between evaluations, and savings are geometric means over paired seeds. In small
print: 95 % intervals over seeds (Student's t). A policy that misses the target with any seed has no cost of
reaching it.</p>"""


def _described(policy: Policy) -> str:
    """What one run, or the seeds of one policy, trained: task, model and window, as far as they are recorded."""
    run = next(iter(policy.runs.values()))
    config, model = run.config, run.config.get("model_name_or_path")
    facts = [
        ("", config.get("task")),
        ("trained from ", "the embedded model" if model == "embedded" else model),
        ("window policy ", config.get("window_strategy")),
        ("up to ", config.get("window_max") and f"{config['window_max']} tokens"),
        ("seed " if len(policy.runs) == 1 else "seeds ", ", ".join(map(str, policy.runs))),
    ]
    return escape("; ".join(f"{what}{value}" for what, value in facts if value is not None))


def _script_hash(page: str) -> str:
    """The page's own script as its content security policy names it: no other one may run."""
    [script] = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _figure(picture: Picture) -> str:
    return (
        f'<figure class="card"><h3>{escape(picture.title)}</h3>{picture.svg}'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )


def _tile(number: str, text: str) -> str:
    return f'<div class="card tile"><b>{escape(number)}</b><span class="muted">{escape(text)}</span></div>'


def _single_tiles(outcome: Outcome, policy: Policy) -> str:
    before = sum(accuracy_curve(run).accuracy[0] for run in policy.runs.values()) / len(policy.runs)
    return (
        _tile(f"{before:.0%} → {outcome.final_acc.mean:.0%}", "held-out accuracy, before and after")
        + _tile(_count(outcome.tokens), "rollout tokens")
        + _tile(_duration(outcome.elapsed_s), "of training")
    )


def _comparison_tiles(outcomes: Sequence[Outcome], baseline: str) -> str:
    tiles = []
    for outcome in outcomes:
        ratio = outcome.tokens_to_target_ratio
        if outcome.name == baseline:
            continue
        if ratio is None and (points := _points(outcome.acc_difference)) and outcome.tokens_ratio:
            text = f"the tokens of {baseline} with {outcome.name}, at {points.mean:+.1f} points of accuracy"
            if points.low is not None:
                text += f" (95 % interval: {points.low:+.1f} to {points.high:+.1f})"
            tiles.append(_tile(f"{outcome.tokens_ratio.mean:.2f} x", text))
        elif ratio is None:
            missed = f"of {outcome.name} reach the accuracy of {baseline}"
            tiles.append(_tile(f"{outcome.reached_target} of {outcome.paired_seeds} seeds", missed))
        else:
            less = "fewer" if ratio.mean <= 1 else "more"
            text = f"rollout tokens for {outcome.name} to reach the accuracy of {baseline}"
            saved = _saved(ratio)
            if saved and saved.low is not None:
                text += f" (95 % interval: {saved.low:z.0%} to {saved.high:z.0%} fewer)"
            tiles.append(_tile(f"{abs(1 - ratio.mean):.0%} {less}", text))
    return "".join(tiles)


def _legend(policies: Sequence[Policy], baseline: str) -> str:
    colours = colour_names([policy.name for policy in policies], baseline)
    chips = (
        f'<span><span class="swatch" style="background: var(--{colour})"></span>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<div class="legend">{"".join(chips)}</div>'


def _results(outcomes: Sequence[Outcome], baseline: str) -> str:
    heads = (
        *("policy", "seeds", "final accuracy", "difference (points)", "tokens", "time"),
        *("tokens to target", "tokens saved"),
        *("time to target", "time saved"),
    )
    rows = []
    for outcome in outcomes:
        itself = outcome.name == baseline
        missed = None if itself else f"{outcome.reached_target} of {outcome.paired_seeds} seeds arrive"
        rows.append(
            [
                escape(outcome.name),
                str(outcome.seeds),
                _cell(outcome.final_acc, "{:.1%}"),
                "baseline" if itself else _cell(_points(outcome.acc_difference), "{:+.1f}"),
                _count(outcome.tokens) if itself else _cell(outcome.tokens_ratio, "{:.2f} x"),
                _duration(outcome.elapsed_s) if itself else _cell(outcome.time_ratio, "{:.2f} x"),
                _NOTHING if outcome.tokens_to_target is None else _count(outcome.tokens_to_target),
                "baseline" if itself else _cell(_saved(outcome.tokens_to_target_ratio), "{:z.0%}", missed),
                _NOTHING if outcome.time_to_target_s is None else _duration(outcome.time_to_target_s),
                "baseline" if itself else _cell(_saved(outcome.time_to_target_ratio), "{:z.0%}", missed),
            ]
        )
    return _RESULTS.format(table=_table(heads, rows))


def _runs(policies: Sequence[Policy]) -> str:
    heads = (
        "policy",
        "seed",
        "state",
        "accuracy before",
        "after",
        "tokens",
        "training time",
        "rollouts",
        "commit",
    )
    rows = []
    for policy in policies:
        for seed, run in policy.runs.items():
            curve = accuracy_curve(run)
            rows.append(
                [
                    escape(policy.name),
                    str(seed),
                    "finished" if run.summary else "unfinished",
                    f"{curve.accuracy[0]:.1%}",
                    f"{curve.accuracy[-1]:.1%}",
                    _count(curve.tokens[-1]),
                    _duration(curve.elapsed_s[-1]),
                    str(len(run.metrics)),
                    escape(str(run.environment.get("git_commit") or "unknown")[:12]),
                ]
            )
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(interval: Interval | None, form: str, missing: str | None = None) -> str:
    if interval is None:
        return _NOTHING if missing is None else f"{_NOTHING}<small>{escape(missing)}</small>"
    bounds = (interval.low, interval.high)
    small = "" if None in bounds else f"<small>{form.format(bounds[0])} to {form.format(bounds[1])}</small>"
    return form.format(interval.mean) + small


def _points(difference: Interval | None) -> Interval | None:
    """A difference of accuracies in percentage points."""
    if difference is None:
        return None
    low, high = (None if bound is None else 100 * bound for bound in (difference.low, difference.high))
    return Interval(100 * difference.mean, low, high)


def _saved(ratio: Interval | None) -> Interval | None:
    """1 - ratio; what bounded the ratio from above bounds the saving from below."""
    if ratio is None:
        return None
    low, high = (None if bound is None else 1 - bound for bound in (ratio.high, ratio.low))
    return Interval(1 - ratio.mean, low, high)


def _count(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"
