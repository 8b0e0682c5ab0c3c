"""`WindowController` limits the rollouts of stock TRL, and of trainers that others derive from it."""

import copy
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests.support.fixed_rollouts import (
    GROUP_SIZE,
    LONGEST_COMPLETION,
    PROMPTS,
    FixedRollouts,
    tiny_model_path,
    tiny_tokenizer,
)
from tests.support.ranks import run_on_ranks
from tests.support.staged_rollouts import PROMPTS as STAGED_PROMPTS
from tests.support.staged_rollouts import save_model
from tests.support.tiny_models import BY_BATCHES, build_tokenizer
from tests.support.vllm_server import Server
from tests.support.windows_by_ranks import MOVING_WINDOWS, Windows, finished_in_an_odd_number, placed
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer, AdaptiveWindowCallback
from tinyzero_trl.models.loading import load_tokenizer
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.training.controller import WindowController
from tinyzero_trl.windows import RolloutObservation, WindowConfig

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


@pytest.mark.parametrize(
    ("per_generation", "per_step", "expected"),
    [(1, 2, [(0, 4), (0, 4), (1, 8), (1, 8), (2, 16), (2, 16)]), (3, 2, [(0, 4), (1, 8)]), (5, 2, [(0, 4), (2, 16)])],
)
def test_a_schedule_follows_the_step_where_a_rollout_serves_no_whole_steps(
    per_generation: int, per_step: int, expected: list[tuple[int, int]]
) -> None:
    class KeepsSteps(GRPOTrainer):
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
            self.__dict__.setdefault("seen", []).append((self.state.global_step, max(map(len, completion_ids))))
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    batches = {"steps_per_generation": per_generation, "gradient_accumulation_steps": per_step}
    trainer = trainer_of(KeepsSteps, arguments(max_steps=3, per_device_train_batch_size=4, **batches))
    WindowController(WindowConfig(strategy="phased", min=4, phases=((0, 4), (1, 8), (2, 16)))).attach(trainer)
    trainer.train()
    assert trainer.seen == expected


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


class InterruptOnce(TrainerCallback):
    """As the user does in a notebook, between the two micro-batches of the third optimizer step."""

    is_over = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and not self.is_over:
            self.is_over = True
            raise KeyboardInterrupt


def test_a_training_after_an_interrupted_one_has_rollouts_and_figures_of_its_own() -> None:
    """TRL alone would train again on what is left of the interrupted rollout, and log the mean of both windows."""
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 3}
    trainer = trainer_of(GRPOTrainer, arguments(**settings), callbacks=[InterruptOnce()])
    WindowController(WindowConfig(strategy="phased", min=4, phases=((0, 4), (1, 8), (2, 16)))).attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    windows = [line["adaptive_window/current_window"] for line in trainer.state.log_history if "reward" in line]
    assert windows == [4, 8, 16]
    assert trainer._step == 6, "counted from 0: each optimizer step has a rollout of its own"


def test_the_policy_sees_the_window_under_which_was_sampled() -> None:
    """Also where it draws another one whenever it is asked."""
    trainer = trainer_of(placed(GRPOTrainer))
    controller = controller_of("success").attach(trainer)
    draws, asked, observed = random.Random(0), [], []

    def choose_window() -> float:
        asked.append(draws.randint(4, LONGEST_COMPLETION))
        return asked[-1]

    controller.policy.choose_window = choose_window  # type: ignore[method-assign]
    controller.policy.learn = lambda seen: observed.append((seen.window, max(seen.lengths)))  # type: ignore[method-assign]
    trainer.train()
    assert len(observed) == STEPS and len({window for window, _ in observed}) > 3
    assert all(longest <= window for window, longest in observed) and {window for window, _ in observed} <= set(asked)


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
        controller._observe(trainer, [[3] * 4] * 16, torch.full((16, 1), 0.5), window=8)
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
    with pytest.raises(ValueError, match="generation_kwargs: max_new_tokens 6 would contradict the rollout window"):
        controller_of().attach(trainer_of(GRPOTrainer, arguments(generation_kwargs={"max_new_tokens": 6})))
    beams = arguments(generation_kwargs={"num_beams": 2})
    in_stages = WindowController(WindowConfig(strategy="signal", probe_group_every=2, max=24))
    for _ in range(2):  # what was refused is not attached
        with pytest.raises(ValueError, match="num_beams 2 does not sample in stages"):
            in_stages.attach(trainer_of(GRPOTrainer, beams))
        with pytest.raises(ValueError, match=r"not attached; call controller\.attach"):
            _ = in_stages.window
    with pytest.raises(ValueError, match=r"^label_column: 'kind' is not a column of the training data"):
        WindowController(WindowConfig(strategy="group", label_column="kind")).attach(trainer_of(GRPOTrainer))
    with pytest.raises(ValueError, match="loss_type: 'grpo' is not the trainer's, which is 'dapo'; leave it out"):
        WindowController(WindowConfig(strategy="group", loss_type="grpo")).attach(trainer_of(GRPOTrainer))


def test_a_trainer_with_a_controller_is_neither_copied_nor_rid_of_it() -> None:
    """The methods of a copy would be those of the original, which would sample for it without a window."""
    trainer = trainer_of(GRPOTrainer, arguments(max_steps=1))
    controller = WindowController(WindowConfig(strategy="fixed", max=4)).attach(trainer)
    with pytest.raises(ValueError, match="a trainer with a controller cannot be copied; make a new trainer"):
        copy.deepcopy(trainer)
    trainer.remove_callback(controller)
    WindowController(WindowConfig(strategy="fixed", max=20)).attach(trainer)
    with pytest.raises(
        ValueError, match="it was removed from the callbacks of the trainer, which does not take the win"
    ):
        trainer.train()


def test_the_callback_of_our_trainer_says_that_it_has_no_effect_on_stock() -> None:
    callback = AdaptiveWindowCallback(WindowConfig(strategy="fixed", max=24))
    trainer = trainer_of(placed(GRPOTrainer), callbacks=[callback])
    with pytest.raises(ValueError, match=r"AdaptiveWindowCallback has no effect on this trainer; .*WindowController"):
        trainer.train()
    assert trainer.state.global_step == 0


# --- a policy that decides per group --------------------------------------------------------------------------------

PER_GROUP: dict[str, dict[str, Any]] = {
    "value": {"first_stage": 8, "min_groups": 4, "min_samples": 2, "explore_share": 0.1},
    "plain": {"group_rule": "plain", "initial": 8, "explore_share": 0.0},
}


def even_and_of_kind_0(completion_ids: list[list[int]], kind: list[str], **_: Any) -> list[float]:
    return [float(len(ids) % 2 == 0 and of == "0") for ids, of in zip(completion_ids, kind, strict=True)]


def observed_per_group(workshop: Path, stock: bool, window: dict[str, Any], **settings: Any) -> tuple[Any, list[Any]]:
    """A training of stock TRL or of ours whose policy decides per group, and what the policy has observed."""
    save_model(workshop)
    if stock:
        trainer: Any = staged_trainer(GRPOTrainer, workshop, arguments(**settings))
        policy = WindowController(WindowConfig(strategy="group", label_column="kind", **window)).attach(trainer).policy
    else:
        fields = {f"window_{name}": value for name, value in window.items()} | {"window_label_column": "kind"}
        args = arguments(AdaptiveGRPOConfig, window_strategy="group", **fields, **settings)
        trainer = staged_trainer(AdaptiveGRPOTrainer, workshop, args)
        policy = trainer.window_callback.policy
    observed: list[RolloutObservation] = []
    learn = policy.learn

    def learn_and_note(observation: RolloutObservation) -> None:
        observed.append(replace(observation, timings=()))
        learn(observation)

    policy.learn = learn_and_note  # type: ignore[method-assign]
    return trainer, observed


def staged_trainer(kind: type[GRPOTrainer], workshop: Path, args: Any) -> GRPOTrainer:
    """Of a model of which some completions end early."""
    kinds = [str(place % 2) for place in range(4 * len(STAGED_PROMPTS))]
    return kind(
        str(workshop / "model"),
        even_and_of_kind_0,
        args,
        train_dataset=Dataset.from_dict({"prompt": STAGED_PROMPTS * 4, "kind": kinds}),
        processing_class=build_tokenizer(),
    )


@pytest.mark.parametrize("rule", PER_GROUP)
def test_stock_trl_decides_per_group_as_our_trainer_does(rule: str, tmp_path: Path) -> None:
    """The same rollouts, labels and stops, as long as the weights stay; also where Trainer drops unused columns."""
    settings = {"learning_rate": 0.0, "remove_unused_columns": True, "max_steps": 6}
    seen = []
    for stock in (True, False):
        trainer, observed = observed_per_group(tmp_path, stock, PER_GROUP[rule], **settings)
        trainer.train()
        seen.append(observed)
        if stock:
            figures = [line for line in trainer.state.log_history if "group_window/stopped_frac" in line]
    assert seen[0] == seen[1] and len(figures) == len(seen[0]) == 6
    assert set(seen[0][0].labels) | set(seen[0][1].labels) | set(seen[0][2].labels) == {"0", "1"}
    assert max(line["group_window/stopped_frac"] for line in figures) > 0
    for line, rollout in zip(figures, seen[0], strict=True):
        assert line["group_window/stopped_frac"] == len(rollout.group_stops) / len(set(rollout.groups))


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_a_compiled_model_is_sampled_in_stages(stock: bool, tmp_path: Path) -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 2, "learning_rate": 0.0}
    trainer, seen = observed_per_group(tmp_path, stock, PER_GROUP["plain"], **compiled)
    trainer.train()
    trainer, of_plain = observed_per_group(tmp_path, stock, PER_GROUP["plain"], max_steps=2, learning_rate=0.0)
    trainer.train()
    assert seen == of_plain and any(rollout.group_stops for rollout in seen)


def test_stops_of_groups_survive_a_resume_of_stock_trl(tmp_path: Path) -> None:
    folder = {"output_dir": str(tmp_path / "run"), "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    trainer, unbroken = observed_per_group(tmp_path, True, PER_GROUP["value"], **folder)
    trainer.train()
    trainer, resumed = observed_per_group(tmp_path, True, PER_GROUP["value"], **folder)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed == unbroken[3:]
    assert any(rollout.group_stops for rollout in resumed)


@pytest.mark.parametrize("column", ["topic", "topick"])
def test_a_label_column_that_a_stream_lacks_is_named(column: str) -> None:
    """The columns of a generator are not known before its first example."""
    trainer = GRPOTrainer(
        tiny_model_path(),
        finished_in_an_odd_number,
        arguments(max_steps=1),
        train_dataset=IterableDataset.from_generator(lambda: ({"prompt": each, "topic": "a"} for each in PROMPTS * 16)),
        processing_class=tiny_tokenizer(),
    )
    WindowController(WindowConfig(strategy="group", first_stage=8, label_column=column)).attach(trainer)
    if column == "topic":
        trainer.train()
        return
    with pytest.raises(ValueError, match=r"^label_column: 'topick' is not a column .* name one of prompt, topic"):
        trainer.train()


@pytest.mark.slow
def test_ranks_of_stock_trl_decide_alike_where_a_group_lies_on_two(tmp_path: Path) -> None:
    save_model(tmp_path)
    first, second = run_on_ranks(2, "stock_groups_by_ranks", str(tmp_path))
    assert first == second and len(first) == 3
    for rollout in first:
        columns = [rollout[name] for name in ("groups", "lengths", "rewards", "truncated")]
        for group in range(3):
            rows = [row for row in zip(*columns, strict=True) if row[0] == group]
            assert len(rows) == 4
            early = any(won and length <= 8 and not cut for _, length, won, cut in rows)
            assert all(length == (24 if early else 8) for _, length, _, cut in rows if cut)
    assert any(8 in [n for n, cut in zip(each["lengths"], each["truncated"], strict=True) if cut] for each in first)


def test_a_trainer_that_samples_by_itself_has_no_stages(tmp_path: Path) -> None:
    save_model(tmp_path)
    trainer = staged_trainer(placed(GRPOTrainer), tmp_path, arguments())
    WindowController(WindowConfig(strategy="group", **PER_GROUP["plain"])).attach(trainer)
    with pytest.raises(
        ValueError, match="a rollout of PlacedRollouts had no stages, since it does not sample by TRL's"
    ):
        trainer.train()


def test_a_trainer_that_samples_a_rollout_several_times_has_no_stages(tmp_path: Path) -> None:
    """As until some group has a gradient: the second completions would get the rewards of the first."""

    class SamplesTwice(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            super()._generate_and_score_completions(inputs)
            return super()._generate_and_score_completions(inputs)

    save_model(tmp_path)
    trainer = staged_trainer(SamplesTwice, tmp_path, arguments())
    WindowController(WindowConfig(strategy="group", **PER_GROUP["plain"])).attach(trainer)
    with pytest.raises(ValueError, match=r"SamplesTwice samples a rollout several times, .* such as signal"):
        trainer.train()


def test_stages_that_come_later_must_be_known_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(GRPOTrainer, arguments(max_steps=2))
    policy = WindowController(WindowConfig(strategy="fixed", max=16)).attach(trainer).policy
    monkeypatch.setattr(type(policy), "stages", property(lambda _: (8, 16) if trainer.state.global_step else (16,)))
    with pytest.raises(
        ValueError, match="'fixed' has stages now, and had none when it was attached; let its samples_in"
    ):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_stop_string_ends_completions_in_stages_and_in_evaluations_of_stock_trl() -> None:
    """`generate` of stock TRL fails on one: it has no tokenizer to look for it with."""
    path = resolve_model("embedded")
    trainer: Any = GRPOTrainer(
        path,
        lambda completions, **_: [float("=" in text) for text in completions],
        arguments(generation_kwargs={"stop_strings": ["="]}, max_completion_length=40, max_steps=1, eval_on_start=True),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=load_tokenizer(path),
    )
    WindowController(WindowConfig(strategy="group", first_stage=8)).attach(trainer)
    sampled: dict[bool, list[str]] = {True: [], False: []}
    score = trainer.reward_funcs[0]

    def score_and_note(completions: list[str], **columns: Any) -> list[float]:
        sampled[trainer.model.training].extend(completions)
        return score(completions, **columns)

    trainer.reward_funcs = [score_and_note]
    trainer.train()
    for texts in sampled.values():
        assert any(text.endswith("=") for text in texts) and not any("=" in text[:-1] for text in texts)
    assert trainer.generation_config.stop_strings == ["="], "what TRL was given stays"


def test_a_trainer_that_samples_beyond_the_limit_is_found_out() -> None:
    class Stubborn(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
            return [[3] * 20 for _ in prompt_ids], None

    trainer = trainer_of(Stubborn)
    controller_of().attach(trainer)
    with pytest.raises(ValueError, match="a completion has 20 tokens, and the window is 8; Stubborn does not sample"):
        trainer.train()
