"""One measurement of `against_trl.py`: a trainer, a planned batch, a few steps; seconds and bytes."""

import argparse
import hashlib
import json
import math
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from gpu.part import now, prompts_of_countdown
from seen_completions import SeenCompletions
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from tinyzero_trl.generation import interception
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.models.toy.tokenizer import build_tokenizer
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps in this process; seconds and bytes of the measured ones."""
    lengths, rewards = planned_batch(args.scenario, args.rows, args.max_completion_length, args.num_generations)
    seen = SeenCompletions()
    trainer = build_trainer(args, seen.recording(rewards))
    parameters = sum(value.numel() for value in trainer.model.parameters())
    end_at_planned_lengths(trainer, lengths)
    clock = Clock(trainer, args.profile)
    on_cuda = trainer.accelerator.device.type == "cuda"
    held_bytes = torch.cuda.memory_allocated() if on_cuda else resident_bytes()
    trainer.train()
    peak_bytes = torch.cuda.max_memory_allocated() if on_cuda else peak_resident_bytes()
    rollout_s, step_s = median(clock.rollout_s[1:]), median(clock.step_s[1:])
    tokens = seen.processed_tokens(lengths, rewards, trainer, args.num_generations)
    tflops = tera_operations(parameters, tokens) / (step_s - rollout_s)
    return {
        "rollout_s": rollout_s,
        "optimize_s": step_s - rollout_s,
        "step_s": step_s,
        "memory_bytes": peak_bytes - held_bytes,
        "tokens_per_s": sum(lengths) / step_s,
        "optimize_tflops": tflops,
        **({"mfu": tflops / args.peak_tflops} if args.peak_tflops else {}),
        "lengths_digest": digest(seen.lengths),
        "first_rollout_digest": digest(seen.first_rollout),
    }


def planned_batch(scenario: str, rows: int, longest: int, num_generations: int) -> tuple[list[int], list[float]]:
    """Length and reward of each place in the batch."""
    if scenario == "flat":
        return [longest] * rows, [float(place % 2) for place in range(rows)]
    # Quantiles of an exponential distribution, cut at the maximum: its mean is 0.38 of it.
    quantiles = [-math.log1p(-(place + 0.5) / rows) * 0.42 for place in range(rows)]
    lengths = [min(longest, max(2, round(quantile * longest))) for quantile in quantiles]
    random.Random(0).shuffle(lengths)
    return lengths, [float(place % 2 and place // num_generations % 2) for place in range(rows)]


def tera_operations(parameters: int, tokens: float) -> float:
    """10^12 operations: a forward pass takes 2 and a backward pass 4 for each parameter and token without padding."""
    return 6 * parameters * tokens / 1e12


def trainer_settings(
    folder: str,
    *,
    steps: int,
    rows: int,
    micro_rows: int,
    num_generations: int,
    max_completion_length: int,
    loss_type: str,
) -> dict[str, Any]:
    """What all trainers that are compared have: one step to warm up and `steps` measured ones, bfloat16 on a GPU."""
    on_cuda = torch.cuda.is_available()
    return {
        "output_dir": folder,
        "max_steps": 1 + steps,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": rows // micro_rows,
        "num_generations": num_generations,
        "max_completion_length": max_completion_length,
        "loss_type": loss_type,
        "learning_rate": 1e-6,
        "use_cpu": not on_cuda,
        "bf16": on_cuda,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 0,
    }


def build_trainer(args: argparse.Namespace, reward: Callable[..., list[float]]) -> Any:
    directory = tempfile.mkdtemp(prefix="against-trl-")
    path = resolve(args.model, directory)
    settings = trainer_settings(
        directory,
        steps=args.steps,
        rows=args.rows,
        micro_rows=args.micro_batch_rows,
        num_generations=args.num_generations,
        max_completion_length=args.max_completion_length,
        loss_type=args.loss_type,
    )
    shared: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        "reward_funcs": reward,
        "train_dataset": Dataset.from_dict({"prompt": prompts_of_countdown(args.rows)}),
        "processing_class": AutoTokenizer.from_pretrained(path, padding_side="left"),
    }
    if args.worker == "stock":
        return GRPOTrainer(args=GRPOConfig(**settings), **shared)
    budget = args.max_tokens_per_micro_batch
    config = AdaptiveGRPOConfig(**settings, max_tokens_per_micro_batch=budget, window_strategy="fixed")
    return AdaptiveGRPOTrainer(args=config, **shared)


def resolve(name: str, directory: str) -> str:
    """A folder or id to load from; untrained weights are written first."""
    if not name.startswith("random:"):
        return resolve_model(name)
    width, layers = map(int, name.removeprefix("random:").split("x"))
    tokenizer = build_tokenizer()
    heads = max(1, width // 64)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def end_at_planned_lengths(trainer: Any, lengths: list[int]) -> None:
    """Let the row in place i end after `lengths[i]` tokens, neither before nor after; all else is greedy decoding.

    Greedy, because rows that leave the batch change which random numbers the others meet.
    """
    trainer.generation_config.do_sample = False
    end = trainer.processing_class.eos_token_id
    last_tokens = torch.tensor(lengths, device=trainer.accelerator.device) - 1

    class EndAtPlannedLength(LogitsProcessor):
        def __init__(self, rows: Sequence[int], prompt_width: int) -> None:
            self.last_tokens, self.prompt_width = last_tokens[list(rows)], prompt_width

        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
            ends = (self.last_tokens <= input_ids.size(1) - self.prompt_width).unsqueeze(1)
            is_end = torch.arange(scores.size(1), device=scores.device) == end
            return scores.masked_fill(ends != is_end, -torch.inf)

    def planned(prompt_width: int, rows: Sequence[int]) -> LogitsProcessorList:
        return LogitsProcessorList([EndAtPlannedLength(rows, prompt_width)])

    if isinstance(trainer, AdaptiveGRPOTrainer):
        compacting = interception.compacting_generate

        def compacting_planned(model: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            return compacting(model, input_ids, processors_for=partial(planned, input_ids.size(1)), **kwargs)

        setattr(interception, "compacting_generate", compacting_planned)  # noqa: B010
        return
    generate = trainer.model.generate

    def generate_planned(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        processors = planned(input_ids.size(1), range(len(lengths)))
        return generate(input_ids=input_ids, logits_processor=processors, **kwargs)

    trainer.model.generate = generate_planned


class Clock:
    """Seconds of each optimizer step and of the rollout in it."""

    def __init__(self, trainer: Any, profile: Path | None) -> None:
        self.rollout_s: list[float] = []
        self.step_s: list[float] = []
        roll_out = trainer._generate_and_score_completions
        profiler = Profiler(profile, after_steps=trainer.args.max_steps - 1)

        def timed_rollout(inputs: Any) -> Any:
            started_at = now()
            output = roll_out(inputs)
            self.rollout_s.append(now() - started_at)
            profiler.rollout_ended(len(self.step_s))
            return output

        trainer._generate_and_score_completions = timed_rollout
        clock = self

        class StepTimer(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.started_at = now()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.step_s.append(now() - self.started_at)
                profiler.step_ended(len(clock.step_s))

        trainer.add_callback(StepTimer())


class Profiler:
    """The torch profiler around the optimization phase of the last step, if a file is named for its table."""

    def __init__(self, path: Path | None, after_steps: int) -> None:
        self.path, self.after_steps = path, after_steps
        self.profile: Any = None

    def rollout_ended(self, steps_done: int) -> None:
        """Begin, if the step that starts now is the last."""
        if self.path and steps_done == self.after_steps:
            self.profile = torch.profiler.profile()
            self.profile.__enter__()

    def step_ended(self, steps_done: int) -> None:
        """Write the table, if that was the last step."""
        if self.path and self.profile and steps_done > self.after_steps:
            self.profile.__exit__(None, None, None)
            self.path.write_text(self.profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
