"""What run groups are called: short, each another name, readable at any number, in any script."""

import json
import re

import pytest
from matplotlib.figure import Figure

from tests.support.synthetic_runs import train
from tinyzero_trl.runs.report import write_report
from tinyzero_trl.runs.report.formats import count
from tinyzero_trl.runs.report.names import LABEL_CHARACTERS, file_slugs, group_names, short_labels
from tinyzero_trl.runs.report.pictures import accuracy_and_cost
from tinyzero_trl.runs.report.run_groups import load_run_groups
from tinyzero_trl.runs.report.style import Percent, can_be_drawn, looks


def labels(*configurations):
    return list(short_labels(list(dict.fromkeys(group_names(configurations))), can_be_drawn).values())


def test_a_name_that_fits_is_the_label():
    assert labels({"recipe": "full"}, {"recipe": "signal-from-1024"}) == ["full", "signal-from-1024"]


def test_a_label_is_what_differs():
    slacks = [{"recipe": "countdown_with_a_long_name", "window_slack": slack} for slack in (0.0, 0.1)]
    assert labels(*slacks) == ["slack=0.0", "slack=0.1"]
    models = [{"recipe": "r", "model_name_or_path": f"/disk/{'deep/' * 20}model-{end}"} for end in "ab"]
    assert labels(*models) == ["A", "B"], "model_name_or_path=model-a is longer than a picture has room for"
    data = [{"recipe": "r", "dataset": f"/disk/{'deep/' * 20}{end}.parquet"} for end in "ab"]
    assert labels(*data) == ["dataset=a.parquet", "dataset=b.parquet"]
    same_end = [{"recipe": "r", "dataset": f"/disk/{'deep/' * 20}{end}/train.parquet"} for end in "ab"]
    assert labels(*same_end) == ["A", "B"]


def test_a_long_label_is_a_letter_and_no_letter_is_taken_twice():
    found = labels(
        *({"recipe": "r", "beta": each, "learning_rate": 10.0**-each, "num_generations": 2 * each} for each in (1, 2))
    )
    assert found == ["A", "B"]
    assert labels({"recipe": "A"}, {"recipe": "x" * 40}) == ["A", "B"]
    assert labels(*({"recipe": f"policy-{number}"} for number in range(30)))[-2:] == ["AC", "AD"]
    assert all(len(label) <= LABEL_CHARACTERS for label in labels({"recipe": "x" * 400}, {"recipe": "y" * 400}))


def test_a_script_that_the_font_lacks_becomes_a_letter():
    assert can_be_drawn("fenêtre über 42 %") and not can_be_drawn("数字")
    assert labels({"recipe": "数字窗口"}, {"recipe": "short"}) == ["A", "short"]


def test_a_mark_that_turns_text_around_is_no_part_of_a_label():
    assert can_be_drawn("full 34.9 %") and not can_be_drawn("full\u202e")


def test_file_names_differ_where_labels_do_also_without_letter_case():
    slugs = file_slugs(["a b", "a-b", "A b", "c"])
    assert slugs == {"a b": "a-b", "a-b": "a-b-2", "A b": "A-b-3", "c": "c"}


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.3), (0.24, 0.2435), (0.2400, 0.2402), (0.1, 0.115), (0.0, 1.0), (0.5, 0.525)]
)
def test_ticks_differ_and_say_where_they_are(low, high):
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [low, high])
    axes.yaxis.set_major_formatter(Percent())
    figure.draw_without_rendering()
    shown = {tick.get_loc(): tick.label1.get_text() for tick in axes.yaxis.get_major_ticks()}
    assert len(set(shown.values())) == len(shown)
    for place, text in shown.items():
        assert float(text.rstrip("%").replace("\N{MINUS SIGN}", "-")) / 100 == pytest.approx(place, abs=1e-9)


@pytest.mark.parametrize("count", [2, 14, 30])
def test_every_group_has_a_point_inside_and_a_name_at_it(count, tmp_path):
    runs = [
        train(tmp_path / str(each), recipe=f"group-{each}", best=0.24 + 0.001 * each, steps=2) for each in range(count)
    ]
    groups = load_run_groups(runs).groups
    canvas = accuracy_and_cost(groups, looks([group.label for group in groups], groups[0].label))
    inside = canvas.axes.get_window_extent()
    for group, label, container in zip(groups, canvas.axes.texts, canvas.axes.containers, strict=True):
        assert label.get_text() == group.label
        x, y = canvas.axes.transData.transform(container.lines[0].get_xydata()[0])
        assert inside.x0 + 5 < x < inside.x1 - 5 and inside.y0 + 3 < y < inside.y1 - 3
    found = {(look.colour_name, look.line) for look in looks([group.label for group in groups], "").values()}
    assert len(found) == min(count, 24), "six colours, four line styles"


def test_a_page_over_long_names_has_a_key_and_short_file_names(tmp_path):
    deep = f"/disk/{'folder/' * 40}"
    runs = [
        train(tmp_path / end, model_name_or_path=f"{deep}{end}/model", beta=0.1 * seed, learning_rate=10.0**-seed)
        for seed, end in enumerate("ab")
    ]
    page = write_report(runs, tmp_path / "out").read_text(encoding="utf-8")
    key = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert list(key) == ["A", "B"]
    assert f"model_name_or_path={deep}a/model" in key["A"]
    assert {"window-A.png", "window-B.png"} <= {file.name for file in (tmp_path / "out" / "plots").iterdir()}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["policies"]) == list(key.values()), "programs get the full names"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1 k"),
        (1234, "1.23 k"),
        (999_499, "999 k"),
        (999_700, "1 M"),
        (999_960_000, "1 G"),
    ],
)
def test_tokens_have_three_digits_and_their_unit(tokens: float, text: str) -> None:
    assert count(tokens) == text
