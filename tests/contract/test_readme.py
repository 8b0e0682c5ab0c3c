"""Whatever the README tells a reader to type exists and is understood."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

import tinyzero_trl
from tinyzero_trl import AdaptiveGRPOConfig
from tinyzero_trl.commands.main import build_parser
from tinyzero_trl.training.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""
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
        assert build_parser().parse_args(arguments).run


@pytest.mark.parametrize("command", starting_with("accelerate", "launch"), ids=shlex.join)
def test_every_launch_in_the_readme_parses(command: list[str]) -> None:
    script = next(place for place, word in enumerate(command) if word.endswith(".py"))
    assert (ROOT / command[command.index("--config_file") + 1]).is_file()
    arguments = [str(ROOT / word) if word.startswith("recipes/") else word for word in command[script + 1 :]]
    if "--config" in arguments:
        parse_recipe([*arguments, "--use_cpu", "true"])


def test_every_field_that_the_readme_shows_in_yaml_exists() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        assert isinstance(yaml.safe_load(block), dict), block


def test_the_own_reward_of_the_readme_is_a_verdict_that_a_trainer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is run as it stands, but for the trainer, which would load a model."""
    [block] = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    made: dict[str, Any] = {}

    class Trainer:
        def __init__(self, model: str, reward: Any, config: AdaptiveGRPOConfig, train_dataset: Dataset) -> None:
            made.update(reward=reward, config=config, rows=train_dataset)

        def train(self) -> None:
            made["trained"] = True

    monkeypatch.setattr(tinyzero_trl, "AdaptiveGRPOTrainer", Trainer)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # TRL's default is bf16
    exec(block, {})
    assert made["trained"]
    columns = made["rows"][:2]
    assert made["reward"](completions=["So it is 4", "no"], **columns) == [1.0, 0.0]
    assert made["config"].window_config().strategy == "signal"
    assert made["config"].generation_batch_size == 256
