"""The comparison against curves whose answer is known, and the page that shows it."""

import csv
import json
import math
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.support.synthetic_runs import train
from tinyzero_trl.commands.main import main
from tinyzero_trl.metrics import Interval
from tinyzero_trl.runs.records import RunRecords, read_run
from tinyzero_trl.runs.report import write_pictures, write_report
from tinyzero_trl.runs.report.compare import Outcome, accuracy_curve, compare, cost_to_reach
from tinyzero_trl.runs.report.headlines import _best, _tile
from tinyzero_trl.runs.report.names import group_names
from tinyzero_trl.runs.report.old_pictures import LIST
from tinyzero_trl.runs.report.panels import panels_of
from tinyzero_trl.runs.report.pictures import accuracy_and_cost, on_common_axis, thinned
from tinyzero_trl.runs.report.run_groups import RunGroup, choose_baseline, load_run_groups
from tinyzero_trl.runs.report.samples import before_and_after
from tinyzero_trl.runs.report.style import COLOURS, STYLES, Canvas, house_style, looks

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Three seeds each of a baseline, of a group twice as fast, and of one that never gets there."""
    runs, tmp_path = [], tmp_path_factory.mktemp("grid")
    for seed in range(3):
        runs += [
            train(tmp_path / f"x{seed}", seed=seed, recipe="full", best=0.6 + 0.1 * seed),
            train(tmp_path / f"y{seed}", seed=seed, recipe="bold", speed=2.0, best=0.6 + 0.1 * seed),
            train(tmp_path / f"z{seed}", seed=seed, recipe="short", window_max=64, best=0.3 if seed else 0.9),
        ]
    return runs


@pytest.fixture(scope="module")
def report(grid, tmp_path_factory):
    """The folder of the grid's report; drawing is what takes the time here, so it is drawn once."""
    return write_report(grid, tmp_path_factory.mktemp("report"), baseline="full").parent


def test_a_report_leaves_no_picture_of_an_earlier_one(grid, tmp_path):
    write_report([grid[0], grid[1]], tmp_path)
    assert (tmp_path / "plots" / "accuracy-cost.png").is_file()
    others = {"mine.png", "window-seat.png", "fates.png"}
    for name in others:
        (tmp_path / "plots" / name).write_bytes(PNG)
    write_report([grid[0]], tmp_path)
    own = {file.name for file in (grid[0] / "plots").glob("*.png")}
    assert {file.name for file in (tmp_path / "plots").glob("*.png")} == own | others, "its own pictures alone go"
    assert "window.png" in own and not [name for name in own if name.startswith(("window-", "accuracy-cost"))]


@pytest.mark.parametrize("content", [None, "{", "[" * 100_000, '{"a": 1}', '["../mine", "", 3, null, "/mine"]'])
def test_without_a_list_of_what_was_drawn_nothing_is_removed(grid, tmp_path, content):
    plots = tmp_path / "plots"
    plots.mkdir()
    pictures = [tmp_path / "mine.png", plots / "groups.png", plots / "window-full.png", plots / ".png"]
    for picture in pictures:
        picture.write_bytes(PNG)
    if content is not None:
        (plots / LIST).write_text(content)
    write_report([grid[0]], tmp_path)
    assert all(picture.is_file() for picture in pictures)


def test_the_comparison_finds_the_known_answer(grid):
    groups = load_run_groups(grid).groups
    outcomes = {outcome.name: outcome for outcome in compare(groups, choose_baseline(groups, None))}
    full, bold, short = (outcomes[name] for name in ("full", "bold", "short"))
    assert bold.tokens_to_target_ratio == (pytest.approx(0.5), None, None), "all seeds have the same"
    assert bold.time_to_target_ratio == (pytest.approx(0.5), None, None)
    assert bold.tokens_ratio == bold.time_ratio == (pytest.approx(1), None, None), "of whole runs"
    assert (bold.tokens_to_target, full.tokens_to_target) == pytest.approx((4000, 8000))
    assert (bold.time_to_target_s, full.time_to_target_s) == pytest.approx((8, 16))
    assert bold.acc_difference == (pytest.approx(0, abs=1e-12), None, None)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert full.final_acc == pytest.approx((0.7, 0.7 - half, 0.7 + half), abs=1e-6)
    differences = [0.9 - 0.6, 0.3 - 0.7, 0.3 - 0.8]
    half = 4.302653 * np.std(differences, ddof=1) / math.sqrt(3)
    assert short.acc_difference == pytest.approx((np.mean(differences), -0.2 - half, -0.2 + half), abs=1e-6)
    assert (short.reached_target, short.paired_seeds) == (1, 3)
    assert short.tokens_to_target_ratio is None
    assert short.tokens_to_target is None


def test_pairs_are_made_of_the_seeds_that_both_have(tmp_path):
    runs = [train(tmp_path / f"a{seed}", seed=seed, recipe="full") for seed in (0, 1)]
    runs += [train(tmp_path / f"b{seed}", seed=seed, recipe="bold", speed=2.0) for seed in (1, 2)]
    runs += [train(tmp_path / "c", seed=7, recipe="other")]
    groups = load_run_groups(runs).groups
    _, bold, other = compare(groups, groups[0])
    assert (bold.seeds, bold.paired_seeds) == (2, 1)
    assert bold.tokens_to_target_ratio == (pytest.approx(0.5), None, None)
    assert (other.paired_seeds, other.acc_difference, other.time_to_target_ratio) == (0, None, None)


def test_whole_runs_are_compared_even_where_the_target_is_missed(tmp_path):
    runs = [train(tmp_path / f"a{seed}", seed=seed, recipe="full", steps=8) for seed in (0, 1)]
    runs += [train(tmp_path / f"b{seed}", seed=seed, recipe="brief", steps=2 + 2 * seed) for seed in (0, 1)]
    groups = load_run_groups(runs).groups
    brief = compare(groups, groups[0])[1]
    assert (brief.reached_target, brief.tokens_to_target_ratio) == (0, None)
    assert brief.tokens_ratio.mean == brief.time_ratio.mean == pytest.approx(math.sqrt(0.25 * 0.5))


def test_cost_to_reach_is_linear_between_evaluations():
    cost, accuracy = np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.1, 0.5, 0.4, 0.9])
    assert cost_to_reach(0.3, cost, accuracy) == pytest.approx(5.0)
    assert cost_to_reach(0.5, cost, accuracy) == pytest.approx(10.0)
    assert cost_to_reach(0.65, cost, accuracy) == pytest.approx(25.0)
    assert cost_to_reach(0.1, cost, accuracy) == 0.0
    assert cost_to_reach(0.91, cost, accuracy) is None


def test_a_baseline_that_learns_nothing_gives_no_ratio(tmp_path):
    flat = train(tmp_path / "flat", recipe="flat", best=0.0)
    better = train(tmp_path / "better", recipe="better")
    groups = load_run_groups([flat, better]).groups
    assert compare(groups, groups[0])[1].tokens_to_target_ratio is None


def test_training_time_leaves_evaluation_out(tmp_path):
    often = read_run(train(tmp_path / "often", evaluate_every=1))
    seldom = read_run(train(tmp_path / "seldom", evaluate_every=4))
    assert accuracy_curve(often).elapsed_s.tolist() == [2.0 * step for step in range(9)]
    assert accuracy_curve(seldom).elapsed_s.tolist() == [0.0, 8.0, 16.0]
    assert often.evals[-1]["time_s"] > seldom.evals[-1]["time_s"] + 25


@pytest.mark.parametrize(
    ("configurations", "names"),
    [
        ([{"recipe": "a", "seed": 0, "output_dir": "x"}, {"recipe": "a", "seed": 1, "output_dir": "y"}], ["a", "a"]),
        ([{"recipe": "a", "lr": 1}, {"recipe": "b", "lr": 2}], ["a", "b"]),
        (
            [{"recipe": "a", "window_strategy": "fixed"}, {"recipe": "a", "window_strategy": "signal"}],
            ["fixed", "signal"],
        ),
        (
            [{"recipe": "a", "slack": 0.0}, {"recipe": "a", "slack": 0.1}, {"recipe": "b", "slack": 0.1}],
            ["a slack=0.0", "a slack=0.1", "b"],
        ),
        ([{"seed": 0}], ["run"]),
        ([{"recipe": "a", "window_seed": 0}, {"recipe": "a", "window_seed": 1}], ["a", "a"]),
    ],
)
def test_groups_are_named_by_what_sets_them_apart(configurations, names):
    assert group_names(configurations) == names


def test_a_field_of_another_strategy_makes_no_other_group(tmp_path):
    """Its default may have changed between two runs that never read it."""
    for seed, probe_every in enumerate((8, 16)):
        for strategy in ("fixed", "signal"):
            train(
                tmp_path / strategy / str(seed),
                seed=seed,
                recipe=strategy,
                window_strategy=strategy,
                window_probe_every=probe_every,
            )
    found = load_run_groups(sorted(tmp_path.glob("*/*"))).groups
    assert [(group.name, sorted(group.runs)) for group in found] == [
        ("fixed", [0, 1]),
        ("signal window_probe_every=8", [0]),
        ("signal window_probe_every=16", [1]),
    ]


def test_the_default_baseline_is_the_largest_fixed_window(tmp_path):
    signal = train(tmp_path / "signal", recipe="signal", window_strategy="signal", window_max=4096)
    vanilla = train(tmp_path / "vanilla", recipe="vanilla", window_max=1024)
    full = train(tmp_path / "full", recipe="full", window_max=4096)
    groups = load_run_groups([signal, vanilla, full]).groups
    assert choose_baseline(groups, None).name == "full"
    assert choose_baseline(groups, "signal").name == "signal"
    assert choose_baseline(groups[:1], None).name == "signal"
    with pytest.raises(
        ValueError, match=r"baseline = 'bold' is none of the run groups; choose one of signal, vanilla, full"
    ):
        choose_baseline(groups, "bold")


def test_the_machine_readable_result_follows_the_contract(report):
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert summary["baseline"] == "full"
    assert list(summary["policies"]) == ["full", "bold", "short"]
    bold = summary["policies"]["bold"]
    assert bold["seeds"] == 3
    ratios = ("tokens_ratio", "time_ratio", "tokens_to_target_ratio", "time_to_target_ratio")
    for name in ("final_acc", "acc_difference", *ratios):
        assert list(bold[name]) == ["mean", "low", "high"]
    assert bold["tokens_to_target_ratio"] == {"mean": pytest.approx(0.5), "low": None, "high": None}
    assert summary["policies"]["short"]["tokens_to_target_ratio"] is None
    with (report / "summary.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["policy"]: row for row in csv.DictReader(stream)}
    assert float(rows["bold"]["tokens_to_target_ratio_mean"]) == pytest.approx(0.5)
    assert rows["bold"]["tokens_to_target_ratio_low"] == ""
    assert (rows["short"]["tokens_to_target_ratio_mean"], rows["short"]["reached_target"]) == ("", "1")


def test_a_tile_says_what_a_group_costs_where_the_target_is_missed(report):
    text = " ".join(Page((report / "index.html").read_text(encoding="utf-8")).text)
    assert "50% fewer rollout tokens for bold to reach the accuracy of full" in text
    assert "1.00 x the tokens of full with short, at -20.0 points of accuracy (95 % interval: -12" in text


def test_the_first_tile_says_what_was_reached_and_what_it_took(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    [first, *_] = re.findall(r'<div class="card tile.*?</div>', page)
    assert '<div class="card tile wide"><b>1.00 x the tokens</b>' in first
    assert (
        "With bold, a run reached 70.0% held-out accuracy and took 8 k rollout tokens. With full, it reached 70.0% "
        "and took 8 k tokens. The difference is +0.0 points. These are means "
        "over the 3 seeds that both have." in first
    )


def test_what_is_said_beside_a_paired_difference_is_of_the_same_seeds(tmp_path):
    runs = [train(tmp_path / f"a{seed}", seed=seed, best=0.4 + 0.1 * seed) for seed in range(4)]
    runs += [train(tmp_path / f"b{seed}", seed=seed, recipe="bold", best=0.5 + 0.1 * seed) for seed in range(2)]
    runs += [train(tmp_path / "c", seed=7, recipe="other")]
    page = write_report(runs, tmp_path / "out", baseline="full").read_text(encoding="utf-8")
    text = " ".join(Page(page).text)
    assert (
        "With bold, a run reached 55.0% held-out accuracy and took 8 k rollout tokens. With full, it reached 45.0% and "
        "took 8 k tokens. The difference is +10.0 points. These are means "
        "over the 2 seeds that both have." in text
    )
    table = page.split('aria-label="Results"')[1].split("</table>")[0]
    rows = dict(re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", table))
    assert rows["bold"].startswith("<td>2<small>2 paired</small></td><td>55.0%")
    assert rows["other"].startswith("<td>1<small>0 paired</small></td>") and rows["other"].count("no seed paired") == 2


@pytest.mark.parametrize(
    ("ratio", "number", "interval"),
    [
        ((0.7, 0.6, 0.89), "30% fewer", "11% to 40% fewer"),
        ((1.65, 1.11, 2.47), "65% more", "11% to 147% more"),
        ((0.9, 0.7, 1.15), "10% fewer", "15% more to 30% fewer"),
        ((1.1, 0.8, 1.5), "10% more", "20% fewer to 50% more"),
    ],
)
def test_an_interval_has_the_direction_of_its_number(ratio, number, interval):
    outcome = SimpleNamespace(
        label="bold", tokens_to_target_ratio=Interval(*ratio), acc_difference=None, tokens_ratio=None
    )
    tile = _tile(cast("Outcome", outcome), "full")
    assert tile.number == number and tile.text.endswith(f"(95 % interval: {interval})")


def _without_first_evaluations(run, count):
    lines = (run / "eval.jsonl").read_text().splitlines(keepends=True)
    (run / "eval.jsonl").write_text("".join(lines[count:]))


def test_where_the_first_evaluations_are_at_the_target_their_spacing_is_no_saving(tmp_path):
    """Neither was evaluated before it trained: 0.4 and 0.8 at step 2, and the target is 0.2."""
    runs = [train(tmp_path / "full", best=0.2, speed=4.0), train(tmp_path / "bold", recipe="bold", evaluate_every=4)]
    for run in runs:
        _without_first_evaluations(run, 1)
    groups = load_run_groups(runs).groups
    for outcome in compare(groups, groups[0]):
        assert (outcome.reached_target, outcome.began_at_target) == (1, 1)
        assert (outcome.tokens_to_target_ratio, outcome.time_to_target_ratio) == (None, None)


def test_a_group_that_begins_at_the_target_is_said_to_do_so(tmp_path):
    runs = []
    for seed in range(2):
        runs += [train(tmp_path / f"a{seed}", seed=seed, best=0.2), train(tmp_path / f"b{seed}", seed=seed, recipe="b")]
        _without_first_evaluations(runs[-2], 4)
        runs += [train(tmp_path / f"c{seed}", seed=seed, recipe="late", speed=2.0)]
        _without_first_evaluations(runs[-1], 1)
    page = write_report(runs, tmp_path / "out", baseline="full").read_text(encoding="utf-8")
    assert page.count("<small>2 of 2 seeds began there</small>") == 2, "of tokens and of time"
    assert page.count("<small>the baseline began there</small>") == 2 and "seeds arrive" not in page


def test_steps_on_the_same_rollout_are_one_rollout(tmp_path):
    run = train(tmp_path / "run")
    lines = read_run(run).metrics
    reused = [{name: line[name] for name in line if "tokens" not in name or line["step"] % 4 == 1} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reused))
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    head, row = re.findall(r"<tr>(.*?)</tr>", page[page.index("<h2>Runs") :])
    column = re.findall(r"<th.*?>(.*?)</th>", head).index("rollouts")
    assert re.findall(r"<td>(.*?)</td>", row)[column] == "2", "of 8 steps"


@pytest.mark.parametrize("step", [0, 2])
def test_a_first_evaluation_is_before_the_training_only_at_step_0(step, tmp_path):
    folder = train(tmp_path / "run")
    lines = (folder / "eval.jsonl").read_text().splitlines(keepends=True)
    (folder / "eval.jsonl").write_text("".join(lines[step // 2 :]))
    text = " ".join(Page((write_report([folder], tmp_path / "report")).read_text(encoding="utf-8")).text)
    assert f"went from {step / 10:.1%} {'at step 2' if step else 'before the training'} to 80.0%, by +" in text


def test_what_is_reached_before_the_first_step_took_no_time(tmp_path):
    runs = []
    for seed in range(3):
        runs += [train(tmp_path / f"a{seed}", seed=seed, best=0.0), train(tmp_path / f"b{seed}", seed=seed, recipe="b")]
    groups = load_run_groups(runs).groups
    [other] = [outcome for outcome in compare(groups, groups[0]) if outcome.label != groups[0].label]
    assert (other.tokens_to_target_ratio, other.time_to_target_ratio) == (None, None)
    assert (other.tokens_to_target, other.time_to_target_s) == (0.0, 0.0)


def test_an_interval_of_an_accuracy_is_within_0_and_1(tmp_path):
    runs = [train(tmp_path / str(seed), seed=seed, best=best) for seed, best in enumerate((0.0, 0.9, 0.9))]
    [outcome] = compare(groups := load_run_groups(runs).groups, groups[0])
    assert (outcome.final_acc.low, outcome.final_acc.high) == (0.0, 1.0)


def test_a_group_whose_interval_ends_at_0_may_be_level():
    def outcome(label, acc_difference, tokens_ratio):
        ratio = Interval(tokens_ratio, None, None)
        others = {"acc_difference": acc_difference, "tokens_ratio": ratio, "tokens_to_target_ratio": None}
        return SimpleNamespace(label=label, final_acc=Interval(0.5, None, None), **others)

    level = outcome("level", Interval(-0.05, -0.1, 0.0), 0.5)
    assert _best([outcome("dear", Interval(0.1, 0.0, 0.2), 0.9), level]) is level


def test_the_picture_of_costs_has_a_point_for_every_group(grid):
    groups = load_run_groups(grid).groups
    axes = accuracy_and_cost(groups, looks([group.label for group in groups], "full")).axes
    points = [tuple(container.lines[0].get_xydata()[0]) for container in axes.containers]
    assert points == [pytest.approx((8000, accuracy)) for accuracy in (0.7, 0.7, 0.5)]
    assert [(label.get_text(), label.xy) for label in axes.texts] == list(
        zip(("full", "bold", "short"), points, strict=True)
    )
    boxes = [label.get_window_extent() for label in axes.texts]
    assert [box.count_overlaps(boxes) for box in boxes] == [1, 1, 1], "each overlaps itself alone, at equal points too"
    heights = [bar.get_segments()[0][:, 1] for bar in (container.lines[2][-1] for container in axes.containers)]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert heights[0].tolist() == pytest.approx([0.7 - half, 0.7 + half])


def test_bars_of_accuracies_end_within_0_and_1(tmp_path):
    runs = [
        train(tmp_path / f"{recipe}{seed}", seed=seed, recipe=recipe, best=best)
        for recipe, ends in (("full", (0.9, 1.0)), ("bold", (0.0, 0.1)))
        for seed, best in enumerate(ends)
    ]
    groups = load_run_groups(runs).groups
    axes = accuracy_and_cost(groups, looks([group.label for group in groups], "full")).axes
    ends = [container.lines[2][-1].get_segments()[0][:, 1] for container in axes.containers]
    assert min(map(min, ends)) == pytest.approx(0) and max(map(max, ends)) == pytest.approx(1)


def test_a_name_stays_clear_of_the_bars_and_of_the_edge():
    with house_style():
        canvas = Canvas("name", "title", "caption", "x", "y")
        canvas.axes.set(xlim=(0, 10), ylim=(0, 10))
        places = {"beside a bar": (4.0, 5.0), "at the right edge": (9.8, 5.0), "at the left edge": (0.2, 8.0)}
        for x, y in [*places.values(), (4.5, 5.0)]:  # the last one's bar stands where the first name would
            canvas.axes.errorbar(x, y, xerr=0.1, yerr=3)
        palette = looks(list(places), baseline="at the left edge")
        canvas.label(places, palette)
        inside = canvas.axes.get_window_extent()
        boxes = {label.get_text(): label.get_window_extent() for label in canvas.axes.texts}
        bar = canvas.axes.transData.transform((4.5, 5.0))[0]
    assert boxes["beside a bar"].x1 < bar
    assert {each.get_text(): each.get_color() for each in canvas.axes.texts} == {
        name: look.colour for name, look in palette.items()
    }
    assert all(inside.x0 < box.x0 and box.x1 < inside.x1 for box in boxes.values())


class Page(HTMLParser):
    """Collects text, tags and references, and checks that elements close in order."""

    EMPTY = frozenset({"meta", "br", "path", "use", "rect", "line"})

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.tags, self.references = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_escapes_what_models_wrote(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.tags.count("script") == 1  # the page's own; those in completions are text
    assert "<script>alert('x')</script></think>" in page.text
    assert "<answer>1 & 2</answer>" in page.text
    assert not [reference for reference in page.references if not reference.startswith("#")]
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert page.tags.count("svg") == len(list((report / "plots").glob("*.png")))


def test_pictures_take_their_colours_from_the_page(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    hard_coded = {colour for picture in pictures for colour in re.findall(r"#[0-9a-f]{6}\b", picture)}
    assert hard_coded <= {"#000000", "#ffffff"}
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", "".join(pictures)))
    assert {"ink", "muted", "grid", "baseline", "series-0", "series-1"} == used <= set(COLOURS)


def test_completions_that_no_page_shows_are_not_kept_in_memory(tmp_path):
    records = RunRecords(train(tmp_path / "run"))
    for step in (2, 4, 6):
        records.append_completions(step, [{"source": source, "completion": "c"} for source in ("train", "eval")])
    [group] = load_run_groups([records.path]).groups
    assert [(sample["step"], sample["source"]) for sample in group.first.completions] == [
        *[(0, "eval")] * 2,
        *[(8, "eval")] * 2,
    ]
    assert before_and_after(group.first) == before_and_after(read_run(records.path))


def test_a_single_run_gets_its_pictures_into_its_own_folder(tmp_path, capsys):
    run, out = train(tmp_path / "run"), tmp_path / "out"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert not (out / "plots" / "accuracy-cost.png").exists()  # one point is no comparison
    for name in ("accuracy.png", "window.png"):
        assert (run / "plots" / name).read_bytes().startswith(PNG)
        assert (run / "plots" / name).read_bytes() == (out / "plots" / name).read_bytes()
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "0% → 80%" in html
    assert read_run(run).summary == {"recipe": "full", "seed": 0}
    write_report([run], out)
    assert (out / "index.html").read_text(encoding="utf-8") == html  # the same runs give the same page


def test_what_became_of_groups_is_drawn_where_a_policy_decides_per_group(tmp_path):
    without, run = train(tmp_path / "without"), train(tmp_path / "run", recipe="groups", window_strategy="group")
    records = RunRecords(run)
    for step, stopped in ((9, 0.25), (10, 0.5)):
        shares = {"stopped_frac": stopped, "continued_frac": 0.9 - stopped, "explored_frac": 0.1}
        shares |= {"tokens_saved_frac": 0.6, "mean_stop": 64.0}
        figures = {f"group_window/{name}": value for name, value in shares.items()}
        records.append_metrics(step, 99.0, figures | {"tokens/response_cumulative": 1000 * step})
    assert not (write_pictures(without) / "fates.png").exists()
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "plots" / "fates.png").exists()
    window, health = page.split("<h2>The window</h2>")[1].split("<h2>Health of the training</h2>")
    for title in ("What became of groups", "Tokens saved by stopping groups", "Tokens by difficulty"):
        assert title in window and title not in health
    assert "Stopped groups and lengths of correct completions" in window
    assert "Window and lengths of correct completions" not in page  # which would be a flat line at the maximum


def test_the_picture_of_the_window_shows_where_groups_stopped(tmp_path, monkeypatch):
    drawn: list[float] = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **look: drawn.extend(y if "drawstyle" in look else ()))
    run = train(tmp_path / "run", recipe="groups", window_strategy="group")
    write_pictures(run)
    assert set(drawn) == {512}  # no group has stopped: the window
    drawn.clear()
    records = RunRecords(run)
    for step, stop in ((9, 64.0), (10, 96.0)):
        records.append_metrics(step, 99.0, {"group_window/mean_stop": stop, "tokens/response_cumulative": 5e4 * step})
    write_pictures(run)
    assert drawn == [64.0, 96.0]


def test_links_in_a_run_lead_no_picture_out_of_it(tmp_path):
    run, precious, pictures = train(tmp_path / "run"), tmp_path / "precious", tmp_path / "pictures"
    precious.write_text("precious")
    pictures.mkdir()
    plots = run / "plots"
    plots.mkdir()
    for name in ("accuracy.png", ".accuracy.png.draft", "..drawn.json.draft"):
        (plots / name).symlink_to(precious)
    write_report([run], tmp_path / "report")
    assert precious.read_text() == "precious"
    assert (plots / "accuracy.png").read_bytes() == (tmp_path / "report" / "plots" / "accuracy.png").read_bytes()
    shutil.rmtree(plots)
    plots.symlink_to(pictures)
    write_report([run], tmp_path / "report")
    assert list(pictures.iterdir()) == []


def test_pictures_alone_need_no_report(tmp_path):
    run = train(tmp_path / "run", finished=False)
    names = {file.name for file in write_pictures(run).iterdir()}
    assert {"accuracy.png", "accuracy-time.png", "window.png", "truncation.png", "difficulty.png", "kl.png"} <= names
    assert "seconds.png" not in names  # the run has no such figures


def test_held_out_accuracy_is_drawn_by_difficulty_and_by_evaluation_set(tmp_path):
    run = train(tmp_path / "run")
    lines = read_run(run).evals
    one = {"eval/3_acc": 0.5, "eval_all/acc": 0.5}
    (run / "eval.jsonl").write_text("".join(json.dumps(line | one) + "\n" for line in lines))
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert "by evaluation set" not in page and "Held-out accuracy by difficulty" not in page, "one says nothing more"
    several = {f"eval/{label}_acc": 0.1 for label in (3, 4, "far, $x^")} | {"eval_easy/acc": 0.9, "eval_hard/acc": 0.2}
    (run / "eval.jsonl").write_text("".join(json.dumps(line | several) + "\n" for line in lines))
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    cost, rest = page.split("<h2>What learning costs</h2>")[1].split("<h2>The window</h2>")
    for title in ("Held-out accuracy by difficulty", "Held-out accuracy by evaluation set"):
        assert title in cost and title not in rest
    by_difficulty, by_set, *_ = panels_of(load_run_groups([run]).groups)
    assert list(by_difficulty.figures) == ["3", "4", "far, $x^"] and list(by_set.figures) == ["easy", "hard"]
    assert [figure(several) for figure in by_set.figures.values()] == [0.9, 0.2]
    assert {"accuracy-difficulty.png", "accuracy-sets.png"} <= {file.name for file in (run / "plots").iterdir()}


def drawn_lines(folder, monkeypatch, runs):
    """What each picture shows: name -> (x, y, marker) of its lines that have a point."""
    found: dict[str, list[tuple[list[float], list[float], str]]] = {}

    def write(self, legend, folders):
        found[self.name] = [
            (list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) for line in self.axes.get_lines()
        ]

    monkeypatch.setattr(Canvas, "write", write)
    write_report(runs, folder)
    return found


def test_a_run_with_one_evaluation_is_a_dot(tmp_path, monkeypatch):
    run = train(tmp_path / "run", steps=1, evaluate_every=99)
    found = drawn_lines(tmp_path / "out", monkeypatch, [run])
    assert found["accuracy"] == [([0.0], [0.0], "o")]
    assert found["window"][-1] == ([1000.0], [512.0], "o") and found["truncation"] == [([1.0], [0.1], "o")]


@pytest.mark.parametrize(("last", "means"), [(3, []), (2, [([2000.0], [0.2], "o")])])
def test_no_mean_is_drawn_where_not_all_seeds_were_measured(tmp_path, monkeypatch, last, means):
    """One evaluation each: at other tokens there is no mean, at the same there is one."""
    runs = [train(tmp_path / str(step), seed=step, steps=step) for step in (2, 3)]
    for run, step, seed_step in ((runs[0], 2, 2), (runs[1], last, 3)):
        line = {"step": seed_step, "time_s": 9.0, "tokens": 1000 * step, "eval/acc": 0.2}
        (run / "eval.jsonl").write_text(json.dumps(line) + "\n")
    found = drawn_lines(tmp_path / "out", monkeypatch, runs)
    seeds = [([1000.0 * step], [0.2], "o") for step in (2, last)]
    assert found["accuracy"] == [*seeds, *means]


def test_difficulties_in_words_are_drawn_under_their_names(tmp_path):
    def panel(labels):
        lines = [{"step": 1} | {f"difficulty/{label}_acc": 0.5 for label in labels}] * 2
        run = SimpleNamespace(metrics=[*lines, {"step": 2, f"difficulty/{labels[0]}_acc": 1.0}], evals=[])
        [found] = [
            each
            for each in panels_of(cast("list[RunGroup]", [SimpleNamespace(runs={0: run})]))
            if each.name == "difficulty"
        ]
        return found

    drawn = panel(["hard, $x^", "easy"])
    assert (drawn.title, list(drawn.figures)) == ("Accuracy by difficulty", ["easy", "hard, $x^"])
    assert drawn.figures["hard, $x^"]({"difficulty/hard, $x^_acc": 0.25}) == 0.25
    assert panel(["3"]).caption.endswith("all have 3.")
    many = panel([str(number) for number in range(12, 2, -1)])
    assert list(many.figures) == ["3", "6", "9", "12"] and many.caption.endswith("4 of 10 are drawn.")
    assert len(panel([f"level {n}" for n in range(20)]).figures) == 4


SHORT_NAMES, LONG_NAMES = ([f"{name} {n}" for n in range(6)] for name in ("operands", "the name of a source, " * 3))


@pytest.mark.parametrize("labels", [SHORT_NAMES, LONG_NAMES[:4]])
def test_a_key_of_many_or_long_names_leaves_the_axes_their_room(labels: Sequence[str]) -> None:
    with house_style():
        canvas = Canvas("difficulty", "Accuracy by difficulty", "", "training step", "share correct")
        canvas.key(dict(zip(labels, 2 * STYLES, strict=False)))
        canvas.figure.draw_without_rendering()
        whole, axes, key = (each.get_window_extent() for each in (canvas.figure, canvas.axes, canvas.axes.get_legend()))
        assert axes.width > 0.7 * whole.width and axes.height > 0.5 * whole.height
        assert key.x1 <= whole.x1 and key.y1 <= whole.y1


def test_long_runs_make_small_pages(tmp_path):
    run = train(tmp_path / "run", steps=5000, evaluate_every=50)
    assert write_report([run], tmp_path / "out").stat().st_size < 400_000


def test_before_and_after_answer_the_same_prompts(tmp_path):
    pairs = before_and_after(read_run(train(tmp_path / "run")))
    assert [(before["prompt"], after["prompt"]) for before, after in pairs] == [
        ("make 1", "make 1"),
        ("make 2", "make 2"),
    ]
    assert {(before["step"], after["step"]) for before, after in pairs} == {(0, 8)}


def test_the_first_answer_to_a_prompt_stands_beside_the_first(tmp_path):
    records = RunRecords(tmp_path)
    records.write_config({})
    for step, answers in ((0, "abc"), (9, "xy")):
        asked = [{"prompt": prompt, "completion": f"{prompt}{answer}"} for prompt in "PQ" for answer in answers]
        records.append_completions(step, asked)
    pairs = [(before["completion"], after["completion"]) for before, after in before_and_after(read_run(tmp_path))]
    assert pairs == [("Pa", "Px"), ("Pb", "Py"), ("Qa", "Qx"), ("Qb", "Qy")]


def test_samples_of_different_prompts_stand_side_by_side(tmp_path):
    records = RunRecords(tmp_path)
    records.write_config({})
    records.append_completions(1, [{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": "y"}])
    records.append_completions(2, [{"prompt": "c", "completion": "z"}])
    pairs = before_and_after(read_run(tmp_path))
    assert [(b and b["prompt"], a and a["prompt"]) for b, a in pairs] == [("a", "c"), ("b", None)]


@pytest.mark.parametrize(("step", "sides"), [(0, ("before", "after")), (20, ("first", "last"))])
def test_a_completion_is_from_before_the_training_only_at_step_0(step, sides, tmp_path):
    run = train(tmp_path / "run", steps=40)
    (run / "completions" / "step_000000.jsonl").unlink()
    RunRecords(run).append_completions(step, [{"source": "eval", "prompt": "make 1", "completion": "c", "reward": 0.0}])
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert re.findall(r'<span class="muted">(\w+), step (\d+)', page) == [(sides[0], str(step)), (sides[1], "40")]
    assert f"<h2>Completions, {sides[0]} and {sides[1]}</h2>" in page
    assert f"wrong {sides[0]}, correct {sides[1]}</option>" in page


def test_lines_keep_their_course_when_thinned():
    x = np.arange(5000.0)
    thin_x, thin_y = thinned(x, 2 * x)
    assert len(thin_x) < 200
    assert thin_y == pytest.approx(2 * thin_x)
    assert [len(axis) for axis in on_common_axis([(np.array([1.0]), np.array([1.0]))] * 2)] == [1, 2]
    assert len(on_common_axis([(np.array([x]), np.array([1.0])) for x in (1.0, 2.0)])[0]) == 0
    assert [axis.tolist() for axis in thinned(np.array([1.0, 1.0, 3.0]), np.array([2.0, 4.0, 5.0]))] == [[1, 3], [3, 5]]


def test_seeds_are_averaged_only_where_all_are_known():
    ramp = np.array([0.0, 10.0]), np.array([0.0, 1.0])
    late = np.array([4.0, 20.0]), np.array([4.0, 20.0])
    grid, values = on_common_axis([ramp, late])
    assert (grid[0], grid[-1]) == (4.0, 10.0)
    assert values[0] == pytest.approx(grid / 10)
    assert values[1] == pytest.approx(grid)


def test_unfit_input_ends_with_one_line_and_status_2(tmp_path, capsys):
    run, twin = train(tmp_path / "run"), train(tmp_path / "twin")
    blind = RunRecords(tmp_path / "blind")
    blind.write_config({"seed": 0})
    cases = {
        "is no run directory": [tmp_path / "nothing"],
        "the same configuration with the same seed": [run, twin],
        "has no evaluation yet": [blind.path],
    }
    for message, runs in cases.items():
        assert main(["report", *map(str, runs), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["report", str(run), "--out", str(run)]) == 2
    assert "is a run directory" in capsys.readouterr().err


def test_text_can_be_read_on_every_ground_in_light_and_dark(report):
    """WCAG's contrast: 4.5 for text, 3 for lines."""
    page = (report / "index.html").read_text(encoding="utf-8")
    light, dark, *_ = re.findall(r":root \{ (--page.*?) \}", page)
    for face, own in ((0, light), (1, dark)):
        colours = {name: faces[face] for name, faces in COLOURS.items()} | dict(re.findall(r"--(\w+): (#\w{6})", own))
        for ground in ("page", "card", "wash"):
            for text in ("ink", "muted", "good", "bad"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, face)
        for line in (name for name in colours if name.startswith(("series", "baseline"))):
            assert contrast(colours[line], colours["card"]) >= 2.8, (line, face)


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_figures_that_cannot_move_are_told_in_a_sentence(tmp_path):
    quiet = train(tmp_path / "quiet")
    lines = read_run(quiet).metrics
    idle = {"actor/is_ratio/mean": 1.0, "actor/is_log_ratio/mean": 0.0, "actor/is_clip/outside_frac": 0.0}
    (quiet / "metrics.jsonl").write_text("".join(json.dumps(line | idle) + "\n" for line in lines))
    page = write_report([quiet], tmp_path / "out").read_text(encoding="utf-8")
    assert "importance ratios were exactly 1" in page
    assert not {"kl.png", "ratios.png", "clip.png"} & {file.name for file in (tmp_path / "out" / "plots").iterdir()}
    moving = write_report([train(tmp_path / "moving")], tmp_path / "other")
    assert "importance ratios were exactly 1" not in moving.read_text(encoding="utf-8")
    assert (tmp_path / "other" / "plots" / "kl.png").exists()


def test_a_lone_run_says_what_it_is(tmp_path):
    run = train(tmp_path / "run", task="countdown", model_name_or_path="embedded", seed=3)
    page = write_report([run], tmp_path / "out").read_text(encoding="utf-8")
    assert "countdown; trained from the embedded model; window policy fixed; up to 512 tokens; seed 3" in page
    assert "all run groups" not in page
