"""The figures in docs/results.md and docs/performance.md are computed again from the published records."""

import json
import re
from functools import cache
from pathlib import Path
from statistics import fmean

import gpu_table
import gradient_fidelity
import numpy as np
import paired_accuracy
import pytest

from tinyzero_trl.metrics import Interval, paired_difference, paired_ratio
from tinyzero_trl.runs import records
from tinyzero_trl.runs.report.compare import Outcome, accuracy_curve, compare
from tinyzero_trl.runs.report.run_groups import RunGroup, choose_baseline, load_run_groups

ROOT = Path(__file__).parents[2]
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
README_IN_ONE_LINE = " ".join(README.split())
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
GRID = ROOT / "results" / "ablation_tiny"
LENGTHS = ROOT / "results" / "ablation_lengths"
LENGTHS_ASKED_AGAIN = ROOT / "results" / "ablation_lengths_eight_answers"
FEW_CUT = ROOT / "results" / "ablation_few_cut"
FEW_CUT_ASKED_AGAIN = ROOT / "results" / "ablation_few_cut_four_answers"
ASKED_AGAIN = ROOT / "results" / "ablation_tiny_three_numbers"
DEMO = ROOT / "results" / "ablation_demo"
IMPATIENT = ROOT / "results" / "ablation_impatient"
SECONDS = ROOT / "results" / "ablation_impatient_seconds"
MORE_PROMPTS = ROOT / "results" / "ablation_impatient_more_prompts"
MORE_PROMPTS_ASKED_AGAIN = ROOT / "results" / "ablation_impatient_more_prompts_three_numbers"
GROUPS = ROOT / "results" / "ablation_tiny_group"
GROUPS_ASKED_AGAIN = ROOT / "results" / "ablation_tiny_group_three_numbers"

read_run = cache(records.read_run)  # the published records do not change, and many figures come from the same ones
policies = cache(paired_accuracy.policies)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """By the name that a run has in the grid, which is that of its folder."""
    groups = load_run_groups(sorted(GRID.glob("*/*"))).groups
    full = choose_baseline(groups, None)
    folders = [_folder(group) for group in groups]
    assert _folder(full) == "full" and len(set(folders)) == len(folders), "one group is one run of the grid"
    return dict(zip(folders, compare(groups, full), strict=True))


def _folder(group: RunGroup) -> str:
    [name] = {run.path.parent.name for run in group.runs.values()}
    return name


def _rows(text: str, mark: str) -> dict[str, list[str]]:
    """The rows of the first table whose header begins with `mark`: first cell -> the others."""
    table = text[text.index(mark) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    return {row[0].strip("`"): [cell.replace("*", "") for cell in row[1:]] for row in cells}


def _every_row(text: str, mark: str) -> list[list[str]]:
    """The cells after the first one of a table whose first cells repeat."""
    table = text[text.index(mark) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in table]


def _with_bounds(interval: Interval | None, places: int, scale: float = 1, unit: str = "") -> str:
    """Counts of steps that all seeds have in common give no bounds: the tables have the mean in their place."""
    assert interval is not None
    bounds = (interval.mean if bound is None else bound for bound in interval)
    mean, low, high = (f"{scale * value:z.{places}f}" for value in bounds)
    return f"{mean}{unit} ({low} to {high})"


def _points(outcome: Outcome) -> str:
    return _with_bounds(outcome.acc_difference, 1, 100)


def _tokens(outcome: Outcome) -> str:
    return _with_bounds(outcome.tokens_ratio, 2, unit=" x")


def test_the_table_at_the_top(outcomes: dict[str, Outcome]) -> None:
    rows = _rows(RESULTS, "| window, 40 steps")
    full, signal = outcomes["full"], outcomes["signal"]
    assert rows["the full rollout, 1,024 tokens"] == [
        str(full.seeds),
        f"{100 * full.final_acc.mean:.1f} %",
        "",
        f"{full.tokens / 1e6:.2f} M tokens",
        f"{full.elapsed_s:.0f} s",
    ]
    assert rows["signal`, from 256 tokens"] == [
        str(signal.seeds),
        f"{100 * signal.final_acc.mean:.1f} %",
        f"+{_points(signal)}",
        _tokens(signal),
        _with_bounds(signal.time_ratio, 2, unit=" x"),
    ]


def _asked_again(grid: Path) -> Path:
    """The answers of a grid's final models to problems with three numbers."""
    return grid.with_name(f"{grid.name}_three_numbers")


def _together(grid: Path, name: str, baseline: str) -> tuple[int, Interval, str]:
    """A run of a grid against another: seeds of both, points by both measurements, the ratio of tokens."""
    again = policies(grid, _asked_again(grid))
    seeds = sorted(again[name].keys() & again[baseline].keys())
    _, points = paired_accuracy.against(again[name], again[baseline], "together")
    assert points is not None
    tokens = ([_tokens_of(grid / run / seed) for seed in seeds] for run in (name, baseline))
    return len(seeds), points, _with_bounds(paired_ratio(*tokens), 2, unit=" x")


def _tokens_of(run: Path) -> float:
    return float(read_run(run).evals[-1]["tokens"])


def _steps_of(run: Path) -> float:
    """Decoding steps of all rollouts: each takes as many as its longest completion has tokens."""
    return sum(float(line["completions/max_length"]) for line in read_run(run).metrics)


def test_the_table_of_the_readme_says_the_same() -> None:
    """Two grids side by side: that of the demo, and that of the model which searches less well."""
    rows = _rows(README, "| window, 60 steps")
    names = ("full", "group-label", "group-label-slack-0.3", "group", "signal", "fixed-256", "fixed-128")
    for (said, cells), name in zip(rows.items(), names, strict=True):
        assert cells == [*_compared_with_full(DEMO, name), *_compared_with_full(IMPATIENT, name)], said
    for grid, model in ((DEMO, "demo's"), (IMPATIENT, "second")):
        assert f"| {model} model, {len(list(grid.glob('full/*')))} seeds: points |" in README
    first = fmean(read_run(run).evals[0]["eval/acc"] for run in DEMO.glob("full/*"))
    assert f"the demo's model begins at {100 * first:.0f} %" in README


def _compared_with_full(grid: Path, name: str) -> tuple[str, str]:
    """Points against the full rollout and the ratio of tokens; of the full rollout, accuracy and tokens."""
    again = policies(grid, _asked_again(grid))
    if name not in again:
        return "", ""
    assert again[name].keys() == again["full"].keys()
    if name == "full":
        accuracy = fmean(each["together"] for each in again["full"].values())
        return f"{accuracy:.1f} %", f"{fmean(map(_tokens_of, grid.glob('full/*'))) / 1e6:.2f} M"
    _, points, tokens = _together(grid, name, "full")
    return _with_bounds(points, 1), tokens


@pytest.mark.parametrize(
    ("grid", "name", "is_enough"),
    [
        (DEMO, "group-label", True),
        (DEMO, "fixed-256", True),
        (DEMO, "fixed-128", True),
        (DEMO, "fixed-96", False),
        (IMPATIENT, "group-label", True),
        (IMPATIENT, "fixed-256", True),
        (IMPATIENT, "fixed-128", False),
    ],
)
def test_which_windows_are_enough_by_the_words_of_the_readme(grid: Path, name: str, is_enough: bool) -> None:
    """Enough: as far as the seeds can tell, no points are lost against the full rollout."""
    _, (mean, low, high), _ = _together(grid, name, "full")
    assert high is not None and (high > 0 if is_enough else high < 0), (mean, low, high)


@pytest.mark.parametrize("grid", [DEMO, IMPATIENT])
def test_the_tokens_of_the_windows_by_the_words_of_the_readme(grid: Path) -> None:
    of_full, of_256 = (_together(grid, "group-label", name)[2] for name in ("full", "fixed-256"))
    assert 0.2 < float(of_full.split(" x")[0]) < 0.3, "about a quarter"
    assert float(of_256.split(" x")[0]) < 1, "256 cost more than group"


def test_a_larger_slack_by_the_words_of_the_readme() -> None:
    _, (mean, low, high), tokens = _together(DEMO, "group-label-slack-0.3", "fixed-96")
    assert f"as the fixed 96 and ends {mean:.1f} points ({low:.1f} to {high:.1f}) above it" in README_IN_ONE_LINE
    assert 0.9 < float(tokens.split(" x")[0]) < 1.1, "as many tokens"


def test_the_table_of_every_window(outcomes: dict[str, Outcome]) -> None:
    rows = _rows(RESULTS, "| run of the grid")
    assert rows.keys() == outcomes.keys()
    for name, (_, seeds, points, tokens) in rows.items():
        outcome = outcomes[name]
        if name == "full":
            expected = [f"{100 * outcome.final_acc.mean:.1f} %", f"{outcome.tokens / 1e6:.2f} M tokens"]
        else:
            expected = [_points(outcome), _tokens(outcome)]
        assert [seeds, points, tokens] == [str(outcome.seeds), *expected], name


def test_the_second_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    paired_accuracy.main([str(GRID), str(ASKED_AGAIN)])
    assert capsys.readouterr().out in RESULTS


@cache
def per_group_figures() -> dict[str, dict[str, tuple[dict[str, float], float, float]]]:
    """Accuracies, tokens and steps by run and seed; later seeds of a run of the first grid lie in the second folder."""
    measured: dict[str, dict[str, tuple[dict[str, float], float, float]]] = {}
    for name in ("full", "signal", "vanilla", "fixed-128", "group", "group-label"):
        for grid, again in ((GRID, ASKED_AGAIN), (GROUPS, GROUPS_ASKED_AGAIN)):
            for file in (again / name).glob("seed_*/eval.json"):
                run = read_run(grid / name / file.parent.name)
                figures = (paired_accuracy.accuracies(run.path, file), _tokens_of(run.path), _steps_of(run.path))
                measured.setdefault(name, {})[run.path.name] = figures
    return measured


@cache
def per_group_rows() -> dict[str, list[str]]:
    """The table of windows per group."""
    rows, full = {}, per_group_figures()["full"]
    for name, runs in per_group_figures().items():
        again, together = (fmean(each[0][measure] for each in runs.values()) for measure in ("again", "together"))
        rows[name] = [str(len(runs)), f"{again:.1f} %", f"{together:.1f} %", "", "", ""]
        if name != "full":
            ours, theirs = ([each[seed] for seed in runs] for each in (runs, full))
            points = paired_difference(*([figures["together"] for figures, *_ in each] for each in (ours, theirs)))
            ratios = [paired_ratio(*([run[place] for run in each] for each in (ours, theirs))) for place in (1, 2)]
            rows[name][-3:] = [_with_bounds(points, 1), *(_with_bounds(ratio, 2, unit=" x") for ratio in ratios)]
    return rows


def test_windows_per_group() -> None:
    assert _rows(RESULTS, "| run, second measurement") == per_group_rows()


def test_what_is_said_of_windows_per_group_against_fixed_ones() -> None:
    group = per_group_figures()["group-label"]
    for name, window in (("fixed-128", 128), ("vanilla", 256)):
        fixed = per_group_figures()[name]
        assert len(fixed) == len(fixed.keys() & group.keys()) == 10
        ours, theirs = ([runs[seed] for seed in sorted(fixed)] for runs in (group, fixed))
        tokens = paired_ratio(*([spent for _, spent, _ in runs] for runs in (theirs, ours)))
        first, second, side = (ours, theirs, "below") if window == 128 else (theirs, ours, "above")
        points = paired_difference(*([each["together"] for each, *_ in runs] for runs in (first, second)))
        assert tokens is not None
        ends = f"ends {_with_bounds(points, 1, unit=f' points {side} it')[:-1]}, ten seeds)"
        said = f"A fixed {window} uses {tokens.mean:.2f} x the tokens of `group` with the label, and {ends}"
        assert said in " ".join(RESULTS.split()), said


@cache
def rows_of_grid(grid: Path, asked_again: Path) -> dict[str, list[str]]:
    """The table of a grid whose final models answered again, without its column of windows."""
    groups = load_run_groups(sorted(grid.glob("*/*"))).groups
    full = choose_baseline(groups, "full")
    again = policies(grid, asked_again)
    rows = {}
    for group, outcome in zip(groups, compare(groups, full), strict=True):
        name = _folder(group)
        assert outcome.seeds == outcome.paired_seeds == len(again[name])
        trained = f"{100 * outcome.final_acc.mean:.1f} %"
        accuracy, points = paired_accuracy.against(again[name], again["full"], "again")
        answers = f"{accuracy.mean:.1f} %"
        if group is full:
            rows[name] = [f"{outcome.seeds}", trained, answers, f"{outcome.tokens:,.0f} tokens", ""]
        else:
            as_far = f"{100 * _full_at_equal_tokens(group, full):.1f} %"
            trained, answers = f"{trained}, {_points(outcome)}", f"{answers}, {_with_bounds(points, 1)}"
            rows[name] = [f"{outcome.seeds}", trained, answers, _tokens(outcome), as_far]
    return rows


def different_lengths_rows() -> dict[str, list[str]]:
    return rows_of_grid(LENGTHS, LENGTHS_ASKED_AGAIN)


def test_prompts_that_need_different_lengths() -> None:
    rows = _rows(RESULTS, "| run of the second grid")
    assert {name: cells for name, (_, *cells) in rows.items()} == different_lengths_rows()


def test_where_few_completions_are_cut() -> None:
    """Without the last column: between two evaluations of `full` nothing is known of its course."""
    expected = rows_of_grid(FEW_CUT, FEW_CUT_ASKED_AGAIN)
    rows = _rows(RESULTS, "| run of the third grid")
    assert {name: cells for name, (_, *cells) in rows.items()} == {name: cells[:-1] for name, cells in expected.items()}


def test_the_readme_says_the_same_of_different_lengths() -> None:
    rows = _rows(README, "| window, 48 steps")
    names = ("full", "group-label", "group-label-longer", "fixed-96")
    for (said, cells), name in zip(rows.items(), names, strict=True):
        seeds, _, asked_again, tokens, _ = different_lengths_rows()[name]
        accuracy, _, points = asked_again.partition(", ")
        assert cells == [seeds, accuracy, points, tokens], said


def _full_at_equal_tokens(group: RunGroup, full: RunGroup) -> float:
    """Accuracy of the full rollout after the tokens that a run group used in all, linear between evaluations."""
    curves = {seed: accuracy_curve(full.runs[seed]) for seed in group.runs}
    spent = {seed: accuracy_curve(run).tokens[-1] for seed, run in group.runs.items()}
    return fmean(np.interp(spent[seed], curve.tokens, curve.accuracy) for seed, curve in curves.items())


def test_what_is_said_of_the_prompts_that_need_different_lengths() -> None:
    evals = [read_run(run).evals for run in sorted((LENGTHS / "full").glob("seed_*"))]
    steps, largest = (1, 3, 5, 9, 16, 28, 32, 36), 120
    lengths = [4 * count + 6 for count in steps]
    means = [[fmean(each[place][f"eval/{count}_acc"] for each in evals) for count in steps] for place in (0, 1, 2, 4)]
    rows = _rows(RESULTS, "| steps of counting")
    assert rows["tokens that an answer takes"] == [str(length) for length in lengths]
    for name, figures in zip(("before", "after 12 steps", "after 24 steps", "after 48 steps"), means, strict=True):
        assert rows[f"accuracy {name}"] == [f"{100 * figure:.0f} %" for figure in figures]
    first, *later = [f"{100 * fmean(each[place]['eval/acc'] for each in evals):.1f} %" for place in range(5)]
    assert f"It is {first} before training, and {', '.join(later[:-1])} and {later[-1]} after" in RESULTS
    late = [
        sum(figure for figure, length in zip(figures, lengths, strict=True) if largest / 2 < length <= largest)
        / sum(figures)
        for figures in (means[0], means[-1])
    ]
    said = f"{100 * late[0]:.0f} % of the successes need more than half of the maximum, and {100 * late[1]:.0f} % in"
    assert said in RESULTS


def test_the_table_of_the_demo() -> None:
    run = read_run(ROOT / "results" / "demo")
    rows = _rows(RESULTS, "| | held-out accuracy")
    for (name, cells), line in zip(rows.items(), (run.evals[0], run.evals[-1]), strict=True):
        acc, low, high = (100 * line[f"eval/{figure}"] for figure in ("acc", "acc_low", "acc_high"))
        assert cells == [f"{acc:.1f} % (95 % interval {low:.1f} to {high:.1f})", f"{100 * line['eval/3_acc']:.1f} %"]
        assert name == "before" or f"{line['tokens']:,} rollout tokens" in name
    before, after = (100 * line["eval/3_acc"] for line in (run.evals[0], run.evals[-1]))
    assert f"{after:.0f} % in place of {before:.0f} %" in README
    lengths = [line["difficulty/3_mean_length"] for line in run.metrics]
    assert f"on three numbers grow from {lengths[0]:.0f} to {lengths[-1]:.0f} tokens" in " ".join(RESULTS.split())


@pytest.mark.parametrize(("table", "grid"), [("fifth", DEMO), ("fourth", IMPATIENT)])
def test_the_tables_of_models_that_give_up(table: str, grid: Path) -> None:
    rows = _rows(RESULTS, f"| run of the {table} grid")
    assert {name: cells for name, (_, *cells) in rows.items()} == rows_of_grid(grid, _asked_again(grid))


def test_the_demo_is_a_run_of_its_grid() -> None:
    courses = [read_run(run).evals for run in DEMO.glob("group-label/*")]
    before, after = (100 * fmean(evals[place]["eval/acc"] for evals in courses) for place in (0, -1))
    assert f"is {before:.0f} % before the training, and {after:.1f} % after it" in RESULTS
    demo, seed_0 = (read_run(run).evals for run in (ROOT / "results" / "demo", DEMO / "group-label" / "seed_0"))
    assert demo[-1]["tokens"] == seed_0[-1]["tokens"]


@pytest.mark.parametrize("baseline", ["full", "fixed-256", "fixed-128"])
def test_the_demo_against_other_windows(baseline: str) -> None:
    """Accuracies of both measurements together; both runs of a seed."""
    seeds, points, tokens = _together(DEMO, "group-label", baseline)
    pairs = [
        tuple(_steps_of(DEMO / run / f"seed_{seed}") for run in ("group-label", baseline)) for seed in range(seeds)
    ]
    steps = _with_bounds(paired_ratio(*zip(*pairs, strict=True)), 2, unit=" x")
    row = f"| the demo against `{baseline}` | {seeds} | {_with_bounds(points, 1)} | {tokens} | {steps} |"
    assert row in RESULTS


def test_a_larger_slack_against_other_windows() -> None:
    """Accuracies of both measurements together; both runs of a seed."""
    rows = _rows(RESULTS, "| on the demo's model |")
    assert len(rows) > 3
    for said, cells in rows.items():
        name, baseline = re.findall(r"[\w.-]+", said.replace(" against ", " "))
        seeds, points, tokens = _together(DEMO, name, baseline)
        assert cells == [str(seeds), _with_bounds(points, 1), tokens], said


@pytest.mark.parametrize("name", ["group-label", "group"])
@pytest.mark.parametrize("fixed", ["fixed-256", "fixed-128"])
def test_groups_against_fixed_windows_on_the_impatient_model(name: str, fixed: str) -> None:
    """Accuracies of both measurements together; both runs of a seed."""
    seeds, points, ratio = _together(IMPATIENT, name, fixed)
    assert f"| `{name}` against `{fixed}` | {seeds} | {_with_bounds(points, 1)} | {ratio} |" in RESULTS
    if name == "group" and fixed == "fixed-128":
        (mean, _, _), more = points, ratio.split(" (")[0]
        _, (below, low, high), less = _together(IMPATIENT, name, "fixed-256")
        said = f"a fixed 256 by {below:.1f} points ({low:.1f} to {high:.1f}) for {less.split(' (')[0]} its tokens, and "
        said += f"from a fixed 128 by {mean:.1f} points for {more}."
        assert said in RESULTS


@cache
def rows_of_steps() -> dict[str, list[str]]:
    """Seeds, decoding steps, tokens and points against the full rollout, of all runs on the impatient model."""
    full = {run.name: run for run in IMPATIENT.glob("full/*")}
    rows = {"full": [str(len(full)), f"{fmean(map(_steps_of, full.values())):,.0f} steps", "", ""]}
    for folder in (*IMPATIENT.glob("*/"), *SECONDS.glob("*/")):
        if folder.name != "full":
            pairs = [(run, full[run.name]) for run in folder.glob("seed_*")]
            steps, tokens = (
                paired_ratio(*zip(*((count(ours), count(theirs)) for ours, theirs in pairs), strict=True))
                for count in (_steps_of, _tokens_of)
            )
            points = paired_difference(
                *zip(*((_accuracy_of(ours), _accuracy_of(theirs)) for ours, theirs in pairs), strict=True)
            )
            ratios = (_with_bounds(ratio, 2, unit=" x") for ratio in (steps, tokens))
            rows[folder.name] = [str(len(pairs)), *ratios, _with_bounds(points, 1, 100)]
    return rows


def _accuracy_of(run: Path) -> float:
    return float(read_run(run).evals[-1]["eval/acc"])


def test_decoding_steps() -> None:
    rows = rows_of_steps()
    assert _rows(RESULTS, "| run, decoding steps") == rows
    ratios = {name: cells[1].split(" (")[0] for name, cells in rows.items()}
    said = "`group` with a label takes {group-label} those of the full rollout, `signal` {signal}, and the fixed 256 "
    assert (said + "{fixed-256}").format_map(ratios) in README_IN_ONE_LINE
    for name in ("group-label", "signal", "fixed-256", "dear-steps", "dear-steps-slack"):
        assert f"{ratios[name]}" in RESULTS[RESULTS.index("### Decoding steps") :].split("```")[0].split("| points")[-1]


@cache
def rows_of_more_prompts() -> dict[str, list[str]]:
    """32 prompts a step against other runs: seeds of both, points, and the ratios of tokens and steps."""
    name, rows = "group-label-32", {}
    asked = dict(policies(MORE_PROMPTS, MORE_PROMPTS_ASKED_AGAIN))
    ours = asked.pop(name)
    for baseline, theirs in (asked | policies(IMPATIENT, _asked_again(IMPATIENT))).items():
        grid = MORE_PROMPTS if baseline in asked else IMPATIENT
        _, points = paired_accuracy.against(ours, theirs, "together")
        assert points is not None
        seeds = sorted(ours.keys() & theirs.keys())
        pairs = [(MORE_PROMPTS / name / seed, grid / baseline / seed) for seed in seeds]
        ratios = (
            paired_ratio(*zip(*((count(one), count(other)) for one, other in pairs), strict=True))
            for count in (_tokens_of, _steps_of)
        )
        rows[baseline] = [str(len(seeds)), _with_bounds(points, 1), *(_with_bounds(r, 2, unit=" x") for r in ratios)]
    return rows


def test_more_prompts_for_the_tokens_that_are_saved() -> None:
    rows = rows_of_more_prompts()
    assert _rows(RESULTS, "| 32 prompts a step against") == rows
    seeds, points, tokens, _ = rows["full"]
    ends = f"ends {points} points above it, {seeds} seeds"
    assert f"takes {tokens.split(' (')[0]} the tokens of the full rollout and {ends}" in README_IN_ONE_LINE
    section = " ".join(RESULTS[RESULTS.index("### More prompts") :].split("```")[0].split())
    assert f"takes only {rows['group-label'][3].split(' (')[0]} the decoding steps" in section
    _, points, tokens, steps = rows["fixed-256-32"]
    said = f"for {tokens.split(' (')[0]} its tokens, and takes {steps.split(' (')[0]} its"
    assert f"is as accurate as that, {points}, {said}" in section
    fixed = policies(MORE_PROMPTS, MORE_PROMPTS_ASKED_AGAIN)["fixed-256-32"]
    full = policies(IMPATIENT, _asked_again(IMPATIENT))["full"]
    _, gained = paired_accuracy.against(fixed, full, "together")
    pairs = [(MORE_PROMPTS / "fixed-256-32" / seed, IMPATIENT / "full" / seed) for seed in sorted(fixed)]
    spent = paired_ratio(*zip(*((_tokens_of(one), _tokens_of(other)) for one, other in pairs), strict=True))
    assert gained is not None
    ends = f"{gained.mean:.1f} points above the full rollout ({gained.low:.1f} to {gained.high:.1f})"
    assert f"With 32 it ends {ends} for {spent.mean:.2f} x its tokens" in section
    assert f"Against `signal`, which takes as many tokens, it is {rows['signal'][1]} points ahead" in section


def test_what_is_said_of_signal_on_the_impatient_model() -> None:
    windows = [
        [int(line["adaptive_window/current_window"]) for line in read_run(run).metrics]
        for run in sorted(IMPATIENT.glob("signal/*"))
    ]
    fifth, last = ([each[place] for each in windows] for place in (4, -1))
    page = " ".join(RESULTS.split())
    assert f"after the fourth rollout it has {min(fifth)} to {max(fifth)} tokens" in page
    assert f"at the end {min(last)} to {max(last)}," in page
    assert all(each.count(1024) == 7 for each in windows) and "Seven of its rollouts have the full length" in page
    _, (mean, low, high), tokens = _together(IMPATIENT, "signal", "fixed-256")
    said = f"takes {tokens.split(' (')[0]} the tokens of a fixed 256 and ends as accurate"
    assert f"{said} ({mean:.1f}, {low:.1f} to {high:.1f})" in page


def test_what_the_quickstart_says_of_the_demo() -> None:
    page = " ".join((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8").split())
    lengths = [line["difficulty/4_mean_length"] for line in read_run(ROOT / "results" / "demo").metrics]
    assert f"In the first step all completions go on, and one on four numbers takes {lengths[0]:.0f} tokens." in page
    assert f"a completion takes {fmean(lengths[1:]):.0f} tokens on average." in page
    assert max(lengths[1:]) < lengths[0] / 2
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for step in (0, 60):
        lines = (ROOT / "results" / "demo" / "completions" / f"step_{step:06d}.jsonl").read_text(encoding="utf-8")
        [shown] = [each for each in map(json.loads, lines.splitlines()) if "[9, 2, 1]" in each["prompt"]]
        assert f"\n{shown['completion']}\n" in text and shown["reward"] == (step == 60)


def test_the_page_of_the_pretrained_model() -> None:
    page = (ROOT / "docs" / "real_model.md").read_text(encoding="utf-8")
    run = read_run(ROOT / "results" / "smollm2_cpu")
    first, last = run.evals
    rows = _rows(page, "| | held-out accuracy, 80 problems")
    assert {name.strip("*") for name in rows} == {"before", f"after {last['step']} steps"}
    for cells, line in zip(rows.values(), (first, last), strict=True):
        acc, low, high, cut = (100 * line[f"eval/{each}"] for each in ("acc", "acc_low", "acc_high", "truncated_frac"))
        expected = [f"{acc:.0f} % ({low:.0f} to {high:.0f})", f"{line['eval/mean_length']:.0f}", f"{cut:.0f} %"]
        assert cells == expected and (line["eval/problems"], line["eval/n"]) == (80, 160)
    assert last["eval/acc_low"] > first["eval/acc_high"] and last["eval/acc"] - first["eval/acc"] >= 0.25
    assert run.config["max_steps"] == last["step"] and run.config["recipe"] == "smollm2_cpu"
    assert {line["adaptive_window/current_window"] for line in run.metrics} == {48}


def test_windows_on_the_pretrained_model() -> None:
    page = (ROOT / "docs" / "real_model.md").read_text(encoding="utf-8")
    grid = ROOT / "results" / "ablation_smollm2"
    ends = {
        name: [read_run(run).evals[-1] for run in sorted((grid / name).glob("seed_*"))]
        for name in ("full", "group", "fixed-24")
    }
    accuracy = {name: [100 * line["eval/acc"] for line in lines] for name, lines in ends.items()}
    tokens = {name: [line["tokens"] for line in lines] for name, lines in ends.items()}
    rows = _rows(page, "| window, 12 steps")
    for (said, cells), (name, lines) in zip(rows.items(), ends.items(), strict=True):
        assert said.startswith(f"{name}`"), said
        expected = [str(len(lines)), f"{fmean(accuracy[name]):.0f} %", "", f"{fmean(tokens[name]):,.0f} tokens"]
        if name != "full":
            expected[2] = _with_bounds(paired_difference(accuracy[name], accuracy["full"]), 0)
            expected[3] = _with_bounds(paired_ratio(tokens[name], tokens["full"]), 2, unit=" x")
        assert cells == expected
    gains = [
        line["eval/acc"] - read_run(run).evals[0]["eval/acc"]
        for name, lines in ends.items()
        for line, run in zip(lines, sorted((grid / name).glob("seed_*")), strict=True)
    ]
    said = f"of the nine runs gains {100 * min(gains):.0f} to {100 * max(gains):.0f} points"
    assert len(gains) == 9 and said in page
    assert f"two others end at {accuracy['full'][1]:.0f} % and {accuracy['full'][2]:.0f} %" in page
    assert all(short > full for short, full in zip(accuracy["fixed-24"], accuracy["full"], strict=True))
    full, published = ends["full"][0], read_run(ROOT / "results" / "smollm2_cpu").evals[-1]
    assert (full["tokens"], full["eval/acc"]) == (published["tokens"], published["eval/acc"]), "token for token"


@pytest.mark.parametrize("step", [0, 12])
def test_the_completions_of_the_pretrained_model(step: int) -> None:
    """All that the run has kept of an evaluation stand on the page, and no others."""
    page = (ROOT / "docs" / "real_model.md").read_text(encoding="utf-8")
    file = ROOT / "results" / "smollm2_cpu" / "completions" / f"step_{step:06}.jsonl"
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [" ".join(line["completion"].split()) for line in kept if line["source"] == "eval"]
    shown = [row[step > 0] for row in _every_row(page, "| asked | before")]
    assert [text.removesuffix(" ✓") for text in shown] == texts
    assert [text.endswith(" ✓") for text in shown] == [line["reward"] == 1 for line in kept if line["source"] == "eval"]


@pytest.mark.parametrize(
    "of_model, record", [("a step", "against_trl.json"), ("a step of SmolLM2", "against_trl_smollm2.json")]
)
def test_the_table_of_a_training_step(of_model: str, record: str) -> None:
    rows = _rows(PERFORMANCE, f"| {of_model}, ours over stock TRL")
    measured = json.loads((ROOT / "results" / record).read_text(encoding="utf-8"))
    names = {
        "optimization": "optimize_ratio",
        "whole step, rollout included": "step_ratio",
        "peak memory": "memory_ratio",
    }
    for name, ratio in names.items():
        cells = [cell.split(" (")[0] for cell in rows[name]]
        assert cells == [f"{measured[lengths][ratio]:.2f} x" for lengths in ("long_tail", "flat")]
    seconds = [measured["long_tail"][trainer]["step_s"] for trainer in ("stock", "ours")]
    assert "({:.1f} s -> {:.1f} s)".format(*seconds) in rows["whole step, rollout included"][0]


def test_the_table_of_rollout_engines() -> None:
    rows = _rows(PERFORMANCE, "| engine | tokens per second")
    measured = json.loads((ROOT / "results" / "rollout_engines.json").read_text(encoding="utf-8"))["tokens_per_s"]
    assert [cells for [cells] in rows.values()] == [f"{measured[name]:,.0f}" for name in measured]


@pytest.mark.parametrize("simulator", ["window_simulator", "group_simulator"])
def test_the_tables_of_simulated_windows(simulator: str) -> None:
    table = (ROOT / "results" / simulator / "table.md").read_text(encoding="utf-8")
    assert table.strip() in (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")


def test_the_table_of_gradients() -> None:
    files = [ROOT / "results" / "gradient_fidelity" / f"{model}.json" for model in ("before", "after")]
    assert gradient_fidelity.table(files) in (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")


def test_what_was_measured_on_a_gpu_is_on_the_page() -> None:
    for file in (ROOT / "results" / "gpu").glob("*.json"):
        assert gpu_table.table(json.loads(file.read_text(encoding="utf-8"))) in PERFORMANCE, file.name
    assert (ROOT / "results" / "gpu").exists() != ("Nothing here has been measured on a GPU." in PERFORMANCE)


def test_the_comparison_of_countdown_scorers() -> None:
    page = (ROOT / "docs" / "ready_tasks.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "results" / "countdown_scorers.json").read_text(encoding="utf-8"))
    right, wrong = found["agree"]["both right"], found["agree"]["both wrong"]
    assert f"{found['expressions']:,} expressions" in page
    assert f"agree on {right + wrong:,} ({right:,} right, {wrong:,} wrong)" in page
    listed = [int(number) for number in re.findall(r"(?m)\| ([0-9]+) \|$", page)]
    assert sorted(listed) == sorted(kind["times"] for kind in found["differ"].values())
    assert sum(listed) == found["expressions"] - right - wrong


def _simulated(name: str) -> dict[str, dict[str, float]]:
    """Figures of a simulation of `group`, by scenario."""
    text = (ROOT / "results" / "group_simulator" / name).read_text(encoding="utf-8")
    return {each["scenario"]: each for each in json.loads(text)["results"]}


def test_what_is_said_of_simulated_groups() -> None:
    page = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")
    simulated = _simulated("simulation.json")
    goals = {"tokens_over_oracle_worst": 1.15, "points_lost_worst": 1.0, "tokens_over_fixed_worst": 1.0}
    missed = {
        scenario
        for scenario, figures in simulated.items()
        if any(round(figures[name], 2) > goal for name, goal in goals.items())
    }
    assert (len(simulated), len(missed)) == (11, 5), "six of the eleven scenarios reach them with every seed"
    early = {"many lengths, failing early", "many lengths, failing early, recurring"}
    assert missed == early | {"short successes, half hopeless, label", "hopeless, then late", "mostly easy"}
    assert max(simulated[scenario]["points_lost_worst"] for scenario in early) == pytest.approx(1.4, abs=0.05)
    with_label, easy = simulated["short successes, half hopeless, label"], simulated["mostly easy"]
    assert f"uses {with_label['tokens_over_oracle']:.2f} x the tokens of the oracle" in page
    assert f"loses {simulated['hopeless, then late']['points_lost']:.1f} points" in page
    assert f"loses up to {easy['points_lost_worst']:.1f} points" in page
    assert f"takes {easy['tokens_over_fixed']:.2f} x the tokens of a fixed window" in page
    others = [figures["tokens_over_fixed"] for scenario, figures in simulated.items() if scenario != "mostly easy"]
    assert f"uses {min(others):.2f} to {max(others):.2f} x the tokens of the best fixed window" in page


def test_what_exploring_more_brings() -> None:
    page = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")
    files = {"0.05 (default)": "simulation.json", "0.1": "explore_0.1.json", "0.2": "explore_0.2.json"}
    rows = _rows(page, "| explore share | tokens")
    assert [*rows] == [*files]
    for share, file in files.items():
        late = _simulated(file)["hopeless, then late"]
        lost = f"{late['points_lost']:.1f} ({late['points_lost_worst']:.1f})"
        assert rows[share] == [f"{late['tokens_over_full']:.2f}", lost]


def test_what_more_or_fewer_stages_cost() -> None:
    page = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")

    def tokens(name: str) -> list[float]:
        return [each["tokens_over_full"] for each in _simulated(name).values()]

    base, rows = tokens("simulation.json"), _rows(page, "| growth | tokens")
    for growth, cells in rows.items():
        ratios = [one / other for one, other in zip(tokens(f"growth_{float(growth)}.json"), base, strict=True)]
        assert len(ratios) == 11
        assert cells == [f"{fmean(ratios):.2f} x", f"{min(ratios):.2f} to {max(ratios):.2f}"]
    assert [*rows] == ["1.25", "2", "3"]
    saved = 100 * (1 - float(rows["1.25"][0].removesuffix(" x")))
    assert f"twice as many stages save only {saved:.0f} %" in page
