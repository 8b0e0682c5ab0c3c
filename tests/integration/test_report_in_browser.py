"""What a model wrote is shown by the report, and never run: by the file's text, and in a real browser."""

from pathlib import Path

import pytest
from markupsafe import escape

from tests.support.browser import BROWSER, WITHOUT, dump, what_does_not_fit
from tests.support.synthetic_runs import train
from tinyzero_trl.runs.records import RunRecords
from tinyzero_trl.runs.report import write_report

SOON = "--virtual-time-budget=2000"
OWN = "document.title='owned'"
HOSTILE = (
    f"<script>{OWN}</script>",
    f'</script><img src=x onerror="{OWN}">',
    f"</pre></div></article><svg onload={OWN}>",
    f'<answer><iframe srcdoc="<script>parent.{OWN}</script>"></iframe></answer>',
    f"<img src=y onerror={OWN}> so <answer>1</answer><img src=y onerror={OWN}>",
    f'" onmouseover={OWN} autofocus onfocus={OWN} x="',
    f'<!-- --><style onload={OWN}></style><a href="javascript:{OWN}">1</a>',
    f"&lt;script&gt;{OWN}&lt;/script&gt; $title ${{samples}} \x00\ufeff\u202e",
)


def write_hostile_report(folder: Path) -> Path:
    """A report on two runs that are hostile wherever a run can put text."""
    runs = []
    for number, text in enumerate(HOSTILE[:2]):
        records = RunRecords(folder / f"run{number}")
        records.write_config({"recipe": text, "window_strategy": text, "seed": 0, "task": text, "beta": text})
        for step in (0, 10):
            records.append_eval(step, float(step), 100 * step, {"eval/acc": 0.5})
            rows = [
                {"source": "eval", "prompt": each, "completion": each, "reason": each, "reward": step / 10}
                for each in HOSTILE
            ]
            records.append_completions(step, rows)
        (records.path / "environment.json").write_text('{"git_commit": "<script>1</script>"}')
        runs.append(records.path)
    return write_report(runs, folder / "report")


def test_every_text_of_a_run_is_escaped(tmp_path: Path) -> None:
    page = write_hostile_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 1, "the page's own"
    for tag in ("<img", "<iframe", "<a ", "<style onload", "<svg onload", "javascript:document.title='owned'\">"):
        assert tag not in page, tag
    for text in HOSTILE[:7]:
        assert str(escape(text.split("<answer>")[0])) in page
    assert "default-src 'none'" in page


@pytest.mark.skipif(BROWSER is None, reason=WITHOUT)
def test_what_a_model_wrote_is_shown_by_a_browser_and_not_run(tmp_path: Path) -> None:
    naked = tmp_path / "naked.html"
    naked.write_text(f"<title>quiet</title>{HOSTILE[1]}", encoding="utf-8")
    assert "<title>owned</title>" in dump(naked, tmp_path / "profile", SOON), (
        "a browser that runs nothing proves nothing"
    )

    shown = dump(write_hostile_report(tmp_path), tmp_path / "profile", SOON)
    assert "<title>Rollout windows compared</title>" in shown
    assert "<img" not in shown
    assert f"&lt;script&gt;{OWN}&lt;/script&gt;" in shown
    assert '<div class="controls">' in shown, "the page's own script runs: it shows the filters"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=WITHOUT)
def test_no_page_is_wider_than_a_phone_or_a_desktop(tmp_path: Path) -> None:
    long = "a_recipe_with_a_name_that_is_longer_than_a_line_of_a_phone_and_has_no_space_in_it"
    runs = {
        "one": [train(tmp_path / "a", recipe="full")],
        "grid": [
            train(tmp_path / f"{recipe}{seed}", recipe=recipe, seed=seed, window_min=4 + len(recipe))
            for recipe in ("full", "bold", long)
            for seed in (0, 1)
        ],
        "unfinished": [train(tmp_path / "b", recipe=long, finished=False)],
    }
    pages = [write_report(each, tmp_path / "pages" / name) for name, each in runs.items()]
    pages.append(write_hostile_report(tmp_path / "pages"))
    assert what_does_not_fit(tmp_path / "pages", pages, tmp_path / "profile", scripts=True) == []
