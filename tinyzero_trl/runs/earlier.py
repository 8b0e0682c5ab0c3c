"""What an earlier run has left in a run directory: it is moved aside when another one starts there, never deleted."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tinyzero_trl.runs.checkpoints import written_checkpoints
from tinyzero_trl.runs.records import COMPLETIONS, CONFIG, ENVIRONMENT, EVAL, METRICS, SUMMARY

# The underscore keeps the folder out of pushes to the Hub.
EARLIER = "_earlier"

_SETTINGS = (CONFIG, ENVIRONMENT)
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
)
"""Patterns of the files that weights, tokenizer and chat template are loaded from."""

_RESULTS = (SUMMARY, "plots", "README.md", "training_args.bin", *MODEL_FILES)
_RECORDS = (METRICS, EVAL, f"{METRICS}.gz", f"{EVAL}.gz", COMPLETIONS, "tensorboard")


def set_aside(output_dir: str | os.PathLike[str], step: int = -1) -> Path | None:
    """Move what the directory holds of steps after `step` to `_earlier/1`, `_earlier/2`, ...

    Training is about to go on from `step`. The result of a finished run is moved, too: else its model would be taken
    for that of the run that goes on, until there is one. Lines that a killed run wrote after its newest checkpoint are
    not set aside: the run that goes on from it writes them again.

    Args:
        output_dir: the run directory.
        step: the optimizer step that training continues from; -1 for a new run, which shares nothing with the former.

    Returns:
        The folder with what was set aside; None if there was nothing.
    """
    folder = Path(output_dir)
    later = [path for at, path in written_checkpoints(folder).items() if at > step]
    was_finished = (folder / SUMMARY).exists()
    records = [folder / name for name in _RECORDS if _holds_something(folder / name)]
    is_foreign = (folder / CONFIG).exists() and not (folder / ENVIRONMENT).exists()  # a run writes both
    has_run = bool(later or was_finished or (step < 0 and records))
    if not has_run and not (step < 0 and is_foreign):
        return None
    results = {path for pattern in _RESULTS for path in folder.glob(pattern) if has_run}
    aside = _new_folder(folder)
    settings = [folder / name for name in _SETTINGS if (folder / name).exists()]
    shared = settings if step < 0 else settings + records  # what the next run starts with, too
    for path in shared:
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, aside / path.name)
    for path in (*later, *results, *([] if step >= 0 else records)):
        path.rename(aside / path.name)
    return aside


def _holds_something(path: Path) -> bool:
    """Whether there is such a file, or a folder that is not empty, as TRL makes one with `log_completions`."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def move_aside(folder: Path, names: Iterable[str]) -> Path:
    """Move the files of these names that are in the folder to the next one of `_earlier/1`, `_earlier/2`, ..."""
    aside = _new_folder(folder)
    for path in (folder / name for name in names):
        if path.exists():
            path.rename(aside / path.name)
    return aside


def _new_folder(folder: Path) -> Path:
    number = 1 + max((int(each.name) for each in (folder / EARLIER).glob("*") if each.name.isdigit()), default=0)
    aside = folder / EARLIER / str(number)
    aside.mkdir(parents=True)
    return aside
