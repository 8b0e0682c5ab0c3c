"""Who sees the figures of an evaluation while a run goes on: callbacks, early stopping, the log; and trackers, once."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.training.callbacks.progress import RolloutProgressCallback
from tinyzero_trl.training.loss.micro_batches import ComputeCounts

PROMPTS = ["1 2 3", "4 4 4 4", "9 8", "7"]
EXAMPLES = Dataset.from_dict({"prompt": PROMPTS})
SETS = {"few": Dataset.from_dict({"prompt": PROMPTS[:2]}), "all": EXAMPLES}


def is_even(completions: list[str], log_metric: Any, **_: Any) -> list[float]:
    log_metric("short", sum(len(text) < 9 for text in completions) / len(completions))
    return [float(len(text) % 2 == 0) for text in completions]


class Watcher(TrainerCallback):
    def __init__(self) -> None:
        self.evaluated: list[dict[str, float]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.evaluated.append(dict(metrics))


def trainer_of(folder: Path, *callbacks: TrainerCallback, evaluated: Any = EXAMPLES, **options: Any) -> Any:
    """One that does not learn: each evaluation finds what the first has found."""
    settings: dict[str, Any] = {"max_completion_length": 12, "num_generations": 4, "per_device_train_batch_size": 16}
    settings |= {"max_steps": 4, "save_strategy": "no", "logging_steps": 1, "per_device_eval_batch_size": 8}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 1, "learning_rate": 0.0}
    settings |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": "none"}
    tokenizer = build_tokenizer()
    return AdaptiveGRPOTrainer(
        build_model(tokenizer),
        is_even,
        AdaptiveGRPOConfig(str(folder), **settings | options),
        train_dataset=EXAMPLES,
        eval_dataset=evaluated,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def evaluations(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name.startswith("eval")} for line in lines]


def test_early_stopping_callbacks_and_the_log_see_our_figures_and_trackers_see_them_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watcher, stops = Watcher(), EarlyStoppingCallback(1)
    run = trainer_of(tmp_path, watcher, stops, metric_for_best_model="eval/acc", report_to="tensorboard")
    run.train()
    assert run.state.global_step == 2, "the second evaluation is no better than the first"
    written = evaluations(tmp_path)
    assert len(written) == 2 and 0 < written[0]["eval/acc"] == run.state.best_metric < 1
    logged = [line for line in run.state.log_history if "eval_runtime" in line]
    for line, seen, lines in zip(written, watcher.evaluated, logged, strict=True):
        assert seen["eval_eval/acc"] == line["eval/acc"], "as Transformers looks for it"
        assert line.items() <= seen.items() <= lines.items()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if "acc" in name]
    assert sorted(names) == ["eval/acc", "eval/acc_high", "eval/acc_low"]
    assert [event.step for event in events.Scalars("eval/acc")] == [1, 2]


def test_an_evaluation_after_the_last_step_takes_no_figure_from_the_last_line_of_the_log(tmp_path: Path) -> None:
    lasts = []
    for strategy in ("no", "steps"):
        run = trainer_of(tmp_path / strategy, max_steps=3, logging_steps=2, eval_steps=2, eval_strategy=strategy)
        run.train()
        lasts.append({name: value for name, value in run.state.log_history[-1].items() if "reward" in name})
    assert run.state.log_history[-2]["eval_reward"] > 0, "the step was evaluated"
    assert lasts[0] == lasts[1] and "reward" in lasts[0]
    [step] = [line for line in map(json.loads, (tmp_path / "steps" / "metrics.jsonl").open()) if line["step"] == 3]
    assert lasts[1]["reward"] == step["reward"], "of the one step since the line before"


@pytest.mark.parametrize("best", ["eval/acc", "eval_all/acc"])
def test_of_several_sets_early_stopping_goes_by_all_of_them_or_by_one(best: str, tmp_path: Path) -> None:
    watcher, stops = Watcher(), EarlyStoppingCallback(1)
    run = trainer_of(tmp_path, watcher, stops, evaluated=SETS, metric_for_best_model=best)
    run.train()
    first, second, *_ = watcher.evaluated
    assert (run.state.global_step, len(watcher.evaluated)) == (2, 4), "one call for each set"
    assert "eval_few/acc" in first and "eval_all/acc" in second
    line = evaluations(tmp_path)[0]
    assert "eval/acc" not in first and second["eval/acc"] == line["eval/acc"]
    assert run.state.best_metric == line[best]


def test_a_figure_that_a_reward_function_logs_chooses_the_best_model(tmp_path: Path) -> None:
    run = trainer_of(tmp_path, max_steps=1, metric_for_best_model="short", greater_is_better=True)
    run.train()
    [line] = [line for line in run.state.log_history if "eval_short" in line]
    assert run.state.best_metric == line["eval_short"]


@pytest.mark.parametrize("on_start", [True, False])
def test_a_figure_that_nobody_logs_is_told_at_the_first_evaluation(on_start: bool, tmp_path: Path) -> None:
    run = trainer_of(tmp_path, metric_for_best_model="shrt", eval_on_start=on_start)
    with pytest.raises(
        ValueError, match=r"^metric_for_best_model: 'shrt' is no figure of this evaluation; choose one"
    ) as said:
        run.train()
    assert "eval/acc, " in str(said.value) and "eval_short" in str(said.value) and "runtime" not in str(said.value)
    assert run.state.global_step == (0 if on_start else 1)
    assert len(evaluations(tmp_path)) == 1, "what was measured is written"


def test_a_share_of_steps_that_follow_from_the_data_is_judged_when_training_begins(tmp_path: Path) -> None:
    steps = {"max_steps": -1, "num_train_epochs": 3, "num_iterations": 2, "eval_steps": 0.5, "save_steps": 0.5}
    best = {"metric_for_best_model": "eval/acc", "load_best_model_at_end": True, "save_strategy": "steps"}
    run = trainer_of(tmp_path, **steps, **best)
    with pytest.raises(ValueError, match=r"^eval_steps: 0.5 of 6 steps is 3, which is not a multiple of the 2 opt"):
        run.train()
    assert run.state.global_step == 0


def test_a_prediction_is_trls(tmp_path: Path) -> None:
    run = trainer_of(tmp_path)
    run.evaluate()
    assert {"test_loss", "test_runtime"} <= run.predict(EXAMPLES).metrics.keys()
    assert "eval_loss" not in run.evaluate(), "it costs a forward pass"


def test_only_evaluations_of_the_runs_own_examples_are_recorded(tmp_path: Path) -> None:
    other = Dataset.from_dict({"prompt": PROMPTS[:3]})
    run = trainer_of(tmp_path, max_steps=1)
    run.train()
    assert len(evaluations(tmp_path)) == 1
    assert run.evaluate(other)["eval/n"] == 3
    assert run.evaluate(metric_key_prefix="eval_again")["eval_again/n"] == 4
    assert len(evaluations(tmp_path)) == 1, "their figures are returned"
    run.evaluate(EXAMPLES)
    assert [line["eval/n"] for line in evaluations(tmp_path)] == [4, 4]


def test_a_training_begins_without_what_an_interrupted_step_has_left(tmp_path: Path) -> None:
    run = trainer_of(tmp_path, max_steps=1, eval_strategy="no")
    run.guard.watch_loss(torch.tensor(float("nan")))
    run.loss.figures.add_counts(ComputeCounts(rows=16, rows_skipped=16))
    run.train()
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["faults/step_skipped"] == 0
    assert line["compute/rows_skipped_frac"] == line["group/zero_variance_frac"], "of this step alone"


class BarsOfTheUser(ProgressCallback):
    pass


@pytest.mark.parametrize("report_to", ["tensorboard", "none"])
def test_callbacks_of_the_user_stay_and_those_of_trainer_are_replaced(report_to: str, tmp_path: Path) -> None:
    given = [BarsOfTheUser(), TensorBoardCallback(tb_writer=SimpleNamespace())]
    run = trainer_of(tmp_path, *given, report_to=report_to)
    callbacks = run.callback_handler.callbacks
    assert [each for each in callbacks if each in given] == given
    bars = [type(each) for each in callbacks if isinstance(each, ProgressCallback)]
    assert bars == [BarsOfTheUser, RolloutProgressCallback]
    others = [each for each in callbacks if isinstance(each, TensorBoardCallback) and each not in given]
    assert len(others) == (report_to == "tensorboard") and TensorBoardCallback not in map(type, others)


class InterruptedAt3(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_training_after_an_interrupted_one_has_figures_and_saves_of_its_own(tmp_path: Path) -> None:
    """Two steps learn from a rollout, so the save that is due after the third step waits for the fourth."""
    schedule: dict[str, Any] = {"num_iterations": 2, "save_strategy": "steps", "save_steps": 3, "logging_steps": 10}
    run = trainer_of(tmp_path, InterruptedAt3(), eval_strategy="no", **schedule)
    run.reward_funcs = [lambda completions, **_: [100.0] * len(completions)]
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.remove_callback(InterruptedAt3)
    run.reward_funcs = [lambda completions, **_: [0.0] * len(completions)]
    run.args.save_steps = 1000
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines if "reward" in line] == [0.0, 0.0]
    assert run.state.log_history[0]["reward"] == 0.0
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


class StopsAt2(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            control.should_save = control.should_training_stop = True


def test_what_is_to_be_saved_is_saved_though_it_is_not_the_best(tmp_path: Path) -> None:
    """A signal asks for a checkpoint; `save_strategy: best` alone keeps those of new best evaluations."""
    trainer_of(tmp_path, StopsAt2(), metric_for_best_model="eval/acc", save_strategy="best").train()
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_the_evaluation_data_stay_the_users(tmp_path: Path) -> None:
    run = trainer_of(tmp_path)
    assert run.eval_dataset is EXAMPLES and run.eval_dataset.column_names == ["prompt"]
    seen: list[str] = []

    def score(completions: list[str], **columns: Any) -> list[float]:
        seen.extend(columns)
        return [1.0] * len(completions)

    run.reward_funcs = [score]
    assert run.evaluate(run.eval_dataset.select(range(2)))["eval/n"] == 2
    assert "prompts" in seen and not [name for name in seen if "number" in name]
