"""A reward function that is asked at the end of a stage finds all as if it were asked at the end of the rollout."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

IN_STAGES = {"window_strategy": "group", "window_first_stage": 8}
PROMPTS = ["1 2 3", "4 4 4 4", "9 8", "7"]


def trainer_of(folder: Path, rewards: Any, **options: Any) -> AdaptiveGRPOTrainer:
    settings: dict[str, Any] = {"max_completion_length": 24, "num_generations": 4, "per_device_train_batch_size": 16}
    settings |= {"max_steps": 1, "save_strategy": "no", "logging_steps": 1, "per_device_eval_batch_size": 16}
    settings |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": "none"}
    examples = Dataset.from_dict({"prompt": PROMPTS})
    tokenizer = build_tokenizer()
    return AdaptiveGRPOTrainer(
        build_model(tokenizer),
        rewards,
        AdaptiveGRPOConfig(str(folder), **settings | IN_STAGES | options),
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
