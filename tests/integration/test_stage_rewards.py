"""A reward function that is asked at the end of a stage finds all as if it were asked at the end of the rollout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig

from tests.support.tiny_models import BY_BATCHES, build_model, build_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

IN_STAGES: dict[str, Any] = {"window_strategy": "group", "window_first_stage": 8}
PROMPTS = ["1 2 3", "4 4 4 4", "9 8", "7"]


def trainer_of(folder: Path, rewards: Any, window: dict[str, Any] = IN_STAGES, **options: Any) -> AdaptiveGRPOTrainer:
    settings: dict[str, Any] = {"max_completion_length": 24, "num_generations": 4, "per_device_train_batch_size": 16}
    settings |= {"max_steps": 1, "save_strategy": "no", "logging_steps": 1, "per_device_eval_batch_size": 16}
    settings |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": "none"}
    examples = Dataset.from_dict({"prompt": PROMPTS})
    tokenizer = build_tokenizer()
    return AdaptiveGRPOTrainer(
        build_model(tokenizer),
        rewards,
        AdaptiveGRPOConfig(str(folder), **settings | window | options),
        train_dataset=examples,
        eval_dataset=examples,
        processing_class=tokenizer,
    )


def test_two_trainers_may_share_a_list_of_reward_functions(tmp_path: Path) -> None:
    asked: list[int] = []

    def length(completions: list[str], **_: Any) -> list[float]:
        asked.append(len(completions))
        return [float(len(text)) for text in completions]

    rewards = [length]
    for run in ("first", "second"):
        trainer = trainer_of(tmp_path / run, rewards)
        trainer.train()
        assert rewards == [length]
        assert "rewards/length/mean" in trainer.state.log_history[0]
        assert len(asked) > 1 and sum(asked) == 16, "some completions must finish before the last stage"
        asked.clear()


@pytest.mark.parametrize("interruption", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [2, 3])
def test_an_interrupted_rollout_leaves_no_scores(call: int, interruption: Any, tmp_path: Path) -> None:
    worth, asked = 1.0, []

    def judge(completions: list[str], **_: Any) -> list[float]:
        asked.append(len(completions))
        if worth and len(asked) == call:
            raise interruption
        return [worth] * len(completions)

    trainer = trainer_of(tmp_path, judge)
    with pytest.raises(interruption):
        trainer.train()
    assert sum(asked[:-1]) > 0
    worth = 0.0
    asked.clear()
    assert trainer.evaluate()["eval/acc"] == 0 and asked == [16]
    asked.clear()
    trainer.train()
    assert sum(asked) == 16 and trainer.state.log_history[-2]["reward"] == 0


def test_an_interrupted_asynchronous_function_leaves_no_scores(tmp_path: Path) -> None:
    worth, asked = 1.0, []

    async def judge(completions: list[str], **_: Any) -> list[float]:
        asked.append(len(completions))
        if worth and len(asked) == 2:
            raise TimeoutError
        return [worth] * len(completions)

    trainer = trainer_of(tmp_path, judge)
    with pytest.raises(TimeoutError):
        trainer.train()
    worth = 0.0
    asked.clear()
    assert trainer.evaluate()["eval/acc"] == 0 and asked == [16]


@pytest.mark.parametrize("window", [IN_STAGES, {"window_strategy": "fixed"}], ids=["group", "fixed"])
def test_an_interrupted_rollout_leaves_nothing_logged(window: dict[str, Any], tmp_path: Path) -> None:
    worth = 1.0

    def judge(completions: list[str], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
        log_extra("reason", [f"worth {worth}"] * len(completions))
        log_metric("worth", worth)
        return [worth] * len(completions)

    def fails_once(completions: list[str], **_: Any) -> list[float]:
        if worth:
            raise TimeoutError
        return [0.0] * len(completions)

    trainer = trainer_of(tmp_path, [judge, fails_once], window)
    with pytest.raises(TimeoutError):
        trainer.train()
    worth = 0.0
    trainer.evaluate()
    assert trainer.state.log_history[-1]["eval_worth"] == 0
    assert {sample["reason"] for sample in trainer._scored.samples} == {"worth 0.0"}


# --- what the function finds ------------------------------------------------------------------------------------------

PROBES = {"window_strategy": "signal", "window_probe_group_every": 2, "window_probe_every": 1, "window_initial": 12}
ENGINES = [
    pytest.param({}, id="generate"),
    pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
    pytest.param({"engine": "tinyzero_trl.generation.transformers_engine:TransformersEngine"}, id="registered"),
    pytest.param(BY_BATCHES, id="continuous", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stages", [IN_STAGES, PROBES], ids=["group", "signal"])
def test_the_trainer_is_as_it_is_after_a_rollout(
    stages: dict[str, Any], engine: dict[str, Any], tmp_path: Path
) -> None:
    found: list[dict[str, Any]] = []

    def look(completions: list[str], **_: Any) -> list[float]:
        model = trainer.model
        found.append(
            {
                "gradients": torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
                "training": model.training,
                "own methods": {"generate", "generate_batch"} & set(vars(model)),
                "settings": model.generation_config.to_diff_dict(),
                "attention": model.config._attn_implementation,
                "checkpointing": model.is_gradient_checkpointing,
            }
        )
        return [1.0] * len(completions)

    for window in ({"window_strategy": "fixed"}, stages):
        trainer = trainer_of(tmp_path, look, window, max_steps=2, **engine)
        trainer.train()
    expected, *others = found
    assert expected["gradients"] and len(others) > 3
    assert all(each == expected for each in others)


def test_a_reward_function_may_sample_from_the_policy(tmp_path: Path) -> None:
    """Greedily, so that the rollout has the same random numbers as without."""
    rollouts: list[list[str]] = []

    def plain(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    def judge(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        tokenizer = trainer.processing_class
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        settings = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        judged = trainer.model.generate(**arguments, generation_config=settings)
        assert judged.shape == (len(texts), inputs["input_ids"].size(1) + 2)
        asked.extend(completions)
        return [0.0] * len(completions)

    def rollout(completions: list[str], **_: Any) -> list[float]:
        rollouts.append(completions)
        return [0.0] * len(completions)

    for first in (plain, judge):
        asked: list[str] = []
        trainer = trainer_of(tmp_path, [first, rollout])
        trainer.train()
    assert rollouts[0] == rollouts[1]
    assert sorted(asked) == sorted(rollouts[1])


def test_a_reward_function_may_learn(tmp_path: Path) -> None:
    discriminator = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(discriminator.parameters(), 1e-3)
    steps = 0

    def judge(completions: list[str], **_: Any) -> list[float]:
        nonlocal steps
        scores = discriminator(torch.tensor([[len(text) / 100] for text in completions]))
        optimizer.zero_grad()
        scores.square().mean().backward()
        optimizer.step()
        steps += 1
        return scores.flatten().tolist()

    trainer_of(tmp_path, judge).train()
    assert steps > 1
