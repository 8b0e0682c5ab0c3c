"""The recipes and launch files that come with the package: found by name, with or without a checkout.

A wheel holds them in `tinyzero_trl/recipes/`, the launch files of accelerate below it in `accelerate/`. In a checkout
they are `recipes/` and `configs/accelerate/`.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[2]
_INSTALLED = (_PACKAGE / "recipes").is_dir()
RECIPES = _PACKAGE / "recipes" if _INSTALLED else _PACKAGE.parent / "recipes"
LAUNCH_FILES = RECIPES / "accelerate" if _INSTALLED else _PACKAGE.parent / "configs" / "accelerate"


def find_recipe(name: str) -> str:
    """The file that `name` stands for: itself where it exists, else the shipped recipe or grid of that name.

    `countdown_tiny`, `countdown_tiny.yaml` and `recipes/countdown_tiny.yaml` all name a shipped one. What is neither
    comes back as it is.
    """
    return _find(name, "recipes", RECIPES)


def advice_for_recipe(name: str) -> str:
    """What to do about the name of a recipe that is neither a file nor comes with the package."""
    shipped = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    close = difflib.get_close_matches(Path(name).stem, shipped, n=1)
    return f"did you mean {close[0]}?" if close else "give a path, or a name that `tinyzero-trl train --help` lists"


def path_of(file: Path) -> str:
    """A shipped file as messages name it, to be given to a command: from the working folder if it lies below it."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def launch_file(way: str) -> str:
    """The path of the launch file for `way` (such as `ddp`), for messages: `accelerate` itself knows no names."""
    return path_of(LAUNCH_FILES / f"{way}.yaml")


def find_launch_file(name: str) -> str:
    """The same for the launch files: `zero2` and `configs/accelerate/zero2.yaml` name a shipped one."""
    return _find(name, "configs/accelerate", LAUNCH_FILES)


def read_launch_file(name: str) -> dict[str, Any]:
    """What a launch file, given by its path or its name, says; empty where there is none, or none that can be read."""
    try:
        content = yaml.safe_load(Path(find_launch_file(name)).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _find(name: str, folder_in_checkout: str, folder: Path) -> str:
    given = Path(name)
    if given.is_file() or given.parent not in (Path(), Path(folder_in_checkout)):
        return name
    shipped = folder / f"{given.name.removesuffix('.yaml')}.yaml"
    return str(shipped) if shipped.is_file() else name
