"""A page that follows runs: written anew when their records have changed, until all of them are finished."""

import itertools
from pathlib import Path

import pytest

from tests.support.synthetic_runs import train
from tinyzero_trl.commands.main import main
from tinyzero_trl.runs.records import Run, RunRecords, read_run
from tinyzero_trl.runs.report.live import watch


class Training:
    """Stands for the time that passes: each sleep lets the next thing happen to a run."""

    def __init__(self, *events) -> None:
        self.events, self.said, self.written = list(events), [], []
        self.takes_s, self.waits_s = 0.0, 7.0  # a page takes so long, and is followed by such a wait

    def follow(self, runs: list[Path], out: Path, baseline: str | None = None) -> Path:
        def sleep(seconds: float) -> None:
            assert seconds == self.waits_s
            page = out / "index.html"
            self.written.append((page.stat().st_mtime_ns, page.read_text(encoding="utf-8")) if page.exists() else None)
            self.events.pop(0)()

        clock = itertools.count(step=self.takes_s).__next__
        return watch(runs, out, baseline=baseline, every_s=7, say=self.said.append, sleep=sleep, clock=clock)


def test_a_page_follows_a_run_from_before_its_first_evaluation_to_its_end(tmp_path):
    run = RunRecords(tmp_path / "run")
    run.write_config({"recipe": "full", "window_strategy": "fixed", "window_max": 512, "seed": 0})
    training = Training(
        lambda: run.append_eval(0, 0.0, 0, {"eval/acc": 0.1}),
        lambda: None,
        lambda: run.append_eval(5, 9.0, 500, {"eval/acc": 0.4}),
        lambda: run.write_summary({"seed": 0}),
    )
    page = training.follow([run.path], tmp_path / "out")
    before, first, unchanged, second = training.written
    assert before is None and training.said[0].startswith("no run has an evaluation yet")
    assert training.said[1:] == [f"{page} is written anew while the runs go on; Ctrl-C ends this"]
    assert '<meta http-equiv="refresh" content="7">' in first[1] and "No run here is finished" in first[1]
    assert unchanged[0] == first[0], "nothing is drawn where no record has changed"
    assert "10% → 40%" in second[1]
    last = page.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in last and "No run here is finished" not in last
    assert (run.path / "plots").exists(), "a finished lone run has its pictures in its own folder, as ever"


def test_pages_that_take_long_come_less_often(tmp_path):
    half = train(tmp_path / "half", steps=4, finished=False)
    training = Training(lambda: RunRecords(half).write_summary({"seed": 0}))
    training.takes_s, training.waits_s = 3.0, 12.0
    training.follow([half], tmp_path / "out")
    assert len(training.written) == 1


def test_a_run_that_goes_on_is_drawn_beside_a_finished_one(tmp_path):
    done = train(tmp_path / "done")
    half = train(tmp_path / "half", recipe="bold", window_strategy="signal", steps=4, finished=False)
    training = Training(lambda: RunRecords(half).write_summary({"seed": 0}))
    page = training.follow([done, half], tmp_path / "out")
    [(_, followed)] = training.written
    assert "Not every run here is finished" in followed and "2 run groups, 2 runs" in followed
    assert "Not every run" not in page.read_text(encoding="utf-8")


def test_a_baseline_without_an_evaluation_is_waited_for(tmp_path):
    """Its page has the names that it will keep, though the baseline is drawn only later."""
    fast = train(tmp_path / "fast", recipe="fast", finished=False)
    full = RunRecords(tmp_path / "full")
    full.write_config({"recipe": "full", "window_strategy": "fixed", "window_max": 512, "seed": 0})

    def finish() -> None:
        for run in (fast, full.path):
            RunRecords(run).write_summary({"seed": 0})

    training = Training(
        lambda: RunRecords(fast).append_metrics(9, 99.0, {"loss": 0.0}),
        lambda: full.append_eval(0, 0.0, 0, {"eval/acc": 0.1}),
        finish,
    )
    page = training.follow([fast, full.path], tmp_path / "out", baseline="full")
    assert training.written[:2] == [None, None] and "2 run groups, 2 runs; baseline: full" in training.written[2][1]
    assert training.said == [
        "baseline full has no evaluation yet; waiting for its first one",
        f"{page} is written anew while the runs go on; Ctrl-C ends this",
    ]


def test_a_run_without_an_evaluation_is_listed_beside_those_that_are_drawn(tmp_path):
    fast = train(tmp_path / "fast", recipe="fast", finished=False)
    late = RunRecords(tmp_path / "late")
    late.write_config({"recipe": "late", "window_strategy": "fixed", "window_max": 512, "seed": 0})

    def finish() -> None:
        late.append_eval(0, 0.0, 0, {"eval/acc": 0.1})
        for run in (fast, late.path):
            RunRecords(run).write_summary({"seed": 0})

    training = Training(finish)
    training.follow([fast, late.path], tmp_path / "out")
    [(_, page)] = training.written
    assert "<td>late</td><td>0</td><td>unfinished</td>" in page and "1 run is not finished" in page


def test_a_baseline_that_no_run_has_is_told_at_once(tmp_path):
    run = train(tmp_path / "run", finished=False)
    with pytest.raises(ValueError, match=r"baseline = 'ful' is none of the run groups; choose one of full"):
        Training().follow([run], tmp_path / "out", baseline="ful")


def test_records_are_read_only_when_they_have_changed(tmp_path, monkeypatch):
    run = RunRecords(tmp_path / "run")
    run.write_config({"seed": 0})
    reads: list[Path] = []

    def counted(path: Path) -> Run:
        reads.append(path)
        return read_run(path)

    monkeypatch.setattr("tinyzero_trl.runs.report.run_groups.read_run", counted)
    monkeypatch.setattr("tinyzero_trl.runs.report.live.read_run", counted, raising=False)

    def finish() -> None:
        assert len(reads) == 1, "of four looks"
        run.append_eval(0, 0.0, 0, {"eval/acc": 0.1})
        run.write_summary({"seed": 0})

    Training(lambda: None, lambda: None, lambda: None, finish).follow([run.path], tmp_path / "out")


def test_finished_runs_are_written_once(tmp_path, capsys):
    run = train(tmp_path / "run")
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--live"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")


@pytest.mark.parametrize("seconds", ["0", "-3", "soon"])
def test_a_time_that_is_none_is_refused(seconds, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path), "--out", str(tmp_path / "out"), f"--live={seconds}"])
    assert end.value.code == 2 and "is no number of seconds; give 1 or more" in capsys.readouterr().err


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "_lock").touch()
    training = Training(lambda: train(run))
    training.follow([run], tmp_path / "out")
    assert training.written == [None] and training.said[0].startswith("no run has an evaluation yet")
