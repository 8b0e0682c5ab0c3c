"""Whether a run may continue from the checkpoint that `resume` names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from tinyzero_trl.messages import text_of
from tinyzero_trl.models.fingerprint import COMMIT, model_files
from tinyzero_trl.runs.checkpoints import (
    SEARCHED,
    checkpoint_to_resume,
    has_optimizer,
    is_of_run,
    passed_over,
    trainer_state,
)
from tinyzero_trl.runs.json_lines import digest_of, read_lines, read_object
from tinyzero_trl.runs.records import COMPLETIONS, CONFIG, ENVIRONMENT, EVAL, EXAMPLES, HELD_OUT_PROMPTS, METRICS
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.tasks.datasets import digest_of_rows
from tinyzero_trl.training.preflight.continuing import compare

logger = logging.getLogger(__name__)

_ARCHITECTURE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_LENGTHS = {"max_steps", "num_train_epochs"}
_START_OVER = "give --resume never, or another output_dir"


def asked_checkpoint(asked: str | bool | None, training: Any) -> str | None:
    """The checkpoint that a training continues from, None for a new one; says which newer ones do not count.

    Args:
        asked: `resume_from_checkpoint` of `train`: a folder, True for the newest complete one, False for a new run, or
            None for the field `resume`.
        training: configuration of the run.

    Raises:
        ValueError: there is no such checkpoint, or it holds weights alone.
    """
    named: dict[Any, str] = {None: training.resume, True: "newest", False: "never"}
    resume, folder = named.get(asked, str(asked)), str(training.output_dir)
    checkpoint = checkpoint_to_resume(resume, folder)
    if resume in SEARCHED and training.process_index == 0:
        for newer, fault in passed_over(folder, checkpoint).items():
            then = f"training goes on from {Path(checkpoint).name}" if checkpoint else "training starts anew"
            logger.warning("resume: %s does not count, because %s; %s", newer, fault, then)
    if checkpoint is not None:
        check_optimizer_state(checkpoint)
    return checkpoint


def check_continued(start: str, config: Mapping[str, Any], *, may_be_longer: bool = False) -> dict[str, str]:
    """A run continues as what it was: compare its `config.yaml` with the recipe that would continue it.

    Args:
        start: the checkpoint to continue from, beside which `config.yaml` lies, or the folder of the run.
        config: the fields of the recipe as resolved.
        may_be_longer: whether the length may change although past learning rates depend on it, as in TRL.

    Returns:
        What changes, and may: a mapping of a field to "old there, new here".

    Raises:
        ValueError: fields that may not change, each with its old and its new value.
    """
    if (file := _record_of(start, CONFIG)) is None:
        return {}
    free, refused = compare(_recorded_fields(file), config)
    if not refused or (may_be_longer and set(refused) <= _LENGTHS):
        return free
    changes = "; ".join(f"{name}: {change}" for name, change in refused.items())
    if set(refused) <= _LENGTHS:
        raise ValueError(
            f"resume: {start!r} is of another recipe ({changes}): lr_scheduler_type "
            f"{config['lr_scheduler_type']!r} has set the past learning rates for the old length; give the old length, "
            f"or start anew: {_START_OVER}"
        )
    moved = [name for name in ("model_name_or_path", "dataset") if name in refused]
    remedy = f"; if only its place has changed, correct {moved[0]} in {str(file)!r}" if moved else ""
    raise ValueError(f"resume: {start!r} is of another recipe ({changes}); {_START_OVER}{remedy}")


def check_same_model(start: str, path: str, model_config: Any) -> None:
    """A run continues with the model it began with: adapters lie on it, and the reference model is loaded from it.

    Args:
        start: the checkpoint to continue from, beside which `environment.json` lies, or the folder of the run.
        path: the folder or Hub id of the model.
        model_config: the configuration as loaded from there.

    Raises:
        ValueError: a file of the model, or the commit of its repository, is another one. Runs that recorded neither
            are not compared.
    """
    if not (old := _noted(start, "model_files")):
        return
    new = model_files(path, model_config)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not changed:
        return
    what, remedy = f"other files of {path!r} ({', '.join(changed[:3])})", "put them back as they were"
    if (name := changed[0]).endswith(COMMIT) and name in new:
        what = f"commit {old.get(name)} of the model, of which {new[name]} is taken now"
        remedy = f"set model_revision to the former, here and in the {CONFIG} of the run"
    raise ValueError(f"resume: {start!r} began with {what}; {remedy}, or start anew: {_START_OVER}")


def check_same_examples(start: str, new: Mapping[str, str]) -> None:
    """A run continues with the examples it began with, wherever they lie and however they are made.

    Args:
        start: the checkpoint to continue from, beside which `environment.json` lies, or the folder of the run.
        new: the `example_digests` of the examples that it would continue with.

    Raises:
        ValueError: they are others. Runs that recorded nothing of them are not compared.
    """
    old = _noted(start, EXAMPLES)
    if changed := [name for name, digest in old.items() if name in new and new[name] != digest]:
        raise ValueError(
            f"resume: {start!r} began with other examples ({', '.join(changed)}), although no field has changed; put "
            f"the files of the data set back as they were, or start anew: {_START_OVER}"
        )


def example_digests(train: Any, held_out: Any) -> dict[str, str]:
    """A digest of the examples of each kind; nothing of streams, and of several evaluation sets.

    Columns that only held-out examples have do not count.
    """
    if not isinstance(train, Dataset) or not isinstance(held_out, Dataset):
        return {}
    shared = [name for name in held_out.column_names if name in train.column_names]
    return {"train": digest_of_rows(train), "held_out": digest_of_rows(held_out.select_columns(shared))}


def check_optimizer_state(checkpoint: str) -> None:
    """A checkpoint of weights alone (`save_only_model`) cannot be continued: moments and schedule would start anew.

    Raises:
        ValueError: it holds no optimizer.
    """
    if not has_optimizer(checkpoint):
        raise ValueError(
            f"resume: {checkpoint!r} holds weights alone (save_only_model), and no optimizer; {_START_OVER}"
        )


def check_records(checkpoint: str, output_dir: str) -> None:
    """A run that goes on adds to its records, so that each line of them must be one.

    Raises:
        ValueError: names file, line and remedy.
    """
    folder = Path(output_dir)
    if not is_of_run(checkpoint, folder):
        return  # this folder's records are moved aside
    for file in (folder / METRICS, folder / EVAL, *sorted((folder / COMPLETIONS).glob("step_*.jsonl"))):
        for _ in read_lines(file):
            pass


def check_architecture(checkpoint: str, model_config: Any, window_strategy: str) -> None:
    """The checkpoint must be of a model of the same shape, and of the same window strategy, whatever lies beside it.

    Raises:
        ValueError: names the field in which the checkpoint differs.
    """
    folder = Path(checkpoint)
    found: dict[str, Any] = {"window_strategy": _saved_strategy(folder)}
    wanted: dict[str, Any] = {"window_strategy": window_strategy}
    if saved := read_object(folder / "config.json"):
        found |= {name: saved.get(name) for name in _ARCHITECTURE}
        wanted |= {name: getattr(model_config, name, None) for name in _ARCHITECTURE}
    for name, value in found.items():
        if value is not None and wanted[name] is not None and value != wanted[name]:
            raise ValueError(
                f"resume: {checkpoint!r} is of another recipe ({name}: {value!r} there, {wanted[name]!r} here); "
                f"{_START_OVER}"
            )


def _recorded_fields(file: Path) -> dict[str, Any]:
    try:
        return read_mapping(file)
    except ValueError as error:
        raise ValueError(
            f"{file} should hold the fields that the run was started with, and cannot be read ({text_of(error)}); put "
            "a copy back, or remove it: the run then goes on with the fields that are given now"
        ) from error


def _record_of(start: str, name: str) -> Path | None:
    """A file of the run, beside a checkpoint of it or in its folder."""
    return next((place / name for place in (Path(start), Path(start).parent) if (place / name).is_file()), None)


def _noted(start: str, name: str) -> dict[str, str]:
    """What the `environment.json` of a run says of its model or its examples; empty where it says nothing."""
    file = _record_of(start, ENVIRONMENT)
    return ((read_object(file) or {}).get(name) or {}) if file else {}


def _saved_strategy(folder: Path) -> str | None:
    """The window strategy whose state a checkpoint holds, if it holds one."""
    state: Any = trainer_state(folder)
    try:
        return state["stateful_callbacks"]["AdaptiveWindowCallback"]["attributes"]["saved"]["strategy"]
    except (KeyError, TypeError):
        return None


def digest_of_prompts(held_out: Any) -> dict[str, str]:
    """The entry of `environment.json` about held-out prompts, of one set or several; nothing of a stream or images."""
    sets = held_out if isinstance(held_out, dict) else {"": held_out}
    if not all(isinstance(each, Dataset) and "prompt" in each.column_names for each in sets.values()):
        return {}
    prompts = {name: list(each["prompt"]) for name, each in sets.items()}
    try:
        return {HELD_OUT_PROMPTS: digest_of(prompts if isinstance(held_out, dict) else prompts[""])}
    except TypeError:
        return {}
