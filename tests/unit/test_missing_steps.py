"""A run has a line for each optimizer step; what is missing is named, whatever took it away."""

import gzip
import json
from pathlib import Path

import pytest

from tests.support.synthetic_runs import train
from tinyzero_trl.runs.missing_steps import missing_steps
from tinyzero_trl.runs.records import RunRecords, read_run
from tinyzero_trl.runs.report import write_report


@pytest.mark.parametrize(
    ("present", "last", "words"),
    [
        ([], 0, None),
        ([1, 2, 3], 3, None),
        ([0, 1, 2, 3, 4, 4], 3, None),
        ([], 1, "step 1"),
        ([], 3, "steps 1 to 3"),
        ([1, 2], 3, "step 3"),
        ([2, 4, 5], 8, "steps 1, 3 and 6 to 8"),
        (range(2, 20, 2), 18, "steps 1, 3, 5, 7, 9 and others"),
        ([7], 10**15, "steps 1 to 6 and 8 to 1000000000000000"),
    ],
)
def test_steps_without_a_line_are_named(present, last: int, words: str | None) -> None:
    assert missing_steps(present, last) == words


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


LOSSES = {
    "deleted": (lambda file: file.unlink(), "steps 1 to 8"),
    "emptied": (lambda file: file.write_text(""), "steps 1 to 8"),
    "cut": (lambda file: file.write_text(file.read_text()[:-9]), "step 8"),
    "headless": (lambda file: file.write_text("".join(lines(file.parent)[3:])), "steps 1 to 3"),
    "with zeros at its end": (
        lambda file: file.write_text("".join(lines(file.parent)[:6]) + "\0" * 99),
        "steps 7 to 8",
    ),
}


@pytest.mark.parametrize(("lose", "missing"), LOSSES.values(), ids=LOSSES)
def test_a_run_knows_which_steps_it_lacks(tmp_path: Path, lose, missing: str) -> None:
    run = train(tmp_path / "run")
    lose(run / "metrics.jsonl")
    assert read_run(run).missing_steps == RunRecords(run).missing_steps(8) == missing


def test_a_report_says_which_steps_it_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train(tmp_path / "run")
    (run / "metrics.jsonl").write_text("".join(lines(run)[3:]))
    page = write_report([run], tmp_path / "report")
    note = f"metrics.jsonl of {run} lacks steps 1 to 3, which no picture of its training shows"
    assert f"{note}." in page.read_text()
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["missing_steps"] == {str(run): "steps 1 to 3"}
    assert [record.message for record in caplog.records if "lacks" in record.message] == [note]


def test_the_name_of_a_folder_steers_no_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train(tmp_path / "run\x1b[2J")
    (run / "metrics.jsonl").unlink()
    write_report([run], tmp_path / "report")
    assert r"run\x1b[2J lacks steps" in caplog.text


def test_a_report_of_complete_runs_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Compressed lines count, and a run that goes on has got no further than its lines."""
    packed, unfinished = train(tmp_path / "packed"), train(tmp_path / "unfinished", seed=1, finished=False, steps=5)
    (packed / "metrics.jsonl.gz").write_bytes(gzip.compress((packed / "metrics.jsonl").read_bytes()))
    (packed / "metrics.jsonl").unlink()
    page = write_report([packed, unfinished], tmp_path / "report")
    assert "lacks" not in page.read_text() + caplog.text
    assert "missing_steps" not in json.loads((tmp_path / "report" / "summary.json").read_text())


@pytest.mark.parametrize("garbage", [b"\x7fELF\x02\x01\x01" + bytes(40), "zwölf".encode(), b"\xff\xfe"])
def test_what_is_no_line_is_no_line_cut_by_a_kill(tmp_path: Path, garbage: bytes) -> None:
    run = train(tmp_path / "run")
    file = run / "metrics.jsonl"
    for content, number in ((garbage, 1), (file.read_bytes() + garbage, 9)):
        file.write_bytes(content)
        RunRecords(run)
        assert file.read_bytes() == content, "nothing is cut away that a run did not write"
        with pytest.raises(ValueError, match=rf"^{file}, line {number}: not a record .*; correct or remove the line$"):
            read_run(run)
