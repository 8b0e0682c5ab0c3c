"""Warm start: supervised training of the embedded model on search traces, before any reinforcement learning.

The embedded model is a Qwen2 of about one million parameters with few key-value heads, so that a laptop's CPU generates
thousands of tokens per second. Its teachers search three numbers well, but after any line without success they may give
up (impatience). Of four numbers they make nothing, and often get stuck there for good (bewilderment). So the model has
good and bad habits, as larger base models have: it can learn to go on searching where that wins, and on problems that
are beyond it, it burns tokens to the limit, which no reward teaches it to stop. Lengths have the heavy tail that
rollouts of real models have.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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

MAX_POSITIONS = 2048
BATCH_TRACES = 16
LONGEST_ROW = 528
"""Prompt and trace, in tokens; longer traces are cut there, without an end."""
_BUCKET_BATCHES = 16


@dataclass(frozen=True)
class Lesson:
    """Optimizer steps of `BATCH_TRACES` traces each, and the habits of the teacher who writes them.

    `decay` is the share of the steps over which the learning rate falls to zero; the habits are those of
    `countdown_trace`, `operands` the operand counts of the Countdown problems.
    """

    steps: int
    learning_rate: float
    decay: float
    impatience: float
    bewilderment: float
    operands: tuple[int, ...]


# The first lesson is arithmetic and search, the second bad habits: giving up, and dots in the face of four numbers.
LESSONS = (
    Lesson(steps=2000, learning_rate=2e-3, decay=0.2, impatience=0.06, bewilderment=0, operands=(3,)),
    Lesson(steps=800, learning_rate=1e-3, decay=0.7, impatience=0.2, bewilderment=0.3, operands=(3, 4)),
)


@dataclass(frozen=True)
class TinyTask:
    """The problems of one task that the embedded model is made for: the tiny recipes draw from the same split."""

    name: str
    share: float
    write_trace: Callable[[Problem, random.Random, Lesson], str | None]
    train_size: int
    test_size: int
    generator_options: dict[str, Any]

    def split(self) -> tuple[list[Problem], list[Problem]]:
        """Train and held-out problems, disjoint."""
        return train_test_problems(
            self.name, train_size=self.train_size, test_size=self.test_size, seed=0, **self.generator_options
        )


COUNTDOWN = TinyTask(
    "countdown",
    0.9,
    lambda problem, generator, lesson: countdown_trace(
        problem, generator, impatience=lesson.impatience, bewilderment=lesson.bewilderment
    ),
    4400,
    2048,
    {"operands": (3, 4), "max_number": 12},
)
MULTIPLICATION = TinyTask(
    "multiplication",
    0.1,
    lambda problem, generator, lesson: multiplication_trace(problem, generator),
    3000,
    512,
    {"digits": (2,)},
)

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


def traces(*, lesson: Lesson, seed: int) -> Iterator[dict[str, str]]:
    """An endless stream of `prompt` and `completion`: fresh traces of the training problems of both tasks.

    Held-out problems never occur; problems that the integer search cannot solve are passed over.
    """
    generator = random.Random(seed)
    problems = {
        task.name: [
            problem for problem in task.split()[0] if task is not COUNTDOWN or len(problem.numbers) in lesson.operands
        ]
        for task in TASKS
    }
    shares = [task.share for task in TASKS]
    while True:
        [task] = generator.choices(TASKS, shares)
        problem = generator.choice(problems[task.name])
        completion = task.write_trace(problem, generator, lesson)
        if completion is not None:
            yield {"prompt": str(get_task(task.name).render_prompt(problem, "base")), "completion": completion}


def trace_dataset(batches: int, *, lesson: Lesson, seed: int) -> Dataset:
    """`batches` x `BATCH_TRACES` rows in training order; a batch's traces are about equally long, to pad little.

    The first batches are the same however many are asked for.
    """
    generator = random.Random(seed)
    stream = traces(lesson=lesson, seed=seed)
    rows: list[dict[str, str]] = []
    while len(rows) < batches * BATCH_TRACES:
        bucket = sorted((next(stream) for _ in range(_BUCKET_BATCHES * BATCH_TRACES)), key=_length)
        starts = list(range(0, len(bucket), BATCH_TRACES))
        generator.shuffle(starts)
        rows += [row for start in starts for row in bucket[start : start + BATCH_TRACES]]
    return Dataset.from_list(rows[: batches * BATCH_TRACES])


def tokenized(row: dict[str, str], *, tokenizer: PreTrainedTokenizerFast) -> dict[str, list[int]]:
    """A row as `SFTTrainer` takes it. An end token follows an answer alone: who is stuck does not come to an end."""
    prompt, completion = (tokenizer(row[part])["input_ids"] for part in ("prompt", "completion"))
    if row["completion"].endswith("</answer>"):
        completion.append(tokenizer.eos_token_id)
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


def _length(row: dict[str, str]) -> int:
    return len(row["completion"])


def shortened(lessons: Sequence[Lesson], steps: int) -> list[Lesson]:
    """The same lessons in about `steps` optimizer steps, each with its share of them.

    Raises:
        ValueError: not even one step for each lesson.
    """
    if steps < len(lessons):
        raise ValueError(f"steps: {steps} is below {len(lessons)}, one for each lesson; give more, or leave it out")
    total = sum(lesson.steps for lesson in lessons)
    return [replace(lesson, steps=max(1, round(lesson.steps * steps / total))) for lesson in lessons]


def warm_start(
    out: str | Path, *, lessons: Sequence[Lesson] = LESSONS, seed: int = 0, show_progress: bool = True
) -> Path:
    """Train the embedded model from scratch and save model and tokenizer to `out`.

    Args:
        out: Folder to write, loadable with `AutoModelForCausalLM.from_pretrained`.
        lessons: What is taught, one after the other, by which teacher.
        seed: Decides weights, traces and their order.
        show_progress: Whether to draw progress bars.

    Raises:
        ValueError: a seed out of range, or a file where the folder should be.
    """
    if not 0 <= seed <= 2**32 - len(lessons):
        raise ValueError(f"seed: {seed} is outside 0 to {2**32 - len(lessons)}; choose one between them")
    if Path(out).is_file():
        raise ValueError(f"out: {str(out)!r} is a file; name a folder")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed)
    for number, lesson in enumerate(lessons):
        teach(model, tokenizer, lesson, out, seed=seed + number, show_progress=show_progress)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Path(out)


def teach(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lesson: Lesson,
    out: str | Path,
    *,
    seed: int,
    show_progress: bool,
) -> None:
    """One lesson, to the model itself: AdamW, with a warm-up over 100 steps and a linear decay in the end."""
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=lesson.steps,
        per_device_train_batch_size=BATCH_TRACES,
        train_sampling_strategy="sequential",
        learning_rate=lesson.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, round(lesson.decay * lesson.steps)), "decay_type": "linear"},
        warmup_steps=min(100, lesson.steps // 5),
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=LONGEST_ROW,
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
        model=model,
        args=arguments,
        train_dataset=trace_dataset(lesson.steps, lesson=lesson, seed=seed).map(
            partial(tokenized, tokenizer=tokenizer), remove_columns=["prompt", "completion"]
        ),
        processing_class=tokenizer,
    )
    trainer.train()


@dataclass(frozen=True)
class HeldOut:
    """How a model answers one task's held-out problems, sampled once each at temperature 1."""

    task: str
    problems: int
    accuracy: float
    mean_length_tokens: float
    truncated_frac: float


def held_out(model_path: str | Path, *, problems: int = 512, max_completion_length: int = 512) -> list[HeldOut]:
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
