"""What an evaluation is asked to do: its settings, the examples with their prompts, and its identity."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.generation.registry import choose_engine
from tinyzero_trl.models.loading import check_room, default_device, dtype_name
from tinyzero_trl.runs.files import is_finite_number, read_mapping, shortened
from tinyzero_trl.runs.records import CONFIG
from tinyzero_trl.tasks import Example, get_task
from tinyzero_trl.tasks.config import TaskConfig, config_class, task_config
from tinyzero_trl.tasks.datasets import read_examples, train_test_examples
from tinyzero_trl.windows.outcomes import FULL_REWARD


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated on what, and how.

    `model` is a folder, a Hub id or `embedded`; `data` a file, folder or Hub id with a `split`, or `generate`
    for the held-out problems of the model's own run. `limit` takes the first problems, `n` samples each.
    Where `task` and `template` are None, the run that trained the model decides; for any other model they are
    `countdown` and `base`. `batch_size` is a matter of memory: it changes the results no more than rounding
    does.

    Raises:
        ValueError: a value out of range, or several samples without randomness.
    """

    model: str
    data: str
    split: str = "test"
    limit: int | None = None
    n: int = 1
    temperature: float = 0.0
    max_completion_length: int = 4096
    engine: str = "auto"
    seed: int = 0
    task: str | None = None
    template: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("limit", "n", "max_completion_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is below 1; set it to 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: {self.temperature} is no temperature; use 0 (greedy) or a positive number")
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"n: {self.n} greedy samples (temperature 0.0) are all the same; set --temperature above 0, or --n to 1"
            )
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative; use 0 or more")
        choose_engine(self.engine)


@dataclass(frozen=True, slots=True)
class Exam:
    """The examples of an evaluation with their prompts, as text and as the model's token ids."""

    task: TaskConfig
    examples: Sequence[Example]
    texts: list[str]
    prompt_ids: list[list[int]]
    success_threshold: float = FULL_REWARD  # of the run that trained the model

    @property
    def longest_prompt_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompt_ids))


def prepare_exam(settings: EvaluationSettings, model_path: str, model_config: Any, tokenizer: Any) -> Exam:
    """Read the examples and render their prompts.

    Raises:
        ValueError: examples that cannot be read, chat prompts for a
            model without a chat template, or prompts and completions beyond the model's positions.
    """
    task = _task_config(settings, model_path)
    examples = _examples(settings, task)
    render = get_task(task.task).prompt
    prompts = [render(example, task.prompt_template) for example in examples]
    prompt_ids = encode_prompts(tokenizer, prompts)
    texts = [
        prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        for prompt, ids in zip(prompts, prompt_ids, strict=True)
    ]
    exam = Exam(task, examples, texts, prompt_ids, _success_threshold(model_path))
    check_room(model_config, exam.longest_prompt_tokens, settings.max_completion_length)
    return exam


def identify(settings: EvaluationSettings, exam: Exam, model_path: str, model_config: Any) -> dict[str, Any]:
    """Everything that decides the results: resolved settings, digests of weights, examples and prompts.

    `batch_size` is left out, so that an evaluation that ran out of memory can go on with smaller batches.
    """
    asked = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    return asked | {
        "task": exam.task.task,
        "template": exam.task.prompt_template,
        "success_threshold": exam.success_threshold,
        "engine": choose_engine(settings.engine),
        "device": default_device().type,
        "dtype": dtype_name(),
        "weights": _weights_version(model_path, model_config),
        "problems": _digest([list(example.values()) for example in exam.examples]),
        "prompts": _digest(exam.prompt_ids),
    }


def _task_config(settings: EvaluationSettings, model_path: str) -> TaskConfig:
    """The task of the run that the model or checkpoint belongs to; the defaults if there is none."""
    file = _configuration_file(model_path)
    run = {} if file is None else _task_fields(file, settings.task)
    chosen = {"task": settings.task, "prompt_template": settings.template}
    return task_config(**run | {name: value for name, value in chosen.items() if value is not None})


def _success_threshold(model_path: str) -> float:
    """From which reward on an answer is correct in the run that trained the model.

    Raises:
        ValueError: the run's configuration says something that is no number.
    """
    name, file = "window_success_threshold", _configuration_file(model_path)
    value = FULL_REWARD if file is None else read_mapping(file).get(name, FULL_REWARD)
    if not is_finite_number(value):
        raise ValueError(f"{file}: {name} = {shortened(value)} is no number; correct it there, or remove the file")
    return float(value)


def _configuration_file(model_path: str) -> Path | None:
    """The configuration of the run that the model or checkpoint belongs to."""
    if not Path(model_path).is_dir():
        return None
    files = (folder / CONFIG for folder in (Path(model_path), Path(model_path).absolute().parent))
    return next((file for file in files if file.is_file()), None)


def _task_fields(file: Path, task: str | None) -> dict[str, Any]:
    """What a run's configuration says of its task, fit for `TaskConfig` in type; of another task, only what it shares.

    Raises:
        ValueError: a value of a wrong type; or code that only the file asks for, which may come from anywhere.
    """
    found = read_mapping(file)
    named = found.get("task", TaskConfig.task)
    if type(named) is not str:
        raise ValueError(f"{file}: task = {shortened(named)} does not fit; correct it there, or remove the file")
    if ":" in named and task is None:
        raise ValueError(
            f"task: {shortened(named)} in {file} is code; if you trust it, let it run by --task {shortened(named)}"
        )
    kind = config_class(task or named)
    hints = get_type_hints(kind)
    values = {each.name: found[each.name] for each in fields(kind) if found.get(each.name) is not None}
    for name, value in values.items():
        if type(value) not in _kinds(hints[name]):
            raise ValueError(f"{file}: {name} = {shortened(value)} does not fit; correct it there, or remove the file")
    return values


def _kinds(hint: Any) -> set[type]:
    """The types that a field may have in a file; a whole number may stand for any number."""
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(kind) or kind for kind in alternatives}
    return kinds | ({int} if float in kinds else set())


def _examples(settings: EvaluationSettings, task: TaskConfig) -> Sequence[Example]:
    if settings.data == "generate":
        _, held_out = train_test_examples(
            task.task, train_size=1, test_size=task.test_size, seed=task.problem_seed, **task.generator_options()
        )
        return held_out[: settings.limit]
    return read_examples(settings.data, task=task.task, split=settings.split, limit=settings.limit)


def _weights_version(model_path: str, model_config: Any) -> str | None:
    """The digest of a folder's weights, or the commit of a Hub id."""
    folder = Path(model_path)
    if not folder.is_dir():
        return getattr(model_config, "_commit_hash", None)
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
