"""The pages of the documentation: no dead link, no page that the navigation lacks, nothing generated that is stale."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import recipe_fields
import yaml
from transformers import set_seed

import tinyzero_trl
from tinyzero_trl.commands.main import build_parser
from tinyzero_trl.models.names import resolve_model

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "results" / "README.md"])
_FENCED = re.compile(r"(?ms)^ *```.*?^ *```")
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without the tags that MkDocs adds to YAML."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)
SITE: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def command_lines(page: Path) -> list[str]:
    """What stands in code blocks without a language, a line of the shell each, without its comment."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"))
    texts = [text.replace("\\\n", " ") for language, text in blocks if not language]
    return [line.split(" #")[0].strip() for text in texts for line in text.splitlines()]


def anchors(page: Path) -> set[str]:
    """What MkDocs and GitHub call the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page))
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


def places(entries: list[Any]) -> list[str]:
    """The pages of a navigation, in its order."""
    values = [value for entry in entries for value in entry.values()]
    return [place for value in values for place in (places(value) if isinstance(value, list) else [value])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists() and file.is_relative_to(ROOT), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {link}: {file.name} has no such heading"


def test_links_are_found_and_dead_ones_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `word`, two\n[a](b.md) ![c](d.png#e) [web](https://f.g)\n```python\n[no](link)\n```\nText.\n"
        "```\nmake \\\n  demo  # said\n```\n"
    )
    assert command_lines(page) == ["make    demo"]
    assert _LINK.findall(prose(page)) == ["b.md", "d.png#e"]
    assert anchors(page) == {"one-word-two"}


def test_the_navigation_has_every_page_once() -> None:
    outside = ["index.md", "contributing.md", "changelog.md", "security.md", "records.md"]  # docs/site_pages.py
    named = re.findall(r'"([\w.]+\.md)": "', (DOCS / "site_pages.py").read_text(encoding="utf-8"))
    assert named == outside
    assert sorted(places(SITE["nav"])) == sorted([*outside, *(page.name for page in DOCS.glob("*.md"))])


def test_the_table_of_recipe_fields_is_up_to_date() -> None:
    assert recipe_fields.PAGE.read_text(encoding="utf-8") == recipe_fields.page(), "run python docs/recipe_fields.py"


def test_the_reference_has_every_public_name() -> None:
    described = re.findall(r"(?m)^::: (\S+)\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"))
    for module, name in described:
        assert getattr(import_module(module), name) is getattr(tinyzero_trl, name), f"{module}.{name}"
    assert sorted(name for _, name in described) == sorted({*tinyzero_trl.__all__} - {"__version__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_python_examples_import_from_the_package_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    programs = re.findall(r"(?ms)^```python\n(.*?)^```", text) + re.findall(r"`(from tinyzero_trl[^`]*)`", text)
    for program in programs:
        for statement in ast.walk(ast.parse(program)):
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("tinyzero_trl"):
                module = import_module(str(statement.module))
                assert all(hasattr(module, each.name) for each in statement.names), ast.unparse(statement)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_pages_are_understood(page: Path) -> None:
    """Subcommands and their options; what needs a recipe of the reader's own is left to the reader."""
    for line in command_lines(page):
        if line.startswith("tinyzero-trl ") and not {"...", "--version"} & {*line.split()}:
            args, further = build_parser().parse_known_args(shlex.split(line)[1:])
            assert args.run and (hasattr(args, "takes_fields") or not further), line


def test_a_trained_model_answers_as_its_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```", (DOCS / "faq.md").read_text("utf-8"))
    assert '"runs/countdown_tiny"' in program
    (tmp_path / "ask.py").write_text(program.replace("runs/countdown_tiny", resolve_model("embedded-demo")))
    set_seed(0)
    runpy.run_path(str(tmp_path / "ask.py"))
    assert "[10, 3, 4]" in (printed := capsys.readouterr().out) and "</answer>" in printed.split("<think>")[-1]


def test_the_worked_example_prints_what_its_page_says(tmp_path: Path) -> None:
    program, printed = re.findall(r"(?ms)^```(?:python)?\n(.*?)^```", (DOCS / "worth_it.md").read_text("utf-8"))
    (tmp_path / "waste.py").write_text(program, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "waste.py"), "results/ablation_tiny/full/seed_0"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == printed
