"""What a person sees: bars on a terminal, a few plain lines elsewhere."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import ProgressCallback, TrainerControl, TrainerState

from tinyzero_trl.training.callbacks.events import Evaluation, Rollout
from tinyzero_trl.training.callbacks.progress import LINES_WITHOUT_TERMINAL, RolloutProgressCallback
from tinyzero_trl.windows import RolloutObservation

FIGURES = {"eval/acc": 0.25, "eval/acc_low": 0.1, "eval/acc_high": 0.5, "eval/mean_length": 42.0}


class Watched:
    """A callback through the events of a training."""

    def __init__(self, step: int = 0, last: int = 100, main: bool = True) -> None:
        self.callback = RolloutProgressCallback()
        self.args: Any = SimpleNamespace(disable_tqdm=False)
        self.state = TrainerState(is_world_process_zero=main, global_step=step, max_steps=last)
        self.fire("on_train_begin")

    def fire(self, event: str, **facts: Any) -> None:
        getattr(self.callback, event)(self.args, self.state, TrainerControl(), **facts)

    def step(self) -> None:
        observation = RolloutObservation(self.state.global_step, 64, [9, 64], [1.0, 0.0], [False, True], [0, 0])
        self.fire("on_rollout_end", rollout=Rollout(observation, [3, 3], None, 0.1))
        self.state.global_step += 1
        self.fire("on_step_end")
        self.fire("on_log", logs={"loss": 0.5})


def test_without_a_terminal_about_twenty_lines_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    for _ in range(100):
        watched.step()
    watched.fire("on_prediction_step", eval_dataloader=[1, 2])
    watched.fire("on_evaluation_end", evaluation=Evaluation(FIGURES, 1.0))
    watched.fire("on_train_end")
    *steps, evaluation = capfd.readouterr().err.splitlines()
    assert len(steps) == LINES_WITHOUT_TERMINAL
    assert steps[0] == "step 5/100  reward 0.500  window 64  truncated 50%"
    assert evaluation == "step 100/100  held-out accuracy 25.0% [10.0%, 50.0%]  mean length 42"


def test_an_evaluation_without_a_judged_completion_says_what_it_knows(capfd: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    watched.fire("on_evaluation_end", evaluation=Evaluation({"eval/mean_length": 42.0}, 1.0))
    assert capfd.readouterr().err == "step 0/100  held-out accuracy not judged  mean length 42\n"


def test_a_rollout_in_stages_says_how_many_groups_stopped(capfd: pytest.CaptureFixture[str]) -> None:
    watched = Watched(last=1)
    observation = RolloutObservation(
        0, 64, [9, 16, 64, 20], [1.0, 0.0, 0.0, 0.0], [False, True, True, False], [0, 0, 1, 2]
    )
    watched.fire("on_rollout_end", rollout=Rollout(observation, [3] * 4, None, 0.1))
    watched.state.global_step += 1
    watched.fire("on_step_end")
    assert capfd.readouterr().err == "step 1/1  reward 0.250  stopped 33%  truncated 50%\n"


@pytest.mark.parametrize("length", [32768, 16])  # 16: cut at the end of a stage
@pytest.mark.parametrize("is_terminal", [False, True])
def test_every_line_of_a_long_run_fits_80_columns(
    is_terminal: bool, length: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    watched = Watched(step=9999, last=10000)
    if is_terminal:
        watched.callback.training_bar.start_t -= 99 * 3600  # as if it had taken that long
        watched.callback.training_bar.ncols, watched.callback.training_bar.dynamic_ncols = 80, None
    observation = RolloutObservation(9999, 32768, [length] * 2, [-10.0] * 2, [True] * 2, [0, 0])
    watched.fire("on_rollout_end", rollout=Rollout(observation, [3, 3], None, 0.1))
    watched.state.global_step += 1
    watched.fire("on_step_end")
    bar = str(watched.callback.training_bar) if is_terminal else ""
    certain = {"eval/acc": 1.0, "eval/acc_low": 1.0, "eval/acc_high": 1.0, "eval/mean_length": 32768.0}
    watched.fire("on_evaluation_end", evaluation=Evaluation(certain, 1.0))
    watched.fire("on_train_end")
    printed = [
        line
        for line in re.split(r"[\r\n]", f"{bar}\n{capfd.readouterr().err}")
        if "accuracy" in line or "truncated" in line
    ]
    assert len(printed) >= 2 and "truncated 100%" in printed[0]
    assert max(map(len, printed)) <= 80, printed


def test_other_processes_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    watched = Watched(main=False)
    for _ in range(100):
        watched.step()
    watched.fire("on_evaluation_end", evaluation=Evaluation(FIGURES, 1.0))
    assert capfd.readouterr().err == ""


def test_a_terminal_shows_the_bars_of_transformers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    watched = Watched(step=40)
    bar = watched.callback.training_bar
    assert isinstance(watched.callback, ProgressCallback)
    assert (bar.n, bar.initial, bar.total) == (40, 40, 100), "the steps of an earlier session tell nothing of the speed"
    watched.step()
    assert bar.n == 41 and "window 64" in bar.postfix
    watched.fire("on_prediction_step", eval_dataloader=[1, 2])
    assert watched.callback.prediction_bar is not None, "an evaluation has a bar too"
    watched.fire("on_evaluate")
    assert watched.callback.prediction_bar is None
    watched.fire("on_train_end")
    assert watched.callback.training_bar is None
    assert "{'loss'" not in capfd.readouterr().err, "the records have what is logged"
