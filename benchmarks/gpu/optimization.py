"""The optimization phase alone, on completions that are given: stock TRL, ours padded, ours without padding."""

import argparse
import re
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from measured_trainer import Clock, planned_batch, tera_operations, trainer_settings
from seen_completions import SeenCompletions
from transformers import Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, ModelConfig

from gpu.part import Size, prompts_of_countdown, run_part, untrained
from tinyzero_trl.commands.planning.memory import GIB, RESERVED, Workload, memory_plan
from tinyzero_trl.commands.planning.shape import model_shape
from tinyzero_trl.models.loading import default_device
from tinyzero_trl.models.varlen import TORCH_VARLEN
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

TRAINERS = ("stock", "padded", "padding_free")
GROUP = 8
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "L4": 121, "B200": 2250}
"""Dense bfloat16 operations per second, in units of 1e12, from NVIDIA's data sheets; the H100 is the SXM version."""


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds of a step without its rollout, TFLOP/s, and peak memory beside what `plan` foresees."""
    lengths, rewards = planned_batch(args.scenario, size.rows, size.length, GROUP)
    config, tokenizer, folder = untrained(size)
    torch.manual_seed(0)
    with default_device():
        model = Qwen2ForCausalLM(config)
    model.config._name_or_path = folder
    draw = torch.Generator().manual_seed(1)
    end = tokenizer.eos_token_id
    completions = [[*torch.randint(50, 250, (length - 1,), generator=draw).tolist(), end] for length in lengths]

    def given(prompts: list[str], trainer: Any) -> dict[str, Any]:
        logprobs = [[0.0] * len(ids) for ids in completions]
        return {"prompt_ids": tokenizer(prompts).input_ids, "completion_ids": completions, "logprobs": logprobs}

    seen = SeenCompletions()
    prompts = prompts_of_countdown(size.rows)
    settings = trainer_settings(
        folder,
        steps=size.steps,
        rows=size.rows,
        micro_rows=size.micro_rows,
        num_generations=GROUP,
        max_completion_length=size.length,
        loss_type="dapo",
    )
    shared: dict[str, Any] = {
        "model": model,
        "reward_funcs": seen.recording(rewards),
        "train_dataset": Dataset.from_dict({"prompt": prompts}),
        "processing_class": tokenizer,
        "rollout_func": given,
    }
    trainer: Any
    if args.trainer == "stock":
        trainer = GRPOTrainer(args=GRPOConfig(**settings), **shared)
    else:
        ours: dict[str, Any] = {"max_tokens_per_micro_batch": size.budget, "window_strategy": "fixed"}
        is_free = args.trainer == "padding_free"
        trainer = AdaptiveGRPOTrainer(args=AdaptiveGRPOConfig(**settings, **ours, padding_free=is_free), **shared)
        assert (model.config._attn_implementation == TORCH_VARLEN) == is_free, "see the log for the reason"
    clock = Clock(trainer, None)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    seconds = median(step - rollout for step, rollout in zip(clock.step_s[1:], clock.rollout_s[1:], strict=True))
    tokens = seen.processed_tokens(lengths, rewards, trainer, GROUP)
    tflops = tera_operations(model.num_parameters(), tokens) / seconds
    prompt_tokens = max(len(ids) for ids in tokenizer(prompts).input_ids)
    return {
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "optimize_s": seconds,
        "tflops": tflops,
        **share_of_peak(tflops),
        **memory(size, folder, prompt_tokens, args.trainer),
        "grad_norms": [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line],
    }


def share_of_peak(tflops: float) -> dict[str, float]:
    """`mfu` where the card's peak is known."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = [peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", card)]
    return {"mfu": tflops / peaks[0]} if peaks else {}


def memory(size: Size, folder: str, prompt_tokens: int, trainer: str) -> dict[str, float]:
    """The device's peak, and what `tinyzero-trl plan` would have said, in GiB; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    work = Workload(
        shape=model_shape(ModelConfig(model_name_or_path=folder)),
        way="single_gpu",
        gpus=1,
        gpu_memory=torch.cuda.get_device_properties(0).total_memory,
        prompt_tokens=prompt_tokens,
        max_completion_length=size.length,
        per_device_train_batch_size=size.micro_rows,
        rollout_rows=size.rows,
        max_tokens_per_micro_batch=None if trainer == "stock" else size.budget,
        gradient_checkpointing=False,
        weight_bytes=4,
        is_half=True,
        optimizer="adamw_torch",
        beta=0.0,
        use_vllm=False,
    )
    plan = memory_plan(work)
    planned = sum(plan.states.values()) - RESERVED + sum(plan.update.values())
    return {"peak_gib": torch.cuda.max_memory_allocated() / GIB, "planned_gib": planned / GIB}


if __name__ == "__main__":
    run_part(
        __doc__,
        measure,
        trainer={"choices": TRAINERS, "required": True},
        scenario={"choices": ("long_tail", "flat"), "required": True},
    )
