"""What trackers hold after a kill and a resume, read back by each tracker's own reader; and records at any cadence."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tests.support.training import train, write_recipe
from tests.support.wandb_files import history
from tinyzero_trl.runs.earlier import EARLIER
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.callbacks.trackers import Trackers
from tinyzero_trl.training.logged_figures import LoggedFigures

pytestmark = pytest.mark.slow
OURS = "adaptive_window/current_window"
KILLED_AFTER, SAVED_AT, LAST = 3, 2, 4

# A run that is killed once a step is written down; the same program then goes on from the checkpoint.
PROGRAM = """
import os, sys
from pathlib import Path
from tests.support.training import train
from tinyzero_trl.training.callbacks.records import RecordsCallback
write = RecordsCallback.on_step_end
def then_die(self, args, state, control, **kwargs):
    write(self, args, state, control, **kwargs)
    if state.global_step == int(sys.argv[2]):
        os._exit(9)
RecordsCallback.on_step_end = then_die
train(Path(sys.argv[1]))
"""


def killed_and_resumed(workshop: Path, tracker: str, environment: dict[str, str], **fields: Any) -> Path:
    """The folder of a run that was killed after `KILLED_AFTER` steps, with a checkpoint at `SAVED_AT`, and finished."""
    recipe = write_recipe(
        workshop, tracker, report_to=tracker, max_steps=LAST, save_steps=SAVED_AT, eval_steps=2, **fields
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **environment, "PYTHONPATH": paths}
    for killed_at, status in ((KILLED_AFTER, 9), (-1, 0)):
        command = [sys.executable, "-c", PROGRAM, str(recipe), str(killed_at)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == status, done.stderr[-3000:]
    return workshop / tracker


def assert_a_run_each(steps: Iterable[list[int]]) -> None:
    """Each process has a run; trackers write in the background, so the killed one may lack its last steps, or all."""
    *killed, resumed = sorted(steps)
    assert resumed == [3, 4]
    assert len(killed) <= 1 and all(each == [1, 2, 3][: len(each)] for each in killed)


def test_tensorboard_forgets_what_the_records_forget(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = killed_and_resumed(tmp_path, "tensorboard", {})
    records = read_run(run)
    assert not (run / "runs").exists(), "TRL's figures go into the same folder"
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    windows = accumulator.Scalars(OURS)
    assert [(event.step, event.value) for event in windows] == [(line["step"], line[OURS]) for line in records.metrics]
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in accumulator.Scalars("eval/acc")] == [line["step"] for line in records.evals]

    train(write_recipe(tmp_path, "tensorboard", report_to="tensorboard", max_steps=2, resume="never", seed=8))
    anew = EventAccumulator(str(run / "tensorboard"))
    anew.Reload()
    assert [event.step for event in anew.Scalars(OURS)] == [1, 2]
    earlier = run / EARLIER / "1"
    assert [line["step"] for line in read_run(earlier).metrics] == [1, 2, 3, 4]
    assert (earlier / "tensorboard").is_dir()


def test_trackio_gets_a_run_of_its_own_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    folder = tmp_path / "trackio_data"
    run = killed_and_resumed(tmp_path, "trackio", {"TRACKIO_DIR": str(folder)}, run_name="mine", project="kills")
    program = (
        "import json, trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage as store\n"
        "print(json.dumps([store.get_logs('kills', run.name, run_id=run.id) for run in trackio.Api().runs('kills')]))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(folder)}
    read = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    runs = [[line for line in logs if OURS in line] for logs in json.loads(read.stdout.splitlines()[-1])]
    assert_a_run_each([line["train/global_step"] for line in lines] for lines in runs)
    assert read_run(run).metrics[-1]["step"] == LAST


def test_wandb_gets_a_run_of_its_own_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path / "wandb_data"), "WANDB_SILENT": "true"}
    (tmp_path / "wandb_data").mkdir()
    killed_and_resumed(tmp_path, "wandb", environment, run_name="mine")
    files = sorted((tmp_path / "wandb_data").rglob("*.wandb"))
    steps = [[line["train/global_step"] for line in history(file) if OURS in line] for file in files]
    assert_a_run_each(steps)


@pytest.mark.parametrize(("report_to", "told"), [(["dvclive", "tensorboard"], 1), ("none", 0), (["mlflow"], 0)])
def test_a_tracker_that_does_not_get_our_figures_is_a_warning(
    report_to: Any, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    trainer: Any = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[]))
    Trackers(report_to).take_over(trainer, [])
    assert [record.message.startswith("report_to: dvclive gets") for record in caplog.records] == [True] * told


class Notes(TrainerCallback):
    """A tracker that keeps what it is told to log."""

    told: ClassVar[list[tuple[int, dict[str, Any]]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.told.append((state.global_step, logs))


def test_other_trackers_get_our_figures_by_their_callbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "mlflow", Notes)
    monkeypatch.setattr(Notes, "told", [])
    train(write_recipe(tmp_path, report_to=["mlflow"], max_steps=2, eval_strategy="steps", eval_steps=2))
    for name, steps in {"adaptive_window/current_window": [1, 2], "eval/acc": [0, 2], "reward": [1, 2]}.items():
        assert [step for step, figures in Notes.told if name in figures] == steps
    figures = {step: figures for step, figures in Notes.told if "adaptive_window/current_window" in figures}
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(written[step - 1].items() >= row.items() for step, row in figures.items())


@pytest.mark.parametrize(
    "cadence",
    [
        {"logging_strategy": "epoch"},
        {"logging_strategy": "epoch", "eval_strategy": "epoch"},
        {"logging_strategy": "steps", "logging_steps": 3},
        {"logging_strategy": "no"},
    ],
    ids=lambda cadence: ", ".join(map(str, cadence.values())),
)
def test_records_are_complete_at_any_cadence(tmp_path: Path, cadence: dict[str, Any]) -> None:
    every = train(write_recipe(tmp_path, "every", save_strategy="no"))
    train(write_recipe(tmp_path, "seldom", save_strategy="no", **cadence))
    expected, found = read_run(tmp_path / "every"), read_run(tmp_path / "seldom")
    logged = {line["step"]: line for line in every.state.log_history if "loss" in line}
    assert len(found.metrics) == len(expected.metrics) == len(logged) == 6
    for line, one in zip(found.metrics, expected.metrics, strict=True):
        assert line.keys() == one.keys()
        assert {"loss", "grad_norm", "learning_rate", "reward", "epoch"} <= line.keys()
        for name in line.keys() - {"time_s"}:
            if not name.startswith(("time/", "step_time")):
                assert line[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name
        shared = logged[one["step"]].keys() & one.keys() - {"step_time"}
        assert {name: one[name] for name in shared} == {name: logged[one["step"]][name] for name in shared}
    assert any("entropy" in line for line in found.metrics)
    steps = Counter(line["step"] for line in found.evals)
    assert set(steps.values()) == {1}, "one evaluation per step"
    assert max(steps) == 6, "the last step is evaluated"


def test_step_figures_are_those_of_the_step_alone() -> None:
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(gather=lambda value: value),
        state=SimpleNamespace(epoch=0.5),
        _metrics={"train": {"reward": [0.5], "kl": [float("nan"), 1.0, 3.0]}},
        _tr_loss=torch.tensor(2.0),
        _get_learning_rate=lambda: 0.1,
    )
    figures = LoggedFigures(trainer)
    figures.note_learning_rate()
    expected = {"loss": 2.0, "learning_rate": 0.1, "epoch": 0.5, "reward": 0.5, "kl": 2.0}
    assert figures.take(None) == expected
    trainer._metrics["train"]["kl"].append(5.0)
    trainer._metrics["train"]["reward"] = [0.75]  # TRL replaces some lists
    trainer._tr_loss += 3.0
    expected = {"loss": 3.0, "grad_norm": 0.25, "learning_rate": 0.1, "epoch": 0.5, "reward": 0.75, "kl": 5.0}
    assert figures.take(0.25) == expected
    trainer._tr_loss, trainer._metrics["train"] = torch.tensor(1.5), {"kl": [7.0]}  # Trainer has logged since
    figures.start_over()
    assert figures.take(None) == {"loss": 1.5, "epoch": 0.5, "kl": 7.0}
