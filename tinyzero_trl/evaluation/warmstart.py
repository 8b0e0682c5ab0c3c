"""How a warm-started model answers the held-out problems of its tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero_trl.generation.completions import generate_completions
from tinyzero_trl.models.toy.curricula import Curriculum, TraceTask
from tinyzero_trl.models.toy.warmstart import runs_on_gpu
from tinyzero_trl.tasks import get_task
from tinyzero_trl.windows.outcomes import is_success

_PROBLEMS = 512  # of each task, at most


@dataclass(frozen=True)
class HeldOut:
    """How a model answers one task's held-out problems, sampled once each at temperature 1."""

    task: str
    problems: int
    accuracy: float
    mean_length_tokens: float
    truncated_frac: float


def held_out(model_path: str | Path, curriculum: Curriculum) -> list[HeldOut]:
    """Measure a model on the first held-out problems of each of its tasks."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, trust_remote_code=False)
    if runs_on_gpu(curriculum):
        model.to("cuda")
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    return [_held_out(model, tokenizer, task, curriculum.max_completion_length) for task in curriculum.tasks]


def _held_out(model: Any, tokenizer: Any, task: TraceTask, max_completion_length: int) -> HeldOut:
    made, asked = get_task(task.name), [problem.example for problem in task.split[1][:_PROBLEMS]]
    completions = generate_completions(
        model,
        tokenizer,
        [made.prompt(example, "base") for example in asked],
        max_completion_length=max_completion_length,
        temperature=1.0,
        batch_size=256,
    )
    scores = [made.score(written.text, example) for example, written in zip(asked, completions, strict=True)]
    return HeldOut(
        task=task.name,
        problems=len(asked),
        accuracy=sum(is_success(score.reward) for score in scores) / len(asked),
        mean_length_tokens=sum(written.length_tokens for written in completions) / len(asked),
        truncated_frac=sum(written.truncated for written in completions) / len(asked),
    )
