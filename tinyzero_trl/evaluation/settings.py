"""What an evaluation is asked to do: its settings, the examples with their prompts, and its identity."""

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tinyzero_trl.evaluation.trained_by import SAMPLING, TrainedBy
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.generation.registry import choose_engine
from tinyzero_trl.models.fingerprint import model_files
from tinyzero_trl.models.loading import check_room, default_device, dtype_name, positions_of
from tinyzero_trl.runs.json_lines import digest_of
from tinyzero_trl.tasks import Example, Task
from tinyzero_trl.tasks.config import GENERATE, TaskConfig
from tinyzero_trl.tasks.datasets import check_score, prompts_of, read_examples, to_columns, told_of_values
from tinyzero_trl.tasks.registry import runs_code
from tinyzero_trl.tasks.sources import has_splits

LONGEST = 4096
"""Tokens of a completion, at most, where neither the settings nor a run say it and the model has as many positions."""

_RANGES = (("top_p", 1e-6, 1), ("top_k", 0, 10**9), ("min_p", 0, 1), ("repetition_penalty", 1e-6, 1e6))


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated on what, and how.

    `model` is a folder, a Hub id or `embedded`; `data` a file, a folder or Hub id with a `split` (None is `test`), or
    `generate` for the held-out problems of the model's own run. `limit` takes the first problems, `n` samples each.
    Where the task, its options, the template and what shapes a completion (`trained_by.SAMPLING`) are None, the run
    that trained the model decides. For any other model they are `countdown`, the task's defaults, its first template,
    and greedy completions of at most `LONGEST` tokens, or as many as fit its positions. Examples that the run was
    trained on are left out, unless `include_trained` is set.
    `batch_size` is a matter of memory: it changes the results no more than rounding does.

    Raises:
        ValueError: a value out of range, or several samples without randomness.
    """

    model: str
    data: str
    split: str | None = None
    limit: int | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_completion_length: int | None = None
    stop_at_answer: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_trained: bool = False
    engine: str = "auto"
    seed: int = 0
    task: str | None = None
    task_options: dict[str, Any] | None = None
    template: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("limit", "n", "max_completion_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is below 1; set it to 1 or more")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: {self.temperature} is no temperature; use 0 (greedy) or a positive number")
        for name, low, high in _RANGES:
            if (value := getattr(self, name)) is not None and not low <= value <= high:
                raise ValueError(f"{name}: {value} is out of range; use {low} to {high}")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative; use 0 or more")
        choose_engine(self.engine)


@dataclass(frozen=True, slots=True)
class PreparedExamples:
    """The examples of an evaluation with their prompts, as text and as the model's token ids; and what to say."""

    task: TaskConfig
    examples: Sequence[Example]
    texts: list[str]
    prompt_ids: list[list[int]]
    max_completion_length: int
    notes: list[str]
    success_threshold: float  # of the run that trained the model
    is_chat: bool

    @property
    def longest_prompt_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompt_ids))


def resolve(settings: EvaluationSettings, run: TrainedBy) -> tuple[EvaluationSettings, list[str]]:
    """The settings with what the run says where they say nothing, and what of the run they overrule.

    Raises:
        ValueError: a value of the run that does not fit, or several samples without randomness.
    """
    sampling, notes = run.sampling({name: getattr(settings, name) for name in SAMPLING})
    resolved = replace(settings, **sampling)
    if resolved.n > 1 and resolved.temperature == 0:
        raise ValueError(
            f"n: {resolved.n} greedy samples (temperature 0.0) are all the same; set --temperature above 0, or --n to 1"
        )
    return resolved, notes


def prepare_examples(
    settings: EvaluationSettings, run: TrainedBy, model_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> PreparedExamples:
    """Read the examples and render their prompts; `settings` are resolved.

    Raises:
        ValueError: examples that cannot be read, a task that gives no scores, chat prompts for a model without a chat
            template, or prompts and completions beyond the model's positions.
    """
    task = run.task_config(settings.task, settings.template, settings.task_options)
    try:
        examples, notes = _examples(settings, task, run)
    except ValueError as error:  # what a recipe calls dataset is data here
        raise ValueError(re.sub("^dataset:", "data:", str(error))) from error
    notes = [*run.notes_on_task(task), *notes]
    made = task.make_task()
    check_score(made, examples[0])
    with told_of_values(made, examples):  # before a model loads, for they stand in the file of results
        pyarrow.table(to_columns(made, examples))
    prompts = prompts_of(made, examples, task.prompt_template)
    prompt_ids = encode_prompts(tokenizer, prompts, settings.chat_template_kwargs)
    if copies := len(prompt_ids) - len(set(map(tuple, prompt_ids))):
        notes = [
            *notes,
            f"{copies} of {len(examples)} prompts are copies of others; intervals take them for new problems",
        ]
    texts = [
        prompt if isinstance(prompt, str) else str(tokenizer.decode(ids))
        for prompt, ids in zip(prompts, prompt_ids, strict=True)
    ]
    positions, longest = positions_of(model_config), max(map(len, prompt_ids))
    limit = LONGEST if settings.max_completion_length is None else settings.max_completion_length
    if settings.max_completion_length is None and positions is not None and longest < positions < longest + limit:
        limit = positions - longest
        fit = f"at most {limit} tokens, as many as fit the model's {positions} positions"
        notes = [*notes, f"completions have {fit} (--max-completion-length sets another number)"]
    check_room(positions, longest, limit)
    is_chat = not isinstance(prompts[0], str)
    return PreparedExamples(task, examples, texts, prompt_ids, limit, notes, run.success_threshold, is_chat)


def identify(
    settings: EvaluationSettings, prepared: PreparedExamples, model_path: str, model_config: PreTrainedConfig
) -> dict[str, Any]:
    """Everything that decides the results: resolved settings, digests of the model's files, of examples and prompts.

    `batch_size` is left out, so that an evaluation that ran out of memory can go on with smaller batches.
    """
    asked = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    if runs_code(prepared.task.task):  # an answer that is scored again by other code is another answer
        asked["task_code"] = _code_of(prepared.task.make_task())
    return asked | {
        "task": prepared.task.task,
        "template": prepared.task.prompt_template,
        "task_options": prepared.task.task_options(),
        "max_completion_length": prepared.max_completion_length,
        "success_threshold": prepared.success_threshold,
        "engine": choose_engine(settings.engine),
        "device": default_device().type,
        "dtype": dtype_name(),
        "model_files": model_files(model_path, model_config),
        "problems": digest_of([list(example.values()) for example in prepared.examples]),
        "prompts": digest_of(prepared.prompt_ids),
    }


def _code_of(task: Task) -> str | None:
    """The digest of the file that a task of one's own stands in, where there is one."""
    file = inspect.getsourcefile(type(task))
    return None if file is None else digest_of(Path(file).read_text(encoding="utf-8"))


def _examples(settings: EvaluationSettings, task: TaskConfig, run: TrainedBy) -> tuple[Sequence[Example], list[str]]:
    """The examples, at most `limit`, and what is to be said of them."""
    if settings.split is not None and (settings.data == GENERATE or not has_splits(settings.data)):
        raise ValueError(f"split: {settings.split!r} means nothing for {settings.data!r}, which has none; leave it out")
    split = settings.split or "test"
    if settings.data == GENERATE:
        examples, notes = run.held_out(task, settings.task)
        return examples[: settings.limit], notes
    if settings.include_trained or run.file is None:
        return read_examples(settings.data, task=task.make_task(), split=split, limit=settings.limit), []
    examples = read_examples(settings.data, task=task.make_task(), split=split)
    kept, notes = run.without_trained(examples, task, settings.task)
    return kept[: settings.limit], notes
