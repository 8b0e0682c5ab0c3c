"""The HTML page of a report: one file that needs no other, light or dark as its reader prefers."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinyzero_trl.runs.records import EXAMPLES, METRICS, Run
from tinyzero_trl.runs.report.comparable import differ_in
from tinyzero_trl.runs.report.compare import Outcome, accuracy_curve
from tinyzero_trl.runs.report.formats import NOTHING, Cell, count, duration, interval_cell, points, saved
from tinyzero_trl.runs.report.headlines import tiles_of_comparison, tiles_of_one
from tinyzero_trl.runs.report.panels import is_on_policy
from tinyzero_trl.runs.report.run_groups import LoadedRuns, RunGroup
from tinyzero_trl.runs.report.samples import names_of_sides, sample_cards
from tinyzero_trl.runs.report.style import Picture, looks, style_sheet

_ROLLOUT = "tokens/response_total"  # in the lines of the steps that began with a rollout
_SECTIONS = {"accuracy": "accuracy"} | dict.fromkeys(("window", "lengths", "truncation", "fates", "saved"), "window")


class Table(NamedTuple):
    """A table of the page."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def render_page(
    loaded: LoadedRuns,
    baseline: RunGroup,
    outcomes: Sequence[Outcome],
    pictures: Sequence[Picture],
    reload_s: int | None,
) -> str:
    """The whole page as text; the template escapes every string that comes from a run.

    With `reload_s` browsers load it again after so many seconds.
    """
    templates = Environment(
        loader=PackageLoader("tinyzero_trl.runs.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    groups, alone = loaded.groups, len(loaded.groups) == 1
    labels = [group.label for group in groups]
    script = _source(templates, "page.js")
    return templates.get_template("page.html").render(
        title=labels[0] if alone else "Rollout windows compared",
        subtitle=_described(groups[0]) if alone else _counted(groups, baseline),
        notes=[*_notes(loaded), *(f"{each}." for each in notes_of_records(loaded))],
        reload_s=reload_s,
        headlines=tiles_of_one(outcomes[0], groups[0]) if alone else tiles_of_comparison(outcomes, baseline.label),
        legend={} if alone else looks(labels, baseline.label),
        key=[{"label": group.label, "name": group.name} for group in groups if group.label != group.name],
        pictures=_by_section(pictures),
        results=None if alone else _results(outcomes, baseline.label),
        on_policy=is_on_policy(groups),
        samples={"groups": labels, "cards": sample_cards(groups), "sides": names_of_sides(groups)},
        runs=_runs(loaded),
        palette=Markup(style_sheet()),
        style=Markup(_source(templates, "page.css")),
        script=Markup(script),
        script_hash=_script_hash(script),
    )


def _source(templates: Environment, name: str) -> str:
    assert templates.loader is not None, "the environment was made with one"
    return templates.loader.get_source(templates, name)[0]


def _script_hash(script: str) -> str:
    """The page's own script as its content security policy names it: no other one may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _by_section(pictures: Sequence[Picture]) -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = {"accuracy": [], "window": [], "health": []}
    for picture in pictures:
        kind = _SECTIONS.get(picture.name.partition("-")[0], "health")
        sections[kind].append({"title": picture.title, "svg": Markup(picture.svg), "caption": picture.caption})
    return sections


def _counted(groups: Sequence[RunGroup], baseline: RunGroup) -> str:
    runs = sum(len(group.runs) for group in groups)
    return f"{len(groups)} run groups, {runs} runs; baseline: {baseline.label}"


def _described(group: RunGroup) -> str:
    """What one run, or the seeds of one group, trained: task, model and window, as far as they are recorded."""
    config, model = group.config, group.config.get("model_name_or_path")
    facts = [
        ("", config.get("task")),
        ("trained from ", "the embedded model" if model == "embedded" else model),
        ("window policy ", config.get("window_strategy")),
        ("up to ", config.get("window_max") and f"{config['window_max']} tokens"),
        ("seed " if len(group.runs) == 1 else "seeds ", ", ".join(map(str, group.runs))),
    ]
    return "; ".join(f"{what}{value}" for what, value in facts if value is not None)


def _notes(loaded: LoadedRuns) -> list[str]:
    """What a reader must know before the figures."""
    notes = []
    if not loaded.finished:
        some = any(run.summary is not None for group in loaded.groups for run in group.runs.values())
        which = "Not every run here is finished" if some else "No run here is finished"
        notes.append(f"{which}: every figure says how far the runs have come, and none is a result.")
    if loaded.left_out:
        runs = "1 run is" if len(loaded.left_out) == 1 else f"{len(loaded.left_out)} runs are"
        notes.append(f"{runs} not finished and no part of any figure; see the table of runs at the end.")
    return notes


def notes_of_records(loaded: LoadedRuns) -> list[str]:
    """A note for each run whose records say less than they seem to, and for seeds that do not repeat one another."""
    what = "which no picture of its training shows"
    notes = [f"{METRICS} of {path} lacks {steps}, {what}" for path, steps in loaded.missing_steps.items()]
    for group in loaded.groups:
        for run in group.runs.values():
            judged = run.judged_evals[-1]["step"]
            if judged != run.evals[-1]["step"]:
                notes.append(
                    f"no answer of the last evaluation of {run.path} was judged; its accuracy is that of step {judged}"
                )
        for name, what in ((EXAMPLES, "other training examples"), ("model_files", "another model to begin with")):
            if differ_in(group, name):
                notes.append(f"the seeds of {group.label} had {what} than one another")
    return notes + [f"{path} has not begun, and is left out" for path in loaded.not_begun]


def _results(outcomes: Sequence[Outcome], baseline: str) -> Table:
    heads = (
        *("run group", "seeds", "final accuracy", "difference (points)", "tokens", "time"),
        *("tokens to target", "tokens saved"),
        *("time to target", "time saved"),
    )
    [reference] = [outcome for outcome in outcomes if outcome.label == baseline]
    return Table(heads, [_result(outcome, reference) for outcome in outcomes])


def _result(outcome: Outcome, baseline: Outcome) -> list[Cell]:
    label, seeds = Cell(outcome.label), Cell(str(outcome.seeds))
    accuracy, itself = interval_cell(outcome.final_acc, "{:.1%}"), Cell("baseline")
    tokens, elapsed = Cell(count(outcome.tokens)), Cell(duration(outcome.elapsed_s))
    to_target = Cell(NOTHING if outcome.tokens_to_target is None else count(outcome.tokens_to_target))
    time_to_target = Cell(NOTHING if outcome.time_to_target_s is None else duration(outcome.time_to_target_s))
    if outcome is baseline:
        return [label, seeds, accuracy, itself, tokens, elapsed, to_target, itself, time_to_target, itself]
    if outcome.not_compared:
        reason = Cell("not comparable", "; ".join(outcome.not_compared))
        return [label, seeds, accuracy, reason, tokens, elapsed, *[Cell(NOTHING)] * 4]
    if outcome.paired_seeds < max(outcome.seeds, baseline.seeds):
        seeds = Cell(seeds.text, f"{outcome.paired_seeds} paired")
    missed = _without_saving(outcome)
    return [
        *(label, seeds, accuracy),
        interval_cell(points(outcome.acc_difference), "{:+z.1f}"),
        interval_cell(outcome.tokens_ratio, "{:.2f} x"),
        interval_cell(outcome.time_ratio, "{:.2f} x", "" if outcome.same_devices else "other devices"),
        to_target,
        interval_cell(saved(outcome.tokens_to_target_ratio), "{:z.0%}", missed),
        time_to_target,
        interval_cell(saved(outcome.time_to_target_ratio), "{:z.0%}", missed),
    ]


def _without_saving(outcome: Outcome) -> str:
    """Why nothing can be said of what a group saves on its way to the target."""
    paired = f"of {outcome.paired_seeds} seeds"
    if not outcome.paired_seeds:
        return "no seed paired"
    if outcome.reached_target < outcome.paired_seeds:
        return f"{outcome.reached_target} {paired} arrive"
    if outcome.began_at_target:
        return f"{outcome.began_at_target} {paired} began there"
    return "the baseline began there"


def _runs(loaded: LoadedRuns) -> Table:
    heads = (
        *("run group", "seed", "state", "accuracy before", "after", "tokens"),
        *("training time", "rollouts", "commit"),
    )
    listed = [(group.label, run) for group in loaded.groups for run in group.runs.values()]
    return Table(heads, [_run(label, run) for label, run in [*listed, *loaded.left_out]])


def _run(label: str, run: Run) -> list[Cell]:
    curve = accuracy_curve(run)
    figures = [NOTHING] * 4
    if len(curve.accuracy):
        before = f"{curve.accuracy[0]:.1%}" if run.judged_evals[0]["step"] == 0 else NOTHING
        figures = [before, f"{curve.accuracy[-1]:.1%}"]
        figures += [count(curve.whole_tokens), duration(curve.whole_elapsed_s)]
    texts = [label, str(run.config.get("seed")), "finished" if run.summary else "unfinished", *figures]
    rollouts = sum(_ROLLOUT in line for line in run.metrics)
    texts += [str(rollouts), str(run.environment.get("git_commit") or "unknown")[:12]]
    return [Cell(text) for text in texts]
