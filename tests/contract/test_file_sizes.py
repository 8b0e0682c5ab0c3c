"""No module is longer than a reader can follow."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tinyzero_trl"
MOST_LINES = 300


@pytest.mark.parametrize(
    "room", sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists())
)
def test_no_module_has_more_than_300_lines(room: str) -> None:
    long = {str(file): lines for file in (PACKAGE / room).rglob("*.py") if (lines := _lines(file)) > MOST_LINES}
    assert not long, f"split {long}"


def test_only_what_every_room_needs_lies_at_the_top() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == {"__init__", "messages", "plugins", "replacing"}


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())
