"""docs/files.md names what files hold: every reason of a score, every column of completions and generations."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tinyzero_trl"
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
SCORES = {"wrong", "Score", "ExpressionError"}


def section(heading: str) -> set[str]:
    """The names in backticks under a heading of the page."""
    text = re.split(rf"(?m)^## {re.escape(heading)}$", PAGE)[1].split("\n## ")[0]
    return set(re.findall(r"`([^`\n]+)`", text))


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def texts(parts: list[ast.expr]) -> Iterator[str]:
    """The texts among some expressions, one level deep."""
    return (each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str))


def reasons(file: Path) -> Iterator[str]:
    """What a module gives to what makes a score, and the values of a mapping that is named so."""
    for node in nodes(file):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SCORES:
            yield from texts(node.args)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_FORBIDDEN_REASONS.get":
            yield from texts(node.args)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_FORBIDDEN_REASONS":
            yield from texts(node.value.values if isinstance(node.value, ast.Dict) else [])


def test_every_reason_of_our_tasks_is_explained() -> None:
    given = {reason for file in (PACKAGE / "tasks").rglob("*.py") for reason in reasons(file)}
    assert {"correct", "no-answer-tag", "wrong-sum", "unknown-character", "underscore"} < given, "else none is found"
    assert given <= section("Reasons"), f"docs/files.md lacks {sorted(given - section('Reasons'))}"


@pytest.mark.parametrize(
    ("heading", "modules"),
    [
        ("Columns of `completions/`", ["training/rollout/scoring.py", "training/held_out.py"]),
        ("Files of `eval`", ["evaluation/run.py"]),
    ],
    ids=["completions", "generations"],
)
def test_every_column_is_explained(heading: str, modules: list[str]) -> None:
    """Columns are the keys of the dictionary that has the completion, or adds the index to it."""
    mappings = [
        {key.value for key in node.keys if isinstance(key, ast.Constant)}
        for module in modules
        for node in nodes(PACKAGE / module)
        if isinstance(node, ast.Dict)
    ]
    columns = set().union(*(keys for keys in mappings if keys & {"completion", "index"}))
    assert {"completion", "reward"} < columns, "else none is found"
    assert columns <= section(heading), f"docs/files.md lacks {sorted(columns - section(heading))}"
