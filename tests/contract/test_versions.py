"""The ranges of pyproject.toml, the pins of constraints.txt and the table of docs/versions.md say the same."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
RANGES = {each.name: each.specifier for each in map(Requirement, [*PROJECT["dependencies"], *OPTIONAL])}
PINS = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().replace("_", "-")))
ROWS = re.findall(
    r"(?m)^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "versions.md").read_text()
)


def test_the_table_names_what_training_is_built_on() -> None:
    names = {name for name, *_ in ROWS}
    assert {"torch", "trl", "transformers", "accelerate", "datasets", "huggingface-hub"} <= names


@pytest.mark.parametrize(("name", "lowest", "pinned", "newest"), ROWS, ids=lambda text: text)
def test_a_row_of_the_table_says_what_the_files_say(name: str, lowest: str, pinned: str, newest: str) -> None:
    bounds = {each.operator: each.version for each in RANGES[name]}
    assert bounds[">="] == lowest
    assert PINS[name] == pinned
    assert Version(lowest) <= Version(pinned) <= Version(newest)
    assert newest in RANGES[name]


@pytest.mark.parametrize(("name", "version"), PINS.items())
def test_a_pin_lies_in_its_range(name: str, version: str) -> None:
    ranges = {each.lower(): specifier for each, specifier in RANGES.items()}
    assert ranges.get(name.lower(), SpecifierSet()).contains(version)


def test_every_upper_bound_has_its_reason_on_the_page() -> None:
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if upper := [each for each in requirement.specifier if each.operator.startswith("<")]:
            assert re.search(rf"(?m)^\| `{requirement.name}\S*{re.escape(str(upper[0]))}` \| \w", page), requirement
