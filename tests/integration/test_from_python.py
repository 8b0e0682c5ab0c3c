"""The trainer as a user of TRL takes it: any columns, any reward functions, called twice in the same folder."""

import json
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from datasets import Column, Dataset, DatasetDict, Features, Image, IterableDatasetDict, List, Value
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests.support.tiny_models import build_model, build_tokenizer, save_tiny_model
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer, finish_run, start_run
from tinyzero_trl.commands.main import main
from tinyzero_trl.models.names import name_of, resolve_model
from tinyzero_trl.models.toy import SHIPPED
from tinyzero_trl.runs.records import HELD_OUT_PROMPTS, read_run
from tinyzero_trl.training.callbacks.safe_points import StopOnSignal
from tinyzero_trl.training.preflight.resuming import digest_of_prompts, example_digests

PAGE = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Records and a report from Python\n")[1].split("\n## ")[0]
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
    folder: Path,
    columns: dict[str, list] | None = None,
    rewards: Any = verdict,
    evaluated: Any = None,
    model: Any = None,
    optimizers: Any = (None, None),
    examples: Any = None,
    environment_factory: Any = None,
    chat_template: str | None = None,
    callbacks: Any = None,
    **options: Any,
) -> AdaptiveGRPOTrainer:
    problems = Dataset.from_dict({"prompt": PROMPTS, **(columns or {})})
    settings: dict[str, Any] = {
        **{"output_dir": str(folder), "max_completion_length": 12, "window_min": 4, "window_initial": 8},
        **{"num_generations": 4, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 8},
        **{"num_generations_eval": 1, "max_steps": 2, "save_steps": 1, "eval_strategy": "no", "logging_steps": 1},
        **{"learning_rate": 1e-3, "bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False},
    }
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat_template
    return AdaptiveGRPOTrainer(
        model or build_model(tokenizer),
        rewards,
        AdaptiveGRPOConfig(**settings | options),
        train_dataset=problems if examples is None else examples,
        eval_dataset=problems if evaluated is None else evaluated,
        processing_class=tokenizer,
        optimizers=optimizers,
        callbacks=callbacks,
        environment_factory=environment_factory,
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
def test_the_same_script_again_goes_on_where_that_is_asked_for_and_loses_nothing(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    assert lines(tmp_path) == [1, 2]
    again = trainer(tmp_path, max_steps=3, eval_on_start=True, eval_strategy="steps", eval_steps=3, resume="auto")
    again.train()
    assert lines(tmp_path) == [1, 2, 3]
    assert lines(tmp_path, "eval.jsonl") == [3], "the evaluation before the first step is past"
    assert again.args.eval_on_start, "of a new run it is still wanted"
    assert {file.name for file in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    again.train()  # a second call finds nothing to do
    assert lines(tmp_path) == [1, 2, 3]
    trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    assert lines(tmp_path) == [1, 2, 3, 4]


@pytest.mark.slow
class InterruptOnce(TrainerCallback):
    """As the user does in a notebook, after the first batch of an evaluation."""

    is_over = False

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.is_over:
            self.is_over = True
            raise KeyboardInterrupt


def test_an_evaluation_has_no_figures_of_an_interrupted_one_or_of_a_prediction(tmp_path: Path) -> None:
    """Of TRL's own figures either, which TRL keeps until they are logged."""
    made = trainer(tmp_path, callbacks=[InterruptOnce()])
    with pytest.raises(KeyboardInterrupt):
        made.evaluate()
    figures = made.evaluate()
    assert figures["eval_reward"] == pytest.approx(made.evaluate()["eval_reward"])
    made.predict(made.eval_dataset.select([0]))
    assert made.evaluate()["eval_reward"] == pytest.approx(figures["eval_reward"])
    assert made.evaluate()["eval_completions/mean_length"] == pytest.approx(figures["eval/mean_length"])


def test_a_second_training_is_a_new_one_and_the_first_is_kept(tmp_path: Path) -> None:
    """As in TRL, the same trainer goes on with its weights, and another one begins with the model's."""
    run = trainer(tmp_path, max_steps=1, num_iterations=2)
    rollouts: list[int] = []
    run.window_callback.on_rollout_end = lambda *args, rollout: rollouts.append(rollout.observation.step)
    run.window_callback.on_pre_optimizer_step = lambda *args, **kwargs: None
    for resume in (None, False):
        run.train(resume)
        assert run.state.global_step == 1
        assert lines(tmp_path) == [1]
    assert rollouts == [0, 0], "a training begins with a rollout, not in the middle of the former one"
    trainer(tmp_path, max_steps=2).train()
    assert lines(tmp_path) == [1, 2]
    assert [lines(tmp_path / "_earlier" / name) for name in ("1", "2")] == [[1], [1]]
    assert (tmp_path / "_earlier" / "2" / "checkpoint-1" / "model.safetensors").is_file()


def test_resuming_where_there_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^resume_from_checkpoint: .* holds no complete checkpoint; leave it out"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_the_last_line_of_the_log_is_trls_and_the_history_is_complete(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=3, save_steps=3, logging_steps=50)
    run.train()
    [last] = run.state.log_history
    assert {"train_loss", "train_runtime", "reward", "rewards/verdict/mean"} <= last.keys()
    every = trainer(tmp_path, max_steps=2, save_strategy="no")
    every.train()
    assert ["loss" in line for line in every.state.log_history] == [True, True, False]


def test_a_model_card_is_written_with_and_without_a_started_run(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1).train()
    assert "trl" in (tmp_path / "README.md").read_text().lower()


def test_what_cannot_be_trained_is_refused_before_the_first_rollout(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    frozen = build_model(build_tokenizer()).requires_grad_(False)
    adapter = get_peft_model(
        build_model(build_tokenizer()), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    for parameter in adapter.parameters():  # as after PeftModel.from_pretrained without is_trainable
        parameter.requires_grad_(False)
    for beta in (0.0, 0.04):
        with pytest.raises(
            ValueError, match=r"^model: every parameter of this Qwen2ForCausalLM is frozen; set requires"
        ):
            trainer(tmp_path, model=frozen, beta=beta)
        with pytest.raises(
            ValueError, match=r"^model: every parameter of this PeftModel\w* is frozen; .*is_trainable=T"
        ):
            trainer(tmp_path, model=adapter, beta=beta)
    another = torch.optim.SGD(build_model(build_tokenizer()).parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"^optimizers: none of the \d+ parameters of the optimizer is one of the model"
    ):
        trainer(tmp_path, optimizers=(another, None))
    model = build_model(build_tokenizer())
    trainer(tmp_path, model=model, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"^use_vllm: true, but vllm cannot be imported .*; pip install 'tinyzero-trl"):
        trainer(tmp_path, use_vllm=True, vllm_mode=mode)


def test_too_few_examples_and_too_little_room_are_found_as_in_recipes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"^train_dataset: 4 problems are fewer than the 8 groups of a rollout"):
        trainer(tmp_path, per_device_train_batch_size=32)
    trainer(tmp_path, max_completion_length=1_000_000)
    assert "max_completion_length: 1000000 tokens after a prompt of" in caplog.text, "TRL samples such completions"
    with pytest.raises(ValueError, match=r"^prompts: one of \d+ tokens leaves no room in the model's 512 positions"):
        trainer(tmp_path, {"prompt": [" ".join(["1"] * 600)] * 4})


def test_data_without_prompts_is_refused_before_the_first_rollout(tmp_path: Path) -> None:
    questions = Dataset.from_dict({"question": PROMPTS, "answer": PROMPTS})
    said = r"there is no column 'prompt' among question, answer; rename the one that holds the prompts$"
    with pytest.raises(ValueError, match=rf"^train_dataset: {said}"):
        trainer(tmp_path, examples=questions)
    with pytest.raises(ValueError, match=rf"^train_dataset: {said}"):
        trainer(tmp_path, examples=questions.to_iterable_dataset())
    with pytest.raises(ValueError, match=rf"^eval_dataset: {said}"):
        trainer(tmp_path, evaluated=questions)
    with pytest.raises(ValueError, match=rf"^eval_dataset\['b'\]: {said}"):
        trainer(tmp_path, evaluated={"a": Dataset.from_dict({"prompt": PROMPTS}), "b": questions})


@pytest.mark.parametrize("name", ["prompts", "completions"])
def test_a_column_with_the_name_of_an_argument_of_reward_functions_is_refused(tmp_path: Path, name: str) -> None:
    """TRL ends with a TypeError once the first rollout is sampled, or the first evaluation."""
    taken, said = {name: PROMPTS}, rf"a column has the name '{name}', under which reward functions get the {name} of"
    with pytest.raises(ValueError, match=rf"^train_dataset: {said}"):
        trainer(tmp_path, taken)
    with pytest.raises(ValueError, match=rf"^eval_dataset: {said}"):
        trainer(tmp_path, evaluated=Dataset.from_dict({"prompt": PROMPTS, **taken}))
    trainer(tmp_path, taken, remove_unused_columns=True).train()


@pytest.mark.parametrize("prompts", [[{"role": "user", "content": text} for text in PROMPTS], [[1, 2, 3]] * 4])
def test_a_prompt_that_is_neither_text_nor_messages_is_refused(tmp_path: Path, prompts: list[Any]) -> None:
    """Such as one message without its list, which TRL gives to the tokenizer."""
    said = r"a prompt is .*; give text, or a list of messages with role and content$"
    with pytest.raises(ValueError, match=rf"^train_dataset: {said}"):
        trainer(tmp_path, {"prompt": prompts})
    with pytest.raises(ValueError, match=rf"^eval_dataset: {said}"):
        trainer(tmp_path, evaluated=Dataset.from_dict({"prompt": prompts}))


@pytest.mark.slow
def test_columns_and_reward_functions_may_be_anything(tmp_path: Path) -> None:
    columns = {"difficulty": ["easy", "hard", "easy", "hard"], "index": [7, 7, 8, 8]}
    run = trainer(tmp_path, columns, rewards=[verdict, brevity], max_steps=1, num_generations_eval=2)
    run.train()
    rows = records(tmp_path, "completions/*.jsonl")
    assert rows and {row["reason"] for row in rows} <= {"even", "odd"}
    assert {row["difficulty"] for row in rows} == {"easy", "hard"}
    assert {"difficulty/easy_acc", "difficulty/hard_count"} <= records(tmp_path, "metrics.jsonl")[0].keys()
    assert run.evaluate()["eval/n"] == 8, "four problems, each answered twice, whatever the column `index` holds"


@pytest.mark.slow
def test_a_run_that_is_described_can_continue_and_what_is_set_aside_keeps_its_own_description(tmp_path: Path) -> None:
    """`start_run` cannot know which checkpoint `train` will be given, so it leaves the folder to it."""

    def train(resume_from: bool | None, **options: Any) -> dict[str, Any]:
        made = trainer(tmp_path, **options)
        start_run(made)
        made.train(resume_from)
        return read_run(tmp_path).config

    assert train(None, max_steps=1)["max_steps"] == 1
    assert train(True, max_steps=2)["max_steps"] == 2
    assert lines(tmp_path) == [1, 2] and not (tmp_path / "_earlier").exists()
    assert train(False, max_steps=1, seed=9)["seed"] == 9
    aside = tmp_path / "_earlier" / "1"
    assert (lines(tmp_path), lines(aside)) == ([1], [1, 2])
    assert (read_run(aside).config["max_steps"], read_run(aside).config["seed"]) == (2, 42)


def test_a_run_does_not_go_on_as_another_one(tmp_path: Path) -> None:
    """Its records would say that all steps were taken with the new settings."""
    made = trainer(tmp_path)
    start_run(made)
    made.train()
    checkpoint = str(tmp_path / "checkpoint-1")
    changed = trainer(tmp_path, temperature=0.7)
    start_run(changed)
    with pytest.raises(ValueError, match=r"^resume: .* is of another recipe \(temperature: 1.0 there, 0.7 here\)"):
        changed.train(resume_from_checkpoint=checkpoint)
    others = Dataset.from_dict({"prompt": PROMPTS[::-1]})
    other = trainer(tmp_path, examples=others, evaluated=others)
    start_run(other)
    with pytest.raises(ValueError, match=r"^resume: .* began with other examples \(train, held_out\)"):
        other.train(resume_from_checkpoint=checkpoint)
    assert lines(tmp_path) == [1, 2] and read_run(tmp_path).config["temperature"] == 1.0


class ToldToStop(StopOnSignal):
    """Gets a signal at the beginning of each step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_signal(signal.SIGTERM, None)


def test_a_stopped_run_is_not_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = ToldToStop()
    made = trainer(tmp_path, max_steps=3)
    made.add_callback(stop)
    start_run(made)
    made.train()
    assert stop.was_stopped and made.state.global_step == 1
    finish_run(made)
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "model.safetensors").exists()
    assert "the run was told to stop, and goes on from its checkpoint" in caplog.text


def test_a_run_that_was_not_started_loses_no_model(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=1, save_strategy="no")
    made.train()
    with pytest.raises(ValueError, match=r"has no config.yaml; with a trainer of your own, call .*start_run before"):
        finish_run(made)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_loss_that_chooses_the_best_model_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "use_cpu": True, "bf16": False}
    for metric, warns in ((None, True), ("eval/acc", False)):
        caplog.clear()
        AdaptiveGRPOConfig(str(tmp_path), save_strategy="steps", save_steps=1, metric_for_best_model=metric, **best)
        assert ("the loss chooses the best model, which is near 0" in caplog.text) == warns


@pytest.mark.slow
def test_a_run_without_a_recipe_can_be_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lines of docs/trainer.md, as they are printed there."""
    program, command = re.findall(r"(?ms)^```(?:python)?\n(.*?)^```", SECTION)
    monkeypatch.chdir(tmp_path)
    exec(program, {"trainer": trainer(Path("out"), max_steps=1, eval_on_start=True, save_strategy="no")})
    assert main(shlex.split(command)[1:]) == 0
    assert (tmp_path / "out-report" / "index.html").is_file()
    found = read_run("out")
    assert re.fullmatch("[0-9a-f]{64}", found.environment["held_out_prompts"])
    assert found.config["recipe"] == "out"
    assert found.config["window_strategy"] == "signal"
    assert found.summary is not None and found.summary["steps"] == 1
    assert found.summary["accuracy_before"] is not None
    assert (tmp_path / "out" / "README.md").read_text().count("with GRPO under a rollout window") == 1


def test_a_stream_without_examples_for_a_rollout_is_no_finished_run(tmp_path: Path) -> None:
    few = Dataset.from_dict({"prompt": PROMPTS[:2]}).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"^train_dataset: it has fewer examples than the first rollout takes"):
        trainer(tmp_path, examples=few).train()


class Environment:
    """Owns the reward: no reward function is given."""

    def reset(self, **columns: Any) -> None:
        self.columns = columns

    def get_reward(self) -> float:
        return 1.0


def test_rewards_that_an_environment_owns_are_scores(tmp_path: Path) -> None:
    template = (  # one that can show calls of tools, which TRL asks of it
        "{% for m in messages %}{{ m['content'] or '' }} {% for c in m.tool_calls or [] %}"
        "{{ c.function.name }} {{ c.function.arguments }}{% endfor %}{% endfor %}"
    )
    examples = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in PROMPTS]})
    owned: dict[str, Any] = {"rewards": None, "environment_factory": Environment, "chat_template": template}
    run = trainer(tmp_path, examples=examples, max_steps=1, **owned)
    run.train()
    [line] = records(tmp_path, "metrics.jsonl")
    assert line["rewards/Environment/mean"] == line["adaptive_window/success_rate"] == 1.0
    with pytest.raises(ValueError, match="environment_factory: completions of several turns are not sampled in stages"):
        trainer(tmp_path, examples=examples, window_strategy="group", window_first_stage=4, **owned).train()


def test_a_run_that_could_not_be_finished_is_not_started(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.eval_dataset = None
    with pytest.raises(ValueError, match=r"^eval_dataset: finish_run measures .*; give the trainer an eval_dataset"):
        start_run(run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [dict, DatasetDict, IterableDatasetDict])
def test_each_of_several_evaluation_sets_has_its_figures(tmp_path: Path, kind: type) -> None:
    easy, hard = Dataset.from_dict({"prompt": PROMPTS[:2]}), Dataset.from_dict({"prompt": PROMPTS})
    sets = kind(easy=easy, hard=hard)
    if kind is IterableDatasetDict:
        sets = kind(easy=easy.to_iterable_dataset(), hard=hard.to_iterable_dataset())
    run = trainer(tmp_path, evaluated=sets, max_steps=1, eval_strategy="steps", eval_steps=1, save_strategy="no")
    run.train()
    [line] = records(tmp_path, "eval.jsonl")
    assert (line["eval_easy/n"], line["eval_hard/n"], line["eval/n"]) == (2, 4, 6)
    assert line["eval/acc"] == pytest.approx((2 * line["eval_easy/acc"] + 4 * line["eval_hard/acc"]) / 6)
    logged = [name for entry in run.state.log_history for name in entry]
    assert {"eval_easy_runtime", "eval_hard_runtime", "eval_reward"} <= set(logged)
    if kind is dict:
        given = run.evaluate({"other": easy})
        assert (given["eval_other/n"], given["eval/n"]) == (2, 2)


def test_answers_to_one_problem_belong_together_in_a_stream_too(tmp_path: Path) -> None:
    problems = Dataset.from_dict({"prompt": PROMPTS})
    runs: dict[str, dict[str, Any]] = {
        "numbered": {},
        "stream": {"evaluated": problems.to_iterable_dataset()},
        "only prompts": {"remove_unused_columns": True},
    }
    found = {}
    for name, options in runs.items():
        measured = trainer(tmp_path, num_generations_eval=4, **options).evaluate()
        found[name] = {figure: value for figure, value in measured.items() if figure.startswith("eval/")}
        assert (measured["eval/n"], measured["eval/problems"]) == (16, 4)
    assert found["only prompts"] == found["numbered"], "the interval too"


def test_a_column_of_the_users_is_no_number_of_ours_and_no_reward_function_sees_ours(tmp_path: Path) -> None:
    seen: set[str] = set()

    def looks(completions: Sequence[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [1.0] * len(completions)

    columns = {"held_out_number": [7, 7, 7, 7], "_held_out_number": [7, 7, 7, 7]}
    run = trainer(tmp_path, columns, rewards=looks)
    assert run.evaluate()["eval/n"] == 4
    assert {name for name in seen if "number" in name} == columns.keys()


def test_the_loss_of_an_evaluation_is_computed_where_it_is_asked_for(tmp_path: Path) -> None:
    assert "eval_loss" not in trainer(tmp_path).evaluate()
    assert "eval_loss" in trainer(tmp_path, compute_eval_loss=True).evaluate()


@pytest.mark.slow
def test_the_best_model_is_found_by_our_own_figures(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval/acc", "eval_strategy": "steps"}
    run = trainer(tmp_path, eval_steps=1, **best)
    run.train()
    accuracies = {line["step"]: line["eval/acc"] for line in records(tmp_path, "eval.jsonl")}
    assert run.state.best_metric == max(accuracies.values())
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{run.state.best_global_step}")


@pytest.mark.slow
def test_a_best_model_that_could_not_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_is_best(completions: Sequence[str], trainer_state: Any, **_: Any) -> list[float]:
        return [float(trainer_state.global_step == 2)] * len(completions)

    def fail_at_the_second(self: AdaptiveGRPOTrainer, folder: str, write: Any = GRPOTrainer._save_scaler) -> None:
        if self.state.global_step == 2:
            raise OSError(28, "No space left on device")
        write(self, folder)

    monkeypatch.setattr(AdaptiveGRPOTrainer, "_save_scaler", fail_at_the_second)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval/acc", "eval_strategy": "steps"}
    run = trainer(tmp_path, rewards=second_is_best, max_steps=3, eval_steps=1, save_total_limit=1, **best)
    run.train()  # Trainer compares the folder of the best model with the others at the end, and must find it
    assert (run.state.best_metric, run.state.best_global_step) == (1.0, 2)
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert [file.name for file in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.slow
def test_a_compiled_model_samples_too(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1, torch_compile=True, torch_compile_backend="eager").train()
    assert lines(tmp_path) == [1]


def test_the_embedded_model_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = AdaptiveGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    problems = Dataset.from_dict({"prompt": PROMPTS * 2})
    embedded = AdaptiveGRPOTrainer("embedded", verdict, args, train_dataset=problems, eval_dataset=problems)
    assert embedded.model.config.name_or_path == embedded.processing_class.name_or_path == resolve_model("embedded")
    assert [name_of(resolve_model(name)) for name in (*SHIPPED, "owner/name")] == [*SHIPPED, "owner/name"]
    described: list[dict[str, Any]] = []
    monkeypatch.setattr(embedded.records_callback, "describe", lambda config, **_: described.append(config))
    start_run(embedded)
    assert [config["model_name_or_path"] for config in described] == ["embedded"], "and by no path of this machine"


def unjudged(completions: Sequence[str], **_: Any) -> list[None]:
    return [None] * len(completions)


def half_judged(completions: Sequence[str], **_: Any) -> list[float | None]:
    """Of each group of four two successes, one failure, and one completion without a score."""
    return [(1.0, 1.0, 0.0, None)[row % 4] for row in range(len(completions))]


@pytest.mark.slow
def test_what_the_first_reward_function_does_not_judge_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    for name, first in (("none", unjudged), ("half", half_judged)):
        options = {"eval_strategy": "steps", "eval_steps": 2, "window_probe_every": 1, "window_memory_rollouts": 1}
        made = trainer(tmp_path / name, rewards=[first, brevity], **options)
        start_run(made)
        made.train()
        finish_run(made)
    judged, run = read_run(tmp_path / "half"), read_run(tmp_path / "none")
    assert [line["adaptive_window/success_rate"] for line in judged.metrics] == [2 / 3, 2 / 3]
    for line in run.metrics:
        assert not {"adaptive_window/success_rate", "completion/finished_correct_frac"} & set(line)
        assert line["adaptive_window/next_window"] == 8, "nothing was learned, so the window stays"
    assert all("eval/acc" not in line and line["eval/mean_length"] > 0 for line in run.evals)
    [after] = judged.evals
    assert after["eval/acc"] == 2 / 3 and after["eval/n"] == 3


def test_several_held_out_sets_have_one_digest_of_their_names_and_prompts() -> None:
    """Without one, a report compared runs whatever they were asked."""
    easy, hard = (Dataset.from_dict({"prompt": prompts}) for prompts in (PROMPTS[:2], PROMPTS[2:4]))
    given = ({"easy": easy, "hard": hard}, {"easy": hard, "hard": easy}, {"easy": easy}, easy)
    digests = [digest_of_prompts(held_out)[HELD_OUT_PROMPTS] for held_out in given]
    assert len(set(digests)) == 4
    assert digest_of_prompts({"easy": easy, "stream": hard.to_iterable_dataset()}) == {}


def test_examples_with_images_are_known_again_by_their_other_columns() -> None:
    """A decoded image shows its place in memory, so that each start had other examples, and no run went on."""
    pictures = [PIL.Image.new("L", (8, 8), shade) for shade in (0, 255)]
    features = Features({"prompt": Value("string"), "images": List(Image())})
    rows = {"prompt": PROMPTS[:2], "images": [pictures, pictures[:1]]}
    shown, others = (Dataset.from_dict(each, features) for each in (rows, {**rows, "prompt": PROMPTS[2:4]}))
    digest = example_digests(shown, shown)
    assert digest == example_digests(shown, shown) != example_digests(others, others)
    assert digest == example_digests(*[Dataset.from_dict({"prompt": PROMPTS[:2]})] * 2)
    transformed = shown.with_transform(lambda rows: {**rows, "count": [len(each) for each in rows["images"]]})
    assert digest == example_digests(transformed, transformed)


def test_prompts_are_looked_at_in_parts_and_those_of_a_transform_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once took as much memory on every rank as a data set of any size has on the disk."""
    monkeypatch.setattr("tinyzero_trl.training.preflight.problems._AT_ONCE", 3)
    rows, parts, read = Dataset.from_dict({"prompt": PROMPTS * 2}), list[Any](), Column.__getitem__

    def noted(column: Column, key: Any) -> Any:
        parts.append(key)
        return read(column, key)

    monkeypatch.setattr(Column, "__getitem__", noted)
    trainer(tmp_path, examples=rows)
    assert parts == [slice(0, 3), slice(3, 6), slice(6, 9)]
    with pytest.raises(ValueError, match=r"^prompts: one of \d+ tokens leaves no room in the model's 512 positions"):
        trainer(tmp_path, {"prompt": [*PROMPTS, " ".join(["1"] * 600), *PROMPTS]})
    with pytest.raises(ValueError, match="train_dataset: the prompt of row 4 is empty; write one, or remove the row"):
        trainer(tmp_path, {"prompt": [*PROMPTS, "", *PROMPTS]})
    parts.clear()
    trainer(tmp_path, examples=rows.with_transform(lambda row: row))
    assert not parts


def test_completions_are_logged_by_trl_too(tmp_path: Path) -> None:
    for _ in range(2):  # the second moves the files of the first aside, and TRL writes into the folder that it has made
        training = trainer(tmp_path, log_completions=True, eval_on_start=True, eval_strategy="steps", eval_steps=2)
        training.train()
        written = {file.suffix for file in (tmp_path / "completions").iterdir()}
        assert written == {".jsonl", ".parquet"}


def test_a_checkpoint_of_weights_alone_is_not_continued(tmp_path: Path) -> None:
    """Moments and schedule would start anew."""
    trainer(tmp_path, save_only_model=True).train()
    with pytest.raises(ValueError, match=r"checkpoint-2' holds weights alone \(save_only_model\), and no optimizer"):
        trainer(tmp_path, resume="auto", max_steps=4).train()


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_prompt_is_named_by_its_row(empty: str | None, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"prompt": [*PROMPTS[:3], empty, *PROMPTS[4:]]})
    with pytest.raises(ValueError, match="train_dataset: the prompt of row 3 is empty; write one, or remove the row"):
        trainer(tmp_path, examples=rows)


class StopEpochs(TrainerCallback):
    """Ends each epoch after its first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_epoch_stop = True


def test_an_epoch_that_is_stopped_early_is_not_gone_through_again(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def noted(prompts: Sequence[str], **_: Any) -> list[float]:
        seen.append(sorted(set(prompts)))
        return [float(place % 2) for place in range(len(prompts))]

    training = trainer(tmp_path, rewards=noted, max_steps=-1, num_train_epochs=3, per_device_train_batch_size=8)
    training.add_callback(StopEpochs())
    training.train()
    assert len(seen) == 3 and seen[0] != seen[1] != seen[2], "each epoch has an order of its own"


def test_rows_do_not_lie_end_to_end_under_a_quantile_of_entropies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rounding would decide which of two equal tokens has the larger entropy."""
    assert not trainer(tmp_path, padding_free=True, top_entropy_quantile=0.5).loss._traits.is_padding_free
    assert "padding_free has no effect" in caplog.text
    assert trainer(tmp_path, padding_free=True).loss._traits.is_padding_free


class Asks(TrainerCallback):
    """Asks for something at the end of step 3, in the middle of a rollout."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            setattr(control, self.what, True)


@pytest.mark.parametrize(("what", "kept"), [("should_training_stop", "checkpoint-3"), ("should_save", "checkpoint-4")])
def test_what_a_callback_asks_for_in_the_middle_of_a_rollout(tmp_path: Path, what: str, kept: str) -> None:
    """A checkpoint waits for the end of the rollout; the end of training keeps what is due."""
    steps = {"num_iterations": 2, "max_steps": 6, "save_steps": 3 if what == "should_training_stop" else 6}
    trainer(tmp_path, callbacks=[Asks(what)], **steps).train()
    assert sorted(file.name for file in tmp_path.glob("checkpoint-*"))[0] == kept
