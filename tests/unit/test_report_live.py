"""A page that follows runs: written anew when their records have changed, until all of them are finished."""

from pathlib import Path

import pytest

from tests.support.synthetic_runs import train
from tinyzero_trl.commands.main import main
from tinyzero_trl.runs.records import RunRecords
from tinyzero_trl.runs.report.live import watch


class Training:
    """Stands for the time that passes: each sleep lets the next thing happen to a run."""

    def __init__(self, *events) -> None:
        self.events, self.said, self.written = list(events), [], []

    def follow(self, runs: list[Path], out: Path) -> Path:
        def sleep(seconds: float) -> None:
            assert seconds == 7
            page = out / "index.html"
            self.written.append((page.stat().st_mtime_ns, page.read_text(encoding="utf-8")) if page.exists() else None)
            self.events.pop(0)()

        return watch(runs, out, baseline=None, every_s=7, say=self.said.append, sleep=sleep)


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


def test_a_run_that_goes_on_is_drawn_beside_a_finished_one(tmp_path):
    done = train(tmp_path / "done")
    half = train(tmp_path / "half", recipe="bold", window_strategy="signal", steps=4, finished=False)
    training = Training(lambda: RunRecords(half).write_summary({"seed": 0}))
    page = training.follow([done, half], tmp_path / "out")
    [(_, followed)] = training.written
    assert "Not every run here is finished" in followed and "2 run groups, 2 runs" in followed
    assert "Not every run" not in page.read_text(encoding="utf-8")


def test_finished_runs_are_written_once(tmp_path, capsys):
    run = train(tmp_path / "run")
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--live"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")


@pytest.mark.parametrize("seconds", ["0", "-3", "soon"])
def test_a_time_that_is_none_is_refused(seconds, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path), "--out", str(tmp_path / "out"), f"--live={seconds}"])
    assert end.value.code == 2 and "is no number of seconds; give 1 or more" in capsys.readouterr().err
