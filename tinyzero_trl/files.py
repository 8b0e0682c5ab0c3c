"""Files and folders from outside: read with one clear error, and no folder left behind for nothing. No PyTorch."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file; tags that would build anything but plain values are refused.

    Raises:
        ValueError: the file is no YAML, or holds something else than a mapping of names to values.
        OSError: the file cannot be read.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}; write it anew") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: must hold a mapping of names to values, such as `seed: 0`")
    return content


def check_figures(where: str, record: Mapping[str, Any], needed: tuple[str, ...] = ()) -> None:
    """Refuse a record that was not written by a run: every figure is a finite number, and `needed` ones are there.

    Raises:
        ValueError: names the place, the figure and its value.
    """
    for name in needed:
        if name not in record:
            raise ValueError(f"{where}: {name!r} is missing; give a run whose records are whole")
    for name, value in record.items():
        if not is_finite_number(value):
            raise ValueError(f"{where}: {name!r} is {shortened(value)}, no finite number; mend or remove the line")


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a number that a float can hold; true and false count as 1 and 0."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def shortened(value: Any) -> str:
    """What `value` looks like in a message of one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """The folder exists inside; what was made for it and holds nothing is removed when the body fails."""
    with unless_it_fails(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def unless_it_fails(folder: Path) -> Iterator[None]:
    """Whoever makes the folder inside leaves none behind, empty, when the body fails."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise
