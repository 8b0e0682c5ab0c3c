"""The trainer as a user of TRL takes it: any columns, any reward functions, called twice in the same folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.support.tiny_models import build_model, build_tokenizer, save_tiny_model
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.models.toy import resolve_model
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.runs.report import write_report
from tinyzero_trl.training.run import finish_run, start_run

PROMPTS = ["make 9 of 1 2 3", "make 10 of 1 2 3 4", "make 18 of 2 5 4", "make 65 of 7 8 9"]


def verdict(completions: Sequence[str], log_extra: Any = None, **_: Any) -> list[float]:
    if log_extra:
        log_extra("reason", ["even" if len(text) % 2 == 0 else "odd" for text in completions])
    return [float(len(text) % 2 == 0) for text in completions]


def brevity(completions: Sequence[str], log_extra: Any = None, **_: Any) -> list[float]:
    if log_extra:
        log_extra("reason", ["brief"] * len(completions))
    return [-float(len(text)) for text in completions]


def trainer(
    folder: Path, columns: dict[str, list] | None = None, rewards: Any = verdict, evaluated: Any = None, **options: Any
) -> AdaptiveGRPOTrainer:
    problems = Dataset.from_dict({"prompt": PROMPTS, **(columns or {})})
    settings: dict[str, Any] = {
        **{"output_dir": str(folder), "max_completion_length": 12, "window_min": 4, "window_initial": 8},
        **{"num_generations": 4, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 8},
        **{"num_generations_eval": 1, "max_steps": 2, "save_steps": 1, "eval_strategy": "no", "logging_steps": 1},
        **{"learning_rate": 1e-3, "bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False},
    }
    tokenizer = build_tokenizer()
    return AdaptiveGRPOTrainer(
        build_model(tokenizer),
        rewards,
        AdaptiveGRPOConfig(**settings | options),
        train_dataset=problems,
        eval_dataset=problems if evaluated is None else evaluated,
        processing_class=tokenizer,
    )


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob(name)) for line in file.read_text().splitlines()]


def lines(folder: Path, name: str = "metrics.jsonl") -> list[int]:
    return [line["step"] for line in records(folder, name)]


def test_without_a_configuration_the_folder_is_named_as_trl_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # TRL's default is bf16
    path, problems = str(save_tiny_model(tmp_path / "tiny")), Dataset.from_dict({"prompt": PROMPTS})
    made = AdaptiveGRPOTrainer(path, verdict, train_dataset=problems)
    assert made.args.output_dir == GRPOTrainer(path, verdict, train_dataset=problems).args.output_dir == "tiny-GRPO"
    assert made.window_callback.policy.config.strategy == "signal"


def test_a_configuration_of_trl_is_refused_with_the_one_to_give(tmp_path: Path) -> None:
    config = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match=r"^args: a GRPOConfig has no rollout window; give an AdaptiveGRPOConfig"):
        AdaptiveGRPOTrainer("no/model", verdict, config, train_dataset=Dataset.from_dict({"prompt": PROMPTS}))


@pytest.mark.slow
def test_the_same_script_again_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    assert lines(tmp_path) == [1, 2]
    again = trainer(tmp_path, max_steps=3, eval_on_start=True, eval_strategy="steps", eval_steps=3)
    again.train()
    assert lines(tmp_path) == [1, 2, 3]
    assert lines(tmp_path, "eval.jsonl") == [3], "the evaluation before the first step is past"
    assert {file.name for file in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    again.train()  # a second call finds nothing to do
    assert lines(tmp_path) == [1, 2, 3]
    trainer(tmp_path, max_steps=1, resume="never").train()
    assert lines(tmp_path) == [1]


@pytest.mark.slow
def test_columns_and_reward_functions_may_be_anything(tmp_path: Path) -> None:
    columns = {"difficulty": ["easy", "hard", "easy", "hard"], "index": [7, 7, 8, 8]}
    run = trainer(tmp_path, columns, rewards=[verdict, brevity], max_steps=1, num_generations_eval=2)
    run.train()
    rows = records(tmp_path, "completions/*.jsonl")
    assert rows and {row["reason"] for row in rows} <= {"even", "odd"}
    assert {row["difficulty"] for row in rows} == {0}
    assert run.evaluate()["eval/n"] == 8, "four problems, each answered twice, whatever the column `index` holds"


@pytest.mark.slow
def test_a_run_without_a_recipe_can_be_reported(tmp_path: Path) -> None:
    run = trainer(tmp_path / "mine", max_steps=1, eval_on_start=True, save_strategy="no")
    start_run(run)
    run.train()
    finish_run(run)
    assert write_report([tmp_path / "mine"], tmp_path / "report").is_file()
    found = read_run(tmp_path / "mine")
    assert found.config["recipe"] == "mine"
    assert found.config["window_strategy"] == "signal"
    assert found.summary is not None and found.summary["steps"] == 1
    assert (tmp_path / "mine" / "README.md").read_text().count("with GRPO under a rollout window") == 1


def test_several_evaluation_sets_are_refused(tmp_path: Path) -> None:
    sets = {"easy": Dataset.from_dict({"prompt": PROMPTS}), "hard": Dataset.from_dict({"prompt": PROMPTS})}
    with pytest.raises(ValueError, match=r"^eval_dataset: easy, hard: each evaluation is of one data set; give one"):
        trainer(tmp_path, evaluated=sets)
    with pytest.raises(ValueError, match=r"^eval_dataset: easy, hard"):
        trainer(tmp_path).evaluate(sets)


@pytest.mark.slow
def test_the_best_model_is_found_by_our_own_figures(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval/acc", "eval_strategy": "steps"}
    run = trainer(tmp_path, eval_steps=1, **best)
    run.train()
    accuracies = {line["step"]: line["eval/acc"] for line in records(tmp_path, "eval.jsonl")}
    assert run.state.best_metric == max(accuracies.values())
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{run.state.best_global_step}")


@pytest.mark.slow
def test_a_compiled_model_samples_too(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1, torch_compile=True, torch_compile_backend="eager").train()
    assert lines(tmp_path) == [1]


def test_the_embedded_model_is_known_by_its_name(tmp_path: Path) -> None:
    args = AdaptiveGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    embedded = AdaptiveGRPOTrainer("embedded", verdict, args, train_dataset=Dataset.from_dict({"prompt": PROMPTS * 2}))
    assert embedded.model.config.name_or_path == embedded.processing_class.name_or_path == resolve_model("embedded")
