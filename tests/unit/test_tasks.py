"""What every task may rely on: registry, checked rows, a generator from single draws, columns that disturb nobody."""

import random
import sys
from collections import Counter
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tinyzero_trl.commands.data import parse_options
from tinyzero_trl.tasks import Score, Task, countdown, counting, get_task, multiplication, register_task, registry
from tinyzero_trl.tasks.config import config_class, task_config
from tinyzero_trl.tasks.datasets import read_examples, to_dataset, train_test_examples
from tinyzero_trl.tasks.parquet import write_splits
from tinyzero_trl.tasks.rewards import reward_functions
from tinyzero_trl.training.recipe.parser import parse_recipe


@dataclass
class Options:
    """Options of `Facts`."""

    sides: int = 6

    def __post_init__(self) -> None:
        if self.sides < 2:
            raise ValueError(f"sides: {self.sides} is below 2; raise it")


class Facts(Task):
    """Columns of every type, with names that TRL and result files use themselves."""

    columns: ClassVar[dict[str, type]] = {"prompt": str, "reward": int, "weight": float, "tags": list, "meta": dict}
    options = Options

    def question(self, example: Any) -> str:
        """The question."""
        return f"Say {example['prompt']} {example['reward']}."

    def score(self, completion: str, example: Any) -> Score:
        """Right if the completion is all of the example."""
        return Score(float(completion == repr(dict(example))), "compared")

    def draw(self, generator: random.Random, options: Options) -> dict[str, Any]:
        """A throw of a die."""
        number = generator.randrange(options.sides)
        return {"prompt": "p", "reward": number, "weight": 0.5, "tags": ["a"], "meta": {str(number): [number]}}


GOOD_FACT: dict[str, Any] = {"prompt": "p", "reward": 1, "weight": 0.5, "tags": ["a"], "meta": {"1": [1]}}


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    register_task("facts")(Facts)
    return "facts"


def test_examples_survive_files_and_training_columns(facts: str, tmp_path: Path) -> None:
    train, test = train_test_examples(facts, train_size=3, test_size=2, seed=0)
    assert Counter(example["reward"] for example in train + test).most_common(1)[0][1] == 1, "different examples"
    write_splits(tmp_path, {"train": train, "test": test}, task=facts, template="base")
    assert read_examples(str(tmp_path), task=facts) == train

    rows = to_dataset(train, task=facts, template="base")
    assert rows.column_names == ["prompt", "example_prompt", "example_reward", "weight", "tags", "meta", "difficulty"]
    [score], _ = reward_functions(facts)
    completions = [repr(example) for example in train]
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    assert score(completions=completions, prompts=rows["prompt"][:], completion_ids=[[1]] * 3, **columns) == [1.0] * 3


@pytest.mark.parametrize("score", [1.0, None, Score(float("nan"), "x"), Score(True, None), (1.0, "x"), Score("1", "x")])
def test_a_task_that_gives_no_score_is_told_before_a_model_loads(
    facts: str, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "score", lambda self, completion, example: score)
    with pytest.raises(
        ValueError, match=r"task: facts scores an empty completion with .*; return Score\(reward, reason"
    ):
        to_dataset([GOOD], task=facts, template="base")


def test_too_few_different_draws_are_told_with_the_field(facts: str) -> None:
    with pytest.raises(ValueError, match=r"test_size: 9 different examples .* only 6 could be found; ask for fewer"):
        train_test_examples(facts, train_size=1, test_size=9, seed=0)
    with pytest.raises(ValueError, match="sides: 1 is below 2; raise it"):
        train_test_examples(facts, train_size=1, test_size=1, seed=0, sides=1)


GOOD = {"prompt": "p", "reward": 1, "weight": 1, "tags": [], "meta": {}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": 1}, "prompt: 1 must be text"),
        ({"reward": True}, "reward: True must be a whole number"),
        ({"weight": "1"}, "weight: '1' must be a number"),
        ({"tags": "a"}, "tags: 'a' must be a list"),
        ({"meta": "[1]"}, r"meta: \[1\] must be a mapping"),
        ({"meta": "{"}, "meta: '{' must be a mapping"),
        ({"prompt": None}, "prompt: None must be text"),
    ],
)
def test_a_row_is_checked_against_the_columns(changed: dict[str, Any], message: str) -> None:
    assert Facts().read(GOOD) == GOOD
    with pytest.raises(ValueError, match=message):
        Facts().read({**GOOD, **changed})


def test_a_column_of_several_types_is_one_line(facts: str) -> None:
    mixed = [{**GOOD, "tags": ["a"]}, {**GOOD, "tags": [1]}]
    with pytest.raises(ValueError, match=r"dataset: a column of the task facts holds values of several types"):
        to_dataset(mixed, task=facts, template="base")
    with pytest.raises(ValueError, match=r"an example of facts has the columns .* return exactly these"):
        to_dataset([{"prompt": "p"}], task=facts, template="base")


# --- names ------------------------------------------------------------------------------------------------------


def test_a_name_belongs_to_one_task(facts: str) -> None:
    assert get_task(facts).name == "facts"
    assert register_task(facts)(Facts) is Facts, "a module may be loaded again"
    with pytest.raises(ValueError, match=r"task: 'countdown' is the name of tinyzero_trl.*:Countdown; choose another"):
        register_task("countdown")(Facts)
    with pytest.raises(ValueError, match="task: 'a:b' holds a colon"):
        register_task("a:b")(Facts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "chess",
            "task: 'chess' is unknown; use one of addition, countdown, multiplication, counting, gsm8k, prompt_answer, "
            "reasoning_gym:DATASET, or package.module:Class",
        ),
        (
            "no_such_module:Class",
            r"cannot be imported \(ModuleNotFoundError: No module named 'no_such_module'\); give package.module:Class",
        ),
        ("here:Missing", r"cannot be imported \(AttributeError: module 'here' has no attribute 'Missing'\)"),
        ("here:os", r"task: 'here:os' is no subclass of tinyzero_trl.Task; make it one"),
        ("here:Half", r"task: 'here:Half' cannot be made \(.*score.*\); see docs/tasks.md"),
        (":Class", "cannot be imported"),
        ("broken:Class", "cannot be imported"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.py").write_text("import os\nfrom tinyzero_trl import Task\nclass Half(Task): ...\n")
    (tmp_path / "broken.py").write_text("class :\n")
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [*before])
    with pytest.raises(ValueError, match=message) as refusal:
        get_task(name)
    assert "\n" not in str(refusal.value)
    assert sys.path == before or "cannot be imported" not in message
    sys.modules.pop("here", None)


def test_an_installed_package_brings_a_task_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chess_task.py").write_text(
        "from tinyzero_trl import Task\nclass Chess(Task):\n    def score(self, completion, example): ...\n"
    )
    information = tmp_path / "chess_task-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: chess-task\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[tinyzero_trl.tasks]\nchess = chess_task:Chess\ngone = chess_task:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(get_task("chess")).__name__ == "Chess"
    assert registry.task_names()[-2:] == ["chess", "gone"]
    with pytest.raises(ValueError, match=r"task: 'gone' cannot be imported .* offers chess_task:Gone"):
        get_task("gone")
    sys.modules.pop("chess_task", None)


# --- options ----------------------------------------------------------------------------------------------------


def test_options_are_fields_of_the_tasks_configuration(facts: str) -> None:
    assert task_config(task=facts, sides=4).generator_options() == {"sides": 4}
    with pytest.raises(ValueError, match=r"operands: .* has no effect on the task facts; remove it"):
        task_config(task=facts, operands=[3])
    with pytest.raises(ValueError, match="sides: 1 is below 2"):
        task_config(task=facts, sides=1)


def test_an_option_needs_a_default_and_a_name_of_its_own(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [({name: int}, f"has an option '{name}', a name that") for name in ("train_size", "seed", "out")]
    for declared, message in (*taken, ({"a": int}, "default")):
        monkeypatch.setattr(Facts, "options", dataclass(type("Options", (), {"__annotations__": declared})))
        for read in (config_class, lambda name: parse_options(name, ["--out", "folder"])):
            with pytest.raises(ValueError, match=message):
                read(facts)


@pytest.mark.parametrize("name", ["learning_rate", "beta", "lora_r"])
def test_an_option_with_the_name_of_a_field_of_the_training_is_refused(
    name: str, facts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "options", dataclass(type("Options", (), {"__annotations__": {name: int}, name: 1})))
    with pytest.raises(ValueError, match=f"^task: 'facts' has an option '{name}', a name that .* already; rename it$"):
        parse_recipe(["--task", facts, "--output_dir", "run"])


@pytest.mark.parametrize(
    ("module", "task"), [(countdown, "countdown"), (multiplication, "multiplication"), (counting, "counting")]
)
def test_options_and_generator_have_the_same_defaults(module: Any, task: str) -> None:
    options = get_task(task).options
    defaults = {name: each.default for name, each in signature(module.generate).parameters.items()}
    for each in fields(options):
        value = getattr(options(), each.name)
        assert defaults[each.name] == (tuple(value) if isinstance(value, list) else value)


def test_a_task_without_a_generator_asks_for_data(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "draw", Task.draw)
    with pytest.raises(ValueError, match="dataset: 'generate', but the task facts brings no generator; give a file"):
        train_test_examples(facts, train_size=1, test_size=1, seed=0)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (None, "task: facts draws None; return a mapping with the columns prompt, reward, weight, tags, meta"),
        ({"prompt": "p"}, r"task: facts draws \{'prompt': 'p'\}; return a mapping"),
        (GOOD_FACT | {"reward": "1"}, "task: facts draws a value of another type: reward: '1' must be"),
    ],
)
def test_what_a_task_draws_is_checked(drawn: Any, message: str, facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "draw", lambda self, generator, options: drawn)
    with pytest.raises(ValueError, match=f"^{message}"):
        train_test_examples(facts, train_size=1, test_size=1, seed=0)


@pytest.mark.parametrize("label", [1.5, -1, None, True])
def test_a_difficulty_of_another_kind_is_refused(label: Any, facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "difficulty", lambda self, example: label)
    with pytest.raises(ValueError, match=rf"^task: facts gives the difficulty {label}; return a positive whole"):
        to_dataset([GOOD_FACT], task=facts, template="base")
