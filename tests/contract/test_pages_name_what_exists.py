"""What pages name is there: files, targets of make, options of scripts, fields of recipes, figures."""

import re
import shlex
from pathlib import Path

import pytest

from tests.contract.test_docs import PAGES, command_lines
from tinyzero_trl.metrics import describe

ROOT = Path(__file__).parents[2]
HISTORY = {"LOG.md", "CHANGELOG.md"}  # they name what is gone
NOW = [page for page in PAGES if page.name not in HISTORY]
FIELDS = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs" / "recipe_fields.md").read_text(encoding="utf-8")))
_FOLDERS = "|".join(
    sorted(each.name for each in [*ROOT.iterdir(), *(ROOT / "tinyzero_trl").iterdir()] if each.is_dir())
)
_ELSEWHERE = re.compile(r"(runs|evaluations|report|models)/|tinyzero_trl/gguf$")  # of a run, and in the cache


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(page: Path) -> list[str]:
    """What stands in backticks in the running text."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8"))
    return re.findall(r"`([^`\n]+)`", prose)


def commands(page: Path) -> list[list[str]]:
    """The lines of code blocks that start a program of ours, each split as a shell does."""
    starts = ("python ", "tinyzero-trl ", "accelerate ", "make ", "OMP_NUM_THREADS=1 python ")
    return [shlex.split(line) for line in command_lines(page) if line.startswith(starts)]


@pytest.mark.parametrize("page", NOW, ids=ids)
def test_files_of_the_repository_are_there(page: Path) -> None:
    for text in code(page):
        if re.fullmatch(rf"(?:{_FOLDERS})/[\w./-]*", text) and not _ELSEWHERE.match(text):
            assert (ROOT / text).exists() or (ROOT / "tinyzero_trl" / text).exists(), f"{page.name} names {text}"


@pytest.mark.parametrize("page", NOW, ids=ids)
def test_scripts_have_their_options(page: Path) -> None:
    for command in commands(page):
        words = command[command.index("python") + 1 :] if "python" in command else []
        if words[:1] == ["-m"] and words[1].startswith("tests."):
            words = [f"{words[1].replace('.', '/')}.py", *words[2:]]
        if words and words[0].startswith(("benchmarks/", "tests/", "docs/")):
            source = (ROOT / words[0]).read_text(encoding="utf-8")
            unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
            assert not unknown, f"{page.name}: {words[0]} has no {unknown}"


@pytest.mark.parametrize("page", NOW, ids=ids)
def test_targets_of_make_are_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = [text.split() for text in code(page) if text.startswith("make ")]
    for command in [*named, *(each for each in commands(page) if each[0] == "make")]:
        assert re.search(rf"(?m)^{re.escape(command[1])}:", makefile), f"{page.name} names {command}"


@pytest.mark.parametrize("page", NOW, ids=ids)
def test_fields_on_command_lines_are_those_of_recipes(page: Path) -> None:
    """Of what trains; a task or policy of the reader's own has further ones."""
    for command in commands(page):
        trains = "countdown_adaptive.py" in shlex.join(command) or command[:2] in (["tinyzero-trl", "train"],)
        own = {word.split(":")[0] for word in command if re.fullmatch(r"\w+:\w+", word)}
        for word in command if trains and not own else []:
            name = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and name not in {"config", "config_file", "help", "help_fields"} | _ACCELERATE:
                assert name in FIELDS, f"{page.name}: {word}"


_ACCELERATE = {"num_processes", "machine_rank", "main_process_ip", "main_process_port", "mixed_precision"}


@pytest.mark.parametrize("page", NOW, ids=ids)
def test_fields_of_windows_and_figures_are_there(page: Path) -> None:
    for text in code(page):
        name = re.split(r"[ :=]", text)[0].removeprefix("--")
        if re.fullmatch(r"window_[a-z_]+", name) and not name.endswith("_"):
            assert name in FIELDS or name in {"window_callback", "window_config"}, f"{page.name} names the field {text}"
        if re.fullmatch(
            r"(adaptive_window|group_window|actor|completion|difficulty|group|compute|faults|eval)/\w+", text
        ):
            assert describe(text) is not None, f"{page.name} names the figure {text}"


def test_something_is_found() -> None:
    assert len(FIELDS) > 200 and sum(len(commands(page)) for page in NOW) > 50
    assert describe("eval/acc") is not None and describe("eval/nothing") is None
