"""`WindowController` limits the rollouts of stock TRL, and of trainers that others derive from it."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.support.fixed_rollouts import (
    GROUP_SIZE,
    LONGEST_COMPLETION,
    PROMPTS,
    FixedRollouts,
    tiny_model_path,
    tiny_tokenizer,
)
from tests.support.tiny_models import BY_BATCHES
from tests.support.vllm_server import Server
from tests.support.windows_by_ranks import MOVING_WINDOWS, Windows, finished_in_an_odd_number, placed
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer, AdaptiveWindowCallback
from tinyzero_trl.training.controller import WindowController
from tinyzero_trl.windows import WindowConfig

STEPS = 8


class KeepsLengths(GRPOTrainer):
    """Keeps the limit that was in force and the longest completion of each generation."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        training = self.model.training
        output = super()._generate_single_turn(*args, **kwargs)
        longest = max(len(ids) for ids in output[0])
        self.__dict__.setdefault("seen", []).append((training, longest))
        return output


def arguments(kind: type[GRPOConfig] = GRPOConfig, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 16,
        "num_generations": GROUP_SIZE,
        "max_completion_length": LONGEST_COMPLETION,
        "max_steps": STEPS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "seed": 3,
    }
    return kind(**(defaults | settings))


def trainer_of(base: type[GRPOTrainer], args: Any = None, **options: Any) -> Any:
    return base(
        tiny_model_path(),
        finished_in_an_odd_number,
        args or arguments(),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny_tokenizer(),
        **options,
    )


def controller_of(strategy: str = "signal") -> WindowController:
    settings = {name.removeprefix("window_"): value for name, value in MOVING_WINDOWS[strategy].items()}
    return WindowController(WindowConfig(strategy=strategy, **settings))


@pytest.mark.parametrize(
    "engine",
    [{}, pytest.param(BY_BATCHES, marks=pytest.mark.slow)],
    ids=["generate", "continuous batching"],
)
def test_training_keeps_to_the_window_and_evaluation_has_the_full_length(engine: dict[str, Any]) -> None:
    """In the evaluation's second batch too, before which continuous batching has left the model in training mode."""
    trainer = trainer_of(KeepsLengths, arguments(max_steps=2, eval_strategy="steps", eval_steps=1, **engine))
    controller = WindowController(WindowConfig(strategy="cosine", initial=4, min=4, total_steps=100)).attach(trainer)
    trainer.train()
    assert [training for training, _ in trainer.seen] == [True, False, False] * 2
    assert {longest for training, longest in trainer.seen if training} == {4}, "a random model is cut everywhere"
    assert min(longest for training, longest in trainer.seen if not training) > 4
    assert controller.policy.metrics()["current_window"] == 4


@pytest.mark.vllm
def test_the_window_travels_with_every_request_of_stock_trl_to_a_vllm_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMClient", Server)
    monkeypatch.setattr(Server, "allowed", [])
    trainer = trainer_of(GRPOTrainer, arguments(use_vllm=True, vllm_mode="server", max_steps=3))
    WindowController(WindowConfig(strategy="phased", min=4, phases=((0, 8), (1, 16), (2, 20)))).attach(trainer)
    trainer.train()
    assert Server.allowed == [8, 16, 20]


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_an_evaluation_stays_one_where_sampling_leaves_the_model_in_training_mode(
    stock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TRL's continuous batching does; with two batches of examples to evaluate."""

    def leaves_training_mode(self: GRPOTrainer, prompt_ids: list, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        self.model.train()
        return [[3] * self.generation_config.max_new_tokens for _ in prompt_ids], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", leaves_training_mode)
    settings: dict[str, Any] = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    if stock:
        trainer = trainer_of(GRPOTrainer, arguments(**settings))
        config = WindowConfig(strategy="cosine", initial=4, min=4, total_steps=100)
        policy = WindowController(config).attach(trainer).policy
    else:
        window = {"window_strategy": "cosine", "window_initial": 4, "window_min": 4, "window_total_steps": 100}
        trainer = trainer_of(AdaptiveGRPOTrainer, arguments(AdaptiveGRPOConfig, **settings, **window))
        policy = trainer.window_callback.policy
    trainer.train()
    evaluations = [line for line in trainer.state.log_history if "eval_completions/mean_length" in line]
    assert {line["eval_completions/mean_length"] for line in evaluations} == {LONGEST_COMPLETION}
    assert policy.state_dict()["next_step"] == 2 and policy.metrics()["current_window"] == 4
    assert len(evaluations) == 2


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_a_schedule_follows_the_step_in_every_training(stock: bool, tmp_path: Path) -> None:
    """In a second one of the same trainer, and in one that continues a run that has ended within a rollout."""
    phases = [[0, 4], [1, 8], [2, 16], [4, 8], [5, 4]]

    def trainer(**settings: Any) -> Any:
        settings |= {"output_dir": str(tmp_path), "save_strategy": "steps"}
        if not stock:
            window = {"window_strategy": "phased", "window_min": 4, "window_phases": phases}
            return trainer_of(AdaptiveGRPOTrainer, arguments(AdaptiveGRPOConfig, **settings, **window))
        made = trainer_of(GRPOTrainer, arguments(**settings))
        WindowController(WindowConfig(strategy="phased", min=4, phases=phases)).attach(made)  # type: ignore[arg-type]
        return made

    def longest_by_step(made: Any, checkpoint: str | None = None) -> dict[int, float]:
        """Of each rollout; a random model is cut everywhere."""
        made.train(resume_from_checkpoint=checkpoint)
        log = [line for line in made.state.log_history if "completions/max_length" in line]
        return {line["step"] - 1: line["completions/max_length"] for line in log}

    twice = trainer(max_steps=3)
    assert [longest_by_step(twice), longest_by_step(twice)] == [{0: 4, 1: 8, 2: 16}] * 2
    split = {"per_device_train_batch_size": 4, "steps_per_generation": 2}
    assert longest_by_step(trainer(max_steps=3, **split)) == {0: 4, 2: 16}
    continued = longest_by_step(trainer(max_steps=6, **split), str(tmp_path / "checkpoint-3"))
    assert continued == {0: 4, 2: 16, 3: 16, 5: 4}


@pytest.mark.parametrize("strategy", ["success", "signal"])
def test_a_resumed_run_chooses_the_windows_of_an_unbroken_one(strategy: str) -> None:
    def windows(resume_from: str | None = None, **settings: Any) -> list[int]:
        trainer = trainer_of(placed(GRPOTrainer), arguments(**settings))
        controller = controller_of(strategy).attach(trainer)
        trainer.add_callback(keeper := Windows(controller.policy))
        trainer.train(resume_from_checkpoint=resume_from)
        return keeper.seen

    folder = tempfile.mkdtemp()
    unbroken = windows(output_dir=folder, save_strategy="steps", save_steps=STEPS // 2)
    assert len(set(unbroken)) > 2, f"the window hardly moved ({unbroken}), so equality proves nothing"
    assert windows(str(Path(folder) / f"checkpoint-{STEPS // 2}")) == unbroken[STEPS // 2 :]


def test_several_optimizer_steps_on_a_rollout_share_its_window() -> None:
    args = arguments(steps_per_generation=2, gradient_accumulation_steps=1, per_device_train_batch_size=8)
    trainer = trainer_of(placed(GRPOTrainer), args)
    controller = controller_of("success").attach(trainer)
    trainer.add_callback(keeper := Windows(controller.policy))
    trainer.train()
    rollouts, within = keeper.seen[1::2], keeper.seen[2::2]
    assert len(rollouts) == STEPS // 2 and len(set(keeper.seen)) > 2
    assert rollouts[:-1] == within, "the policy observes once a rollout, in its first step"


def test_the_figures_of_the_policy_are_logged_by_the_trainer() -> None:
    trainer = trainer_of(placed(GRPOTrainer), arguments(max_steps=2))
    controller_of().attach(trainer)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["adaptive_window/current_window"] for line in lines] == [8.0, lines[0]["adaptive_window/next_window"]]


def test_a_completion_that_ends_before_the_window_was_not_cut_by_it() -> None:
    """One that vLLM has ended at a stop string has no end token, and is no longer for having more room."""

    class StopsAtText(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
            end = self.eos_token_ids[0]
            kinds = [[3] * 8, [3] * 5, [*[3] * 4, end], [*[3] * 7, end], [*[3] * 7, 5]]  # the window has 8 tokens
            return [list(kinds[row % 5]) for row in range(len(prompt_ids))], None

    trainer = trainer_of(StopsAtText, arguments(max_steps=1))
    trainer.args.generation_kwargs = {"stop_token_ids": [5]}  # vLLM's
    policy = WindowController(WindowConfig(strategy="fixed", max=8)).attach(trainer).policy
    observed: list[Any] = []
    policy.learn = observed.append  # type: ignore[method-assign]
    trainer.train()
    [seen] = observed
    assert seen.lengths == ([8, 5, 5, 8, 8] * 4)[:16]
    assert seen.truncated == ([True, False, False, False, False] * 4)[:16]


def test_rewards_that_never_reach_the_threshold_are_named(caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(GRPOTrainer)
    controller = WindowController(WindowConfig(strategy="signal")).attach(trainer)
    for _ in range(12):
        controller._observe(trainer, [[3] * 4] * 16, torch.full((16, 1), 0.5))
    [line] = [record.message for record in caplog.records if "rollouts had a success" in record.message]
    assert "was 0.5, and a success is 1 or more" in line and line.endswith("set success_threshold.")
    with pytest.raises(ValueError, match=r"^config: 'signal' is no WindowConfig; give WindowConfig\(strategy="):
        WindowController("signal")  # type: ignore[arg-type]


def test_windows_that_are_left_out_follow_from_the_trainers_longest_completion() -> None:
    controller = WindowController(WindowConfig(strategy="signal")).attach(trainer_of(GRPOTrainer))
    assert controller.window == LONGEST_COMPLETION and controller.policy.config.min == 20


def test_a_controller_says_which_trainer_it_cannot_limit_and_why() -> None:
    with pytest.raises(ValueError, match=r"trainer: object is no trl\.GRPOTrainer"):
        controller_of().attach(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has a window of its own; set the window_"):
        controller_of().attach(trainer_of(AdaptiveGRPOTrainer, arguments(AdaptiveGRPOConfig)))
    with pytest.raises(ValueError, match="samples with a rollout_func"):
        controller_of().attach(trainer_of(GRPOTrainer, rollout_func=FixedRollouts()))
    with pytest.raises(ValueError, match="restore_callback_states_from_checkpoint"):
        controller_of().attach(trainer_of(GRPOTrainer, arguments(restore_callback_states_from_checkpoint=True)))
    with pytest.raises(ValueError, match="has max_completion_length None"):
        controller_of().attach(trainer_of(GRPOTrainer, arguments(max_completion_length=None)))
    trainer = trainer_of(GRPOTrainer)
    controller = controller_of().attach(trainer)
    for another in (controller, controller_of()):
        with pytest.raises(ValueError, match="has a controller already"):
            another.attach(trainer)
    with pytest.raises(ValueError, match="max: 512 exceeds the trainer's max_completion_length 24"):
        WindowController(WindowConfig(strategy="fixed", max=512)).attach(trainer_of(GRPOTrainer))
    in_stages = WindowController(WindowConfig(strategy="signal", probe_group_every=2, max=24))
    for _ in range(2):  # what was refused is not attached
        with pytest.raises(ValueError, match="strategy 'signal' samples rollouts in stages"):
            in_stages.attach(trainer_of(GRPOTrainer))
        with pytest.raises(ValueError, match=r"not attached; call controller\.attach"):
            _ = in_stages.window


def test_the_callback_of_our_trainer_says_that_it_has_no_effect_on_stock() -> None:
    callback = AdaptiveWindowCallback(WindowConfig(strategy="fixed", max=24))
    trainer = trainer_of(placed(GRPOTrainer), callbacks=[callback])
    with pytest.raises(ValueError, match=r"AdaptiveWindowCallback has no effect on this trainer; .*WindowController"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_trainer_that_samples_beyond_the_limit_is_found_out() -> None:
    class Stubborn(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
            return [[3] * 20 for _ in prompt_ids], None

    trainer = trainer_of(Stubborn)
    controller_of().attach(trainer)
    with pytest.raises(ValueError, match="a completion has 20 tokens, and the window is 8; Stubborn does not sample"):
        trainer.train()
