"""Held-out examples are held out, wherever they come from; data sets are read as other programs lay them out."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tinyzero_trl.tasks import Example, Score, Task, get_task, register_task, registry
from tinyzero_trl.tasks.config import task_config
from tinyzero_trl.tasks.datasets import read_examples
from tinyzero_trl.tasks.splits import Splits, keys, load_splits


class Echo(Task):
    """Repeat a word."""

    columns = {"word": str}  # noqa: RUF012

    def question(self, example: Example) -> str:
        """The question."""
        return f"Repeat {example['word']}."

    def score(self, completion: str, example: Example) -> Score:
        """Right if repeated."""
        return Score(float(completion == example["word"]), "compared")


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    register_task("echo")(Echo)


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"word": f"w{number}"} for number in range(start, start + count)]


def write_lines(path: Path, examples: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, examples)))
    return path


def split(dataset: Path | str, **fields: Any) -> Splits:
    return load_splits(task_config(task="echo", dataset=str(dataset), **fields))


# --- held out ---------------------------------------------------------------------------------------------------


def test_a_file_is_divided_and_says_so(tmp_path: Path) -> None:
    examples = [*rows(50), *rows(50)]  # every one has a copy
    file = write_lines(tmp_path / "words.jsonl", examples)
    divided = split(file, test_size=8)
    copies = "and 8 that are copies of those are left out of training"
    assert divided.note == f"dataset: {str(file)!r} has no splits; 8 of its 100 examples are held out, {copies}"
    asked = split(file, test_size=8, train_size=5)
    assert asked.train == divided.train
    told = f"train_size: 5 has no effect on a data set, of which all {len(divided.train)} examples are trained on"
    assert asked.note == f"{divided.note}; {told}"
    assert len(divided.held_out) == 8
    known = keys(get_task("echo"), divided.held_out)
    assert not known & keys(get_task("echo"), divided.train), "nor a copy of it"
    assert divided == split(file, test_size=8) and divided != split(file, test_size=8, problem_seed=1)
    assert len(split(file).held_out) == 10, "a tenth at most"


def test_too_few_rows_to_divide_are_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "words.jsonl", rows(9))
    with pytest.raises(
        ValueError, match=r"^dataset: '.*' holds 9 examples and no splits; give 10 or more of them, or a"
    ):
        split(file)


def test_held_out_examples_that_are_trained_on_are_counted_and_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", rows(20))
    write_lines(tmp_path / "test.jsonl", rows(8, start=15))
    shared = "dataset: 5 of the 8 held-out examples are training examples too"
    with pytest.raises(ValueError, match=f"^{shared}; remove them from one of the two, or give --allow_overlap true$"):
        split(tmp_path)
    assert split(tmp_path, allow_overlap=True).note == shared
    write_lines(tmp_path / "test.jsonl", rows(8, start=20))
    assert split(tmp_path).note is None


def test_the_order_of_the_numbers_makes_no_other_problem(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"nums": [3, 7, 5], "target": 22}])
    write_lines(tmp_path / "test.jsonl", [{"nums": [7, 5, 3], "target": 22}])
    with pytest.raises(ValueError, match="1 of the 1 held-out examples"):
        load_splits(task_config(dataset=str(tmp_path)))


# --- layouts ----------------------------------------------------------------------------------------------------


def _shards(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows(2)):
        pq.write_table(pa.Table.from_pylist([row]), folder / f"{name}-0000{index}-of-00002.parquet")


def _saved(folder: Path) -> None:
    dataset = datasets.Dataset.from_list(rows(2))
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(str(folder))


LAYOUTS = {
    "shards": lambda folder: _shards(folder, "train"),
    "hf download": lambda folder: _shards(folder / "data", "train"),
    "save_to_disk": _saved,
    "save_to_disk without splits": lambda folder: datasets.Dataset.from_list(rows(2)).save_to_disk(str(folder)),
    "csv": lambda folder: pa.csv.write_csv(pa.Table.from_pylist(rows(2)), folder / "train.csv"),
    "jsonl in data": lambda folder: (folder / "data").mkdir() or write_lines(folder / "data" / "train.jsonl", rows(2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_read_as_it_was_laid_out(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    LAYOUTS[layout](tmp_path / "set")
    assert read_examples("~/set", task="echo") == rows(2), "and ~ is the home folder"


def test_a_csv_cell_stays_the_text_it_is(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("word,other\nNA,1\nnull,2\n")
    assert read_examples(str(tmp_path / "words.csv"), task="echo") == [{"word": "NA"}, {"word": "null"}]


@pytest.mark.parametrize("words", [["007", "1.50"], ["12", "3.5"], ["true"], ["2024-01-01"], ["9" * 30], ["7", ""]])
def test_text_in_a_csv_file_that_looks_like_something_else_stays_text(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("word,other\n" + "".join(f"{word},1\n" for word in words))
    assert [each["word"] for each in read_examples(str(tmp_path / "words.csv"), task="echo")] == words


def test_a_csv_cell_may_be_long_and_may_have_lines(tmp_path: Path) -> None:
    words = ["a\nb"] * 20_000 + ["c" * 3_000_000, 'say "d", e']
    with (tmp_path / "words.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["word"], *([word] for word in words)])
    assert [each["word"] for each in read_examples(str(tmp_path / "words.csv"), task="echo")] == words


@pytest.mark.parametrize("split", ["/train", "../set/train", "train/"])
def test_a_split_is_no_path(split: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match=f"split: '{split}' is no name of a split; give one such as train or test"):
        read_examples(str(tmp_path / "set"), task="echo", split=split)


def test_a_split_is_no_pattern(tmp_path: Path) -> None:
    _shards(tmp_path, "train")
    with pytest.raises(ValueError, match="choose another folder or split"):
        read_examples(str(tmp_path), task="echo", split="t*n")


def test_copies_of_what_is_held_out_leave_nothing_to_train_on(tmp_path: Path) -> None:
    write_lines(tmp_path / "same.jsonl", [{"word": "a"}] * 20)
    with pytest.raises(ValueError, match="holds 20 examples, all of them copies of the held-out ones; give differ"):
        load_splits(task_config(task="echo", dataset=str(tmp_path / "same.jsonl")))


def test_a_missing_split_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    _saved(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"has the splits \['test', 'train'\] and no dev; choose another folder or split"
    ):
        read_examples(str(tmp_path / "saved"), task="echo", split="dev")
    _shards(tmp_path / "deep" / "main", "train")
    with pytest.raises(ValueError, match=rf"has no train.parquet, .*; give {tmp_path / 'deep' / 'main'}$"):
        read_examples(str(tmp_path / "deep"), task="echo")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no data set that can be read: .*; save it anew") as refusal:
        read_examples(str(tmp_path / "broken"), task="echo")
    assert "\n" not in str(refusal.value)


def test_copies_that_leave_training_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number % 25}", "answer": "a"} for number in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load_splits(task_config(task="prompt_answer", dataset=str(tmp_path / "rows.jsonl"), test_size=20))
    lost = 200 - len(splits.train) - len(splits.held_out)
    assert lost and f", and {lost} that are copies of those are left out of training" in str(splits.note)
