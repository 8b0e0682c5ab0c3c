"""A trainer of a tiny model whose rollouts are asked for one at a time, at once or in stages."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig

from tests.support.tiny_models import build_tokenizer, save_tiny_model
from tests.support.training import RECIPE
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.generation.engine import SampledBatch
from tinyzero_trl.generation.stages import Stages

PROMPTS = ["1", "1 2 3", "4 4 4 4 4 4", "9 8", "7 unknown words 7", "2 2", "9 9 1", "1 2 3 4"]


def trainer_of(model: Any, folder: Path, processing_class: Any = None, **options: Any) -> AdaptiveGRPOTrainer:
    settings: dict[str, Any] = {name: RECIPE[name] for name in ("num_generations", "bf16", "use_cpu", "report_to")}
    settings |= {"output_dir": str(folder), "max_completion_length": 16, "per_device_train_batch_size": 8}
    settings |= {"gradient_checkpointing": False, "max_steps": 1, "save_strategy": "no", "window_strategy": "fixed"}
    return AdaptiveGRPOTrainer(
        model,
        lambda completions, **_: [float(len(text) % 2) for text in completions],
        AdaptiveGRPOConfig(**settings | options),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=processing_class or build_tokenizer(),
    )


def sampled(trainer: AdaptiveGRPOTrainer) -> list[list[int]]:
    torch.manual_seed(0)
    prompts = [trainer.processing_class(text)["input_ids"] for text in PROMPTS]
    completion_ids, _ = trainer._generate_single_turn(prompts, None, {}, 4)
    return completion_ids


def save_model(workshop: Path) -> None:
    """A model of which some completions end early and others never."""
    folder = save_tiny_model(workshop / "model")
    ends = [build_tokenizer().eos_token_id, 8]  # one that occurs
    GenerationConfig(eos_token_id=ends).save_pretrained(folder)


def greedy_trainer(workshop: Path, **options: Any) -> AdaptiveGRPOTrainer:
    """One whose engine takes the likeliest token, of the model that `save_model` has written."""
    trainer = trainer_of(str(workshop / "model"), workshop, **options)
    if trainer.use_vllm:
        trainer.vllm_generation.temperature = 0.0
    else:
        trainer.generation_config.do_sample = False
    trainer.rollouts.check_stages(trainer.model)
    return trainer


def staged(trainer: Any, ends: tuple[int, ...], leaving: int) -> tuple[list[list[int]], list[SampledBatch]]:
    """Completions of which `leaving` of the unfinished ones stay behind at each end, and what was seen there."""
    seen: list[SampledBatch] = []

    def go_on(batch: SampledBatch) -> list[int] | None:
        seen.append(batch)
        return batch.unfinished[leaving:] or None

    with trainer.rollouts.in_stages(Stages(ends, go_on)):
        return sampled(trainer), seen
