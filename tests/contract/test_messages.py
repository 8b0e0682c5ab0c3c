"""What messages name can be found from a wheel, which holds no pages, and recipes and launch files elsewhere."""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

import hatch_build
from tinyzero_trl import messages
from tinyzero_trl.training.recipe import shipped

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tinyzero_trl"
OF_THE_CHECKOUT = re.compile(r"\b(?:docs|recipes|configs|benchmarks|tests|results)/\w|\b[\w-]+\.md\b|pip install -e")
LOOKED_UP = {
    "messages.py": "finds pages",
    "runs/earlier.py": "moves README.md",
    "runs/model_card.py": "writes README.md",
    "training/recipe/shipped.py": "finds recipes and launch files",
}


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def texts(tree: ast.Module) -> list[str]:
    """The texts of a program that are no docstring and no name given to `page`."""
    docstrings = {id(node.value) for node in ast.walk(tree) if is_text(node)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    named = {id(each) for call in calls if call.func.id == "page" for each in call.args}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in found if id(node) not in docstrings | named]


def prints_its_docstring(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__doc__" for node in ast.walk(tree))


def test_no_message_names_a_path_that_a_wheel_lacks() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        tree, name = ast.parse(file.read_text(encoding="utf-8")), file.relative_to(PACKAGE).as_posix()
        docstring = [ast.get_docstring(tree) or ""] if prints_its_docstring(tree) else []
        named = [text for text in [*texts(tree), *docstring] if OF_THE_CHECKOUT.search(text)]
        assert not named or name in LOOKED_UP, f"{name} names {named}; use page, path_of or launch_file"


def test_every_page_that_is_named_is_there() -> None:
    named = {
        str(argument.value)
        for file in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "page"
        for argument in call.args
    }
    assert {"files.md", "tasks.md"} <= named
    for name in named:
        assert messages.page(name) == f"docs/{name}"


def test_a_page_is_found_without_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(messages, "_CHECKOUT", tmp_path)
    links = [f"{label}, {address}" for label, address in hatch_build.links("https://a.example/b").items()]
    installed = metadata.metadata("trl")
    monkeypatch.setattr(messages, "metadata", lambda _: installed)
    monkeypatch.setattr(installed, "get_all", lambda _: links)
    assert messages.page("tasks.md") == "https://a.example/b/tree/main/docs/tasks.md"
    monkeypatch.setattr(installed, "get_all", lambda _: None)
    assert messages.page("tasks.md") == "docs/tasks.md in the repository of tinyzero-trl"


def test_a_shipped_file_is_named_from_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert shipped.launch_file("ddp") == "configs/accelerate/ddp.yaml"
    monkeypatch.chdir(tmp_path)
    assert Path(shipped.launch_file("ddp")).is_file() and Path(shipped.launch_file("ddp")).is_absolute()
