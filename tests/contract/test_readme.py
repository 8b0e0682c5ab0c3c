"""Whatever the README tells a reader to type exists and is understood."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tinyzero_trl.commands.data import parse_options
from tinyzero_trl.commands.main import build_parser
from tinyzero_trl.training.recipe import parse_recipe
from tinyzero_trl.training.shipped import find_launch_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CODE_BLOCKS = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    re.sub(r"^\$ ", "", line).split(" #")[0].strip()
    for block in CODE_BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]


def starting_with(*words: str) -> list[list[str]]:
    """The README's commands that begin with `words`, split as a shell does; placeholders in <> are left out."""
    commands = [shlex.split(line) for line in COMMANDS if line.startswith(" ".join(words) + " ") and "<" not in line]
    return [[word for word in command if not word.startswith("[")] for command in commands]


def test_there_is_a_readme_with_the_two_commands() -> None:
    assert "make demo" in README and "make test" in README
    assert starting_with("tinyzero-trl") and starting_with("accelerate", "launch"), "else nothing is checked"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:recipes|configs|docs|benchmarks)/[\w./-]*\w", README))))
def test_every_path_in_the_readme_exists(path: str) -> None:
    assert (ROOT / path).exists(), f"README.md mentions {path}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?m)(?:^|`|\$ )make ([a-z]+)", README))))
def test_every_make_target_in_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"tinyzero-trl ([a-z]+)\b", README))))
def test_every_subcommand_in_the_readme_exists(name: str) -> None:
    [commands] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert name in commands.choices


@pytest.mark.parametrize("command", starting_with("tinyzero-trl"), ids=shlex.join)
def test_every_command_line_in_the_readme_parses(command: list[str]) -> None:
    arguments = [word for word in command[1:] if word != "..."]
    if "--help" not in arguments:
        args, further = build_parser().parse_known_args(arguments)
        assert args.run
        if args.command == "data":
            assert parse_options(args.task, further)
        elif args.command not in ("train", "plan"):
            assert not further


@pytest.mark.parametrize("command", starting_with("accelerate", "launch"), ids=shlex.join)
def test_every_launch_in_the_readme_parses(command: list[str]) -> None:
    programs = ("recipes/countdown_adaptive.py", "tinyzero_trl.commands.train")
    [program] = [place for place, word in enumerate(command) if word in programs]
    if "--config_file" in command:
        assert Path(find_launch_file(command[command.index("--config_file") + 1])).is_file()
    parse_recipe([*command[program + 1 :], "--use_cpu", "true"])


@pytest.mark.slow
def test_the_python_example_of_the_readme_trains_as_printed(tmp_path: Path) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "example.py").write_text(example)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "example.py"], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "runs/mine/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 10
    assert {line["adaptive_window/current_window"] for line in lines} > {64}, "the window moves"
    assert lines[-1]["adaptive_window/cumulative_success_rate"] > 0, "some completions are right"
