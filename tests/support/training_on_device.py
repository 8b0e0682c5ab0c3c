"""Trainings on the device of `other_device`, or on the CPU: prints the figures of each, or runs the program there.

python -m tests.support.training_on_device other|cpu figures
python -m tests.support.training_on_device other|cpu program ARGUMENTS OF TINYZERO-TRL
"""

import json
import sys
import tempfile
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from tests.support import other_device
from tests.support.fixed_rollouts import PROMPTS, tiny_model_path, tiny_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer, WindowConfig, WindowController
from tinyzero_trl.commands.main import main
from tinyzero_trl.models import loading

STAGES = {"window_strategy": "group", "window_first_stage": 6, "window_min_groups": 1, "window_label_column": "kind"}
TRAININGS: dict[str, dict[str, Any]] = {
    "signal": {},
    "group": STAGES,
    "packed in parts, with a reference": {"padding_free": True, "max_tokens_per_micro_batch": 64, "beta": 0.1},
    "two updates of a rollout": {"num_iterations": 2, "max_steps": 4, "gradient_accumulation_steps": 2},
    "a synchronised reference": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    "checkpointed activations": {"gradient_checkpointing": True},
    "the tokens of most entropy": {"top_entropy_quantile": 0.5, "importance_sampling_level": "sequence"},
    "cut completions left out": {"mask_truncated_completions": True, "loss_type": "grpo", "compute_eval_loss": True},
    "an adapter": {"beta": 0.1, "peft_config": LoraConfig(task_type="CAUSAL_LM")},
    "stock TRL": {"controller": {"strategy": "signal"}},
    "groups on stock TRL": {"controller": {"strategy": "group", "first_stage": 6, "min_groups": 1}},
}
SETTINGS: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 4}
SETTINGS |= {"max_completion_length": 24, "max_steps": 3, "learning_rate": 0.01, "save_strategy": "no", "seed": 3}
SETTINGS |= {"report_to": [], "bf16": False, "disable_tqdm": True, "logging_steps": 1, "gradient_checkpointing": False}


def parity(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids) % 2) for ids in completion_ids]


def figures_of(
    peft_config: Any = None, controller: dict[str, Any] | None = None, **settings: Any
) -> list[dict[str, float]]:
    """What a training and an evaluation log, without times."""
    kinds = AdaptiveGRPOTrainer, AdaptiveGRPOConfig
    trainer_class, config_class = (GRPOTrainer, GRPOConfig) if controller else kinds
    rows = Dataset.from_dict({"prompt": PROMPTS * 8, "kind": ["a", "b"] * 2 * 8})
    trainer: Any = trainer_class(
        tiny_model_path(),
        parity,
        config_class(tempfile.mkdtemp(), **SETTINGS | settings),
        train_dataset=rows,
        eval_dataset=rows.select(range(2)),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )
    if controller:
        WindowController(WindowConfig(**controller)).attach(trainer)
    trainer.train()
    trainer.evaluate()
    timed = ("time", "per_second")
    return [
        {name: value for name, value in line.items() if not any(word in name for word in timed)}
        for line in trainer.state.log_history
    ]


def use_other_device() -> None:
    """Let Accelerate, Transformers and our own loading take the other device where they would take the first GPU."""
    device = other_device.register()

    def of_arguments(arguments: TrainingArguments) -> torch.device:
        _ = arguments._setup_devices
        return device

    patch.object(PartialState, "default_device", property(lambda _: device)).start()
    patch.object(TrainingArguments, "device", property(of_arguments)).start()
    patch.object(TrainingArguments, "n_gpu", property(lambda _: 1)).start()
    patch.object(loading, "default_device", lambda: device).start()


if __name__ == "__main__":
    place, what, *arguments = sys.argv[1:]
    if place == "other":
        use_other_device()
    if what == "program":
        sys.exit(main(arguments))
    print(json.dumps({name: figures_of(use_cpu=place == "cpu", **each) for name, each in TRAININGS.items()}))
