"""Whatever TRL and Transformers keep between steps stands in docs/trainer.md with what a resumed run does about it."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest
from transformers import Trainer
from trl import GRPOTrainer

DOCS = Path(__file__).parents[2] / "docs" / "trainer.md"
NEWER = {"_initial_global_step"}  # Transformers 5.24
MUTATING = {"append", "extend", "add", "update", "setdefault", "insert"}


def kept(cls: type) -> set[str]:
    """Attributes of `self` that a method other than `__init__` sets or adds to."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    names = set()
    for method in tree.body:
        if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
            continue
        for node in ast.walk(method):
            for target in targets(node):
                while isinstance(target, ast.Subscript | ast.Starred):
                    target = target.value
                if isinstance(target, ast.Attribute) and (name := attribute_of_self(target)):
                    names.add(name)
    return names


def targets(node: ast.AST) -> list[ast.expr]:
    found: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        found = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        found = [node.target]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
        found = [node.func.value]
    return [each for target in found for each in (target.elts if isinstance(target, ast.Tuple) else [target])]


def attribute_of_self(node: ast.expr) -> str | None:
    """`name` of `self.name`, `self.name.other` and `self.name[0].other`."""
    name = None
    while isinstance(node, ast.Attribute | ast.Subscript):
        name = node.attr if isinstance(node, ast.Attribute) else name
        node = node.value
    return name if isinstance(node, ast.Name) and node.id == "self" else None


@pytest.mark.parametrize("cls", [cls for cls in GRPOTrainer.__mro__ if cls.__module__ != "builtins"])
def test_every_attribute_that_changes_is_accounted_for(cls: type) -> None:
    table = DOCS.read_text().split("## State between steps")[1]
    known = {name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    new = kept(cls) - known
    assert not new, f"{cls.__name__} keeps {sorted(new)}: save, rebuild or refuse it, and add it to docs/trainer.md"


def test_the_table_names_nothing_that_is_gone() -> None:
    table = DOCS.read_text().split("## State between steps")[1]
    ours = {"sync_ref_model", "ref", "train_loss"} | NEWER
    known = {name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    assert known - ours <= set().union(*(kept(cls) for cls in (GRPOTrainer, Trainer)))
