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
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.training.recipe.shipped import find_launch_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON_BLOCKS = [block for language, block in FENCED if language == "python"]
CODE_BLOCKS = [block for language, block in FENCED if language in ("", "bash", "sh", "shell", "console")]
COMMANDS = [
    re.sub(r"^\$ ", "", line).split(" #")[0].strip()
    for block in CODE_BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]


def starting_with(*words: str) -> list[list[str]]:
    """The README's commands that begin with `words`, split as a shell does; placeholders in <> are left out."""
    commands = [shlex.split(line) for line in COMMANDS if line.startswith(" ".join(words) + " ") and "<" not in line]
    return [[word for word in command if not word.startswith("[")] for command in commands]


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    assert len(README.splitlines()) <= 150
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


def run_as_printed(program: str, folder: Path) -> str:
    """Run a program in an empty folder, in an interpreter of its own; returns what it printed."""
    (folder / "example.py").write_text(program, encoding="utf-8")
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "example.py"], env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_python_example_trains_as_printed(tmp_path: Path) -> None:
    run_as_printed(PYTHON_BLOCKS[0], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "runs/python/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 5
    assert len({line["adaptive_window/current_window"] for line in lines}) > 1, "the window moves"
    assert lines[-1]["adaptive_window/cumulative_success_rate"] > 0, "some completions are right"


@pytest.mark.slow
def test_the_window_for_stock_trl_works_as_printed(tmp_path: Path) -> None:
    """The second example, before the last line of the first, with TRL's own trainer."""
    first, second = PYTHON_BLOCKS
    ours = "from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer"
    stock = "from trl import GRPOConfig as AdaptiveGRPOConfig, GRPOTrainer as AdaptiveGRPOTrainer"
    assert ours in first and "max_steps=5" in first and first.endswith("trainer.train()\n")
    before = first.replace(ours, stock).replace("max_steps=5", "max_steps=1, logging_steps=1, use_cpu=True")
    before = before.replace('"embedded"', repr(resolve_model("embedded"))).replace("window_initial=64, ", "")
    program = f"{before.removesuffix('trainer.train()' + chr(10))}{second}\ntrainer.train()\n"
    assert "adaptive_window/current_window" in run_as_printed(program, tmp_path)
