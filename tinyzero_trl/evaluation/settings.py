"""What an evaluation is asked to do: its settings, the problems with their prompts, and its identity."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tinyzero_trl.generation.engine import choose_engine
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.models.loading import check_room, default_device, dtype_name
from tinyzero_trl.runs.files import read_mapping, shortened
from tinyzero_trl.runs.records import CONFIG
from tinyzero_trl.tasks import Problem, get_task
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.tasks.datasets import read_problems, train_test_problems


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
    """The problems of an evaluation with their prompts, as text and as the model's token ids."""

    task: TaskConfig
    problems: list[Problem]
    texts: list[str]
    prompt_ids: list[list[int]]

    @property
    def longest_prompt_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompt_ids))


def prepare_exam(settings: EvaluationSettings, model_path: str, model_config: Any, tokenizer: Any) -> Exam:
    """Read the problems and render their prompts.

    Raises:
        ValueError: problems that cannot be read, chat prompts for a
            model without a chat template, or prompts and completions beyond the model's positions.
    """
    task = _task_config(settings, model_path)
    problems = _problems(settings, task)
    prompts = [get_task(task.task).render_prompt(problem, task.prompt_template) for problem in problems]
    prompt_ids = encode_prompts(tokenizer, prompts)
    texts = [
        prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        for prompt, ids in zip(prompts, prompt_ids, strict=True)
    ]
    exam = Exam(task, problems, texts, prompt_ids)
    check_room(model_config, exam.longest_prompt_tokens, settings.max_completion_length)
    return exam


def identify(settings: EvaluationSettings, exam: Exam, model_path: str, model_config: Any) -> dict[str, Any]:
    """Everything that decides the results: resolved settings, digests of weights, problems and prompts.

    `batch_size` is left out, so that an evaluation that ran out of memory can go on with smaller batches.
    """
    asked = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    return asked | {
        "task": exam.task.task,
        "template": exam.task.prompt_template,
        "engine": choose_engine(settings.engine),
        "device": default_device().type,
        "dtype": dtype_name(),
        "weights": _weights_version(model_path, model_config),
        "problems": _digest([[problem.numbers, problem.target] for problem in exam.problems]),
        "prompts": _digest(exam.prompt_ids),
    }


def _task_config(settings: EvaluationSettings, model_path: str) -> TaskConfig:
    """The task of the run that the model or checkpoint belongs to; the defaults if there is none."""
    run: dict[str, Any] = {}
    for folder in (Path(model_path), Path(model_path).absolute().parent):
        if Path(model_path).is_dir() and (folder / CONFIG).is_file():
            run = _task_fields(folder / CONFIG)
            break
    chosen = {"task": settings.task, "prompt_template": settings.template}
    values = run | {name: value for name, value in chosen.items() if value is not None}
    return TaskConfig(**values)


def _task_fields(file: Path) -> dict[str, Any]:
    """What a run's configuration says of its task, fit for `TaskConfig` in type."""
    names = {each.name for each in fields(TaskConfig)}
    found = {name: value for name, value in read_mapping(file).items() if name in names}
    for name, value in found.items():
        if type(value) not in _kinds(name):
            raise ValueError(f"{file}: {name} = {shortened(value)} does not fit; correct it there, or remove the file")
    return found


def _kinds(name: str) -> set[type]:
    """The types that a field of `TaskConfig` may have in a file; a whole number may stand for any number."""
    hint = get_type_hints(TaskConfig)[name]
    kinds = {get_origin(kind) or kind for kind in get_args(hint) or (hint,)}
    return kinds | ({int} if float in kinds else set())


def _problems(settings: EvaluationSettings, task: TaskConfig) -> list[Problem]:
    if settings.data == "generate":
        _, held_out = train_test_problems(
            task.task, train_size=1, test_size=task.test_size, seed=task.problem_seed, **task.generator_options()
        )
        return held_out[: settings.limit]
    return read_problems(settings.data, task=task.task, split=settings.split, limit=settings.limit)


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
