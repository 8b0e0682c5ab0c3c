"""Checks of a run before it starts, each alone."""

import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from accelerate import PartialState
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from datasets import Dataset, IterableDataset
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from trl import GRPOConfig

from tinyzero_trl.models.loading import load_model_config, load_tokenizer
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.launch import check_deepspeed
from tinyzero_trl.training.preflight.mappings import check_vllm_sampling
from tinyzero_trl.training.preflight.problems import (
    check_chat_template_kwargs,
    check_prompts,
    check_train_dataset,
    warn_of_equal_labels,
)
from tinyzero_trl.training.preflight.reference import check_saved_reference, shards_weights
from tinyzero_trl.training.preflight.trackers import use_wandb_offline_without_account
from tinyzero_trl.training.recipe import unknown_fields
from tinyzero_trl.training.recipe.parser import _parser
from tinyzero_trl.training.recipe.renamed import RENAMED
from tinyzero_trl.training.recipe.unknown_fields import advice_for_unknown
from tinyzero_trl.training.saving.synced_reference import REFERENCE
from tinyzero_trl.windows import WindowConfig

FITTING = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}


def config(**values: Any) -> AdaptiveGRPOConfig:
    return AdaptiveGRPOConfig("run", **{**FITTING, **values})


# --- accepted as TRL accepts it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1e-4},
        {"save_only_model": True},
        {"max_steps": 0},
        {"save_total_limit": 0},
        {"metric_for_best_model": "reward_std"},
        {"metric_for_best_model": "accuracy"},  # a reward function may log it
        {"metric_for_best_model": "eval_completions/mean_length"},
    ],
    ids=str,
)
def test_what_trl_accepts_and_can_work_is_accepted(values: dict[str, Any]) -> None:
    config(**values)


@pytest.mark.parametrize("name", ["eval/accuracy", "tokens/response_total", "adaptive_window/success_rate"])
def test_a_figure_that_no_evaluation_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^metric_for_best_model: '{name}' is no figure of an evaluation; choose on"):
        config(metric_for_best_model=name)


BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval/acc", "eval_strategy": "steps"}


@pytest.mark.parametrize(
    ("share", "max_steps", "refusal"),
    [
        (0.5, 8, None),
        (0.5, -1, None),  # judged once the steps are known
        (0.25, 12, "eval_steps: 0.25 of 12 steps is 3, which is not a multiple of the 2 optimizer steps per rollout"),
        (0.3, 8, "eval_steps: 0.3 of 8 steps is 3, which is not"),  # Transformers rounds up
    ],
)
def test_a_share_of_the_steps_is_judged_as_steps(share: float, max_steps: int, refusal: str | None) -> None:
    values = {**BEST, "eval_steps": share, "save_steps": share, "max_steps": max_steps, "num_iterations": 2}
    with nullcontext() if refusal is None else pytest.raises(ValueError, match=f"^{refusal}"):
        config(**values)


def test_no_limit_of_top_k_has_two_spellings() -> None:
    assert config(top_k=None).top_k == 0


def test_a_window_needs_a_largest_value() -> None:
    with pytest.raises(ValueError, match=r"^max_completion_length: None leaves the rollout window without a largest"):
        config(max_completion_length=None)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_others_are_no_fields_and_what_replaces_them_is() -> None:
    fields = {action.dest for action in _parser([], {})._actions}
    assert not (fields - RENAMED.keys()) & {*unknown_fields._RENAMED, *unknown_fields._ADVICE}
    assert set(unknown_fields._RENAMED.values()) <= fields


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("num_generation", "did you mean num_generations?"),
        ("learningrate", "did you mean learning_rate?"),
        ("window_inital", "did you mean window_initial?"),
        ("torch_dtype", "its name here is dtype"),
        ("max_prompt_length", "remove it: this TRL cuts no prompts; .*"),
        ("rollout_size", "remove it"),
        ("max_answer_length", "remove it"),
    ],
)
def test_no_hint_is_better_than_a_wrong_one(name: str, advice: str) -> None:
    given = advice_for_unknown(name, [action.dest for action in _parser([], {})._actions])
    assert given == advice or (advice.endswith(".*") and given.startswith(advice[:-2]))


# --- trackers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")  # so that it is set back afterwards
    monkeypatch.delenv("WANDB_MODE")


def test_wandb_without_an_account_records_offline_with_one_warning(
    wandb_mode: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    use_wandb_offline_without_account(config(report_to="wandb"))
    assert os.environ["WANDB_MODE"] == "offline"
    [line] = caplog.messages
    assert line.startswith("report_to: wandb records on this machine alone (no API key is known here); to upload, run")
    use_wandb_offline_without_account(config(report_to="wandb"))
    assert len(caplog.messages) == 1


@pytest.mark.slow
def test_a_run_of_wandb_begins_without_an_account(tmp_path: Path) -> None:
    """With the real library, in an interpreter and a home of its own: it reads its settings once."""
    program = (
        "import wandb\n"
        "from tinyzero_trl.training.config import AdaptiveGRPOConfig\n"
        "from tinyzero_trl.training.preflight.trackers import check_trackers, use_wandb_offline_without_account\n"
        "training = AdaptiveGRPOConfig('run', use_cpu=True, bf16=False, report_to='wandb')\n"
        "check_trackers(training)\n"
        "use_wandb_offline_without_account(training)\n"
        "print(wandb.init(project='p').settings.mode)\n"
        "wandb.finish()\n"
    )
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
    environment = {**ours, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "offline" in done.stdout.split(), done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_a_wandb_that_is_too_old_is_named(wandb_mode: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "__version__", "0.22.3")
    with pytest.raises(ValueError, match=r"^report_to: wandb 0\.22\.3 cannot be asked .* pip install 'wandb>=0\.30'"):
        use_wandb_offline_without_account(config(report_to=["wandb"]))


def test_wandb_that_refuses_the_key_or_is_not_reached_records_offline_too(
    wandb_mode: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(prompt: bool) -> bool:
        raise wandb.errors.AuthenticationError("not\nreached")

    monkeypatch.setattr(wandb, "login", refuse)
    use_wandb_offline_without_account(config(report_to=["wandb"]))
    assert os.environ["WANDB_MODE"] == "offline"
    assert "alone (not reached)" in caplog.text


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_that_was_chosen_stays(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(wandb, "login", lambda prompt: pytest.fail("it is not asked"))
    use_wandb_offline_without_account(config(report_to="wandb"))
    assert os.environ["WANDB_MODE"] == mode


def test_an_account_is_used(
    wandb_mode: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    with caplog.at_level(logging.WARNING):
        use_wandb_offline_without_account(config(report_to="wandb"))
    assert "WANDB_MODE" not in os.environ and not caplog.messages


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    path = resolve_model("embedded")
    return load_tokenizer(path), load_model_config(path)


def check_dataset(embedded: tuple[Any, Any], problems: Any) -> None:
    tokenizer, model_config = embedded
    training = config(per_device_train_batch_size=8, num_generations=4, max_completion_length=64)
    check_train_dataset(problems, tokenizer, model_config, training)


def test_from_python_too_a_rollout_needs_enough_problems(embedded: tuple[Any, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"^train_dataset: 1 problems are fewer than the 2 groups of a rollout \(generation"
    ):
        check_dataset(embedded, Dataset.from_dict({"prompt": ["1 + 2"]}))
    check_dataset(embedded, Dataset.from_dict({"prompt": ["1 + 2", "2 + 3"]}))
    check_dataset(embedded, IterableDataset.from_generator(lambda: iter([{"prompt": "1"}])))


def test_the_longest_prompt_decides_wherever_it_stands(embedded: tuple[Any, Any]) -> None:
    tokenizer, model_config = embedded
    positions = model_config.max_position_embeddings
    prompts = ["1 + 2"] * 200 + ["1 " * positions] + ["1 + 2"] * 200
    no_room = rf"^prompts: one of \d+ tokens leaves no room in the model's {positions} positions; shorten it"
    with pytest.raises(ValueError, match=no_room):
        check_dataset(embedded, Dataset.from_dict({"prompt": prompts}))
    with pytest.raises(ValueError, match=no_room):
        check_prompts(prompts, tokenizer, model_config, config(max_completion_length=64))
    prompts[200] = "1 " * (positions // 2 - 5)
    with pytest.raises(ValueError, match=rf"^max_completion_length: 64 tokens after a prompt of \d+ .* {positions}"):
        check_prompts(prompts, tokenizer, model_config, config(max_completion_length=64))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["", None], "'kind' is empty"),
        ([0, 0], "'kind' is empty"),
        (["a"] * 1500, "'kind' is 'a'"),
        ([[1, 2], [1, 2]], "'kind' is [1, 2]"),
        (["a"] * 1500 + ["b"], None),
        (["", "a"], None),
        ([], None),
    ],
)
def test_labels_that_say_nothing_are_a_warning(labels: list[Any], told: str | None, caplog) -> None:
    PartialState()
    window, data = WindowConfig(strategy="group", label_column="kind"), Dataset.from_dict({"kind": labels})
    for training, field in ((config(), "window_label_column"), (GRPOConfig(use_cpu=True, bf16=False), "label_column")):
        caplog.clear()
        warn_of_equal_labels(data.with_format("torch"), window, training)
        assert [f"] {field}: {told} in all training" in line for line in caplog.messages] == [True] * bool(told)


def test_vllm_must_hold_prompt_and_completion(embedded: tuple[Any, Any]) -> None:
    tokenizer, model_config = embedded
    training = config(max_completion_length=64, vllm_max_model_length=66)
    check_prompts(["1 + 2 + 3"], tokenizer, model_config, training)  # without vLLM it means nothing
    training.use_vllm = True
    with pytest.raises(
        ValueError, match=r"^vllm_max_model_length: 66 does not hold a prompt of (\d+) tokens and a comp"
    ):
        check_prompts(["1 + 2 + 3"], tokenizer, model_config, training)
    training.vllm_max_model_length = 500
    check_prompts(["1 + 2 + 3"], tokenizer, model_config, training)


def test_options_of_a_chat_template_must_be_read_by_it() -> None:
    class Tokenizer:
        chat_template = "{% if enable_thinking %}<think>{% endif %}{{ messages }}"

        def apply_chat_template(self, conversation: Any, continue_final_message: bool = False, **kwargs: Any) -> None:
            pass

    chats = [[{"role": "user", "content": "1 + 2"}]]
    for read in (None, {"enable_thinking": False}, {"continue_final_message": True}):
        check_chat_template_kwargs(read, chats, Tokenizer())
    with pytest.raises(ValueError, match=r"^chat_template_kwargs: 'enable_thinkin' has no effect, the model's chat"):
        check_chat_template_kwargs({"enable_thinkin": False}, chats, Tokenizer())
    with pytest.raises(
        ValueError, match=r"^chat_template_kwargs: \{'enable_thinking': False\} has no effect on prompts"
    ):
        check_chat_template_kwargs({"enable_thinking": False}, ["1 + 2"], Tokenizer())


# --- vLLM -------------------------------------------------------------------------------------------------------------


def test_generation_kwargs_are_tried_on_what_vllm_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class SamplingParams:
        stop: list[str]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SamplingParams))
    training = config(generation_kwargs={"stop_strings": ["x"]})
    check_vllm_sampling(training)  # not vLLM's to judge
    training.use_vllm = True
    with monkeypatch.context() as without_vllm, pytest.raises(ValueError, match=r"^use_vllm: true, but vllm cannot be"):
        without_vllm.setitem(sys.modules, "vllm", None)
        check_vllm_sampling(training)
    check_vllm_sampling(training)  # the program hands them on as vLLM's own `stop`
    training.generation_kwargs = {"stop_words": ["x"]}
    with pytest.raises(
        ValueError, match=r"^generation_kwargs: .* is refused by vLLM's SamplingParams \(.*'stop_words'"
    ):
        check_vllm_sampling(training)
    training.generation_kwargs = {"stop": ["x"], "structured_outputs": {"regex": "a"}}
    check_vllm_sampling(training)


# --- DeepSpeed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def deepspeed_file() -> Any:
    """Transformers' reading of a DeepSpeed file; the library itself is not needed for it."""

    class Read(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
        def __init__(self, content: dict[str, Any]) -> None:
            HfDeepSpeedConfig.__init__(self, content)
            self._dtype, self.mismatches = None, []

    def read(content: dict[str, Any], training: AdaptiveGRPOConfig) -> Any:
        configuration = Read(content)
        configuration.trainer_config_process(training)
        return configuration

    return read


def test_a_deepspeed_file_that_contradicts_the_recipe_is_refused(deepspeed_file: Any) -> None:
    training = config(max_steps=4, max_grad_norm=1.0, per_device_train_batch_size=8)
    content = {"gradient_clipping": 0.5, "gradient_accumulation_steps": 3, "train_micro_batch_size_per_gpu": "auto"}
    with pytest.raises(ValueError, match=r"^deepspeed: its configuration is not that of the recipe \(") as said:
        check_deepspeed(deepspeed_file(content, training), training, None)
    assert "gradient_clipping=0.5 there, max_grad_norm=1.0" in str(said.value)
    assert "gradient_accumulation_steps=3 there, gradient_accumulation_steps=1" in str(said.value)
    assert "\n" not in str(said.value)


def test_a_schedule_in_a_deepspeed_file_must_have_the_length_of_the_run(deepspeed_file: Any) -> None:
    training = config(max_steps=4)
    content = {"scheduler": {"params": {"total_num_steps": 9}}}
    with pytest.raises(ValueError, match=r"scheduler\.params\.total_num_steps=9 there, num_training_steps"):
        check_deepspeed(deepspeed_file(content, training), training, None)
    check_deepspeed(deepspeed_file(content, config(max_steps=9)), config(max_steps=9), None)


@pytest.mark.parametrize("steps", [4, -1])
def test_a_deepspeed_file_that_leaves_it_to_the_recipe_is_accepted(deepspeed_file: Any, steps: int) -> None:
    training = config(max_steps=steps)
    content = {"gradient_clipping": "auto", "train_batch_size": "auto", "zero_optimization": {"stage": 2}}
    check_deepspeed(deepspeed_file(content, training), training, None)


# --- the synchronised reference ---------------------------------------------------------------------------------------


def synced(**values: Any) -> Any:
    return SimpleNamespace(
        **{"sync_ref_model": True, "beta": 0.1, "fsdp": None, "deepspeed_plugin": None, "save_strategy": "steps"}
        | values
    )


def test_a_checkpoint_without_the_synchronised_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^sync_ref_model: the synchronised reference is not in '.*', so that .*; start a new run"
    ):
        check_saved_reference(synced(), str(tmp_path))
    check_saved_reference(synced(sync_ref_model=False, beta=0.0), str(tmp_path))
    (tmp_path / REFERENCE).touch()
    check_saved_reference(synced(), str(tmp_path))
    zero3 = SimpleNamespace(zero_stage=3)
    for sharded in ({"fsdp": True}, {"deepspeed_plugin": zero3}):
        with pytest.raises(
            ValueError, match=r"the synchronised reference is not saved under FSDP and DeepSpeed ZeRO-3"
        ):
            check_saved_reference(synced(**sharded), str(tmp_path))
    check_saved_reference(synced(deepspeed_plugin=SimpleNamespace(zero_stage=2)), str(tmp_path))


def test_a_run_that_cannot_be_continued_says_so_when_it_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_saved_reference(synced(), None)
    assert not caplog.messages
    assert shards_weights(synced(), {"ACCELERATE_USE_FSDP": "true"}) and not shards_weights(synced(), {})
    check_saved_reference(synced(fsdp=True), None)
    check_saved_reference(synced(fsdp=True, save_strategy="no"), None)
    [line] = caplog.messages
    assert line.startswith("sync_ref_model: under FSDP and DeepSpeed ZeRO-3 no checkpoint holds the synchronised")
