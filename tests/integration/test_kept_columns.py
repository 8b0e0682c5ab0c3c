"""With `remove_unused_columns` the columns that the window policy and the records read stay, and no others."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer


def test_labels_and_difficulties_are_not_removed(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def is_even(completions: list[str], **columns: Any) -> list[float]:
        seen.append({name for name in columns if name in ("kind", "difficulty", "unread")})
        return [float(len(text) % 2 == 0) for text in completions]

    prompts = ["1 2 3", "4 4 4 4", "9 8", "7"]
    columns = {"kind": ["a", "a", "b", "b"], "difficulty": [3, 3, 2, 1], "unread": ["x"] * 4}
    examples = Dataset.from_dict({"prompt": prompts, **columns})
    settings: dict[str, Any] = {"max_completion_length": 24, "num_generations": 4, "per_device_train_batch_size": 16}
    settings |= {"max_steps": 1, "save_strategy": "no", "per_device_eval_batch_size": 16, "remove_unused_columns": True}
    settings |= {"window_strategy": "group", "window_first_stage": 8, "window_label_column": "kind"}
    settings |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": "none"}
    tokenizer = build_tokenizer()
    trainer = AdaptiveGRPOTrainer(
        build_model(tokenizer),
        is_even,
        AdaptiveGRPOConfig(str(tmp_path), **settings),
        train_dataset=examples,
        eval_dataset=examples,
        processing_class=tokenizer,
    )
    labels: list[str] = []
    policy, observe = trainer.window_callback.policy, trainer.window_callback.policy.observe
    policy.observe = lambda observation: [labels.extend(observation.labels), observe(observation)]  # type: ignore
    trainer.train()
    assert sorted(labels) == ["a"] * 8 + ["b"] * 8
    [line] = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line[f"difficulty/{label}_count"] for label in (1, 2)} == {4} and line["difficulty/3_count"] == 8
    assert "eval/2_acc" in trainer.evaluate()
    assert all(each == {"kind", "difficulty"} for each in seen)
