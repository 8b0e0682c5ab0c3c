"""What run groups are called: by what sets them apart, in full in tables and shortened in pictures."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from string import ascii_uppercase
from typing import Any

LABEL_CHARACTERS = 22  # what fits twice into the width of a picture
NAMED_GROUPS = 12  # with more of them in one picture every label is a letter

_KEPT_WHERE = frozenset(
    {
        *("output_dir", "logging_dir", "run_name", "resume", "resume_from_checkpoint"),
        *("report_to", "project", "hub_model_id", "push_to_hub"),
    }
)


def _tells_apart(field: str) -> bool:
    """Whether a field makes another group: not which repetition it is or where it is kept, but which problems."""
    return field == "problem_seed" or not (field in _KEPT_WHERE or field.endswith("seed"))


def group_names(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each configuration, the same for two of them only if they differ in bookkeeping alone.

    The recipe, or else the window strategy, where that tells all groups apart; otherwise the recipe
    followed by the fields that vary among the runs of that recipe.
    """
    given = {field for configuration in configurations for field in configuration}
    varying = _varying(sorted(filter(_tells_apart, given)), configurations)
    groups = {_values(varying, configuration) for configuration in configurations}
    for field in ("recipe", "window_strategy"):
        names = [configuration.get(field) for configuration in configurations]
        if all(names) and len(set(names)) == len(groups):
            return [str(name) for name in names]
    return [_described(configuration, varying, configurations) for configuration in configurations]


def short_labels(names: Sequence[str], can_be_drawn: Callable[[str], bool]) -> dict[str, str]:
    """Name -> label for pictures: the name itself, or what differs in it, or a letter where that is too long.

    Args:
        names: the names of all groups, each once.
        can_be_drawn: whether the font of the pictures has every character of a text.
    """
    shortened = {name: _shortened(name, names) for name in names}
    taken = list(shortened.values())
    letters = _letters()
    return {
        name: label
        if len(names) <= NAMED_GROUPS
        and len(label) <= LABEL_CHARACTERS
        and taken.count(label) == 1
        and can_be_drawn(label)
        else next(letter for letter in letters if letter not in taken)
        for name, label in shortened.items()
    }


def file_slugs(labels: Sequence[str]) -> dict[str, str]:
    """Label -> what stands for it in a file's name, each another one, also where letter case does not count."""
    slugs: dict[str, str] = {}
    for label in labels:
        slug = "".join(letter if letter.isalnum() else "-" for letter in label)
        endings = (f"{slug}-{number}" if number > 1 else slug for number in count(1))
        lower = {other.lower() for other in slugs.values()}
        slugs[label] = next(candidate for candidate in endings if candidate.lower() not in lower)
    return slugs


def _shortened(name: str, names: Sequence[str]) -> str:
    """The name without what all names begin with, without `window_`, and with the ends of paths alone."""
    if len(name) <= LABEL_CHARACTERS:
        return name
    words = name.split(" ")
    others = [other.split(" ") for other in names]
    while len(words) > 1 and all(other[:1] == words[:1] for other in others):
        words, others = words[1:], [other[1:] for other in others]
    return " ".join(re.sub(r"=.*/", "=", word).removeprefix("window_") for word in words)


def _letters() -> Iterator[str]:
    """A to Z, then AA, AB, ..."""
    yield from ascii_uppercase
    yield from (first + second for first in ascii_uppercase for second in ascii_uppercase)


def _described(
    configuration: Mapping[str, Any], varying: Sequence[str], configurations: Sequence[Mapping[str, Any]]
) -> str:
    recipe = configuration.get("recipe")
    same_recipe = [other for other in configurations if other.get("recipe") == recipe]
    details = [f"{field}={configuration.get(field)}" for field in _varying(varying, same_recipe)]
    return " ".join([str(recipe)] * bool(recipe) + details) or "run"


def _varying(fields: Sequence[str], configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    return [field for field in fields if len({_values([field], other) for other in configurations}) > 1]


def _values(fields: Sequence[str], configuration: Mapping[str, Any]) -> str:
    return json.dumps([configuration.get(field) for field in fields], sort_keys=True, default=str)
