"""What can be said about a run before it starts: room for its completions, enough problems, a checkpoint of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.integrations import get_reporting_integration_callbacks
from trl import ModelConfig

from tinyzero_trl.generation.sampling import encode_prompts
from tinyzero_trl.models.loading import check_model, check_room, load_model_config, load_tokenizer
from tinyzero_trl.runs.checkpoints import TRAINER_STATE, checkpoint_to_resume
from tinyzero_trl.runs.files import read_mapping
from tinyzero_trl.runs.records import CONFIG
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.training.config import AdaptiveGRPOConfig

_SOME_PROMPTS = 64  # a template's prompts are about equally long
_ARCHITECTURE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def check_run(
    path: str, task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig, train: Dataset
) -> PreTrainedTokenizerBase:
    """Everything that is known of a run before its weights are read; returns the tokenizer, padding on the left.

    Raises:
        ValueError: a tracker that is not installed, a model that cannot be loaded, prompts it has no template or no
            room for, too few problems for a rollout, or a checkpoint of another recipe.
    """
    check_problems(train, training)
    check_trackers(training)
    config = load_model_config(path, revision=model.model_revision)
    tokenizer = load_tokenizer(path, revision=model.model_revision, padding_side="left")
    if checkpoint := checkpoint_to_resume(training.resume, str(training.output_dir)):
        check_checkpoint(checkpoint, config, task.task, training.window_strategy)
    prompts = encode_prompts(tokenizer, train[:_SOME_PROMPTS]["prompt"])
    assert training.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
    check_room(config, max(map(len, prompts)), training.max_completion_length)
    check_model(path, config, tokenizer, revision=model.model_revision)
    return tokenizer


def check_trackers(training: AdaptiveGRPOConfig) -> None:
    """What `report_to` names must be installed; reading a recipe does not ask for it, training does.

    Raises:
        ValueError: it is not.
    """
    for tracker in get_reporting_integration_callbacks(training.report_to):
        try:
            tracker()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to: {training.report_to} cannot be used ({error}); or give tensorboard") from None


def check_problems(problems: Sequence[Any], training: AdaptiveGRPOConfig) -> None:
    """One generation batch needs as many different problems as it has groups; an epoch with fewer has no step.

    Raises:
        ValueError: there are fewer.
    """
    rows, group = training.generation_batch_size, training.num_generations
    assert rows is not None and group is not None, "TRL sets them"
    if len(problems) < rows // group:
        raise ValueError(
            f"dataset: {len(problems)} problems are fewer than the {rows // group} groups of a rollout "
            f"(generation_batch_size {rows} / num_generations {group}); give more problems, or lower "
            "per_device_train_batch_size or steps_per_generation"
        )


def check_checkpoint(checkpoint: str, model_config: Any, task: str, window_strategy: str) -> None:
    """A run continues only from a checkpoint of its own kind: the same architecture, task and window strategy.

    Raises:
        ValueError: names the field in which the checkpoint differs.
    """
    folder = Path(checkpoint)
    found: dict[str, Any] = {"window_strategy": _saved_strategy(folder)}
    if (folder.parent / CONFIG).is_file():
        found["task"] = read_mapping(folder.parent / CONFIG).get("task")
    wanted: dict[str, Any] = {"window_strategy": window_strategy, "task": task}
    if (folder / "config.json").is_file():
        saved = read_mapping(folder / "config.json")  # JSON is YAML
        found |= {name: saved.get(name) for name in _ARCHITECTURE}
        wanted |= {name: getattr(model_config, name, None) for name in _ARCHITECTURE}
    for name, value in found.items():
        if value is not None and wanted[name] is not None and value != wanted[name]:
            raise ValueError(
                f"resume: {checkpoint!r} is of another recipe ({name}: {value!r} there, {wanted[name]!r} here); "
                "give --resume never, or another output_dir"
            )


def _saved_strategy(folder: Path) -> str | None:
    """The window strategy whose state a checkpoint holds, if it holds one."""
    state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    try:
        return state["stateful_callbacks"]["AdaptiveWindowCallback"]["attributes"]["saved"]["strategy"]
    except (KeyError, TypeError):
        return None
