"""Writes docs/recipe_fields.md, all fields of a recipe with their defaults: `python docs/recipe_fields.py`."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig

from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.tasks.registry import get_task, task_names
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.recipe.parser import DEFAULTS
from tinyzero_trl.training.recipe.renamed import RENAMED

PAGE = Path(__file__).with_name("recipe_fields.md")
_INTRODUCTION = """\
# Recipe fields

All fields of a recipe, with the values that they have if you leave them out. `python docs/recipe_fields.py` writes this
page from the code. Each field can also be given on the command line, as `--field value`. A field that does not exist,
or a value that does not fit, stops the program before a model is loaded. `tinyzero-trl train --help_fields` prints the
same with the help texts of all libraries.

A recipe must name `model_name_or_path`. A run without `output_dir` goes to the folder `trainer_output`. In the tables a
dash is a field without a value: the text beside it says what happens then.
"""
_WINDOW = """\
`window_strategy` chooses the policy, and each policy reads some of the other fields. A field that the chosen policy
does not read is refused. The default of most fields depends on the policy and stands in the text.
[windows.md](windows.md) explains the policies.
"""
_OTHERS = """\
These belong to {library} and mean what they mean there (<{link}>). The defaults are those that a recipe gets here.
"""


def page() -> str:
    """The whole page."""
    ours = {each.name for each in fields(AdaptiveGRPOConfig)} - {each.name for each in fields(GRPOConfig)}
    window = [each for each in fields(AdaptiveGRPOConfig) if each.name in ours and each.name.startswith("window_")]
    further = [each for each in fields(AdaptiveGRPOConfig) if each.name in ours and each not in window]
    of_transformers = {each.name for each in fields(TrainingArguments)}  # TRL gives some of them other defaults
    of_trl = [each for each in fields(GRPOConfig) if each.name not in of_transformers]
    sections = [
        _INTRODUCTION,
        "## The task\n\n" + _explained(fields(TaskConfig)),
        *(
            f"## Options of the task `{name}`\n\n" + _explained(fields(get_task(name).options))
            for name in task_names()
            if _is_ours(name) and fields(get_task(name).options)
        ),
        f"## The window\n\n{_WINDOW}\n" + _explained(window),
        "## The training\n\n" + _explained(further),
        _of_library("GRPO", "TRL's `GRPOConfig`", "https://huggingface.co/docs/trl/grpo_trainer", of_trl),
        _of_library(
            "The optimizer, logging, saving, devices",
            "`TrainingArguments` of Transformers",
            "https://huggingface.co/docs/transformers/main_classes/trainer",
            [each for each in fields(GRPOConfig) if each.name in of_transformers],
        ),
        _of_library(
            "The model",
            "TRL's `ModelConfig`",
            "https://huggingface.co/docs/trl/script_utils",
            fields(ModelConfig),
        ),
    ]
    return "\n".join(sections)


def _is_ours(task: str) -> bool:
    """Whether a task comes with the package; `family:DATASET` stands for many, whose options are their own."""
    return ":" not in task and type(get_task(task)).__module__.startswith("tinyzero_trl.")


def _explained(declared: Iterable[Field[Any]]) -> str:
    rows = (f"| `{each.name}` | {_default(each)} | {_cell(each.metadata.get('help', ''))} |\n" for each in declared)
    return "| field | default | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def _of_library(title: str, library: str, link: str, declared: Iterable[Field[Any]]) -> str:
    kinds = get_type_hints(AdaptiveGRPOConfig) | get_type_hints(ModelConfig)
    named = (each for each in declared if each.init and each.name not in RENAMED)
    rows = (f"| `{each.name}` | {_default(each)} | {_kind(kinds[each.name])} |\n" for each in named)
    text = _OTHERS.format(library=library, link=link)
    return f"## {title}\n\n{text}\n| field | default | type |\n| --- | --- | --- |\n" + "".join(rows)


def _default(declared: Field[Any]) -> str:
    """The value in a recipe that does not name the field; an option of a task has the one that it declares."""
    value = DEFAULTS.get(declared.name, declared.default)
    if value is MISSING and declared.default_factory is not MISSING:
        value = declared.default_factory()
    if value is None or value == "" or value is MISSING:
        return "-"
    return f"`{_cell(str(value).lower() if isinstance(value, bool) else str(getattr(value, 'value', value)))}`"


def _kind(hint: Any) -> str:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = [each.__name__ if inspect.isclass(each) else re.sub(r"\w+\.", "", str(each)) for each in kinds]
    return ", ".join(dict.fromkeys(_cell(name) for name in names if name != "NoneType"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
