"""Synthetic rollouts through the callbacks: what the policy sees, what is written down, what a checkpoint keeps."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from tinyzero_trl.metrics import describe, evaluation_metrics, rollout_metrics
from tinyzero_trl.training.callbacks.events import Evaluation, Rollout, SavedInCheckpoints
from tinyzero_trl.training.callbacks.records import RecordsCallback
from tinyzero_trl.training.callbacks.trackers import wandb_chart
from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
from tinyzero_trl.windows import RolloutObservation, WindowConfig

CONFIG = WindowConfig(
    strategy="success", initial=50, min=10, max=100, update_frequency=1, min_change=1, min_samples=1, epsilon=0.5
)
SUCCESSES = (1.0, 0.0, 1.0, 0.0)


def rollout(step: int, window: int, rewards=SUCCESSES, truncated: bool = False) -> Rollout:
    lengths = [window if truncated else 5 + step % 7 + row for row in range(len(rewards))]
    observation = RolloutObservation(step, window, lengths, rewards, [truncated] * len(rewards), [0, 0, 1, 1])
    return Rollout(
        observation, [9] * len(rewards), [3, 3, 4, 4], 0.25, [{"source": "train", "prompt": "p", "reward": 1.0}]
    )


class Run:
    """Fires events in the order in which the trainer does."""

    def __init__(self, folder: Path) -> None:
        self.args = SimpleNamespace(
            output_dir=str(folder), report_to=[], eval_strategy="steps", log_history_lines=None, log_completions=False
        )
        self.state = TrainerState(is_world_process_zero=True)
        self.window = AdaptiveWindowCallback(CONFIG)
        self.records = RecordsCallback(self.window, success_threshold=1.0)
        self.windows: list[int] = []

    def fire(self, event: str, **facts) -> None:
        control = TrainerControl()
        for callback in (self.window, self.records):
            getattr(callback, event)(self.args, self.state, control, **facts)

    def begin(self) -> "Run":
        self.fire("on_train_begin")
        return self

    def step(self, with_rollout: bool = True, optimizer_steps: int = 1) -> None:
        self.fire("on_step_begin")
        if with_rollout:
            self.windows.append(self.window.window)
            made = rollout(self.state.global_step, self.window.window)
            observation = replace(made.observation, optimizer_steps=optimizer_steps)
            self.fire("on_rollout_end", rollout=replace(made, observation=observation))
        self.fire("on_policy_update", figures={"compute/rows_skipped_frac": 0.5})
        self.state.global_step += 1
        self.fire("on_step_end")
        self.fire("on_log", logs={"loss": 0.5})

    def evaluate(self) -> None:
        figures = evaluation_metrics(rewards=[1.0, 0.0], lengths=[4, 6], truncated=[False, True], difficulties=[3, 3])
        self.fire("on_evaluation_end", evaluation=Evaluation(figures, 1000.0, [{"source": "eval", "prompt": "q"}]))

    def lines(self, name: str = "metrics.jsonl") -> list[dict]:
        return [json.loads(line) for line in (Path(self.args.output_dir) / name).read_text().splitlines()]


def without_time(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if not key.startswith("time")} for line in lines]


def test_every_optimizer_step_leaves_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    for _ in range(6):
        run.step()
    lines = run.lines()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["adaptive_window/current_window"] for line in lines] == run.windows
    assert [line["adaptive_window/next_window"] for line in lines[:-1]] == run.windows[1:]
    assert all(line["compute/rows_skipped_frac"] == 0.5 for line in lines)
    ours = {name for line in lines for name in line if "/" in name}
    assert not [name for name in ours if describe(name) is None], "every logged name is documented"


def test_the_figures_of_a_line_are_those_of_its_rollout(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    run.step()
    run.step()
    seen = rollout(1, run.windows[1])
    expected = rollout_metrics(seen.observation, prompt_lengths=seen.prompt_lengths, difficulties=seen.difficulties)
    line = run.lines()[1]
    assert expected.items() <= line.items()
    assert line["tokens/response_cumulative"] == sum(each["tokens/response_total"] for each in run.lines())
    assert line["train/cumulative_reward"] == 1.0
    assert line["time/rollout_s"] == 0.25


def test_a_step_that_reuses_a_rollout_leaves_a_line_without_its_figures(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    run.step()
    run.step(with_rollout=False)
    first, second = run.lines()
    assert "tokens/response_total" in first and "tokens/response_total" not in second
    assert second["compute/rows_skipped_frac"] == 0.5
    assert second["time/rollout_s"] == 0.0


def test_an_evaluation_leaves_a_line_and_takes_no_training_time(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    run.evaluate()
    run.step()
    run.evaluate()
    first, last = run.lines("eval.jsonl")
    assert (first["step"], first["tokens"], last["step"]) == (0, 0, 1)
    assert last["tokens"] == run.lines()[0]["tokens/response_cumulative"]
    assert (last["eval/acc"], last["eval/truncated_frac"], last["eval/3_acc"]) == (0.5, 0.5, 0.5)
    # The two evaluations claim a thousand seconds each, which did not pass here.
    assert -2001 < last["time/elapsed_s"] < -1999


def test_wandb_draws_the_figures_of_each_evaluation_set_over_tokens() -> None:
    over_tokens = {"step_metric": "tokens/response_cumulative"}
    for name in ("eval/acc", "eval_easy/acc", "eval_my-set/acc"):
        assert wandb_chart(name) == {**over_tokens, "summary": "last,max"}
    assert wandb_chart("eval_easy/reward") == over_tokens
    assert wandb_chart("evaluations/acc") == wandb_chart("completion/truncated_frac") == {}


def test_samples_are_kept_under_the_step_that_they_belong_to(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    for _ in range(12):
        run.step()
    run.evaluate()
    assert sorted(file.name for file in (tmp_path / "completions").iterdir()) == [
        "step_000001.jsonl",
        "step_000011.jsonl",
        "step_000012.jsonl",
    ]


def test_samples_are_kept_where_rollouts_begin_between_the_tens(tmp_path: Path) -> None:
    """As after a resume at step 5 with two steps on each rollout."""
    run = Run(tmp_path).begin()
    run.state.global_step = 5
    for _ in range(9):
        run.step(optimizer_steps=2)
        run.step(with_rollout=False)
    steps = sorted(int(file.stem.removeprefix("step_")) for file in (tmp_path / "completions").iterdir())
    assert steps == [10, 20], "of the rollouts that begin at steps 9 and 19"


def test_a_run_continued_from_a_checkpoint_leaves_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").begin()
    for _ in range(12):
        whole.step()

    first = Run(tmp_path / "cut").begin()
    for _ in range(5):
        first.step()
    saved = json.dumps({type(each).__name__: each.state() for each in (first.window, first.records)})
    for _ in range(2):  # work after the checkpoint, lost with the process
        first.step()

    second = Run(tmp_path / "cut")
    second.state.global_step = 5
    second.state.stateful_callbacks = json.loads(saved)
    second.records.begin_from(str(tmp_path / "cut" / "checkpoint-5"))
    second.begin()
    for _ in range(7):
        second.step()
    assert first.windows[:5] + second.windows == whole.windows
    assert len(set(whole.windows)) > 2, "windows that never move would prove nothing"
    assert without_time(second.lines()) == without_time(whole.lines())
    times = [line["time/elapsed_s"] for line in second.lines()]
    assert times == sorted(times), "the clock goes on"


def test_a_new_run_in_an_old_folder_starts_from_nothing(tmp_path: Path) -> None:
    old = Run(tmp_path).begin()
    old.evaluate()
    old.step()
    new = Run(tmp_path)
    new.state.stateful_callbacks = {type(old.window).__name__: old.window.state()}
    new.begin()
    assert [file for file in tmp_path.rglob("*.jsonl") if "_earlier" not in file.parts] == []
    assert new.window.window == CONFIG.initial


def test_the_state_of_another_strategy_is_refused() -> None:
    saved = AdaptiveWindowCallback(WindowConfig(strategy="fixed", max=100)).state_dict()
    with pytest.raises(ValueError, match=r"^window_strategy: 'success' cannot continue the state of 'fixed'"):
        AdaptiveWindowCallback(CONFIG).load_state_dict(saved)


def test_what_is_saved_must_say_how() -> None:
    for method, arguments in (("state_dict", ()), ("load_state_dict", ({},))):
        with pytest.raises(NotImplementedError):
            getattr(SavedInCheckpoints(), method)(*arguments)


def test_a_run_that_is_cut_and_earns_nothing_is_warned_once(tmp_path: Path, caplog) -> None:
    run = Run(tmp_path).begin()
    ill = rollout(3, 50, rewards=(0.0,) * 4, truncated=True)
    for _ in range(2):
        run.fire("on_rollout_end", rollout=ill)
    [line] = caplog.messages
    assert line.startswith("step 4: 100% of the completions were cut, mostly at 50 tokens") and "window_initial" in line


@pytest.mark.parametrize(("rewards", "truncated"), [((0.0,) * 4, False), ((0.0, 0.0, 0.0, 0.1), True)])
def test_a_run_that_finishes_or_earns_something_is_not_warned(tmp_path: Path, caplog, rewards, truncated: bool) -> None:
    Run(tmp_path).begin().fire("on_rollout_end", rollout=rollout(0, 50, rewards, truncated))
    assert not caplog.messages


def test_what_trainer_keeps_of_its_logs_is_bounded_where_a_field_says_so(tmp_path: Path) -> None:
    """It would grow with every step, in memory and in every checkpoint."""
    for lines, kept in ((None, 30), (10, 10), (0, 0)):
        run = Run(tmp_path / str(lines)).begin()
        run.args.log_history_lines = lines
        for step in range(30):
            run.state.log_history.append({"step": step})
            run.step()
        assert len(run.state.log_history) == kept
        assert run.state.log_history[-1:] == [{"step": 29}][:kept]
        assert len(run.lines()) == 30


def test_an_evaluation_long_after_training_adds_nothing_to_the_time_of_training(tmp_path: Path, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    run = Run(tmp_path).begin()
    run.records._clock.started_at = now[0]
    now[0] += 20
    run.step()
    run.fire("on_train_end")
    for _ in range(2):
        now[0] += 3600  # somebody looks at the model
        run.evaluate()
    [step], evaluations = run.lines(), run.lines("eval.jsonl")
    assert step["time/elapsed_s"] == 20
    assert [line["time/elapsed_s"] for line in evaluations] == [20, 20]
    assert [line["time_s"] for line in evaluations] == [1020, 2020], "an evaluation takes 1000 s"


def test_skipped_steps_are_counted_over_a_resume(tmp_path: Path) -> None:
    run = Run(tmp_path).begin()
    run.fire("on_policy_update", figures={"faults/step_skipped": 1.0})
    again = Run(tmp_path)
    again.records.load_state_dict(run.records.state_dict())
    again.state.global_step = 1
    again.fire("on_policy_update", figures={"faults/step_skipped": 1.0})
    assert again.records._line["faults/skipped_steps"] == 2


def test_other_ranks_decide_alike_and_write_nothing(tmp_path: Path) -> None:
    main, other = Run(tmp_path / "main").begin(), Run(tmp_path / "other")
    other.state.is_world_process_zero = False
    other.begin()
    for _ in range(8):
        main.step()
        other.step()
    other.evaluate()
    assert other.windows == main.windows
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_of_another_folder_is_continued_without_the_records_of_this_one(tmp_path: Path) -> None:
    here, other = Run(tmp_path / "here").begin(), Run(tmp_path / "other").begin()
    for run in (here, other):
        for _ in range(3):
            run.step()
    resumed = Run(tmp_path / "here")
    resumed.state.global_step = 3
    resumed.state.stateful_callbacks = {type(each).__name__: each.state() for each in (other.window, other.records)}
    resumed.records.begin_from(str(tmp_path / "other" / "checkpoint-3"))
    resumed.begin().step()
    assert [line["step"] for line in resumed.lines()] == [4]
    assert (tmp_path / "here" / "_earlier" / "1" / "metrics.jsonl").exists()
    assert [line["step"] for line in other.lines()] == [1, 2, 3], "the other run keeps its own"
