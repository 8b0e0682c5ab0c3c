"""Warm start: supervised training of the embedded model on search traces, before any reinforcement learning.

The embedded model is a Qwen2 of about one million parameters with few key-value heads, so that a laptop's CPU generates
thousands of tokens per second. Its teacher is able but impatient: it searches well, and gives up after any line with
probability `IMPATIENCE`, so that about half of the traces end in a wrong answer. So the model has good and bad habits,
as larger base models have, and reinforcement learning has something to choose from: those who go on thinking win.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from tinyzero_trl.data import train_test_problems
from tinyzero_trl.generation import generate_completions
from tinyzero_trl.tasks import Problem, get_task
from tinyzero_trl.tinymodel.tokenizer import build_tokenizer
from tinyzero_trl.tinymodel.traces import countdown_trace, multiplication_trace

MAX_POSITIONS = 1024
BATCH_TRACES = 16
STEPS = 2250
IMPATIENCE = 0.12
_BUCKET_BATCHES = 16


@dataclass(frozen=True)
class TinyTask:
    """The problems of one task that the embedded model is made for: the tiny recipes draw from the same split."""

    name: str
    share: float
    write_trace: Callable[[Problem, random.Random], str | None]
    train_size: int
    test_size: int
    generator_options: dict[str, Any]

    def split(self) -> tuple[list[Problem], list[Problem]]:
        """Train and held-out problems, disjoint."""
        return train_test_problems(
            self.name, train_size=self.train_size, test_size=self.test_size, seed=0, **self.generator_options
        )


COUNTDOWN = TinyTask(
    "countdown", 0.9, partial(countdown_trace, impatience=IMPATIENCE), 2400, 512, {"operands": (3,), "max_number": 12}
)
MULTIPLICATION = TinyTask("multiplication", 0.1, multiplication_trace, 3000, 512, {"digits": (2,)})

TASKS = (COUNTDOWN, MULTIPLICATION)


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of about one million parameters, fp32."""
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def traces(*, seed: int) -> Iterator[dict[str, str]]:
    """An endless stream of `prompt` and `completion`: fresh traces of the training problems of both tasks.

    Held-out problems never occur; problems that the integer search cannot solve are passed over.
    """
    generator = random.Random(seed)
    problems = {task.name: task.split()[0] for task in TASKS}
    shares = [task.share for task in TASKS]
    while True:
        [task] = generator.choices(TASKS, shares)
        problem = generator.choice(problems[task.name])
        completion = task.write_trace(problem, generator)
        if completion is not None:
            yield {"prompt": str(get_task(task.name).render_prompt(problem, "base")), "completion": completion}


def trace_dataset(batches: int, *, seed: int) -> Dataset:
    """`batches` x `BATCH_TRACES` rows in training order; a batch's traces are about equally long, to pad little.

    The first batches are the same however many are asked for.
    """
    generator = random.Random(seed)
    stream = traces(seed=seed)
    rows: list[dict[str, str]] = []
    while len(rows) < batches * BATCH_TRACES:
        bucket = sorted((next(stream) for _ in range(_BUCKET_BATCHES * BATCH_TRACES)), key=_length)
        starts = list(range(0, len(bucket), BATCH_TRACES))
        generator.shuffle(starts)
        rows += [row for start in starts for row in bucket[start : start + BATCH_TRACES]]
    return Dataset.from_list(rows[: batches * BATCH_TRACES])


def _length(row: dict[str, str]) -> int:
    return len(row["completion"])


def warm_start(
    out: str | Path,
    *,
    steps: int = STEPS,
    learning_rate: float = 2e-3,
    seed: int = 0,
    show_progress: bool = True,
) -> Path:
    """Train the embedded model from scratch and save model and tokenizer to `out`.

    Args:
        out: Folder to write, loadable with `AutoModelForCausalLM.from_pretrained`.
        steps: Optimizer steps of `BATCH_TRACES` traces, about 130 tokens each.
        learning_rate: Of AdamW, after a warm-up of 100 steps; constant, so that fewer steps give an earlier stage of
            the same model.
        seed: Decides weights, traces and their order.
        show_progress: Whether to draw a progress bar.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1; give the optimizer steps to train for, such as {STEPS}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: {seed} is outside 0 to {2**32 - 1}; choose one between them")
    if Path(out).is_file():
        raise ValueError(f"out: {str(out)!r} is a file; name a folder")
    tokenizer = build_tokenizer()
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=BATCH_TRACES,
        train_sampling_strategy="sequential",
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=100,
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=MAX_POSITIONS,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=not show_progress,
    )
    trainer = SFTTrainer(
        model=build_model(tokenizer, seed=seed),
        args=arguments,
        train_dataset=trace_dataset(steps, seed=seed),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(out))
    return Path(out)


@dataclass(frozen=True)
class HeldOut:
    """How a model answers one task's held-out problems, sampled once each at temperature 1."""

    task: str
    problems: int
    accuracy: float
    mean_length_tokens: float
    truncated_frac: float


def held_out(model_path: str | Path, *, problems: int = 256, max_completion_length: int = 256) -> list[HeldOut]:
    """Measure a model on the first held-out problems of each tiny task."""
    model = AutoModelForCausalLM.from_pretrained(model_path)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    return [_held_out(model, tokenizer, task, problems, max_completion_length) for task in TASKS]


def _held_out(model: Any, tokenizer: Any, task: TinyTask, problems: int, max_completion_length: int) -> HeldOut:
    room, asked = get_task(task.name), task.split()[1][:problems]
    completions = generate_completions(
        model,
        tokenizer,
        [room.render_prompt(problem, "base") for problem in asked],
        max_completion_length=max_completion_length,
        temperature=1.0,
        batch_size=256,
    )
    verdicts = [
        room.score(written.text, problem.numbers, problem.target)
        for problem, written in zip(asked, completions, strict=True)
    ]
    return HeldOut(
        task=task.name,
        problems=len(asked),
        accuracy=sum(verdict.reward for verdict in verdicts) / len(asked),
        mean_length_tokens=sum(written.length_tokens for written in completions) / len(asked),
        truncated_frac=sum(written.truncated for written in completions) / len(asked),
    )
