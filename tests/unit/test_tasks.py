"""What every task may rely on: registry, checked rows, a generator from single draws, columns that disturb nobody."""

import json
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow.parquet
import pytest

from tinyzero_trl.commands.data import parse_options
from tinyzero_trl.commands.main import main
from tinyzero_trl.evaluation.trained_by import TrainedBy
from tinyzero_trl.tasks import Score, Task, countdown, counting, get_task, multiplication, register_task, registry
from tinyzero_trl.tasks.config import config_class, task_config
from tinyzero_trl.tasks.datasets import read_examples, to_columns, to_dataset, train_test_examples
from tinyzero_trl.tasks.parquet import write_splits
from tinyzero_trl.tasks.rewards import reward_functions
from tinyzero_trl.tasks.task import NoOptions
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


def test_a_score_that_raises_is_one_line_before_a_model_loads(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "score", lambda self, completion, example: Score(float(int(completion)), "number"))
    message = "^task: facts scores an empty completion with ValueError: invalid literal .*; return a Score for every"
    with pytest.raises(ValueError, match=message):
        to_dataset([GOOD], task=facts, template="base")


def test_a_score_that_returns_nothing_for_some_texts_is_named(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty completion, which is asked about beforehand, need not be one of them."""
    monkeypatch.setattr(Facts, "score", lambda self, completion, example: None if completion else Score(0.0, "empty"))
    rows = to_dataset([GOOD], task=facts, template="base")
    [score], _ = reward_functions(facts)
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    message = r"^task: facts scores the completion 'some' with None; return Score\(reward, reason\) for every text"
    with pytest.raises(ValueError, match=message):
        score(completions=["some"], **columns)


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("question", None, "asks None; let question return a text"),
        ("question", 5, "asks 5; let question return a text"),
        ("prompt", None, "gives the prompt None; return a text, or a list of messages"),
        ("prompt", {"role": "user", "content": "p"}, r"gives the prompt \{.*\}; return a text, or a list of messages"),
        ("prompt", ["p"], r"gives the prompt \['p'\]; return a text, or a list of messages"),
        ("key", ["p"], r"gives the key \['p'\], which cannot be looked up; return a text, a number or a tuple"),
    ],
)
def test_what_a_task_asks_is_checked(
    method: str, returned: Any, message: str, facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its examples are generated or read."""
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(GOOD_FACT) + "\n")
    monkeypatch.setattr(Facts, method, lambda self, *_: returned)
    with pytest.raises(ValueError, match=f"^task: facts {message}"):
        train_test_examples(facts, train_size=1, test_size=1, seed=0)
    with pytest.raises(ValueError, match=f"^task: facts {message}"):
        to_dataset(read_examples(str(file), task=facts), task=facts, template="base")


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


@pytest.mark.parametrize(
    "changed", [{"reward": 2**63}, {"reward": -(2**70)}, {"tags": [1, 2**64]}, {"tags": [[10**400]]}]
)
def test_a_whole_number_beyond_64_bits_is_one_line(changed: dict[str, Any], facts: str, tmp_path: Path) -> None:
    [(name, value)] = changed.items()
    message = rf"^dataset: {name} of the task facts holds .*, beyond the whole numbers of 64 bits; give smaller numbers"
    large = [{**GOOD_FACT, name: type(value)()}, {**GOOD_FACT, **changed}]
    with pytest.raises(ValueError, match=message):
        to_dataset(large, task=facts, template="base")
    with pytest.raises(ValueError, match=message):
        write_splits(tmp_path / "data", {"train": large}, task=facts, template="base")
    assert not (tmp_path / "data").exists()


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
        ("here:os", r"task: 'here:os' is no subclass of tinyzero_trl.Task; derive the class from it"),
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
    assert task_config(task=facts, sides=4).task_options() == {"sides": 4}
    with pytest.raises(ValueError, match=r"operands: .* has no effect on the task facts; remove it"):
        task_config(task=facts, operands=[3])
    with pytest.raises(ValueError, match="sides: 1 is below 2"):
        task_config(task=facts, sides=1)


class Words(Facts):
    """Reads the options from `settings` wherever it needs them, and not from what `draw` is given."""

    def question(self, example: Any) -> str:
        """The question, with the option."""
        return f"{example['reward']} of {self.settings.sides}?"

    def draw(self, generator: random.Random, options: Options) -> dict[str, Any]:
        """One of eight numbers from the option on."""
        return {**GOOD_FACT, "reward": self.settings.sides + generator.randrange(8)}

    def key(self, example: Any) -> Any:
        """The number, and the option."""
        return example["reward"], self.settings.sides

    def difficulty(self, example: Any) -> int:
        """The option."""
        return int(self.settings.sides)

    def parquet_row(self, example: Any, *, template: str, split: str, index: int) -> dict[str, Any]:
        """The option and the prompt."""
        return {"reward": example["reward"], "sides": self.settings.sides, "question": self.question(example)}


@pytest.fixture
def words(facts: str) -> str:
    register_task("words")(Words)
    return "words"


def test_a_task_uses_the_options_that_it_was_made_with(words: str) -> None:
    made = get_task(words, {"sides": 50})
    drawn = made.generate(3, seed=0)
    assert min(example["reward"] for example in drawn) >= 50
    assert drawn == get_task(words).generate(3, seed=0, sides=50)
    [train, test] = train_test_examples(made, train_size=2, test_size=1, seed=0)
    assert (train, test) == train_test_examples(words, train_size=2, test_size=1, seed=0, sides=50)
    assert not {made.key(example) for example in train} & {made.key(example) for example in test}
    countdown_of_two = get_task("countdown", {"max_number": 5, "operands": [2]})
    assert all(len(each["numbers"]) == 2 and max(each["numbers"]) <= 5 for each in countdown_of_two.generate(3, seed=0))


def test_options_given_later_win_and_leave_the_task_as_it_was(words: str) -> None:
    made = get_task(words, {"sides": 50})
    assert min(example["reward"] for example in made.generate(3, seed=0, sides=70)) >= 70
    assert get_task(made, {"sides": 70}).question(GOOD_FACT) == "1 of 70?"
    assert made.settings.sides == 50
    assert get_task(made) is made
    [largest] = get_task("countdown", {"operands": [2], "max_number": 5}).generate(1, seed=0, operands=[3])
    assert len(largest["numbers"]) == 3 and max(largest["numbers"]) <= 5
    with pytest.raises(ValueError, match="sides: 1 is below 2; raise it"):
        made.generate(1, seed=0, sides=1)
    with pytest.raises(ValueError, match="corners: 3 has no effect on the task words; remove it"):
        made.generate(1, seed=0, corners=3)


def test_a_generate_of_ones_own_is_given_the_options(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def generate(self: Task, count: int, **arguments: Any) -> list[dict[str, Any]]:
        given.append(arguments.get("sides"))
        return [{**GOOD_FACT, "reward": arguments["seed"]}] * count

    monkeypatch.setattr(Words, "generate", generate)
    train_test_examples(get_task(words, {"sides": 50}), train_size=1, test_size=1, seed=0)
    train_test_examples(words, train_size=1, test_size=1, seed=0, sides=50)
    assert given == [50] * 4


def test_files_are_written_with_the_options_of_the_command(words: str, tmp_path: Path) -> None:
    sizes = ["--train-size", "3", "--test-size", "1"]
    assert main(["data", words, "--sides", "50", "--out", str(tmp_path), *sizes]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["sides"] for row in rows] == [50] * 3
    assert all(row["question"].endswith(" of 50?") for row in rows)


def test_an_option_needs_a_default_and_a_name_of_its_own(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [({name: int}, f"has an option '{name}', a name that") for name in ("train_size", "seed", "out")]
    for declared, message in (*taken, ({"a": int}, "default")):
        monkeypatch.setattr(Facts, "options", dataclass(type("Options", (), {"__annotations__": declared})))
        for read in (config_class, lambda name: parse_options(name, ["--out", "folder"])):
            with pytest.raises(ValueError, match=message):
                read(facts)


@pytest.mark.parametrize(
    ("attribute", "declared", "message"),
    [
        ("columns", {"nums": list[int]}, r"has a column 'nums' of the type list\[int\]; give one of str, int, float, "),
        ("columns", {"nums": "list"}, "has a column 'nums' of the type 'list'; give one of str"),
        ("columns", {"nums": set}, "has a column 'nums' of the type <class 'set'>; give one of str"),
        ("columns", ["nums"], r"has the columns \['nums'\]; give a mapping of names to types"),
        ("templates", "base", "has the templates 'base'; give a tuple"),
        ("templates", (), r"has the templates \(\); give a tuple"),
        ("options", list, "has the options <class 'list'>; give a dataclass"),
        ("options", NoOptions(), r"has the options NoOptions\(\); give a dataclass, the class itself"),
    ],
)
def test_what_a_task_declares_is_checked(
    attribute: str, declared: Any, message: str, facts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, attribute, declared)
    for read in (get_task, config_class, lambda name: parse_options(name, ["--out", "folder"])):
        with pytest.raises(ValueError, match=f"^task: 'facts' {message}"):
            read(facts)


@pytest.mark.parametrize("kind", [list, tuple[int, ...], dict, set, int | str, list[bool], Literal[1, "a"], Any])
def test_an_option_that_a_command_line_cannot_give_is_refused(
    kind: Any, facts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "options", make_dataclass("Options", [("opt", kind, field(default=None))]))
    for read in (config_class, lambda name: parse_options(name, ["--out", "folder"])):
        with pytest.raises(ValueError, match=r"^task: 'facts' has an option 'opt' of the type .*; declare it as bool"):
            read(facts)


@pytest.mark.parametrize(
    ("kind", "default", "given", "value"),
    [
        (Literal["low", "high"], "low", ["high"], "high"),
        (Literal["low", "high"] | None, None, ["high"], "high"),
        (Literal[1, 2], 1, ["2"], 2),
        (list[int], None, ["1", "2"], [1, 2]),
        (list[int] | None, None, ["1", "2"], [1, 2]),
        (bool | None, None, ["true"], True),
        (float | None, None, ["0.5"], 0.5),
    ],
)
def test_data_and_recipes_read_an_option_alike(
    kind: Any, default: Any, given: list[str], value: Any, facts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "options", make_dataclass("Options", [("opt", kind, field(default=default))]))
    assert parse_options(facts, ["--out", "folder", "--opt", *given])["opt"] == value
    arguments = ["--model_name_or_path", "embedded", "--task", facts, "--output_dir", "run", "--use_cpu", "true"]
    task = parse_recipe([*arguments, "--opt", *given])[0]
    assert task.task_options() == {"opt": value}
    of_run = TrainedBy(Path("config.yaml"), asdict(task))
    assert of_run.task_config(None, None).task_options() == {"opt": value}, "what an evaluation of the run reads"


def test_data_refuses_a_value_that_a_literal_does_not_name(
    facts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = make_dataclass("Options", [("opt", Literal["low", "high"], field(default="low"))])
    monkeypatch.setattr(Facts, "options", options)
    with pytest.raises(SystemExit):
        parse_options(facts, ["--out", "folder", "--opt", "middle"])
    assert "argument --opt: invalid choice: 'middle'" in capsys.readouterr().err


def test_help_of_an_option_may_hold_a_percent_sign(
    facts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = make_dataclass("Options", [("opt", int, field(default=1, metadata={"help": "50 % of them"}))])
    monkeypatch.setattr(Facts, "options", options)
    for show in (lambda: parse_options(facts, ["--help"]), lambda: parse_recipe(["--task", facts, "--help"])):
        with pytest.raises(SystemExit):
            show()
        assert "50 % of them" in capsys.readouterr().out


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


def test_two_columns_are_not_stored_under_one_name(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score would get the one in place of the other."""
    monkeypatch.setattr(Facts, "columns", {"reward": str, "example_reward": str})
    with pytest.raises(ValueError, match="the columns reward and example_reward of facts would both be stored as"):
        to_columns(get_task(facts), [{"reward": "r", "example_reward": "e"}])


def test_a_list_of_mappings_is_refused(facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow would give each mapping the keys of all."""
    monkeypatch.setattr(Facts, "columns", {"seen": list})
    with pytest.raises(ValueError, match="seen of the task facts is a list of mappings"):
        to_columns(get_task(facts), [{"seen": [{"a": 1}]}, {"seen": [{"b": 1}]}])
