"""Warm start: supervised training of a small model on search traces, before any reinforcement learning."""

import logging
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from tinyzero_trl.models.toy.curricula import Curriculum, TrainingPhase
from tinyzero_trl.models.toy.tokenizer import build_tokenizer
from tinyzero_trl.runs.earlier import MODEL_FILES, move_aside
from tinyzero_trl.runs.records import ENVIRONMENT, METRICS
from tinyzero_trl.tasks import get_task

logger = logging.getLogger(__name__)

_BUCKET_BATCHES = 16


def build_model(tokenizer: PreTrainedTokenizerFast, curriculum: Curriculum, *, seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of the curriculum's shape, fp32."""
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=curriculum.hidden_size,
        intermediate_size=4 * curriculum.hidden_size,
        num_hidden_layers=curriculum.layers,
        num_attention_heads=curriculum.attention_heads,
        num_key_value_heads=curriculum.key_value_heads,
        max_position_embeddings=curriculum.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def traces(curriculum: Curriculum, phase: TrainingPhase, *, seed: int) -> Iterator[dict[str, str]]:
    """An endless stream of `prompt` and `completion`: fresh traces of the training problems of all tasks.

    Held-out problems never occur; problems that the integer search cannot solve are passed over.
    """
    generator = random.Random(seed)
    odds = {"give_up_probability": phase.give_up_probability, "loop_probability": phase.loop_probability}
    problems = {task.name: task.problems_of(phase) for task in curriculum.tasks}
    shares = [task.share for task in curriculum.tasks]
    while True:
        [task] = generator.choices(curriculum.tasks, shares)
        problem = generator.choice(problems[task.name])
        completion = task.write_trace(problem, generator, **odds)
        if completion is not None:
            yield {"prompt": str(get_task(task.name).prompt(problem.example, "base")), "completion": completion}


def trace_dataset(batches: int, curriculum: Curriculum, phase: TrainingPhase, *, seed: int) -> Dataset:
    """`batches` x `batch_traces` rows in training order; a batch's traces are about equally long, to pad little.

    The first batches are the same however many are asked for.
    """
    generator = random.Random(seed)
    stream = traces(curriculum, phase, seed=seed)
    size = curriculum.batch_traces
    rows: list[dict[str, str]] = []
    while len(rows) < batches * size:
        bucket = sorted((next(stream) for _ in range(_BUCKET_BATCHES * size)), key=lambda row: len(row["completion"]))
        starts = list(range(0, len(bucket), size))
        generator.shuffle(starts)
        rows += [row for start in starts for row in bucket[start : start + size]]
    return Dataset.from_list(rows[: batches * size])


def tokenized(rows: dict[str, list[str]], *, tokenizer: PreTrainedTokenizerFast) -> dict[str, list[list[int]]]:
    """Rows as `SFTTrainer` takes them. An end token follows an answer alone: a loop has no end."""
    prompts, completions = (tokenizer(rows[part])["input_ids"] for part in ("prompt", "completion"))
    for text, completion in zip(rows["completion"], completions, strict=True):
        if text.endswith("</answer>"):
            completion.append(tokenizer.eos_token_id)
    pairs = list(zip(prompts, completions, strict=True))
    return {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs],
    }


def warm_start(out: str | Path, curriculum: Curriculum, *, seed: int = 0, show_progress: bool) -> Path:
    """Train a model from scratch and save model and tokenizer to `out`; another model that is there is moved aside.

    Args:
        out: Folder to write, loadable with `AutoModelForCausalLM.from_pretrained`.
        curriculum: The model's shape and its training phases, one after the other.
        seed: Decides weights, traces and their order.
        show_progress: Whether to draw progress bars.

    Raises:
        ValueError: a seed out of range, a file where the folder should be, or the folder of a training run.
    """
    largest_seed = 2**32 - len(curriculum.phases)
    if not 0 <= seed <= largest_seed:
        raise ValueError(f"seed: {seed} is outside 0 to {largest_seed}; choose one between them")
    if Path(out).is_file():
        raise ValueError(f"out: {str(out)!r} is a file; name a folder")
    if any((Path(out) / name).exists() for name in (ENVIRONMENT, METRICS, f"{METRICS}.gz")):
        raise ValueError(f"out: {str(out)!r} is the folder of a training run; name another folder")
    tokenizer = build_tokenizer(curriculum.tokenizer_tasks)
    model = build_model(tokenizer, curriculum, seed=seed)
    for number, phase in enumerate(curriculum.phases):
        _train_phase(model, tokenizer, curriculum, phase, out, seed=seed + number, show_progress=show_progress)
    if former := {path.name for pattern in MODEL_FILES for path in Path(out).glob(pattern)}:
        aside = move_aside(Path(out), former)
        logger.warning("out: another model was in %s; it lies in %s now", out, aside)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Path(out)


def _train_phase(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    curriculum: Curriculum,
    phase: TrainingPhase,
    out: str | Path,
    *,
    seed: int,
    show_progress: bool,
) -> None:
    """One phase, on the model itself: AdamW, with a warm-up over 100 steps and a linear decay in the end."""
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=phase.steps,
        per_device_train_batch_size=curriculum.batch_traces,
        train_sampling_strategy="sequential",
        learning_rate=phase.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, round(phase.decay * phase.steps)), "decay_type": "linear"},
        warmup_steps=min(100, phase.steps // 5),
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=curriculum.longest_row,
        completion_only_loss=True,
        gradient_checkpointing=not curriculum.on_cpu,  # a batch of the longest rows would fill 24 GiB
        bf16=runs_on_gpu(curriculum),
        use_cpu=curriculum.on_cpu,
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=not show_progress,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=trace_dataset(phase.steps, curriculum, phase, seed=seed).map(
            partial(tokenized, tokenizer=tokenizer), batched=True, remove_columns=["prompt", "completion"]
        ),
        processing_class=tokenizer,
    )
    trainer.train()


def runs_on_gpu(curriculum: Curriculum) -> bool:
    """Whether this curriculum is trained on a GPU here."""
    return torch.cuda.is_available() and not curriculum.on_cpu
