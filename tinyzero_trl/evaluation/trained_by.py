"""The run that trained a model: what its `config.yaml` decides for an evaluation that is told nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tinyzero_trl.generation.sampling import other_sampling, recipe_stop_strings, recipe_stop_tokens
from tinyzero_trl.messages import shortened, text_of
from tinyzero_trl.runs.json_lines import read_object
from tinyzero_trl.runs.records import CONFIG, ENVIRONMENT, EXAMPLES, success_threshold_of
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.tasks import Example
from tinyzero_trl.tasks.config import EVAL_SIZE, GENERATE, TaskConfig, alternatives, config_class, task_config
from tinyzero_trl.tasks.datasets import digest_of_rows, to_dataset
from tinyzero_trl.tasks.registry import get_task, runs_code
from tinyzero_trl.tasks.splits import Splits, generated_held_out, keys, load_splits

SAMPLING: dict[str, tuple[tuple[type, ...], Any]] = {
    "temperature": ((float, int), 0.0),
    "top_p": ((float, int), 1.0),
    "top_k": ((int,), 0),
    "min_p": ((float, int), 0.0),
    "repetition_penalty": ((float, int), 1.0),
    "max_completion_length": ((int,), None),
    "stop_at_answer": ((bool,), False),
    "chat_template_kwargs": ((dict,), {}),
}
"""What shapes prompts and completions: the types that a configuration may give, and the value where none is given.

The longest completion has none: it depends on the model (`settings.LONGEST`).
"""


@dataclass(frozen=True, slots=True)
class TrainedBy:
    """The configuration of the run that a model or checkpoint belongs to; empty where there is none."""

    file: Path | None
    config: Mapping[str, Any]

    def task_config(
        self, task: str | None, template: str | None, options: Mapping[str, Any] | None = None
    ) -> TaskConfig:
        """The task of the run, or its defaults; what is given wins. Of another task, only what the two share.

        Args:
            task: name of the task; None for that of the run.
            template: of its prompts; None for that of the run.
            options: of the task, by the names of its fields.

        Raises:
            ValueError: a value of a wrong type; a template or an option that the task does not have; or code that only
                the file asks for, which may come from anywhere.
        """
        named = self._checked("task", (str,), TaskConfig.task)
        if runs_code(named) and task is None:
            raise ValueError(
                f"task: {shortened(named)} in {self.file} is code; if you trust it, let it run by "
                f"--task {shortened(named)}"
            )
        kind = config_class(task or named)
        hints = get_type_hints(kind)
        values = {
            each.name: self._checked(each.name, _kinds(hints[each.name]), None)
            for each in fields(kind)
            if self.config.get(each.name) is not None
        }
        templates = get_task(task or named).templates
        if template is not None and template not in templates:
            raise ValueError(f"template: {template!r} is unknown; choose one of {', '.join(templates)}")
        if not self._is_own(task) and values.get("prompt_template") not in templates:
            values.pop("prompt_template", None)  # which the other task does not offer
        chosen = {"task": task, "prompt_template": template, **_checked_options(options or {}, kind, task or named)}
        return task_config(**values | {name: value for name, value in chosen.items() if value is not None})

    @property
    def names_no_task(self) -> bool:
        """Whether there is a run whose task and examples nobody knows: one from Python, without a recipe."""
        return self.file is not None and self.config.get("task") is None

    def notes_on_task(self, task: TaskConfig) -> list[str]:
        """What is to be said where the run names no task, so that `task` is no more than what eval was told."""
        if not self.names_no_task:
            return []
        return [
            f"{self.file} names no task, as of a run from Python: asked as {task.task} with its default options and "
            f"the template {task.prompt_template} (--task and --template give others); the training examples are not "
            "known, so none is left out; give data that the run has not seen"
        ]

    @property
    def success_threshold(self) -> float:
        """From which reward on an answer is correct in the run."""
        return success_threshold_of(self.config, self.file)

    def sampling(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Every setting of `SAMPLING`: as given (not None), else the run's, else the default; and what is to be said.

        Raises:
            ValueError: a value of a wrong type in the run's configuration.
        """
        chosen, notes = {}, []
        for name, (kinds, default) in SAMPLING.items():
            run = self._checked(name, kinds, default)
            chosen[name] = run if given[name] is None else given[name]
            if self.file is not None and run is not None and chosen[name] != run:
                notes.append(f"{name} {chosen[name]!r} is given; the run has {run!r}")
        if others := other_sampling(self._generation_kwargs()):
            notes.append(f"the run sampled with {', '.join(others)} of its generation_kwargs; this evaluation does not")
        return chosen, notes

    def notes_on_precision(self, dtype: str) -> list[str]:
        """What is to be said where completions are sampled in another precision than in the run."""
        of_run = self._checked("dtype", (str,), dtype)
        return [] if of_run == dtype else [f"sampled in {dtype}; the run has its weights in {of_run}"]

    def stops(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Texts and tokens that end a completion of the run besides the model's end tokens and its answer."""
        kwargs = self._generation_kwargs()
        try:
            texts, tokens = recipe_stop_strings({"generation_kwargs": kwargs}), recipe_stop_tokens(self.config)
            fit = all(type(text) is str for text in texts) and all(type(token) is int for token in tokens)
        except TypeError:
            fit = False
        if not fit:
            raise ValueError(f"{self.file}: generation_kwargs = {shortened(kwargs)} does not fit; correct it there")
        return texts, tokens

    def held_out(self, task: TaskConfig, given_task: str | None) -> tuple[Sequence[Example], list[str]]:
        """The run's own held-out examples, generated or read, and what is to be said; of another task, generated ones.

        Raises:
            ValueError: the run names no task and none is given, or its examples cannot be made again.
        """
        if self.names_no_task and given_task is None:
            raise ValueError(
                f"data: {GENERATE!r} is the held-out set of the run, but {self.file} names no task, as of a run from "
                "Python; give --task, or --data FILE"
            )
        if task.dataset == GENERATE or not self._is_own(given_task):
            return generated_held_out(task), []
        try:
            splits = self._own_splits(task, "train", "held_out")
        except (ValueError, OSError) as error:
            raise ValueError(
                f"data: {GENERATE!r} is the held-out set of the run, which cannot be read again ({text_of(error)}); "
                "give --data FILE"
            ) from error
        return splits.held_out, [splits.note] if splits.note else []

    def without_trained(
        self, examples: Sequence[Example], task: TaskConfig, given_task: str | None
    ) -> tuple[Sequence[Example], list[str]]:
        """The examples that the run was not trained on, and what is to be said."""
        if self.file is None or self.names_no_task or not self._is_own(given_task):
            return examples, []
        judge = task.make_task()
        try:
            if task.dataset == GENERATE and keys(judge, examples) <= keys(judge, generated_held_out(task)):
                return examples, []  # known without all of a large training set
            trained = keys(judge, self._own_splits(task, "train").train)
        except (ValueError, OSError) as error:
            reason = text_of(error)
            return examples, [f"whether the run was trained on these examples cannot be told ({reason})"]
        kept = [example for example in examples if judge.key(example) not in trained]
        if len(kept) == len(examples):
            return examples, []
        left_out = f"{len(examples) - len(kept)} of {len(examples)} examples"
        if not kept:
            raise ValueError(
                f"data: the run was trained on all {len(examples)} examples; give --include-trained, or other data"
            )
        return kept, [f"{left_out} are left out, because the run was trained on them (--include-trained keeps them)"]

    def _own_splits(self, task: TaskConfig, *checked: str) -> Splits:
        """The examples of the run, made again.

        Raises:
            ValueError: as `load_splits`; or a file or data set holds others now than `environment.json` has noted of
                those that are `checked`, `train` and `held_out`.
        """
        splits = load_splits(task)
        if self.file is None or task.dataset == GENERATE:
            return splits
        noted = (read_object(self.file.parent / ENVIRONMENT) or {}).get(EXAMPLES) or {}
        template = self._checked("prompt_template", (str,), task.prompt_template)
        made, examples = task.make_task(), {"train": splits.train, "held_out": splits.held_out}
        for name in (each for each in checked if each in noted):
            rows = to_dataset(examples[name], task=made, template=template)
            if name == "held_out":  # of which the run has taken the first, after all together had decided the types
                rows = rows.select(range(min(task.eval_size or EVAL_SIZE, len(rows))))
            if noted[name] != digest_of_rows(rows):
                raise ValueError(
                    f"dataset: {task.dataset!r} gives other examples ({name}) than the run began with; put it back as "
                    "it was"
                )
        return splits

    def _is_own(self, given_task: str | None) -> bool:
        """Whether the task that is asked is that of the run."""
        return given_task in (None, self.config.get("task"))

    def _generation_kwargs(self) -> dict[str, Any]:
        return self._checked("generation_kwargs", (dict,), {})

    def _checked(self, name: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self.config.get(name)
        if value is None:
            return default
        if type(value) not in kinds:
            raise ValueError(
                f"{self.file}: {name} = {shortened(value)} does not fit; correct it there, or remove the file"
            )
        return value


def find_run(model_path: str) -> TrainedBy:
    """The run of a model's folder, or of a checkpoint's parent folder, also where the path is a link to it.

    Programs of other kinds have a `config.yaml` too: in a parent folder one without a field of windows is not of a run.

    Raises:
        ValueError: its `config.yaml` holds no mapping.
    """
    own = Path(model_path)
    parents = (own.absolute().parent, own.resolve().parent)
    for file in (own / CONFIG, *(parent / CONFIG for parent in parents)) if own.is_dir() else ():
        if file.is_file():
            config = read_mapping(file)
            if file.parent == own or any(name.startswith("window_") for name in config):
                return TrainedBy(file, config)
    return TrainedBy(None, {})


def _checked_options(options: Mapping[str, Any], kind: type[Any], task: str) -> Mapping[str, Any]:
    """The options, if the task has them and their types fit."""
    hints, own = get_type_hints(kind), {each.name for each in fields(get_task(task).options)}
    for name, value in options.items():
        if name not in own:
            known = f"choose among {', '.join(sorted(own))}" if own else "leave it out"
            raise ValueError(f"task_options: {name} is no option of the task {task}; {known}")
        if type(value) not in _kinds(hints[name]):
            raise ValueError(f"task_options: {name} = {shortened(value)} does not fit; see the task's options")
    return options


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types that a field may have in a file; a whole number may stand for any number."""
    kinds = set()
    for kind in alternatives(hint):
        kinds |= set(map(type, get_args(kind))) if get_origin(kind) is Literal else {get_origin(kind) or kind}
    return tuple(kinds | ({int} if float in kinds else set()))
